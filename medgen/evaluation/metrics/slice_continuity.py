"""Whether neighbouring slices of a translation fit together: slice-wise models may leave steps between them."""

import numpy as np


def slice_jump(volume: np.ndarray, axis: int, mask: np.ndarray | None = None) -> float:
    """mean |v[i+1] - v[i]| along ``axis`` / the mean of the same along the two other axes.

    Args:
        volume: (X, Y, Z), any unit; a scan's own anisotropy is in the number, so it is compared with a real scan's.
        axis: 0, 1 or 2.
        mask: (X, Y, Z) bool; pairs of neighbours count that lie in it both. None: all.

    Returns:
        A ratio; NaN where there are no pairs or nothing changes along the two other axes.
    """
    return float(_slice_jumps(volume, mask)[axis])


def relative_slice_jump(volume: np.ndarray, real: np.ndarray, mask: np.ndarray | None = None) -> float:
    """max over the axes of slice_jump(volume) / slice_jump(real).

    1: as smooth across slices as the real scan, whatever the scale of the intensities; it is never below 1, for what
    one axis loses another gains. An axis along which the real scan does not change is left out.

    Args:
        volume, real: (X, Y, Z) on one grid; ``real`` is the reference, or the source where there is none.
        mask: see ``slice_jump``.

    Returns:
        A ratio; NaN where no axis can be compared.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = _slice_jumps(volume, mask) / _slice_jumps(real, mask)
    ratios = ratios[np.isfinite(ratios)]
    return float(ratios.max()) if ratios.size else float("nan")


def _slice_jumps(volume: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    change = np.array([_mean_change(volume, axis, mask) for axis in range(3)])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.array([change[axis] / np.delete(change, axis).mean() for axis in range(3)])


def _mean_change(volume: np.ndarray, axis: int, mask: np.ndarray | None) -> float:
    moved = np.moveaxis(volume, axis, 0)
    change = np.abs(np.diff(moved, axis=0))
    if mask is not None:
        inside = np.moveaxis(mask, axis, 0)
        change = change[inside[1:] & inside[:-1]]
    return float(change.mean(dtype=np.float64)) if change.size else float("nan")
