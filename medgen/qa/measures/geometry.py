"""Whether a translation lies where its input lies: flips and shifts, whatever became of the intensities."""

from collections.abc import Sequence

import numpy as np

from medgen.data.fast_filters import gradient_magnitude

SIDES = ("left-right", "front-back", "head-foot")  # the axes of a canonical (RAS) volume
ROUNDS = 4  # over the axes; a correct pair takes one, a shift along one axis two


def flip_gains(
    source: np.ndarray, output: np.ndarray, mask: np.ndarray, spacing: Sequence[float], *, sigma_mm: float = 2.0
) -> np.ndarray:
    """Per axis: correlation of the edges of the output with those of the flipped source, minus that of the unflipped.

    Above 0, the output resembles the mirror image more than the image: it was flipped, in its array or by a wrong
    affine. A body is alike on both sides, but not its liver, stomach and spine: correct pairs lie well below 0.
    Edges are gradient magnitudes, as in `structure.edge_correlation`.

    Args:
        source, output: (X, Y, Z) on one grid.
        mask: (X, Y, Z) bool, the body in the source; flipped with it.
        spacing: mm.
    """
    sigma = [sigma_mm / s for s in spacing]
    a, b = (gradient_magnitude(v, sigma, mode="nearest") for v in (source, output))
    gains = []
    for axis in range(3):
        both = mask | np.flip(mask, axis)
        gains.append(_correlation(np.flip(a, axis)[both], b[both]) - _correlation(a[both], b[both]))
    return np.array(gains)


def shift(source: np.ndarray, output: np.ndarray, spacing: Sequence[float], *, reach: int = 3) -> np.ndarray:
    """How far the output lies from the source along each axis, (3,) voxels, positive towards higher indices.

    Peak of the normalised cross-correlation of the edge magnitudes, refined by the parabola through it and its two
    neighbours (Tian & Huhns 1986, doi 10.1016/0734-189X(86)90028-9). One axis at a time, the others held where their
    own peak was last found, until none moves: a shift along one axis would blur the peak of another. Magnitudes, so
    that a contrast that changed its size or sign does not move the peak. ``reach`` or more reads as ``reach``.

    Args:
        source, output: (X, Y, Z) on one grid, at least 2·reach + 3 voxels a side; shorter axes count as not shifted.
        spacing: mm; edges are taken at the scale of the finest, so that noise is not an edge.
    """
    sigma = [min(spacing) / s for s in spacing]
    a, b = (gradient_magnitude(v, sigma, mode="nearest") for v in (source, output))
    # Metal and the skin would outvote the rest.
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
    """Best lag of ``b`` behind ``a`` along an axis, whole and refined; ``lags`` are those of the other axes."""
    scores = [_correlation(*_overlap(a, b, [*lags[:axis], k, *lags[axis + 1 :]])) for k in range(-reach, reach + 1)]
    k = int(np.argmax(scores))
    if k in (0, 2 * reach):
        return k - reach, float(k - reach)
    left, top, right = scores[k - 1 : k + 2]
    bend = left - 2 * top + right
    return k - reach, k - reach + (0.5 * (left - right) / bend if bend < 0 else 0.0)


def _overlap(a: np.ndarray, b: np.ndarray, lags: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The voxels that both show when ``b`` lies ``lags`` behind ``a``."""
    ours = tuple(slice(max(0, -lag), n - max(0, lag)) for lag, n in zip(lags, a.shape, strict=True))
    theirs = tuple(slice(max(0, lag), n - max(0, -lag)) for lag, n in zip(lags, b.shape, strict=True))
    return a[ours], b[theirs]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0
