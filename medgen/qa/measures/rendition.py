"""Compensate a small shift and a different reconstruction kernel between two images.

A converter that resamples shifts and blurs every edge a little. At the edge of the lung (900 HU) this changes more HU
than a lesion does, so it is compensated before new structures are searched.
"""

from collections.abc import Sequence

import numpy as np

from medgen.data.fast_filters import central_gradient_magnitude, gaussian
from medgen.qa.measures.masks import sampled

LEAST = 100  # voxels for a fit
SMOOTH_MM = 1.0  # smoothing before derivatives, to reduce noise
BLUR_VOXELS, SHIFT_VOXELS = 0.7, 0.2  # tolerance of `mean_bounds`


def match_rendition(image: np.ndarray, other: np.ndarray, mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Adapt ``other`` to the position and the reconstruction kernel of ``image``.

    To first order, a shift adds multiples of the three first derivatives, and a softer or sharper kernel adds multiples
    of the second derivatives within and across slices. These five coefficients are fitted over the mask by least
    squares, together with scale and level, which are not applied. A lesion is too small to influence the fit.

    Args:
        image, other: (X, Y, Z) on one grid, each in any unit.
        mask: (X, Y, Z) bool, voxels of the fit; should contain edges.
        spacing: mm.

    Returns:
        (X, Y, Z) float32 in the unit of ``other``; ``other`` unchanged if the mask has too few voxels or no edges.
    """
    other = other.astype(np.float32, copy=False)
    if mask.sum() < LEAST:
        return other
    smooth = [gaussian(v, [SMOOTH_MM / s for s in spacing]) for v in (image, other)]
    changes = _derivatives(smooth[1])
    *parts, target = (sampled(v, mask).astype(np.float64) for v in (*changes, smooth[1], smooth[0]))
    scales = [max(float(part.std()), 1e-12) for part in parts]
    design = np.stack([(part - part.mean()) / by for part, by in zip(parts, scales, strict=True)])
    weights = np.linalg.lstsq(design @ design.T, design @ (target - target.mean()), rcond=None)[0] / scales
    scale = weights[5]
    if abs(scale) < 1e-6:
        return other
    return other + sum(np.float32(w / scale) * change for w, change in zip(weights, changes, strict=False))


def mean_bounds(v: np.ndarray, sigma: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest Gaussian mean that resampling, a smoother kernel or a small shift can lead to at each voxel.

    The mean, or that after another blur of `BLUR_VOXELS`, and its slope over `SHIFT_VOXELS`.

    Args:
        v: (X, Y, Z).
        sigma: of the mean, voxels.

    Returns:
        Two arrays (X, Y, Z) float32 in the unit of ``v``.
    """
    mean, wider = gaussian(v, sigma), gaussian(v, [float(np.hypot(s, BLUR_VOXELS)) for s in sigma])
    step = SHIFT_VOXELS * central_gradient_magnitude(mean, (1.0, 1.0, 1.0))
    return np.minimum(mean, wider) - step, np.maximum(mean, wider) + step


def _derivatives(v: np.ndarray) -> list[np.ndarray]:
    """Three first derivatives, and the second derivatives within and across slices, per voxel."""
    slopes = [np.gradient(v, axis=axis) for axis in range(3)]
    curvatures = [np.gradient(slope, axis=axis) for axis, slope in enumerate(slopes)]
    return [*slopes, curvatures[0] + curvatures[1], curvatures[2]]
