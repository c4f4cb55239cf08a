"""Tissue classes of what no label names: a head's background is brain, fluid and bone, not one class of air."""

import numpy as np
from scipy import ndimage
from scipy.cluster.vq import kmeans2

MOST = 50_000  # voxels that the means are found on
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
    values = smooth[background]
    values = np.clip(values, *np.percentile(values, TAILS))
    some = values[:: max(1, len(values) // MOST), None]
    start = np.quantile(some, (np.arange(count) + 0.5) / count)[:, None]
    means = np.sort(kmeans2(some, start, minit="matrix", missing="warn")[0].ravel())
    classes[background] = np.searchsorted((means[1:] + means[:-1]) / 2, values)
    return classes
