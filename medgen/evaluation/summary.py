"""What an evaluation found, and its files ``cases.csv``, ``regions.csv`` and ``summary.json``.

Intensities are in the unit of the images (HU for CT), PSNR in dB. What was not measured is an empty cell in
the tables and null in the JSON, which is strict: an infinite PSNR (identical images) is null there, and "inf"
in the CSV.
"""

import csv
import io
import json
import math
import os
import statistics
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from medgen.types import InputError

FIRST = ("mae", "psnr", "ssim", "source_mae", "source_psnr", "source_ssim")
MORE = ("rmse", "source_rmse") + tuple(
    f"{role}body_{name}" for role in ("", "source_") for name in ("mae", "psnr", "ssim", "rmse")
)
METRICS = (
    *FIRST,
    *MORE,
    "enhancing_mae",
    "source_enhancing_mae",
    "slice_jump",
    "source_slice_jump",
)  # columns of cases.csv after "case", in order
REGION_COLUMNS = ("voxels", "mean_prediction", "mean_reference", "mean_source", "mae", "source_mae", "error")
LEAST_CHANGE = 5.0  # HU between source and truth below which "fraction of the way" is noise


@dataclass(frozen=True)
class Failure:
    """A case that could not be measured, and the sentence that says why."""

    case: str
    error: str


@dataclass(frozen=True)
class CaseResult:
    """One measured case.

    ``files`` by role (reference, prediction, source, labels, mask); ``metrics`` by column of `METRICS`, those
    measured; ``regions``: rows with the columns of ``regions.csv``; ``hu``: the reference is CT in HU.
    """

    name: str
    files: Mapping[str, Path]
    metrics: Mapping[str, float]
    regions: Sequence[Mapping[str, Any]] = ()
    warnings: Sequence[str] = ()
    hu: bool = True


@dataclass(frozen=True)
class Evaluation:
    """All that an evaluation found; a report is made from it. No ``failures``: every case was measured."""

    cases: Sequence[CaseResult]
    failures: Sequence[Failure]
    warnings: Sequence[str]
    data_range: float
    data_range_origin: str
    settings: Mapping[str, Any]
    seconds: float
    out: Path
    finished: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    @property
    def has_source(self) -> bool:
        """Whether the unconverted source was measured too, in at least one case."""
        return any("source_mae" in case.metrics for case in self.cases)

    @property
    def unit(self) -> str:
        """``HU`` if every reference is CT in HU, else empty: an intensity without unit."""
        return "HU" if all(case.hu for case in self.cases) else ""

    def statistics(self) -> dict[str, dict[str, float | None]]:
        """{column: mean, median, std, n} over the finite values of the cases, for the columns measured."""
        columns = {name: [c.metrics[name] for c in self.cases if name in c.metrics] for name in METRICS}
        return {name: describe(values) for name, values in columns.items() if values}

    def regions(self) -> list[dict[str, Any]]:
        """One row a region: the unweighted mean over its cases of every column of ``regions.csv``.

        Beside them ``cases`` (how many have the region), ``abs_error`` (mean over the cases of
        |mean_prediction - mean_reference|) and ``fraction`` = (source - prediction) / (source - reference),
        the part of the way from source to truth that was gone; None where these differ by 5 HU or less.
        """
        grouped: dict[str, list[Mapping[str, Any]]] = {}
        for case in self.cases:
            for row in case.regions:
                grouped.setdefault(row["region"], []).append(row)
        return [_region_row(name, rows) for name, rows in grouped.items()]


def describe(values: Iterable[float]) -> dict[str, float | None]:
    """Mean, median, standard deviation (n - 1) and number of the finite values; None where undefined."""
    finite = [value for value in values if math.isfinite(value)]
    return {
        "mean": statistics.fmean(finite) if finite else None,
        "median": statistics.median(finite) if finite else None,
        "std": statistics.stdev(finite) if len(finite) > 1 else None,
        "n": len(finite),
    }


def write_results(evaluation: Evaluation) -> None:
    """Write the three files into ``evaluation.out``; InputError if the folder cannot be written."""
    out = evaluation.out
    case_rows = [{"case": case.name, **case.metrics} for case in evaluation.cases]
    region_rows = [{"case": case.name, **row} for case in evaluation.cases for row in case.regions]
    write_text(out / "cases.csv", _csv(("case", *METRICS), case_rows))
    write_text(out / "regions.csv", _csv(("case", "region", *REGION_COLUMNS), region_rows))
    write_text(out / "summary.json", json.dumps(_strict(summary(evaluation)), indent=1, allow_nan=False) + "\n")


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """The content of ``summary.json``."""
    return {
        "medgen": version(),
        "finished": evaluation.finished.isoformat(),
        "seconds": round(evaluation.seconds, 1),
        "number_of_cases": len(evaluation.cases),
        "number_of_failures": len(evaluation.failures),
        "unit": evaluation.unit,
        "data_range": evaluation.data_range,
        "data_range_origin": evaluation.data_range_origin,
        "settings": evaluation.settings,
        "metrics": evaluation.statistics(),
        "regions": {row["region"]: row for row in evaluation.regions()},
        "failures": [{"case": failure.case, "error": failure.error} for failure in evaluation.failures],
        "warnings": evaluation.warnings,
        "cases": [
            {
                "case": case.name,
                **{name: case.metrics.get(name) for name in METRICS},
                "files": case.files,
                "regions": case.regions,
                "warnings": case.warnings,
            }
            for case in evaluation.cases
        ],
    }


def version() -> str:
    """Version of the medgen that is installed."""
    try:
        return metadata.version("medgen")
    except metadata.PackageNotFoundError:
        return "not installed"


def write_text(path: Path, text: str) -> None:
    """Write a whole text file or nothing: under a temporary name beside it, then renamed."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _region_row(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    mean = {column: _mean([row[column] for row in rows if column in row]) for column in REGION_COLUMNS}
    source, truth, converted = (mean[f"mean_{role}"] for role in ("source", "reference", "prediction"))
    fraction = None
    if source is not None and truth is not None and converted is not None and abs(source - truth) > LEAST_CHANGE:
        fraction = (source - converted) / (source - truth)
    abs_error = _mean([abs(row["error"]) for row in rows])
    return {"region": name, "cases": len(rows), **mean, "abs_error": abs_error, "fraction": fraction}


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.8g}" if isinstance(value, int | float) else str(value)


def _strict(value: Any) -> Any:
    """Plain JSON: paths as text, numbers that JSON does not know (NaN, inf) as null."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
