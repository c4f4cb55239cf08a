"""Evaluate folders of volumes: compare every prediction, and the unconverted source, with the reference.

One case is in memory at a time. A case that cannot be measured (unreadable, different grid, missing file) is recorded
as a failure with its reason; the other cases are still measured. `medgen.evaluation.summary` writes the results.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medgen.errors import InputError, reason
from medgen.evaluation.distribution.sections import distribution_section, memorisation_section, volume_files
from medgen.evaluation.folders import Folders, match_folders
from medgen.evaluation.identity import merge_patients_by_image, patients_of, training_overlap_warnings
from medgen.evaluation.inputs import Inputs, Options, check_request
from medgen.evaluation.measure import HU_RANGE, Measures, NeedsRange, NotHu
from medgen.evaluation.metrics.challenges import PROFILES
from medgen.evaluation.outcomes import outcomes
from medgen.evaluation.provenance import provenance, read_manifest
from medgen.evaluation.suggested_range import range_warnings, suggested_range
from medgen.evaluation.summary import CaseResult, Evaluation, Failure, write_results
from medgen.qa.carried import manifest_record, recorded_findings, recorded_limits
from medgen.qa.case import Reason
from medgen.qa.run import Checks
from medgen.terminology import is_enhancing

HU_ORIGIN = "profile generic: the range of 12-bit HU values; no clipping"


@dataclass
class PartialResults:
    """Results collected by the stages of an evaluation."""

    cases: list[CaseResult] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sections: dict[str, Any] = field(default_factory=dict)

    def files(self, role: str) -> list[Path]:
        """Return the files of one role, for the measured cases."""
        return [case.files[role] for case in self.cases if role in case.files]

    @contextmanager
    def recording_failure(self, section: str) -> Iterator[None]:
        """Record an error of one section as a failure, so that the other sections are still written."""
        try:
            yield
        except Exception as error:
            self.failures.append(Failure(section, reason(error), section=True))


def evaluate(inputs: Inputs, out: Path, options: Options | None = None) -> Evaluation:
    """Measure converted volumes and write ``cases.csv``, ``regions.csv`` and ``summary.json``.

    Args:
        inputs: the volumes.
        out: folder for the results; created if absent.
        options: measurement options; None: the defaults.

    Returns:
        The `Evaluation`; ``failures`` lists the cases that could not be measured and the sections that failed.

    Raises:
        InputError: an invalid option, no case in common, a path that does not exist, an invalid ``labels.json``, images
            that are not in HU without ``data_range``, or an ``out`` that cannot be written.
    """
    options, out = options or Options(), Path(out)
    check_request(inputs, out, options)
    folders = match_folders(inputs.by_role, inputs.cases)
    measures, results = _prepare(folders, inputs, options)
    patients, synthetic = patients_of(folders, inputs.patient_pattern)
    patients |= inputs.patients or {}
    manifest = read_manifest(folders.inputs_by_role["prediction"])
    _make_folder(out)
    started = time.monotonic()

    _measure_cases(results, folders, measures, options)
    _assign_patients(results, patients)
    _compare_with_training(results, manifest)
    _measure_distribution(results, inputs, options)
    _measure_memorisation(results, inputs)
    _measure_downstream(results, folders, out, options, synthetic)

    evaluation = Evaluation(
        cases=results.cases,
        failures=results.failures,
        warnings=results.warnings,
        data_range=options.data_range or HU_RANGE,
        data_range_origin=HU_ORIGIN if options.data_range is None else options.data_range_origin,
        settings=_settings(inputs, options, measures, results),
        seconds=time.monotonic() - started,
        out=out,
        sections=results.sections,
    )
    write_results(evaluation)
    return evaluation


def _prepare(folders: Folders, inputs: Inputs, options: Options) -> tuple[Measures, PartialResults]:
    """Return the measures to apply to every case, and results that contain the warnings known so far."""
    checks: Checks | None = None
    known_reasons: dict[str, list[Reason]] = {}
    warnings: list[str] = []
    if inputs.source is not None:
        checks, known_reasons, warnings = _recorded_checks(options.checks or Checks(auto=True), folders)
    warnings += [f"prediction {path} has no reference and was not measured" for path in folders.extra]
    if inputs.labels is not None and not folders.names:
        warnings.append(
            f"{inputs.labels} has no labels.json in it or beside it: structures have no names and neither organs nor "
            'lesions are checked; add a labels.json such as {"liver": 1}'
        )
    if options.data_range is not None:
        warnings += range_warnings(
            options.data_range, [r["reference"] for r in folders.cases.values() if "reference" in r]
        )
    measures = Measures(options.data_range, folders.names, options.profile, options.tolerance_mm, checks, known_reasons)
    return measures, PartialResults(warnings=warnings)


def _recorded_checks(checks: Checks, folders: Folders) -> tuple[Checks, dict[str, list[Reason]], list[str]]:
    """Return the checks with the limits of the conversion, its findings per case, and warnings; see `qa.carried`."""
    files = {case: roles["prediction"] for case, roles in folders.cases.items() if "prediction" in roles}
    records = {case: record for case, file in files.items() if (record := manifest_record(file)) is not None}
    segmented = checks.segmenter is not None
    known_reasons = {
        case: recorded_findings(record, files[case], segmented=segmented) for case, record in records.items()
    }
    if not checks.auto:
        return checks, known_reasons, []
    limits = recorded_limits(list(records.values()))
    if len(limits) > 1:
        text = (
            "the conversions were checked with different limits, so the general limits are used here; set --qa-limits"
        )
        return checks, known_reasons, [text]
    return replace(checks, thresholds=limits[0]) if limits else checks, known_reasons, []


def _measure_cases(results: PartialResults, folders: Folders, measures: Measures, options: Options) -> None:
    """Add a result or a failure for every case; stop early if the settings are wrong for the data."""
    outcome_by_case = zip(folders.cases, outcomes(folders, measures, options.cluster), strict=True)
    for number, (case, outcome) in enumerate(outcome_by_case, start=1):
        if isinstance(outcome, InputError):
            if not results.cases:
                _raise_settings_error(outcome, folders)
            results.failures.append(Failure(case, str(outcome)))
        else:
            result, missing = outcome
            results.cases.append(result)
            results.warnings += [f"{case}: {text}" for text in (*missing, *result.warnings)]
        if options.progress is not None:
            options.progress(number, len(folders.cases), case)


def _raise_settings_error(error: InputError, folders: Folders) -> None:
    """Raise the error if the settings caused it, not the case, so that the user need not wait for the other cases."""
    if isinstance(error, NeedsRange):
        references = [files["reference"] for files in folders.cases.values() if "reference" in files]
        raise InputError(
            "metric-data-range-missing", "; ".join(filter(None, [str(error), suggested_range(references)]))
        )
    if isinstance(error, NotHu):
        raise error


def _assign_patients(results: PartialResults, patients: Mapping[str, str]) -> None:
    named = [replace(case, patient=patients[case.name]) for case in results.cases]
    results.cases, warnings = merge_patients_by_image(named)
    results.warnings += warnings


def _compare_with_training(results: PartialResults, manifest: dict[str, Any] | None) -> None:
    """Record the model that made the predictions, and add warnings about cases that it was trained on."""
    if manifest:
        results.warnings += training_overlap_warnings(manifest, {case.name: case.images for case in results.cases})
        results.sections["provenance"] = provenance(manifest)


def _measure_distribution(results: PartialResults, inputs: Inputs, options: Options) -> None:
    if options.extractor is None:
        return
    real = volume_files(inputs.real_cohort) or [case.files["reference"] for case in results.cases]
    with results.recording_failure("distribution"):
        results.sections["distribution"] = distribution_section(
            real,
            results.files("prediction"),
            results.files("source"),
            options.extractor,
            same_patients=inputs.real_cohort is None,
            failures=results.failures,
            cache=options.feature_cache,
        )


def _measure_memorisation(results: PartialResults, inputs: Inputs) -> None:
    if inputs.training_images is None:
        return
    with results.recording_failure("memorisation"):
        results.sections["memorisation"] = memorisation_section(
            volume_files(inputs.training_images),
            results.files("prediction"),
            volume_files(inputs.real_cohort),
            results.failures,
        )


def _measure_downstream(
    results: PartialResults, folders: Folders, out: Path, options: Options, synthetic: set[str]
) -> None:
    if options.downstream is None:
        return
    if synthetic:
        results.warnings.append(f"{len(synthetic)} references are synthetic; downstream segmentation does not use them")
    with results.recording_failure("downstream"):
        results.sections["downstream"] = options.downstream(
            [case for case in results.cases if case.name not in synthetic],
            folders.names,
            out / "downstream",
            tolerance_mm=options.tolerance_mm,
            failures=results.failures,
        )


def _settings(inputs: Inputs, options: Options, measures: Measures, results: PartialResults) -> dict[str, Any]:
    """Return the section ``settings`` of summary.json."""
    paths = {**inputs.by_role, "real_cohort": inputs.real_cohort, "training_images": inputs.training_images}
    checks = measures.checks
    return {
        **{role: None if path is None else str(path) for role, path in paths.items()},
        "profile": PROFILES[options.profile],
        "measured_in": _measured_in(inputs.mask, results),
        "profile_mask": "the given mask" if inputs.mask else "medgen body mask",
        "tolerance_mm": options.tolerance_mm,
        "thresholds": None if checks is None else checks.thresholds.applied(),
        "segmenter": checks.segmenter.text if checks and checks.segmenter else None,
        "structures_that_take_up_contrast": [n for n in measures.names.values() if is_enhancing(n)],
    }


def _measured_in(mask: Path | None, results: PartialResults) -> str:
    """Describe the region in which the columns without a prefix are measured."""
    if mask is not None:
        return "the given mask"
    regions = {"the whole volume" if case.hu else "the foreground of the reference" for case in results.cases}
    return ", or ".join(sorted(regions, reverse=True)) or "nowhere"


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            "folder-not-creatable",
            f"the results folder {out} cannot be created ({error.strerror or error}); choose another --out",
        ) from error
