"""Cross-validation of real and synthetic cases: by patient, tested on real cases only."""

from collections.abc import Sequence

import numpy as np

from medgen.augmentation.dataset import LabelledCase
from medgen.types import InputError

FOLDS = 5  # of nnU-Net
SEED = 12345  # of nnU-Net's own folds: real cases, each a patient, fall into the same ones without medgen


def patient_folds(cases: Sequence[LabelledCase]) -> list[dict[str, list[str]]]:
    """``splits_final.json`` of nnU-Net: [{"train": names, "val": names}, ...], each sorted.

    Each patient is validated once, by real cases. A synthetic case is trained on where all the patients whose images
    are in it are, and is nowhere else.

    Args:
        cases: of training, without those of the test set.

    Raises:
        InputError: real cases of fewer than two patients.
    """
    patients = sorted({case.patient for case in cases if case.record is None})
    if len(patients) < 2:
        raise InputError(
            f"real training cases of {len(patients)} patients cannot be cross-validated; two patients are the least"
        )
    order = np.arange(len(patients))
    np.random.RandomState(SEED).shuffle(order)  # as scikit-learn's KFold, which nnU-Net uses
    parts = np.array_split(order, min(FOLDS, len(patients)))
    return [_fold(cases, {patients[i] for i in part}) for part in parts]


def _fold(cases: Sequence[LabelledCase], held: set[str]) -> dict[str, list[str]]:
    train = [case.name for case in cases if not case.patients & held]
    val = [case.name for case in cases if case.patient in held and case.record is None]
    return {"train": sorted(train), "val": sorted(val)}
