"""Flips and shifts between a translation and its input, independent of the intensities."""

from collections.abc import Sequence

import numpy as np

from medgen.data.fast_filters import gradient_magnitude

SIDES = ("left-right", "front-back", "head-foot")  # the axes of a canonical (RAS) volume
ROUNDS = 4  # over the axes; a correct pair needs one, a shift along one axis two


def flip_gains(
    source: np.ndarray, output: np.ndarray, mask: np.ndarray, spacing: Sequence[float], *, sigma_mm: float = 2.0
) -> np.ndarray:
    """Gain in edge correlation from flipping the source along each axis.

    Above 0, the output resembles the mirrored source more than the source: its array or its affine was flipped. Correct
    pairs lie well below 0 because liver, stomach and spine make the body asymmetric. Edges are gradient magnitudes, as
    in `structure.edge_correlation`.

    Args:
        source, output: (X, Y, Z) on one grid.
        mask: (X, Y, Z) bool, the body in the source; it is flipped too.
        spacing: mm.

    Returns:
        (3,): correlation of the output's edges with those of the flipped source, minus that with the unflipped one.
    """
    sigma = [sigma_mm / s for s in spacing]
    a, b = (gradient_magnitude(v, sigma, mode="nearest") for v in (source, output))
    gains = []
    for axis in range(3):
        both = mask | np.flip(mask, axis)
        gains.append(_correlation(np.flip(a, axis)[both], b[both]) - _correlation(a[both], b[both]))
    return np.array(gains)


def measure_shift(source: np.ndarray, output: np.ndarray, spacing: Sequence[float], *, reach: int = 3) -> np.ndarray:
    """Shift of the output against the source along each axis, (3,) voxels, positive towards higher indices.

    The shift is the peak of the normalised cross-correlation of gradient magnitudes, refined by the parabola through it
    and its two neighbours (Tian & Huhns 1986, doi 10.1016/0734-189X(86)90028-9). Magnitudes make it independent of the
    size and sign of the contrast. One axis is searched at a time with the others at their last peak, until none moves,
    because a shift along one axis blurs the peak of another.

    Args:
        source, output: (X, Y, Z) on one grid; an axis shorter than 2·reach + 3 voxels counts as not shifted.
        spacing: mm; edges are computed at the scale of the finest, so that noise does not count as an edge.
        reach: largest shift in voxels; larger ones are returned as ``reach``.
    """
    sigma = [min(spacing) / s for s in spacing]
    a, b = (gradient_magnitude(v, sigma, mode="nearest") for v in (source, output))
    # Without a limit, metal and skin would dominate the correlation.
    a, b = (np.minimum(edges, np.percentile(edges, 99)) for edges in (a, b))
    axes = [axis for axis in range(3) if a.shape[axis] >= 2 * reach + 3]
    peak, found = [0, 0, 0], np.zeros(3)
    for _ in range(ROUNDS):
        before = tuple(peak)
        for axis in axes:
            peak[axis], found[axis] = _axis_peak(a, b, peak, axis, reach)
        if tuple(peak) == before:
            break
    return found


def _axis_peak(a: np.ndarray, b: np.ndarray, lags: Sequence[int], axis: int, reach: int) -> tuple[int, float]:
    """Best lag of ``b`` behind ``a`` along an axis, in whole voxels and refined; ``lags``: those of all axes."""
    scores = [_correlation(*_overlap(a, b, [*lags[:axis], k, *lags[axis + 1 :]])) for k in range(-reach, reach + 1)]
    k = int(np.argmax(scores))
    if k in (0, 2 * reach):
        return k - reach, float(k - reach)
    left, top, right = scores[k - 1 : k + 2]
    bend = left - 2 * top + right
    return k - reach, k - reach + (0.5 * (left - right) / bend if bend < 0 else 0.0)


def _overlap(a: np.ndarray, b: np.ndarray, lags: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The overlapping parts of ``a`` and ``b`` if ``b`` lags ``a`` by ``lags`` voxels."""
    part_a = tuple(slice(max(0, -lag), n - max(0, lag)) for lag, n in zip(lags, a.shape, strict=True))
    part_b = tuple(slice(max(0, lag), n - max(0, -lag)) for lag, n in zip(lags, b.shape, strict=True))
    return a[part_a], b[part_b]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0
