"""Identify the patient of each case, the same image under two names, and cases that the model was trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from medgen.data.cohort.layouts import shortened_list
from medgen.data.cohort.patients import Records, identified, merge_by_images
from medgen.evaluation.folders import Folders
from medgen.evaluation.summary import CaseResult


def patients_of(folders: Folders, pattern: str | None) -> tuple[dict[str, str], set[str]]:
    """Return the patient of each case, and the cases that the records beside their images mark as synthetic.

    Raises:
        InputError: a damaged record, or a pattern that does not match.
    """
    records = Records()
    known = [
        records.known(case, [path for role in ("reference", "source") if (path := files.get(role))], pattern=pattern)
        for case, files in folders.cases.items()
    ]
    return (
        {case.name: patient for case, (patient, _) in zip(known, identified(known), strict=True)},
        {case.name for case in known if case.synthetic},
    )


def merge_patients_by_image(results: Sequence[CaseResult]) -> tuple[list[CaseResult], list[str]]:
    """Return the cases, with one patient for all cases that share an image, and warnings about such cases.

    Predictions that two cases share are also warned of.
    """
    merged_patients, pairs = merge_by_images((case.name, case.patient, case.images) for case in results)
    warnings = [f"cases {one} and {other} show the same image and count as one patient" for one, other in pairs]
    warnings += _copied_predictions(results)
    return [replace(case, patient=merged_patients.get(case.patient, case.patient)) for case in results], warnings


def _copied_predictions(results: Sequence[CaseResult]) -> list[str]:
    """Return warnings about predictions that are one image although their cases are not, as after a wrong copy."""
    first: dict[str, CaseResult] = {}
    pairs = [
        (other.name, case.name)
        for case in results
        if case.prediction_image
        and (other := first.setdefault(case.prediction_image, case)) is not case
        and not set(other.images) & set(case.images)
    ]
    return [f"the predictions of cases {one} and {other} are the same image; check the files" for one, other in pairs]


def training_overlap_warnings(manifest: Mapping[str, Any], cases: Mapping[str, Sequence[str]]) -> list[str]:
    """Return warnings about cases that were used to train or select the model and therefore cannot test it.

    Args:
        manifest: manifest of the conversion, which contains the model's record of its training data.
        cases: {case: content hashes of its images}. Names are compared, with a warning, if the model records no
            hashes or a case has none.
    """
    data: Mapping[str, Any] = manifest["model"].get("training_data") or {}
    images = data.get("images")
    if images is not None:
        images = {**data.get("ancestors", {}), **images}  # also those of the models that it was started from
    training_names = {
        str(name).rpartition("/")[2] for part in ("training", "validation") for name in data.get(part, ())
    }
    by_name = {case for case, hashes in cases.items() if images is None or not hashes}
    by_content = {case for case, hashes in cases.items() if set(hashes) & set(images or ())}
    training_cases = sorted(by_content | (by_name & training_names))
    messages = []
    if training_cases:
        messages.append(
            f"{len(training_cases)} of {len(cases)} cases ({shortened_list(training_cases)}) were used to train or "
            "select the model: their results do not show how it performs on new patients"
        )
    if by_name and training_names:
        cause = (
            "the model records no hashes of its training images"
            if images is None
            else "these cases have no source or reference to compare"
        )
        messages.append(
            f"{len(by_name)} of {len(cases)} cases could be compared with training cases by name only: {cause}"
        )
    return messages
