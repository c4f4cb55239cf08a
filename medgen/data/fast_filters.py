"""Smoothing and interpolation of volumes by matrix products along each axis: scipy's results, several times faster.

Each operation is linear and the same for every line along an axis, so one small matrix describes it. Blocks of zeros
in the matrix are skipped.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import ndimage

BLOCK = 32  # matrix rows per product: fewer rows skip more zeros, more rows make each product faster

Matrix = list[tuple[slice, slice, np.ndarray]]  # blocks: rows, columns with nonzero weights, weights


def gaussian(v: np.ndarray, sigma: Sequence[float], *, mode: str = "reflect", truncate: float = 4.0) -> np.ndarray:
    """``scipy.ndimage.gaussian_filter`` up to float32 rounding; a constant volume stays exactly constant.

    Args:
        v: (X, Y, Z), any type.
        sigma: standard deviation along each axis, in voxels.
        mode, truncate: as in scipy.

    Returns:
        (X, Y, Z) float32.
    """
    return _smoothed(v, sigma, (0, 0, 0), mode, truncate)


def gradient_magnitude(v: np.ndarray, sigma: Sequence[float], *, mode: str = "reflect") -> np.ndarray:
    """``scipy.ndimage.gaussian_gradient_magnitude``; arguments and result as in ``gaussian``."""
    square = np.zeros(v.shape, np.float32)
    for order in np.eye(3, dtype=int):
        square += _smoothed(v, sigma, order.tolist(), mode, 4.0) ** 2
    return np.sqrt(square, out=square)


def central_gradient_magnitude(
    v: np.ndarray, spacing: Sequence[float], places: tuple[np.ndarray, ...] | None = None
) -> np.ndarray:
    """|∇v| by central differences, one-sided at the faces as in ``numpy.gradient``; 0 along an axis of one voxel.

    Args:
        v: volume of any dimension and unit.
        spacing: mm, one an axis.
        places: voxel indices, one array an axis; None: everywhere.

    Returns:
        In units of ``v`` per mm, float32 or wider: the shape of ``v``, or one value a place.
    """
    v = np.asarray(v, np.result_type(v, np.float32))
    squares = np.zeros(v.shape if places is None else len(places[0]), v.dtype)
    for axis, step in enumerate(spacing):
        if v.shape[axis] > 1:
            slope = np.gradient(v, step, axis=axis) if places is None else _slope_at(v, axis, step, places)
            squares += np.square(slope)
    return np.sqrt(squares)


def _slope_at(v: np.ndarray, axis: int, step: float, places: tuple[np.ndarray, ...]) -> np.ndarray:
    before, after = list(places), list(places)
    before[axis] = np.maximum(places[axis] - 1, 0)
    after[axis] = np.minimum(places[axis] + 1, v.shape[axis] - 1)
    difference: np.ndarray = v[tuple(after)] - v[tuple(before)]
    return difference / ((after[axis] - before[axis]) * step)


def interpolate(
    v: np.ndarray,
    first: np.ndarray,
    step: np.ndarray,
    shape: Sequence[int],
    sigma: Sequence[float] = (0, 0, 0),
) -> np.ndarray:
    """Linear interpolation at ``first + step · index`` (voxel coordinates of ``v``); edge values are repeated outside.

    Equals ``scipy.ndimage.affine_transform`` (order 1, diagonal matrix, mode "nearest") up to float32 rounding.

    Args:
        v: (X, Y, Z), any type.
        first, step: (3,), one value per axis.
        shape: shape of the result.
        sigma: in voxels; the volume is first smoothed by this Gaussian, with repeated edges.

    Returns:
        float32 array of ``shape``.
    """
    v = np.ascontiguousarray(v, np.float32)
    for axis in np.argsort(np.divide(shape, v.shape)).tolist():  # axes that shrink come first: less data for the others
        line = v.shape[axis], int(shape[axis]), float(first[axis]), float(step[axis]), float(sigma[axis])
        if line != (line[0], line[0], 0.0, 1.0, 0.0):
            v = _along(v, axis, line[1], _interpolation(*line))
    return v


def _smoothed(v: np.ndarray, sigma: Sequence[float], order: Sequence[int], mode: str, truncate: float) -> np.ndarray:
    v = np.ascontiguousarray(v, np.float32)
    level = v.flat[0] if mode != "constant" else np.float32(0)  # subtracted, so that a constant image stays constant
    v = v - level
    for axis, n in enumerate(v.shape):
        v = _along(v, axis, n, _smoothing(n, float(sigma[axis]), int(order[axis]), mode, truncate))
    if not any(order):
        v += level
    return v


def _along(v: np.ndarray, axis: int, n: int, matrix: Matrix) -> np.ndarray:
    """Apply a matrix with n rows to every line along an axis of a contiguous float32 volume."""
    result = np.empty((*v.shape[:axis], n, *v.shape[axis + 1 :]), np.float32)
    others = int(np.prod(v.shape[axis + 1 :]))
    lines, output_lines = v.reshape(-1, v.shape[axis], others), result.reshape(-1, n, others)
    for rows, columns, weights in matrix:
        if axis == 2:
            np.matmul(lines[:, columns, 0], weights.T, out=output_lines[:, rows, 0])
        else:
            np.matmul(weights, lines[:, columns], out=output_lines[:, rows])
    return result


@lru_cache(256)
def _smoothing(n: int, sigma: float, order: int, mode: str, truncate: float) -> Matrix:
    return _blocks(ndimage.gaussian_filter1d(np.eye(n), sigma, 0, order, mode=mode, truncate=truncate))


@lru_cache(256)
def _interpolation(n: int, count: int, first: float, step: float, sigma: float) -> Matrix:
    at = np.clip(first + step * np.arange(count), 0, n - 1)
    below = np.minimum(at.astype(int), max(n - 2, 0))
    matrix = np.zeros((count, n))
    np.add.at(matrix, (np.arange(count), below), 1 - (at - below))
    np.add.at(matrix, (np.arange(count), np.minimum(below + 1, n - 1)), at - below)
    smooth = ndimage.gaussian_filter1d(np.eye(n), sigma, 0, mode="nearest") if sigma > 0 else np.eye(n)
    return _blocks(matrix @ smooth)


def _blocks(matrix: np.ndarray) -> Matrix:
    matrix, blocks = matrix.astype(np.float32), []
    for start in range(0, len(matrix), BLOCK):
        rows = slice(start, min(start + BLOCK, len(matrix)))
        used = np.flatnonzero(matrix[rows].any(0))
        columns = slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0)  # 0: derivative of 1 voxel
        blocks.append((rows, columns, np.ascontiguousarray(matrix[rows, columns])))
    return blocks
