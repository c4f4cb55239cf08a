"""Flips, shifts and exchanged slices between a translation and its input, independent of the intensities."""

from collections.abc import Sequence

import numpy as np

from medgen.data.fast_filters import gaussian
from medgen.qa.measures.masks import sampled
from medgen.qa.measures.structure import EDGE_MM, edges

SIDES = ("left-right", "front-back", "head-foot")  # the axes of a canonical (RAS) volume
ROW = 4096  # voxels of one scalar product
UNIFORM = 0.05  # range of the correlations of an image with itself at lags from 1, along an axis without structure
FLAT = 0.02  # range of correlations over all lags, below which there is no peak
ROUNDS = 4  # over the axes; a correct pair needs one, a shift along one axis two
# See `misplaced_slices`; a slice with less of the body than LEAST_SLICE of the fullest has too few edges.
# Correct pairs of CT gain up to 0.004.
ORDER_GAIN, ORDER_LEAST, LEAST_SLICE = 0.1, 0.4, 0.4


def flip_gains(
    source: np.ndarray,
    output: np.ndarray,
    mask: np.ndarray,
    spacing: Sequence[float],
    *,
    sigma_mm: float = EDGE_MM,
    known: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Gain in edge correlation from flipping the source along each axis.

    Above 0, the output resembles the mirrored source more than the source: its array or its affine was flipped. Correct
    pairs lie well below 0 because liver, stomach and spine make the body asymmetric. Edges are gradient magnitudes, as
    in `structure.edge_correlation`.

    Args:
        source, output: (X, Y, Z) on one grid.
        mask: (X, Y, Z) bool, the body in the source; it is flipped too.
        spacing: mm.
        sigma_mm: sigma of the Gaussian smoothing against noise.
        known: `structure.edges` of both, if they were computed before.

    Returns:
        (3,): correlation of the output's edges with those of the flipped source, minus that with the unflipped one.
    """
    a, b = known or (edges(v, spacing, sigma_mm) for v in (source, output))
    a, b = (np.asarray(v - v.mean(dtype=np.float64), np.float32) for v in (a, b))
    gains = []
    for axis in range(3):
        both = (mask | np.flip(mask, axis)).astype(np.float32)
        voxels, inside = float(both.sum(dtype=np.float64)), b * both
        sums_a, sums_b = ((_product(v, both), _product(v, w)) for v, w in ((a, a * both), (b, inside)))
        norm = np.sqrt(_deviation(sums_a, voxels) * _deviation(sums_b, voxels))  # flipping does not change the sums
        gains.append((_product(np.flip(a, axis), inside) - _product(a, inside)) / norm if norm > 0 else 0.0)
    return np.array(gains)


def is_uniform(
    image: np.ndarray,
    axis: int,
    spacing: Sequence[float],
    *,
    reach: int = 3,
    sigma_mm: float = EDGE_MM,
    known: np.ndarray | None = None,
) -> bool:
    """Whether an image does not change along an axis, as that of a test phantom may be, so that no flip can be seen.

    Its edges then agree with themselves alike at all lags but 0, where the noise agrees too.

    Args:
        image: (X, Y, Z).
        spacing: mm.
        reach: largest lag in voxels.
        sigma_mm: as in `flip_gains`.
        known: `structure.edges` of the image, if they were computed before.
    """
    a = edges(image, spacing, sigma_mm) if known is None else known
    if a.shape[axis] < 2 * reach + 3:
        return False
    scores = np.delete(_Pair(a, a, reach).correlations([0, 0, 0], axis), reach)
    return bool(scores.max() - scores.min() < UNIFORM)


def measure_shift(
    source: np.ndarray,
    output: np.ndarray,
    spacing: Sequence[float],
    *,
    reach: int = 3,
    known: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Shift of the output against the source along each axis, (3,) voxels, positive towards higher indices.

    The shift is the peak of the normalised cross-correlation of gradient magnitudes, refined by the parabola through it
    and its two neighbours (Tian & Huhns 1986, doi 10.1016/0734-189X(86)90028-9). Magnitudes make it independent of the
    size and sign of the contrast. One axis is searched at a time with the others at their last peak, until none moves,
    because a shift along one axis blurs the peak of another. An axis along which the scan is uniform has no peak, and
    counts as not shifted.

    Args:
        source, output: (X, Y, Z) on one grid; an axis shorter than 2·reach + 3 voxels counts as not shifted.
        spacing: mm; edges are computed at the scale of the finest, so that noise does not count as an edge.
        reach: largest shift in voxels; larger ones are returned as ``reach``.
        known: edges of both at about that scale, if they were computed before.
    """
    a, b = known or (edges(v, spacing, min(spacing)) for v in (source, output))
    everywhere = np.ones(a.shape, bool)
    # Without a limit, metal and skin would dominate the correlation.
    a, b = (np.minimum(v, np.percentile(sampled(v, everywhere), 99)) for v in (a, b))
    axes = [axis for axis in range(3) if a.shape[axis] >= 2 * reach + 3]
    pair = _Pair(a, b, reach)
    peak, found = [0, 0, 0], np.zeros(3)
    for _ in range(ROUNDS):
        before = tuple(peak)
        for axis in axes:
            peak[axis], found[axis] = _axis_peak(pair, peak, axis)
        if tuple(peak) == before:
            break
    return found


def _axis_peak(pair: "_Pair", lags: Sequence[int], axis: int) -> tuple[int, float]:
    """Best lag along an axis, in whole voxels and refined; ``lags``: those of all axes."""
    reach, scores = pair.reach, pair.correlations(lags, axis)
    if scores.max() - scores.min() < FLAT:
        return 0, 0.0
    k = int(np.argmax(scores))
    if k in (0, 2 * reach):
        return k - reach, float(k - reach)
    left, top, right = (float(score) for score in scores[k - 1 : k + 2])
    bend = left - 2 * top + right
    return k - reach, k - reach + (0.5 * (left - right) / bend if bend < 0 else 0.0)


class _Pair:
    """Correlations of two images at whole lags, each over the overlap of both.

    Both are padded with zeros, so that a lag along any axis is a lag of the flat arrays, and the sum of the products is
    one scalar product. The other sums are those over slices: what a lag leaves out lies at the ends.
    """

    def __init__(self, a: np.ndarray, b: np.ndarray, reach: int) -> None:
        self.reach = reach
        # near their means, the sums of squares lose no digits
        self.a, self.b = (np.asarray(v - v.mean(dtype=np.float64), np.float32) for v in (a, b))
        self.flat = [np.pad(v, [(0, reach)] * 3).ravel() for v in (self.a, self.b)]
        self.steps = np.cumprod([1, *(n + reach for n in a.shape[:0:-1])])[::-1]

    def correlations(self, lags: Sequence[int], axis: int) -> np.ndarray:
        """(2·reach + 1,) for lags of ``b`` behind ``a`` from -reach to reach along an axis, with ``lags`` elsewhere."""
        across = [0 if n == axis else lag for n, lag in enumerate(lags)]
        n = self.a.shape[axis]
        parts = zip((self.a, self.b), _overlap(self.a.shape, across), strict=True)
        sums_a, sums_b = (_running_sums(v[part], axis) for v, part in parts)
        count = np.prod([m - abs(lag) for lag, m in zip(across, self.a.shape, strict=True)]) / n
        scores = []
        for lag in range(-self.reach, self.reach + 1):
            low, high = max(0, -lag), n - max(0, lag)
            voxels = count * (high - low)
            a, b = sums_a[:, high] - sums_a[:, low], sums_b[:, high + lag] - sums_b[:, low + lag]
            product = self._flat_product(int(np.dot([*across[:axis], lag, *across[axis + 1 :]], self.steps)))
            norm = np.sqrt(_deviation(a, voxels) * _deviation(b, voxels))
            scores.append((product - a[0] * b[0] / voxels) / norm if norm > 0 else 0.0)
        return np.array(scores)

    def _flat_product(self, lag: int) -> float:
        a, b = self.flat
        a, b = (a[: a.size - lag], b[lag:]) if lag >= 0 else (a[-lag:], b[: b.size + lag])
        whole = a.size // ROW * ROW
        rest = float(np.dot(a[whole:], b[whole:]))
        return rest + _product(*(v[:whole].reshape(1, -1, ROW) for v in (a, b)))


def _product(a: np.ndarray, b: np.ndarray) -> float:
    """Scalar product of two volumes, row by row: BLAS would use threads, see `fast_filters.ONE_THREAD`."""
    return float(np.einsum("xyz,xyz->xy", a, b).sum(dtype=np.float64))


def _deviation(sums: Sequence[float], voxels: float) -> float:
    """Sum of squared deviations from the mean, from the sum of values and of squares; 0 below rounding errors."""
    found = float(sums[1] - sums[0] ** 2 / voxels)
    return found if found > 1e-10 * sums[1] else 0.0


def _running_sums(v: np.ndarray, axis: int) -> np.ndarray:
    """(2, n + 1): sums of the values and of their squares in all slices before each one along an axis."""
    others = tuple(n for n in range(3) if n != axis)
    sums = np.stack([v.sum(others, dtype=np.float64), np.square(v).sum(others, dtype=np.float64)])
    return np.concatenate([np.zeros((2, 1)), sums.cumsum(1)], 1)


def _overlap(shape: Sequence[int], lags: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The overlapping parts of two images of a shape if the second lags the first by ``lags`` voxels."""
    part_a = tuple(slice(max(0, -lag), n - max(0, lag)) for lag, n in zip(lags, shape, strict=True))
    part_b = tuple(slice(max(0, lag), n - max(0, -lag)) for lag, n in zip(lags, shape, strict=True))
    return part_a, part_b


def misplaced_slices(
    source: np.ndarray, output: np.ndarray, mask: np.ndarray, spacing: Sequence[float], *, reach: int = 6
) -> tuple[int, dict[int, int]]:
    """Slices of the output that show another slice of the source: an exchanged slice, or a slab in reverse order.

    Slices are those along the axis of the largest spacing (the last of equal ones). Their edges, gradient magnitudes in
    the plane after a Gaussian of `EDGE_MM`, are correlated with those of the source's slice and of its neighbours.
    A slice is misplaced if a neighbour agrees better than its own by `ORDER_GAIN`, and the correlation reaches
    `ORDER_LEAST`. In a correct output its own agrees best; two MR contrasts share too few edges in some slices.

    Args:
        source, output: (X, Y, Z) on one grid.
        mask: (X, Y, Z) bool, the body.
        spacing: mm.
        reach: slices in each direction that are compared.

    Returns:
        The axis, and {slice of the output: offset of the slice of the source that it shows}.
    """
    axis = max(range(3), key=lambda a: (round(spacing[a], 3), a))
    across = [a for a in range(3) if a != axis]
    sigma = [1e-3 if a == axis else EDGE_MM / spacing[a] for a in range(3)]
    steps = tuple(
        slice(None) if a == axis else slice(None, None, max(1, round(EDGE_MM / spacing[a]))) for a in range(3)
    )
    inside = np.moveaxis(mask[steps], axis, 0).reshape(mask.shape[axis], -1)
    flat = []
    for image in (source, output):
        smooth = gaussian(image, sigma)
        edge = np.sqrt(sum(np.square(np.gradient(smooth, axis=a) / spacing[a]) for a in across))
        lines = np.where(inside, np.moveaxis(edge[steps], axis, 0).reshape(inside.shape), 0)
        lines -= np.where(inside, lines.sum(1, keepdims=True) / np.maximum(inside.sum(1, keepdims=True), 1), 0)
        flat.append(lines / np.maximum(np.linalg.norm(lines, axis=1, keepdims=True), 1e-9))
    full = inside.sum(1) >= LEAST_SLICE * inside.sum(1).max(initial=1)
    own = np.einsum("ij,ij->i", *flat)
    best, offset = own.copy(), np.zeros(len(own), int)
    for k in (k for k in range(-reach, reach + 1) if k):
        to, of = slice(max(-k, 0), len(own) - max(k, 0)), slice(max(k, 0), len(own) - max(-k, 0))
        if to.stop <= to.start:
            continue
        agree = np.einsum("ij,ij->i", flat[0][of], flat[1][to])
        better = agree > best[to]
        best[to][better], offset[to][better] = agree[better], k
    found = np.flatnonzero(full & (best > own + ORDER_GAIN) & (best > ORDER_LEAST))
    return axis, {int(z): int(offset[z]) for z in found}
