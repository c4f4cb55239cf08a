"""The result of an evaluation, and its files ``cases.csv``, ``regions.csv``, ``segmentation.csv`` and ``summary.json``.

Intensities are in the unit of the images (HU for CT), PSNR in dB. A value that was not measured is an empty
cell in the tables and null in the JSON. The JSON is strict: an infinite PSNR (identical images) is null there and
"inf" in the CSV.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from medgen.evaluation.metrics.catalogue import case_columns, region_columns, segmentation_columns
from medgen.evaluation.regions import least_change, mean_regions
from medgen.evaluation.statistics import Interval, bland_altman, bootstrap_interval
from medgen.evaluation.summary_file import (
    Agreement,
    Case,
    CaseFailure,
    Lesions,
    Point,
    Region,
    Segmentation,
    SegmentationCase,
    Settings,
    Statistics,
    Structure,
    StructureCase,
    Summary,
)
from medgen.io.atomic import write_text
from medgen.io.spreadsheet import csv_text

DIGITS = 8  # significant digits of a number in a table


@dataclass(frozen=True)
class Failure:
    """A case, or with ``section`` a section of the evaluation, that could not be measured, with the reason."""

    case: str
    error: str
    section: bool = False


@dataclass(frozen=True)
class CaseResult:
    """One measured case.

    Attributes:
        files: {role: file} (reference, prediction, source, labels, mask, prediction_labels, lesions).
        metrics: {column of ``cases.csv``: value}, for the columns measured.
        regions: rows with the columns of ``regions.csv``.
        hu: the reference is CT in HU.
        segmentation: rows {"label", *`segmentation_columns`}.
        structure: {"status", "reasons", "values"}.
        images: content hashes of source and reference, which identify a scan under another name.
        prediction_image: content hash of the prediction; "" if it is constant.
        hashes: {role: hash of the file}, see `summary_file.file_hashes`.
    """

    name: str
    files: Mapping[str, Path]
    metrics: Mapping[str, float]
    regions: Sequence[Mapping[str, Any]] = ()
    warnings: Sequence[str] = ()
    hu: bool = True
    segmentation: Sequence[Mapping[str, Any]] = ()
    structure: Mapping[str, Any] | None = None
    patient: str = ""
    images: Sequence[str] = ()
    prediction_image: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """All results of an evaluation, from which a report is made. Without ``failures`` every case was measured.

    ``sections``: results over all cases, by key of `summary_file.Summary` (distribution, memorisation, downstream,
    provenance).
    """

    cases: Sequence[CaseResult]
    failures: Sequence[Failure]
    warnings: Sequence[str]
    data_range: float
    data_range_origin: str
    settings: Mapping[str, Any]
    seconds: float
    out: Path
    sections: Mapping[str, Any] = field(default_factory=dict)
    finished: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    @property
    def has_source(self) -> bool:
        """Whether the unconverted source was measured in at least one case."""
        return any("source_mae" in case.metrics for case in self.cases)

    @property
    def unit(self) -> str:
        """``HU`` if every reference is CT in HU, else empty: intensities without unit."""
        return "HU" if all(case.hu for case in self.cases) else ""

    @property
    def columns(self) -> list[str]:
        """Columns of ``cases.csv`` after the case's name."""
        return list(dict.fromkeys([*case_columns(), *(name for case in self.cases for name in case.metrics)]))

    def statistics(self) -> dict[str, Statistics]:
        """Return {column: statistics over the cases, see `describe`}, for the columns measured."""
        found = {}
        for name in self.columns:
            with_value = [case for case in self.cases if name in case.metrics]
            if with_value:
                found[name] = describe([c.metrics[name] for c in with_value], [c.patient or c.name for c in with_value])
        return found

    def agreement(self) -> dict[str, Agreement]:
        """Return {region: limits of agreement (Bland & Altman 1999) of its mean intensity with the reference}."""
        grouped: dict[str, list[tuple[CaseResult, Mapping[str, Any]]]] = {}
        for case in self.cases:
            for row in case.regions:
                if "mean_reference" in row:
                    grouped.setdefault(row["region"], []).append((case, row))
        return {name: _agreement(rows) for name, rows in grouped.items()}

    def regions(self) -> list[dict[str, Any]]:
        """Return one row per region, see `medgen.evaluation.regions.mean_regions`."""
        rows = [row for case in self.cases for row in case.regions]
        return mean_regions(rows, least_change(bool(self.unit), self.data_range))


def describe(values: Sequence[float], patients: Sequence[str]) -> Statistics:
    """Return mean and standard deviation (n - 1) of the ``n`` finite values, and the median with infinite values.

    ``infinite`` counts the infinite values (distances to an organ that only reference or prediction has, PSNR of
    identical images), because the mean excludes them. ``mean_interval`` and ``median_interval``: 95 % bootstrap
    confidence intervals over patients, None for fewer than two patients. Undefined values are None.
    """
    known = [value for value in values if not math.isnan(value)]
    finite = [value for value in known if math.isfinite(value)]
    mean = bootstrap_interval(values, patients=patients)
    median = bootstrap_interval(values, patients=patients, statistic=np.median, infinite=True)
    return Statistics(
        mean=statistics.fmean(finite) if finite else None,
        median=statistics.median(known) if known else None,
        std=statistics.stdev(finite) if len(finite) > 1 else None,
        n=len(finite),
        infinite=len(known) - len(finite),
        mean_interval=_ends(mean),
        median_interval=_ends(median),
    )


def excluded_values_text(stats: Statistics) -> str:
    """Return what the mean of `describe` excludes, such as "12 of 44 infinite"; empty if it excludes nothing."""
    return f"{stats.infinite} of {stats.infinite + stats.n} infinite" if stats.infinite else ""


def write_results(evaluation: Evaluation) -> None:
    """Write the result files into ``evaluation.out``; raise InputError if the folder cannot be written."""
    out = evaluation.out
    case_rows = [{"case": case.name, **case.metrics, **_status(case)} for case in evaluation.cases]
    verdict_columns = ("verdict", "reasons") if any(case.structure for case in evaluation.cases) else ()
    region_rows = [{"case": case.name, **row} for case in evaluation.cases for row in case.regions]
    write_text(out / "cases.csv", csv_text(("case", *evaluation.columns, *verdict_columns), case_rows, DIGITS))
    write_text(out / "regions.csv", csv_text(("case", "region", *region_columns()), region_rows, DIGITS))
    segmentation_rows = [{"case": case.name, **row} for case in evaluation.cases for row in case.segmentation]
    if segmentation_rows:
        write_text(
            out / "segmentation.csv", csv_text(("case", "label", *segmentation_columns()), segmentation_rows, DIGITS)
        )
    write_text(out / "summary.json", summary(evaluation).to_json())


def summary(evaluation: Evaluation) -> Summary:
    """Return the content of ``summary.json``."""
    return Summary(
        medgen=version(),
        finished=evaluation.finished.isoformat(),
        seconds=round(evaluation.seconds, 1),
        number_of_cases=len(evaluation.cases),
        number_of_failures=len(evaluation.failures),
        unit=evaluation.unit,
        data_range=evaluation.data_range,
        data_range_origin=evaluation.data_range_origin,
        profile="generic",
        settings=Settings.model_validate(evaluation.settings),
        metrics=evaluation.statistics(),
        regions={row["region"]: Region.model_validate(row) for row in evaluation.regions()},
        agreement=evaluation.agreement(),
        **_segmentation(evaluation),
        **_structure(evaluation),
        **evaluation.sections,
        failures=[CaseFailure(case=failure.case, error=failure.error) for failure in evaluation.failures],
        warnings=[*evaluation.warnings],
        cases=[_case(case, evaluation.columns) for case in evaluation.cases],
    )


def _case(case: CaseResult, columns: Sequence[str]) -> Case:
    numbers = {name: case.metrics.get(name) for name in columns}
    return Case(
        case=case.name,
        patient=case.patient or case.name,
        files=dict(case.files),
        hashes=dict(case.hashes),
        regions=[dict(row) for row in case.regions],
        warnings=[*case.warnings],
        **numbers,
    )


def version() -> str:
    """Return the installed version of medgen."""
    try:
        return metadata.version("medgen")
    except metadata.PackageNotFoundError:
        return "not installed"


def _segmentation(evaluation: Evaluation) -> dict[str, Segmentation]:
    """Return the section of segmentations; empty if none were given."""
    rows = [(case, row) for case in evaluation.cases for row in case.segmentation]
    if not rows:
        return {}
    labels: dict[str, dict[str, Statistics]] = {}
    for label in dict.fromkeys(row["label"] for _, row in rows):
        label_rows = [(case.patient or case.name, row) for case, row in rows if row["label"] == label]
        patients = [patient for patient, _ in label_rows]
        labels[label] = {
            name: describe([row[name] for _, row in label_rows], patients) for name in segmentation_columns()
        }
    cases = [SegmentationCase(case=case.name, **row) for case, row in rows]
    tolerance = evaluation.settings["tolerance_mm"]
    return {"segmentation": Segmentation(tolerance_mm=tolerance, labels=labels, cases=cases)}


def _structure(evaluation: Evaluation) -> dict[str, Structure]:
    """Return the section of the structure check; empty if it did not run."""
    checked = [(case.name, case.structure) for case in evaluation.cases if case.structure]
    if not checked:
        return {}
    counts = {status: sum(c["status"] == status for _, c in checked) for status in ("pass", "review", "fail")}
    cases = [StructureCase.model_validate({"case": name, **found}) for name, found in checked]
    lesions = _lesions([found["values"] for _, found in checked])
    limits = evaluation.settings.get("thresholds")
    return {"structure": Structure(counts=counts, lesions=lesions, cases=cases, thresholds=limits)}


def _lesions(values: Sequence[Mapping[str, Any]]) -> Lesions | None:
    """Return lesions kept, lost and new over all cases, with sensitivity and new ones per volume; None if unchecked.

    New lesions are found by a detector; if lesion masks are known, they are structures that are absent from both the
    input and the reference.
    """
    with_value = [case_values for case_values in values if "lesions_kept" in case_values]
    if not with_value:
        return None
    kept, lost = (
        int(sum(case_values[f"lesions_{outcome}"] for case_values in with_value)) for outcome in ("kept", "lost")
    )
    new = int(sum(case_values.get("lesions_new", 0) for case_values in with_value))
    sensitivity = kept / (kept + lost) if kept + lost else None
    return Lesions(
        kept=kept,
        lost=lost,
        sensitivity=sensitivity,
        new=new,
        new_per_volume=new / len(with_value),
        volumes=len(with_value),
    )


def _status(case: CaseResult) -> dict[str, str]:
    if not case.structure:
        return {}
    return {"verdict": case.structure["status"], "reasons": " ".join(case.structure["reasons"])}


def _agreement(rows: Sequence[tuple[CaseResult, Mapping[str, Any]]]) -> Agreement:
    reference, converted = ([row[f"mean_{role}"] for _, row in rows] for role in ("reference", "prediction"))
    found = bland_altman(reference, converted, patients=[case.patient or case.name for case, _ in rows])
    return Agreement(
        bias=found.bias.value,
        lower=found.lower.value,
        upper=found.upper.value,
        bias_interval=_ends(found.bias),
        lower_interval=_ends(found.lower),
        upper_interval=_ends(found.upper),
        sd=found.sd,
        n=found.n,
        points=[
            Point(case=case.name, mean=(r + c) / 2, difference=c - r)
            for (case, _), r, c in zip(rows, reference, converted, strict=True)
        ],
    )


def _ends(interval: Interval) -> tuple[float, float] | None:
    return None if math.isnan(interval.low) else (interval.low, interval.high)
