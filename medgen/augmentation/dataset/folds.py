"""Cross-validation folds of real and synthetic cases: split by patient, validated on real cases only."""

from collections.abc import Sequence

import numpy as np

from medgen.augmentation.dataset.read import Folds, LabelledCase
from medgen.errors import InputError

FOLDS = 5  # as nnU-Net
SEED = 12345  # nnU-Net's seed: with one case per patient, the real cases get the folds that nnU-Net would give them


def patient_folds(cases: Sequence[LabelledCase], existing: Folds = ()) -> Folds:  # type: ignore[assignment]
    """Return the folds as nnU-Net's ``splits_final.json`` has them: [{"train": names, "val": names}, ...], sorted.

    Existing folds of the dataset are kept. Otherwise the patients are split, and each is validated once, with real
    cases. A synthetic case is a training case of those folds that train on all patients whose images it contains, and
    is in no other fold.

    Args:
        cases: all cases outside the test set.
        existing: folds of the dataset; names that are not among ``cases`` are ignored.

    Raises:
        InputError: the real cases are of fewer than two patients; an existing fold trains on a patient that it
            validates; or no existing fold has both training and validation cases.
    """
    if existing:
        found = [_existing_fold(cases, fold, number) for number, fold in enumerate(existing)]
        found = [fold for fold in found if fold["train"] and fold["val"]]
        if not found:
            raise InputError(
                "dataset-folds-empty",
                "no fold of the dataset has both training and validation cases; correct the dataset's lists",
            )
        return found
    patients = sorted({case.patient for case in cases if case.record is None})
    if len(patients) < 2:
        raise InputError(
            "dataset-too-few-patients",
            f"the real training cases are of {len(patients)} patients, but cross-validation needs at least two; add "
            "cases of other patients",
        )
    order = np.arange(len(patients))
    np.random.RandomState(SEED).shuffle(order)  # as in scikit-learn's KFold, which nnU-Net uses
    parts = np.array_split(order, min(FOLDS, len(patients)))
    return [_fold(cases, {patients[i] for i in part}) for part in parts]


def _fold(cases: Sequence[LabelledCase], held: set[str]) -> dict[str, list[str]]:
    train = [case.name for case in cases if not case.patients & held]
    val = [case.name for case in cases if case.patient in held and case.record is None]
    return {"train": sorted(train), "val": sorted(val)}


def _existing_fold(cases: Sequence[LabelledCase], fold: dict[str, list[str]], number: int) -> dict[str, list[str]]:
    real = [case for case in cases if case.record is None]
    train, val = ([case for case in real if case.name in set(fold[part])] for part in ("train", "val"))
    held = {case.patient: case.name for case in val}
    split_case = next((case for case in train if case.patient in held), None)
    if split_case is not None:
        raise InputError(
            "split-patient-in-both",
            f"fold {number} of the dataset trains on case {split_case.name} and validates case "
            f"{held[split_case.patient]}, but both are of patient {split_case.patient}; put all cases of a patient "
            "into one part",
        )
    others = {case.patient for case in real} - {case.patient for case in train}
    synthetic = [case for case in cases if case.record is not None and not case.patients & others]
    return {"train": sorted(case.name for case in [*train, *synthetic]), "val": sorted(case.name for case in val)}


def in_no_fold(cases: Sequence[LabelledCase], folds: Folds) -> list[str]:
    """Return the names of the cases that no fold trains on or validates, sorted."""
    return sorted({case.name for case in cases}.difference(*(fold[part] for fold in folds for part in fold)))
