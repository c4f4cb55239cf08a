"""Whose scans are evaluated: patients by records and names, the same image under two names, cases trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from medgen.data.cohort.layouts import some
from medgen.data.cohort.patients import Records, by_images, identified
from medgen.evaluation.folders import Folders
from medgen.evaluation.summary import CaseResult


def patients_of(folders: Folders, pattern: str | None) -> tuple[dict[str, str], set[str]]:
    """The patient of each case, and the cases that records beside them call synthetic.

    Raises:
        InputError: a record that is damaged; a pattern that does not fit.
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


def one_patient_an_image(results: Sequence[CaseResult]) -> tuple[list[CaseResult], list[str]]:
    """The cases, those with an image in common being of one patient, and warnings of them."""
    called, pairs = by_images((case.name, case.patient, case.images) for case in results)
    warnings = [f"cases {one} and {other} show the same image: taken for one patient" for one, other in pairs]
    return [replace(case, patient=called.get(case.patient, case.patient)) for case in results], warnings


def warnings_of_training(manifest: Mapping[str, Any], cases: Mapping[str, Sequence[str]]) -> list[str]:
    """Which cases the model was trained on or chosen by: no test of it.

    Args:
        manifest: of the conversion, with what the model records of its training data.
        cases: content hashes of the images of each case. Where the model records none, or a case has none, names are
            compared, and that is said.
    """
    data: Mapping[str, Any] = manifest["model"].get("training_data") or {}
    images = data.get("images")
    named = {str(name).rpartition("/")[2] for part in ("training", "validation") for name in data.get(part, ())}
    by_name = {case for case, hashes in cases.items() if images is None or not hashes}
    by_content = {case for case, hashes in cases.items() if set(hashes) & set(images or ())}
    seen = sorted(by_content | (by_name & named))
    found = []
    if seen:
        found.append(
            f"{len(seen)} of {len(cases)} cases ({some(seen)}) were among those the model was trained on or chosen by: "
            "their numbers say nothing of new patients"
        )
    if by_name and named:
        why = (
            "the model records no content of its images"
            if images is None
            else "they have no source or reference to compare"
        )
        found.append(
            f"training cases could be recognised among {len(by_name)} of {len(cases)} cases by name alone, as {why}"
        )
    return found
