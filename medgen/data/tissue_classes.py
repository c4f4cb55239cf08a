"""Tissue classes of unlabelled voxels: the background of a head contains brain, fluid and bone, not only air."""

import numpy as np
from scipy import ndimage

BINS = 256
TAILS = (0.5, 99.5)  # percentiles at which intensities are clipped, so that outliers do not shift class means


def tissue_classes(
    image: np.ndarray, background: np.ndarray, count: int, spacing: tuple[float, ...], smoothing: float = 1.0
) -> np.ndarray:
    """Classify an image's smoothed intensities in the background by k-means: 0 is the darkest, count - 1 the brightest.

    Classes are determined for each case, so they do not depend on its intensity scale, and are deterministic.

    Args:
        image: (X, Y, Z), any units.
        background: mask (X, Y, Z) of the voxels to classify.
        count: number of classes.
        spacing: voxel spacing in mm.
        smoothing: standard deviation of the Gaussian filter in mm; 0: none.

    Returns:
        uint8 (X, Y, Z), 0 outside the mask.
    """
    classes = np.zeros(image.shape, np.uint8)
    if not background.any():
        return classes
    smooth = ndimage.gaussian_filter(image.astype(np.float64), [smoothing / s for s in spacing], mode="nearest")
    values = np.clip(smooth[background], *np.percentile(smooth[background], TAILS))
    classes[background] = np.searchsorted(class_thresholds(values, count), values)
    return classes


def class_thresholds(values: np.ndarray, count: int) -> np.ndarray:
    """The count - 1 thresholds that minimise the variance within classes (optimal 1D k-means on a histogram).

    Uses dynamic programming (Fisher 1958), because iterative k-means may end by splitting the largest tissue.
    """
    heights, edges = np.histogram(values, BINS)
    middles = np.linspace(-1, 1, BINS)
    weight, first, second = (np.concatenate([[0], np.cumsum(heights * middles**n)]) for n in range(3))
    w, s, q = (v[None, :] - v[:, None] for v in (weight, first, second))  # [i, j]: sums over bins i … j - 1
    cost = np.where(np.triu(np.ones_like(w), 1) > 0, q - s**2 / np.maximum(w, 1), np.inf)
    best, cuts = cost[0], []
    for _ in range(count - 1):
        totals = best[:, None] + cost
        cuts.append(totals.argmin(0))
        best = totals.min(0)
    end, thresholds = BINS, []
    for cut in reversed(cuts):
        end = int(cut[end])
        thresholds.append(edges[end])
    return np.array(thresholds[::-1])
