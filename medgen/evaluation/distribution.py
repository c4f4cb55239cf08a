"""Distances between sets of images that have no pairs: features of places, and a kernel distance between them."""

import numpy as np
from scipy import ndimage

SCALES_MM = (1.5, 3.0, 6.0)
BANDWIDTHS = (0.5, 1.0, 2.0)  # of the median distance between places


def place_features(
    volume: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float], *, count: int = 1000, seed: int = 0
) -> np.ndarray:
    """What a volume looks like at random places of a mask: first-order features at three scales, and where it is.

    Args:
        volume: (X, Y, Z), units of the image.
        mask: (X, Y, Z) bool, the body; not empty.
        spacing: mm.
        count: places, drawn with repeats.

    Returns:
        (count, 9) float64: Gaussian means at σ = 1.5, 3 and 6 mm, standard deviations about them, and the place
        relative to the mask's box, 0 to 1 on each axis: bright is one thing at the aorta, another at the rim.
    """
    inside = np.argwhere(mask)
    places = inside[np.random.default_rng(seed).integers(len(inside), size=count)]
    at = tuple(places.T)
    x = volume.astype(np.float32)
    means, deviations = [], []
    for scale in SCALES_MM:
        sigma = [scale / s for s in spacing]
        mean = ndimage.gaussian_filter(x, sigma, mode="nearest")
        square = ndimage.gaussian_filter(x * x, sigma, mode="nearest")
        means.append(mean[at])
        deviations.append(np.sqrt(np.maximum(square[at] - mean[at] ** 2, 0)))
    low, high = inside.min(0), inside.max(0)
    where = (places - low) / np.maximum(high - low, 1)
    return np.column_stack([*means, *deviations, where]).astype(np.float64)


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy between two sets of features (Gretton 2012, eq. 3).

    k(x, y) = mean over h of exp(-|x - y|² / 2 (h m)²), m the median distance within b, h = ½, 1, 2; each feature
    is first divided by its standard deviation in b. Zero in the mean where both come from one distribution (so
    that small values may be negative), at most 2.

    Args:
        a: (n, d) features of translated images.
        b: (m, d) features of real ones, which set the scales.
    """
    scale = b.std(0)
    scale[scale == 0] = 1
    a, b = a / scale, b / scale
    bb = _squares(b, b)
    median = np.median(bb[np.triu_indices(len(b), 1)]) or 1.0

    def mean(squares: np.ndarray, within: bool) -> float:
        n, m = squares.shape
        total = sum(np.exp(-squares / (2 * h * h * median)).sum() for h in BANDWIDTHS) / len(BANDWIDTHS)
        return float((total - n) / (n * (n - 1)) if within else total / (n * m))

    return mean(_squares(a, a), True) + mean(bb, True) - 2 * mean(_squares(a, b), False)


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, d), (m, d) → (n, m) squared distances; a set's distance to itself has a zero diagonal."""
    found = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T
    if a is b:
        np.fill_diagonal(found, 0)
    return np.maximum(found, 0)
