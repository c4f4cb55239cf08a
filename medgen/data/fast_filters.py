"""Smoothing and interpolation of volumes by matrix products along each axis: scipy's results, several times faster.

Each operation is linear and the same for every line along an axis, so one small matrix describes it. Blocks of zeros
in the matrix are skipped.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from scipy import ndimage

BLOCK, LAST_BLOCK = 16, 32  # matrix rows per product: fewer skip more zeros, more are faster; along the last axis
# Multiplications of one product up to which OpenBLAS uses a single thread. Its threads spin while they wait: with the
# second core busy, a filter of larger products took 7 times the processor time and 4 times as long (two cores, a volume
# of 150 × 120 × 96). On one thread, products of this size are as fast as large ones.
ONE_THREAD = 2**18

# Blocks: rows, columns with nonzero weights, weights; transposed where nothing follows the axis.
Matrix = list[tuple[slice, slice, np.ndarray]]


def gaussian(v: np.ndarray, sigma: Sequence[float], *, mode: str = "reflect", truncate: float = 4.0) -> np.ndarray:
    """``scipy.ndimage.gaussian_filter`` up to float32 rounding; a constant volume stays exactly constant.

    Args:
        v: (X, Y, Z), any type, or several volumes in one array (X, Y, Z, N).
        sigma: standard deviation along each axis, in voxels.
        mode, truncate: as in scipy.

    Returns:
        float32 array of the same shape.
    """
    return _smoothed(v, sigma, (0, 0, 0), mode, truncate)


def gradient_magnitude(v: np.ndarray, sigma: Sequence[float], *, mode: str = "reflect") -> np.ndarray:
    """``scipy.ndimage.gaussian_gradient_magnitude``; arguments and result as in ``gaussian``."""
    v = np.ascontiguousarray(v, np.float32)
    v = v - (v.flat[0] if mode != "constant" else np.float32(0))

    def along(u: np.ndarray, axis: int, order: int) -> np.ndarray:
        return _along(u, axis, v.shape[axis], _smoothing, float(sigma[axis]), order, mode, 4.0)

    smooth, slope = along(v, 2, 0), along(v, 2, 1)  # the smooth one is shared by the derivatives along the others
    square = along(along(slope, 1, 0), 0, 0)
    np.square(square, out=square)
    for orders in ((1, 0), (0, 1)):
        slope = along(along(smooth, 1, orders[0]), 0, orders[1])
        square += np.square(slope, out=slope)
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
            v = _along(v, axis, line[1], _interpolation, *line[1:])
    return v


def _smoothed(v: np.ndarray, sigma: Sequence[float], order: Sequence[int], mode: str, truncate: float) -> np.ndarray:
    v = np.ascontiguousarray(v, np.float32)
    level = v.flat[0] if mode != "constant" else np.float32(0)  # subtracted, so that a constant image stays constant
    v = v - level
    for axis in range(len(sigma)):
        v = _along(v, axis, v.shape[axis], _smoothing, float(sigma[axis]), int(order[axis]), mode, truncate)
    if not any(order):
        v += level
    return v


def _along(v: np.ndarray, axis: int, n: int, blocks: Callable[..., Matrix], *arguments: object) -> np.ndarray:
    """Apply a matrix with n rows to every line along an axis of a contiguous float32 array.

    ``blocks`` makes it from the length of a line, ``arguments``, and whether the elements of a line follow each other.
    """
    result = np.empty((*v.shape[:axis], n, *v.shape[axis + 1 :]), np.float32)
    others = int(np.prod(v.shape[axis + 1 :]))
    lines, output_lines = v.reshape(-1, v.shape[axis], others), result.reshape(-1, n, others)
    for rows, columns, weights in blocks(v.shape[axis], *arguments, others == 1):
        if not weights.size:  # the derivative along one voxel
            output_lines[:, rows] = 0
            continue
        part = max(1, ONE_THREAD // weights.size)
        if others > 1:
            for start in range(0, others, part):
                at = slice(start, start + part)
                np.matmul(weights, lines[:, columns, at], out=output_lines[:, rows, at])
        else:
            whole = len(lines) // part * part
            for at in (slice(whole), slice(whole, None)):  # products of `part` lines each, and one of the rest
                x, y = lines[at, columns, 0], output_lines[at, rows, 0]
                if len(x):
                    x, y = (view.reshape(-1, min(part, len(x)), view.shape[1]) for view in (x, y))
                    np.matmul(x, weights, out=y)
    return result


@lru_cache(256)
def _smoothing(n: int, sigma: float, order: int, mode: str, truncate: float, last: bool) -> Matrix:
    return _blocks(ndimage.gaussian_filter1d(np.eye(n), sigma, 0, order, mode=mode, truncate=truncate), last)


@lru_cache(256)
def _interpolation(n: int, count: int, first: float, step: float, sigma: float, last: bool) -> Matrix:
    at = np.clip(first + step * np.arange(count), 0, n - 1)
    below = np.minimum(at.astype(int), max(n - 2, 0))
    matrix = np.zeros((count, n))
    np.add.at(matrix, (np.arange(count), below), 1 - (at - below))
    np.add.at(matrix, (np.arange(count), np.minimum(below + 1, n - 1)), at - below)
    smooth = ndimage.gaussian_filter1d(np.eye(n), sigma, 0, mode="nearest") if sigma > 0 else np.eye(n)
    return _blocks(matrix @ smooth, last)


def _blocks(matrix: np.ndarray, last: bool) -> Matrix:
    matrix, blocks, count = matrix.astype(np.float32), [], LAST_BLOCK if last else BLOCK
    for start in range(0, len(matrix), count):
        rows = slice(start, min(start + count, len(matrix)))
        used = np.flatnonzero(matrix[rows].any(0))
        columns = slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0)  # 0: derivative of 1 voxel
        weights = matrix[rows, columns]
        blocks.append((rows, columns, np.ascontiguousarray(weights.T if last else weights)))
    return blocks
