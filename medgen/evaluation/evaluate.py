"""Folders of volumes → an `Evaluation`: every case against its truth, the unconverted source beside it.

One case is in memory at a time. A case that cannot be measured (unreadable, other grid, missing) is a failure
with its reason, and the others go on; `medgen.evaluation.summary` writes the results.
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
from medgen.evaluation.identity import one_patient_an_image, patients_of, warnings_of_training
from medgen.evaluation.inputs import Inputs, Options, check_request
from medgen.evaluation.measure import HU_RANGE, Measures, NeedsRange, NotHu
from medgen.evaluation.metrics.challenges import PROFILES
from medgen.evaluation.outcomes import outcomes
from medgen.evaluation.provenance import provenance, read_manifest
from medgen.evaluation.suggested_range import suggested_range
from medgen.evaluation.summary import CaseResult, Evaluation, Failure, write_results
from medgen.qa.carried import known_of, record_of, recorded_limits
from medgen.qa.case import Reason
from medgen.qa.run import Checks
from medgen.terminology import is_enhancing

HU_ORIGIN = "profile generic, range of HU in 12 bits; nothing is clipped"


@dataclass
class Found:
    """What the stages have found so far."""

    cases: list[CaseResult] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sections: dict[str, Any] = field(default_factory=dict)

    def files(self, role: str) -> list[Path]:
        """The files of a role in the measured cases."""
        return [case.files[role] for case in self.cases if role in case.files]

    @contextmanager
    def failing_as(self, section: str) -> Iterator[None]:
        """What cannot be measured of all volumes together is a failure like a case's; the rest is still written."""
        try:
            yield
        except Exception as error:
            self.failures.append(Failure(section, reason(error)))


def evaluate(inputs: Inputs, out: Path, options: Options | None = None) -> Evaluation:
    """Measure converted volumes and write ``cases.csv``, ``regions.csv`` and ``summary.json``.

    Args:
        inputs: the volumes.
        out: folder for the results; made if absent.
        options: how they are measured; None: the defaults.

    Returns:
        The `Evaluation`; ``failures`` is empty only if every reference case was measured.

    Raises:
        InputError: no case in common, a path that does not exist, a ``labels.json`` that is not one, images
            not in HU without ``data_range``, or an ``out`` that cannot be written.
    """
    options, out = options or Options(), Path(out)
    check_request(inputs, out, options)
    folders = match_folders(inputs.by_role, inputs.cases)
    measures, found = _prepared(folders, inputs, options)
    patients, synthetic = patients_of(folders, inputs.patient_pattern)
    manifest = read_manifest(folders.given["prediction"])
    _make_folder(out)
    started = time.monotonic()

    _measure_cases(found, folders, measures, options)
    _name_patients(found, patients)
    _compare_with_training(found, manifest)
    _measure_distribution(found, inputs, options)
    _measure_memorisation(found, inputs)
    _measure_downstream(found, folders, out, options, synthetic)

    evaluation = Evaluation(
        cases=found.cases,
        failures=found.failures,
        warnings=found.warnings,
        data_range=options.data_range or HU_RANGE,
        data_range_origin=HU_ORIGIN if options.data_range is None else "given by the user",
        settings=_settings(inputs, options, measures, found),
        seconds=time.monotonic() - started,
        out=out,
        sections=found.sections,
    )
    write_results(evaluation)
    return evaluation


def _prepared(folders: Folders, inputs: Inputs, options: Options) -> tuple[Measures, Found]:
    """What to measure in every case, and the first warnings."""
    checks: Checks | None = None
    known: dict[str, list[Reason]] = {}
    warnings: list[str] = []
    if inputs.source is not None:
        checks, known, warnings = _carried(options.checks or Checks(auto=True), folders)
    warnings += [f"prediction {path} has no reference and was not measured" for path in folders.extra]
    if inputs.labels is not None and not folders.names:
        warnings.append(
            f"{inputs.labels} has no labels.json in or beside it, so structures have no names and neither organs nor "
            'lesions are checked: add one such as {"liver": 1}'
        )
    measures = Measures(options.data_range, folders.names, options.profile, options.tolerance_mm, checks, known)
    return measures, Found(warnings=warnings)


def _carried(checks: Checks, folders: Folders) -> tuple[Checks, dict[str, list[Reason]], list[str]]:
    """Limits by which the conversion was checked, what it knew of each case, and warnings, see `carried`."""
    files = {case: roles["prediction"] for case, roles in folders.cases.items() if "prediction" in roles}
    records = {case: record for case, file in files.items() if (record := record_of(file)) is not None}
    segmented = checks.segmenter is not None
    known = {case: known_of(record, files[case], segmented=segmented) for case, record in records.items()}
    if not checks.auto:
        return checks, known, []
    limits = recorded_limits(list(records.values()))
    if len(limits) > 1:
        text = "the conversions were checked by different limits, so that general ones are taken here: name --qa-limits"
        return checks, known, [text]
    return replace(checks, thresholds=limits[0]) if limits else checks, known, []


def _measure_cases(found: Found, folders: Folders, measures: Measures, options: Options) -> None:
    """Every case is a result or a failure; settings that do not fit the first case end it all."""
    outcome_of = zip(folders.cases, outcomes(folders, measures, options.cluster), strict=True)
    for done, (case, outcome) in enumerate(outcome_of, start=1):
        if isinstance(outcome, InputError):
            if not found.cases:
                _refuse_settings(outcome, folders)
            found.failures.append(Failure(case, str(outcome)))
        else:
            result, missing = outcome
            found.cases.append(result)
            found.warnings += [f"{case}: {text}" for text in (*missing, *result.warnings)]
        if options.progress is not None:
            options.progress(done, len(folders.cases), case)


def _refuse_settings(error: InputError, folders: Folders) -> None:
    """Raise what is a matter of the settings and not of a case, before hours are spent."""
    if isinstance(error, NeedsRange):
        references = [files["reference"] for files in folders.cases.values() if "reference" in files]
        raise InputError(
            "metric-data-range-missing", "; ".join(filter(None, [str(error), suggested_range(references)]))
        )
    if isinstance(error, NotHu):
        raise error


def _name_patients(found: Found, patients: Mapping[str, str]) -> None:
    named = [replace(case, patient=patients[case.name]) for case in found.cases]
    found.cases, warnings = one_patient_an_image(named)
    found.warnings += warnings


def _compare_with_training(found: Found, manifest: dict[str, Any] | None) -> None:
    """Which model made the predictions, and warnings of cases that it was trained on."""
    if manifest:
        found.warnings += warnings_of_training(manifest, {case.name: case.images for case in found.cases})
        found.sections["provenance"] = provenance(manifest)


def _measure_distribution(found: Found, inputs: Inputs, options: Options) -> None:
    if options.extractor is None:
        return
    real = volume_files(inputs.real_cohort) or [case.files["reference"] for case in found.cases]
    with found.failing_as("distribution"):
        found.sections["distribution"] = distribution_section(
            real,
            found.files("prediction"),
            found.files("source"),
            options.extractor,
            same_patients=inputs.real_cohort is None,
            failures=found.failures,
            cache=options.feature_cache,
        )


def _measure_memorisation(found: Found, inputs: Inputs) -> None:
    if inputs.training_images is None:
        return
    with found.failing_as("memorisation"):
        found.sections["memorisation"] = memorisation_section(
            volume_files(inputs.training_images),
            found.files("prediction"),
            volume_files(inputs.real_cohort),
            found.failures,
        )


def _measure_downstream(found: Found, folders: Folders, out: Path, options: Options, synthetic: set[str]) -> None:
    if options.downstream is None:
        return
    if synthetic:
        found.warnings.append(f"{len(synthetic)} references are synthetic and no segmenter is tested on them")
    with found.failing_as("downstream"):
        found.sections["downstream"] = options.downstream(
            [case for case in found.cases if case.name not in synthetic],
            folders.names,
            out / "downstream",
            tolerance_mm=options.tolerance_mm,
            failures=found.failures,
        )


def _settings(inputs: Inputs, options: Options, measures: Measures, found: Found) -> dict[str, Any]:
    """The settings of summary.json."""
    paths = {**inputs.by_role, "real_cohort": inputs.real_cohort, "training_images": inputs.training_images}
    checks = measures.checks
    return {
        **{role: None if path is None else str(path) for role, path in paths.items()},
        "profile": PROFILES[options.profile],
        "measured_in": _measured_in(inputs.mask, found),
        "profile_mask": "the given mask" if inputs.mask else "medgen body mask",
        "tolerance_mm": options.tolerance_mm,
        "thresholds": None if checks is None else checks.thresholds.applied(),
        "segmenter": checks.segmenter.text if checks and checks.segmenter else None,
        "structures_that_take_up_contrast": [n for n in measures.names.values() if is_enhancing(n)],
    }


def _measured_in(mask: Path | None, found: Found) -> str:
    """Where the columns without a prefix count."""
    if mask is not None:
        return "the given mask"
    places = {"the whole volume" if case.hu else "the foreground of the reference" for case in found.cases}
    return ", or ".join(sorted(places, reverse=True)) or "nowhere"


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            "folder-not-creatable", f"{out} cannot be made for the results: {error.strerror or error}"
        ) from error
