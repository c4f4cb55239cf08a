"""Overlap of two label maps: voxel counts and Dice of every label."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def overlap_counts(first: Array, second: Array, size: int = 0) -> NDArray[np.int64]:
    """(3, n) voxels of each label in ``first``, in ``second`` and in both; n is ``size`` or the highest label plus 1.

    Args:
        first, second: (X, Y, Z) whole numbers from 0 on one grid.
    """
    size = max(size, 1 + max(int(labels.max(initial=0)) for labels in (first, second)))
    counts = np.zeros((3, size), np.int64)
    for a, b in zip(first, second, strict=True):  # by slices: no large array beside the maps
        labelled = np.flatnonzero((a | b) != 0)
        a, b = a.ravel()[labelled], b.ravel()[labelled]
        for row, values in zip(counts, (a, b, a[a == b]), strict=True):
            row += np.bincount(values, minlength=size)
    return counts


def dice(in_first: int, in_second: int, in_both: int) -> float:
    """2 |A ∩ B| / (|A| + |B|) of voxel counts; NaN where both are empty."""
    total = in_first + in_second
    return 2 * in_both / total if total else float("nan")


def label_dice(first: Array, second: Array) -> dict[int, float]:
    """{label: Dice} for every label above 0 in either map (whole numbers, one shape)."""
    counts = overlap_counts(first, second).T.tolist()
    return {label: dice(*voxels) for label, voxels in enumerate(counts) if label and voxels[0] + voxels[1]}
