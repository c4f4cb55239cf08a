"""Tissue classes of what no label names: a head's background is brain, fluid and bone, not one class of air."""

import numpy as np
from scipy import ndimage

BINS = 256
TAILS = (0.5, 99.5)  # percentiles beyond which a voxel does not pull a mean


def tissue_classes(
    image: np.ndarray, background: np.ndarray, count: int, spacing: tuple[float, ...], smoothing: float = 1.0
) -> np.ndarray:
    """k-means of an image's smoothed intensities inside the background: 0 the darkest … count - 1 the brightest.

    The classes are the case's own, so they do not depend on its intensity scale, and the same image gives the same.

    Args:
        image: (X, Y, Z), any units.
        background: mask (X, Y, Z) of the voxels wanted.
        count: of classes.
        spacing: mm.
        smoothing: standard deviation of the Gaussian, mm; 0: none.

    Returns:
        uint8 (X, Y, Z), 0 outside the mask.
    """
    classes = np.zeros(image.shape, np.uint8)
    if not background.any():
        return classes
    smooth = ndimage.gaussian_filter(image.astype(np.float64), [smoothing / s for s in spacing], mode="nearest")
    values = np.clip(smooth[background], *np.percentile(smooth[background], TAILS))
    classes[background] = np.searchsorted(limits(values, count), values)
    return classes


def limits(values: np.ndarray, count: int) -> np.ndarray:
    """The count - 1 limits between the classes of least variance within (1D k-means, the best of all, on a histogram).

    By dynamic programming (Fisher 1958), for k-means from a start may end in splitting the largest tissue.
    """
    heights, edges = np.histogram(values, BINS)
    middles = np.linspace(-1, 1, BINS)
    weight, first, second = (np.concatenate([[0], np.cumsum(heights * middles**n)]) for n in range(3))
    w, s, q = (v[None, :] - v[:, None] for v in (weight, first, second))  # [i, j]: sums over bins i … j - 1
    cost = np.where(np.triu(np.ones_like(w), 1) > 0, q - s**2 / np.maximum(w, 1), np.inf)
    best, cuts = cost[0], []
    for _ in range(count - 1):
        through = best[:, None] + cost
        cuts.append(through.argmin(0))
        best = through.min(0)
    place, found = BINS, []
    for cut in reversed(cuts):
        place = int(cut[place])
        found.append(edges[place])
    return np.array(found[::-1])
