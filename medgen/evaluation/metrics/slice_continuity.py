"""Continuity between neighbouring slices: slice-wise models can leave steps between slices."""

import numpy as np


def slice_jump(volume: np.ndarray, axis: int, mask: np.ndarray | None = None) -> float:
    """Return mean |v[i+1] - v[i]| along ``axis``, divided by the mean of the same along the two other axes.

    Args:
        volume: (X, Y, Z), any unit. The result depends on the anisotropy of the scan; compare it with a real scan.
        axis: 0, 1 or 2.
        mask: (X, Y, Z) bool; only pairs of neighbours inside it are used. None: all.

    Returns:
        A ratio; NaN if there are no pairs or the volume is constant along the two other axes.
    """
    return float(_slice_jumps(volume, mask)[axis])


def relative_slice_jump(volume: np.ndarray, real: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the maximum over the axes of slice_jump(volume) / slice_jump(real).

    1: as smooth across slices as the real scan, independent of the intensity scale. It is never below 1, because a
    lower jump along one axis raises that of another. Axes along which the real scan is constant are skipped.

    Args:
        volume, real: (X, Y, Z) on one grid; ``real`` is the reference, or the source if there is no reference.
        mask: see ``slice_jump``.

    Returns:
        A ratio; NaN if no axis can be compared.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = _slice_jumps(volume, mask) / _slice_jumps(real, mask)
    ratios = ratios[np.isfinite(ratios)]
    return float(ratios.max()) if ratios.size else float("nan")


def _slice_jumps(volume: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    changes = np.array([_mean_change(volume, axis, mask) for axis in range(3)])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.array([changes[axis] / np.delete(changes, axis).mean() for axis in range(3)])


def _mean_change(volume: np.ndarray, axis: int, mask: np.ndarray | None) -> float:
    slices_first = np.moveaxis(volume, axis, 0)
    changes = np.abs(np.diff(slices_first, axis=0))
    if mask is not None:
        inside = np.moveaxis(mask, axis, 0)
        changes = changes[inside[1:] & inside[:-1]]
    return float(changes.mean(dtype=np.float64)) if changes.size else float("nan")
