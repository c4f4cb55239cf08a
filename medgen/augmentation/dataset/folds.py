"""Cross-validation of real and synthetic cases: by patient, tested on real cases only."""

from collections.abc import Sequence

import numpy as np

from medgen.augmentation.dataset.read import Folds, LabelledCase
from medgen.errors import InputError

FOLDS = 5  # of nnU-Net
SEED = 12345  # of nnU-Net's own folds: real cases, each a patient, fall into the same ones without medgen


def patient_folds(cases: Sequence[LabelledCase], stated: Folds = ()) -> Folds:  # type: ignore[assignment]
    """``splits_final.json`` of nnU-Net: [{"train": names, "val": names}, ...], each sorted.

    Folds that the dataset states are kept. Else each patient is validated once, by real cases. A synthetic case is
    trained on where all the patients whose images are in it are, and is nowhere else.

    Args:
        cases: of training, without those of the test set.
        stated: the dataset's own folds; cases that are not among ``cases`` do not count.

    Raises:
        InputError: real cases of fewer than two patients; a stated fold that trains on a patient it validates; stated
            folds of which none has cases both to train on and to validate.
    """
    if stated:
        found = [_stated_fold(cases, fold, number) for number, fold in enumerate(stated)]
        found = [fold for fold in found if fold["train"] and fold["val"]]
        if not found:
            raise InputError(
                "dataset-folds-empty",
                "no fold that the dataset states has cases to train on and to validate; correct its lists",
            )
        return found
    patients = sorted({case.patient for case in cases if case.record is None})
    if len(patients) < 2:
        raise InputError(
            "dataset-too-few-patients",
            f"real training cases of {len(patients)} patients cannot be cross-validated; two patients are the least",
        )
    order = np.arange(len(patients))
    np.random.RandomState(SEED).shuffle(order)  # as scikit-learn's KFold, which nnU-Net uses
    parts = np.array_split(order, min(FOLDS, len(patients)))
    return [_fold(cases, {patients[i] for i in part}) for part in parts]


def _fold(cases: Sequence[LabelledCase], held: set[str]) -> dict[str, list[str]]:
    train = [case.name for case in cases if not case.patients & held]
    val = [case.name for case in cases if case.patient in held and case.record is None]
    return {"train": sorted(train), "val": sorted(val)}


def _stated_fold(cases: Sequence[LabelledCase], fold: dict[str, list[str]], number: int) -> dict[str, list[str]]:
    real = [case for case in cases if case.record is None]
    train, val = ([case for case in real if case.name in set(fold[part])] for part in ("train", "val"))
    held = {case.patient: case.name for case in val}
    torn = next((case for case in train if case.patient in held), None)
    if torn is not None:
        raise InputError(
            "split-patient-in-both",
            f"fold {number} of the dataset's own trains on case {torn.name} and validates case {held[torn.patient]}, "
            f"both of patient {torn.patient}; keep a patient's cases together",
        )
    others = {case.patient for case in real} - {case.patient for case in train}
    made = [case for case in cases if case.record is not None and not case.patients & others]
    return {"train": sorted(case.name for case in [*train, *made]), "val": sorted(case.name for case in val)}


def in_no_fold(cases: Sequence[LabelledCase], folds: Folds) -> list[str]:
    """The cases that no fold trains on or validates, sorted."""
    return sorted({case.name for case in cases}.difference(*(fold[part] for fold in folds for part in fold)))
