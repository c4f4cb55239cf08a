"""Interpolate label maps, for resampling, rotation and deformation.

The weight of a label at a position is the linear interpolation of its mask (1 in its voxels, 0 elsewhere). The label
with the largest weight is chosen; the background is treated like any other label. A tie goes to the label with fewer
voxels in the map (then to the smaller value), so that thin structures are kept. Nearest-neighbour interpolation would
resolve all ties in the same direction, which shifts maps by half a voxel against their images at even ratios.
"""

from collections.abc import Callable, Sequence

import numpy as np

from medgen.errors import InputError

BLOCK = 2**21  # positions per block, to limit memory
MOST_COUNTED = 2**16  # integer values below this are counted with bincount, others with np.unique
STEPS = 2**20  # weights are quantised to 1 / STEPS, so that rounding errors do not resolve ties

Places = Sequence[np.ndarray]


def labels_at(
    labels: np.ndarray,
    places: Callable[[slice], Places],
    shape: Sequence[int],
    *,
    outside: float | None = None,
) -> np.ndarray:
    """Interpolate a label map at arbitrary positions.

    Time and memory do not depend on the number of labels, because only the eight voxels around each position are used.

    Args:
        labels: (X, Y, Z), integers in any data type.
        places: function from a slice of rows of the result to their positions in voxels of ``labels``: three arrays,
            one per axis, that broadcast to (rows, shape[1], shape[2]).
        shape: shape of the result.
        outside: label outside the map; None: label of the nearest edge voxel.

    Returns:
        Array of ``shape`` with the data type of ``labels``.
    """
    values, codes = _by_rarity(labels)
    if outside is not None:
        values = values if outside in values else np.append(values, labels.dtype.type(outside))
        codes = np.pad(codes, 1, constant_values=int(np.flatnonzero(values == outside)[0]))
    shift, out = 0 if outside is None else 1, np.empty(tuple(shape), labels.dtype)
    rows = max(1, BLOCK // max(1, int(np.prod(shape[1:]))))
    for start in range(0, shape[0], rows):
        part = slice(start, min(start + rows, shape[0]))
        out[part] = values[_winners(codes, [p + shift for p in places(part)], len(values))]
    return out


def along_axes(first: np.ndarray, step: np.ndarray, shape: Sequence[int]) -> Callable[[slice], Places]:
    """Return positions ``first + step · index`` of a grid with the axes of the map, for ``labels_at``."""
    axes = [f + s * np.arange(n) for f, s, n in zip(first, step, shape, strict=True)]
    return lambda rows: np.ix_(axes[0][rows], axes[1], axes[2])


def by_affine(matrix: np.ndarray, offset: np.ndarray, shape: Sequence[int]) -> Callable[[slice], Places]:
    """Return positions ``matrix @ index + offset`` of a grid of ``shape``, for ``labels_at``."""

    def places(rows: slice) -> Places:
        index = np.ix_(np.arange(shape[0])[rows], np.arange(shape[1]), np.arange(shape[2]))
        return [
            sum((m * i for m, i in zip(line, index, strict=True)), o) for line, o in zip(matrix, offset, strict=True)
        ]

    return places


def _by_rarity(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a map, rarest first, and the map as indices into them."""
    whole = labels.astype(np.int64) if labels.size and labels.min() >= 0 and labels.max() < MOST_COUNTED else None
    if whole is not None and np.array_equal(whole, labels):  # counting is much faster than sorting
        counts = np.bincount(whole.ravel())
        values, places = np.flatnonzero(counts).astype(labels.dtype), whole
        counts_of = counts[np.flatnonzero(counts)]
        table = np.cumsum(counts > 0) - 1
    else:
        values, places, counts_of = np.unique(labels, return_inverse=True, return_counts=True)
        table = np.arange(len(values))
    order = np.argsort(counts_of, kind="stable")
    rank = np.empty(len(order), np.uint8 if len(order) < 255 else np.int32)
    rank[order] = np.arange(len(order))
    return values[order], rank[table][places].reshape(labels.shape)


def _winners(codes: np.ndarray, places: Places, count: int) -> np.ndarray:
    """Return the index of the label with the largest weight at each position."""
    below, parts = [], []
    for place, n in zip(places, codes.shape, strict=True):
        place = np.clip(place, 0, n - 1)
        below.append(np.minimum(place.astype(np.int64), max(n - 2, 0)))
        parts.append(place - below[-1])
    _, y, z = codes.shape
    base = (below[0] * y + below[1]) * z + below[2]
    steps = [s if n > 1 else 0 for s, n in zip((y * z, z, 1), codes.shape, strict=True)]
    corners = list(np.ndindex(2, 2, 2))
    flat = codes.ravel()
    around = [flat[base + int(np.dot(corner, steps))] for corner in corners]
    winner, mixed = around[0].copy(), np.zeros(base.shape, bool)
    for other in around[1:]:
        mixed |= other != around[0]
    if mixed.any():
        near = np.stack([v[mixed] for v in around])
        part = [np.broadcast_to(p, base.shape)[mixed] for p in parts]
        weights = [np.prod([p if c else 1 - p for p, c in zip(part, corner, strict=True)], 0) for corner in corners]
        winner[mixed] = _largest_share(near, np.stack(weights), count)
    return winner


def _largest_share(near: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """Of eight codes (8, n), return the one with the largest sum of weights (n,), and the smallest of equal ones."""
    best, winner = np.full(near.shape[1], -1, np.int64), np.zeros(near.shape[1], near.dtype)
    for code in near:
        share = np.where(near == code, weights, 0).sum(0)
        key = np.rint(share * STEPS).astype(np.int64) * count + (count - 1 - code.astype(np.int64))
        better = key > best
        best[better], winner[better] = key[better], code[better]
    return winner


def nearly_whole(labels: np.ndarray) -> np.ndarray:
    """Round a label map if all values are within 0.001 of integers; otherwise return it unchanged.

    Needed because float storage or a slope turns 1 into 0.99999994.
    """
    whole = np.rint(labels)
    return whole if np.abs(labels - whole).max(initial=0) <= 1e-3 else labels


def check_mask(data: np.ndarray, file: object) -> None:
    """Refuse a mask with fractions, such as a detector's probability map or an interpolated mask. Raises InputError.

    One value above 0 is a mask, whatever it is.

    Args:
        data: (X, Y, Z); above 0 inside.
        file: for the message.
    """
    inside = nearly_whole(data[data > 0])
    if inside.size and inside.min() != inside.max() and (inside != np.rint(inside)).any():
        raise InputError(
            "mask-not-whole",
            f"{file} has fractions as values, like a probability map or an interpolated mask; set a threshold, for "
            "example 1 above 0.5 and 0 elsewhere, and give that mask",
        )
