"""Whether a translation kept the structure of its input, whatever became of the intensities."""

import numpy as np
from scipy import ndimage


def edge_correlation(
    x: np.ndarray, y: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float], *, sigma_mm: float = 2.0
) -> float:
    """Correlation of the gradient magnitudes of two images inside a mask, after smoothing (1: edges at one place).

    Magnitudes, so that an edge counts the same whichever side is brighter: T1 and T2 are two such images. In the
    manner of gradient correlation (Penney 1998), whose sign it gives up.

    Args:
        x, y: (X, Y, Z), any units.
        mask: (X, Y, Z) bool; its outermost 3 σ are left out (where anything is left then), or the rim of the body,
            which no translation can miss, would stand for the structure in it.
        spacing: mm.
        sigma_mm: of the smoothing, so that noise is not taken for structure.

    Returns:
        In [-1, 1]; 0 where either has no edges.
    """
    sigma = [sigma_mm / s for s in spacing]
    inner = ndimage.distance_transform_edt(np.pad(mask, 1), spacing)[1:-1, 1:-1, 1:-1] > 3 * sigma_mm
    mask = inner if inner.any() else mask
    a, b = (ndimage.gaussian_gradient_magnitude(v.astype(np.float32), sigma, mode="nearest")[mask] for v in (x, y))
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm > 0 else 0.0
