"""Folders of volumes → an `Evaluation`: every case against its truth, the unconverted source beside it.

One case is in memory at a time. A case that cannot be measured (unreadable, other grid, missing) is a failure
with its reason, and the others go on; `medgen.evaluation.summary` writes what came out.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medgen.cluster import Cluster
from medgen.errors import InputError, reason
from medgen.evaluation.distribution.sections import distribution_section, memorisation_section, volume_files
from medgen.evaluation.features.extractor import Extractor
from medgen.evaluation.folders import Folders, match_folders
from medgen.evaluation.identity import one_patient_an_image, patients_of, warnings_of_training
from medgen.evaluation.measure import HU_RANGE, Measures, NeedsRange, NotHu
from medgen.evaluation.metrics.challenges import PROFILES
from medgen.evaluation.outcomes import outcomes
from medgen.evaluation.provenance import provenance, read_manifest
from medgen.evaluation.suggested_range import suggested_range
from medgen.evaluation.summary import CaseResult, Evaluation, Failure, write_results
from medgen.qa.carried import known_of, record_of, recorded_limits
from medgen.qa.case import Reason
from medgen.qa.measures.enhancement import takes_up_contrast
from medgen.qa.run import Checks

HU_ORIGIN = "profile generic, range of HU in 12 bits; nothing is clipped"

Progress = Callable[[int, int, str], None]  # (cases done, cases in all, name of the case just done)


def evaluate(
    reference: Path | None,
    prediction: Path,
    out: Path,
    *,
    source: Path | None = None,
    labels: Path | None = None,
    mask: Path | None = None,
    prediction_labels: Path | None = None,
    data_range: float | None = None,
    profile: str = "generic",
    tolerance_mm: float = 2.0,
    extractor: Extractor | None = None,
    real: Path | None = None,
    training: Path | None = None,
    lesions: Path | None = None,
    checks: Checks | None = None,
    downstream: Callable[..., dict[str, Any]] | None = None,
    feature_cache: Path | None = None,
    patient_pattern: str | None = None,
    cases: Collection[str] | None = None,
    cluster: Cluster | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure converted volumes against the truth and write ``cases.csv``, ``regions.csv``, ``summary.json``.

    Args:
        reference, prediction: folders of volumes matched by case name (file name without ending), or a file
            each. Without a reference, that is without truth, the source is needed: means per region, smoothness
            and structure are then all there is to measure.
        out: folder for the results; made if absent.
        source: the unconverted images, same names and grids; measured like the predictions, as the baseline.
        labels: label volumes, named by ``labels.json`` = {structure: value} beside them or one folder above.
        mask: where ``mae``, ``psnr`` and ``ssim`` count (non-zero voxels); default the whole volume for CT in HU, else
            the foreground of the reference, see `medgen.data.body_mask.foreground_mask`.
        prediction_labels: segmentations of the predictions, scored against ``labels``.
        data_range: span of possible values for PSNR and SSIM; default 4095 for CT in HU.
        profile: one of `medgen.evaluation.metrics.challenges.PROFILES`, whose numbers are added under its name.
        tolerance_mm: deviation that the surface Dice of segmentations forgives.
        extractor: of features, for the distances between the sets of predictions and of real volumes; None: none.
        real: real volumes of the target's kind, best of other patients; None: the reference.
        training: the real volumes that the model was trained to make; the predictions are tested for copies of them.
        lesions: masks of the lesions in the source; None: the labels whose name says so (`lesion_findings.LESIONS`).
        checks: limits and segmenter of the structure check, which every case with a source gets; None: the limits that
            the conversion recorded in its manifest, else the general ones, see docs/decisions/checks.md.
        downstream: trains segmenters on references and predictions with ``labels`` and tests them, see
            `medgen.downstream.section.Protocols`; None: do not.
        feature_cache: folder in which features of the real volumes are kept for the next system; None: nowhere.
        patient_pattern: regular expression that finds the patient in a case's name (its first group if it has one),
            for intervals over patients; None: each case is a patient.
        cases: names of the reference cases that count, such as a test split; None for all.
        cluster: measure the cases on its machines, which have to see the same files; None: in this process.
        progress: called after each case.

    Returns:
        The `Evaluation`; ``failures`` is empty only if every reference case was measured.

    Raises:
        InputError: no case in common, a path that does not exist, a ``labels.json`` that is not one, images
            not in HU without ``data_range``, or an ``out`` that cannot be written.
    """
    if profile not in PROFILES:
        raise InputError(f"no metric profile is named {profile!r}: choose one of {', '.join(PROFILES)}")
    if data_range is not None and not (np.isfinite(data_range) and data_range > 0):
        raise InputError(f"--data-range must be a number above 0, not {data_range}")
    if reference is None and source is None and real is None:
        raise InputError(
            "there is nothing to compare with: give --reference (the truth), --source (the input) or --real (others)"
        )
    if extractor is not None and reference is None and real is None:
        raise InputError("a distance of sets needs real volumes: give --real (other patients) or --reference")
    if source is None and (checks is not None or lesions is not None):
        raise InputError("the structure check compares the prediction with its input: give --source")
    if downstream is not None and (reference is None or labels is None):
        raise InputError("segmenters are trained on true volumes with labels: give --reference and --labels")
    given = {"reference": reference, "prediction": prediction, "source": source, "labels": labels, "mask": mask}
    given |= {"prediction_labels": prediction_labels, "lesions": lesions}
    for role, path in {**given, "real": real, "training": training}.items():
        if path is not None and Path(path).resolve() == Path(out).resolve():
            raise InputError(
                f"--out {out} is the folder of --{role.replace('_', '-')}: give the results one of their own"
            )
    if not tolerance_mm >= 0:
        raise InputError(f"--tolerance must be a number of mm, 0 or above, not {tolerance_mm}")
    folders = match_folders(given, cases)
    checks, known, told = (None, {}, []) if source is None else _carried(checks or Checks(auto=True), folders)
    measures = Measures(data_range, folders.names, profile, tolerance_mm, checks, known)
    patients, synthetic = patients_of(folders, patient_pattern)
    manifest = read_manifest(folders.given["prediction"])
    out = Path(out)
    _make_folder(out)
    results: list[CaseResult] = []
    failures: list[Failure] = []
    warnings = [*told, *(f"prediction {path} has no reference and was not measured" for path in folders.extra)]
    if labels is not None and not folders.names:
        warnings.append(
            f"{labels} has no labels.json in or beside it, so structures have no names and neither organs nor lesions "
            'are checked: add one such as {"liver": 1}'
        )
    started = time.monotonic()
    for done, (case, found) in enumerate(
        zip(folders.cases, outcomes(folders, measures, cluster), strict=True), start=1
    ):
        if isinstance(found, InputError):
            # A matter of the settings, not of this case: say so before hours are spent
            if isinstance(found, NeedsRange) and not results:
                references = [files["reference"] for files in folders.cases.values() if "reference" in files]
                raise InputError("; ".join(filter(None, [str(found), suggested_range(references)])))
            if isinstance(found, NotHu) and not results:
                raise found
            failures.append(Failure(case, str(found)))
        else:
            result, missing = found
            results.append(replace(result, patient=patients[case]))
            warnings += [f"{case}: {text}" for text in (*missing, *result.warnings)]
        if progress is not None:
            progress(done, len(folders.cases), case)

    results, alike = one_patient_an_image(results)
    warnings += alike
    if manifest:
        warnings += warnings_of_training(manifest, {result.name: result.images for result in results})
    sections: dict[str, Any] = {"provenance": provenance(manifest)} if manifest else {}
    measured = [result.files for result in results]
    if extractor is not None:
        beside = volume_files(real) or [files["reference"] for files in measured]
        with _reported("distribution", failures):
            sections["distribution"] = distribution_section(
                beside,
                [files["prediction"] for files in measured],
                [files["source"] for files in measured if "source" in files],
                extractor,
                same_patients=real is None,
                failures=failures,
                cache=feature_cache,
            )
    if training is not None:
        with _reported("memorisation", failures):
            sections["memorisation"] = memorisation_section(
                volume_files(training), [files["prediction"] for files in measured], volume_files(real), failures
            )
    if downstream is not None:
        if synthetic:
            warnings.append(f"{len(synthetic)} references are synthetic and no segmenter is tested on them")
        with _reported("downstream", failures):
            sections["downstream"] = downstream(
                [result for result in results if result.name not in synthetic],
                folders.names,
                out / "downstream",
                tolerance_mm=tolerance_mm,
                failures=failures,
            )

    evaluation = Evaluation(
        cases=results,
        failures=failures,
        warnings=warnings,
        data_range=data_range or HU_RANGE,
        data_range_origin=HU_ORIGIN if data_range is None else "given by the user",
        settings={
            **{role: None if path is None else str(path) for role, path in given.items()},
            "real": None if real is None else str(real),
            "training": None if training is None else str(training),
            "profile": PROFILES[profile],
            "measured_in": _measured_in(mask, results),
            "profile_mask": "the given mask" if mask else "medgen body mask",
            "tolerance_mm": tolerance_mm,
            "thresholds": None if checks is None else checks.thresholds.applied(),
            "segmenter": checks.segmenter.text if checks and checks.segmenter else None,
            "structures_that_take_up_contrast": [n for n in folders.names.values() if takes_up_contrast(n)],
        },
        seconds=time.monotonic() - started,
        out=out,
        sections=sections,
    )
    write_results(evaluation)
    return evaluation


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
        text = "the conversions were checked by different limits, so that general ones are taken here: name --checks"
        return checks, known, [text]
    return replace(checks, thresholds=limits[0]) if limits else checks, known, []


def _measured_in(mask: Path | None, results: Sequence[CaseResult]) -> str:
    """Where the columns without a prefix count."""
    if mask is not None:
        return "the given mask"
    places = {"the whole volume" if result.hu else "the foreground of the reference" for result in results}
    return ", or ".join(sorted(places, reverse=True)) or "nowhere"


@contextmanager
def _reported(section: str, failures: list[Failure]) -> Iterator[None]:
    """What cannot be measured of all volumes together is a failure like a case's; the rest is written all the same."""
    try:
        yield
    except Exception as error:
        failures.append(Failure(section, reason(error)))


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made for the results: {error.strerror or error}") from error
