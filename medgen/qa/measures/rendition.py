"""What a small shift and another reconstruction kernel make of an image.

A converter that resamples moves and softens every edge a little. At the edge of lung (900 HU) that changes more HU than
a lesion does, so it is subtracted before lesions are looked for.
"""

from collections.abc import Sequence

import numpy as np

from medgen.data.fast_filters import gaussian

SMOOTH_MM = 1.0  # before derivatives are taken: less of the noise goes into them


def rendition(image: np.ndarray, other: np.ndarray, mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """``other`` as the grid and kernel of ``image`` show it.

    To first order a shift adds multiples of the three slopes, and a softer or sharper kernel multiples of the second
    derivatives in the slice and across slices. These five numbers are fitted to the whole of the mask by least squares,
    beside the scale and level of the two images, which are left as they are. A lesion weighs nothing in such a fit.

    Args:
        image, other: (X, Y, Z) on one grid, any unit each.
        mask: (X, Y, Z) bool where to fit; should hold edges.
        spacing: mm.

    Returns:
        (X, Y, Z) float32 in the unit of ``other``; ``other`` itself where the mask has too few voxels or no edges.
    """
    other = other.astype(np.float32)
    if mask.sum() < 100:
        return other
    smooth = [gaussian(v, [SMOOTH_MM / s for s in spacing]) for v in (image, other)]
    changes = _derivatives(smooth[1])
    parts = [part[mask].astype(np.float64) for part in (*changes, smooth[1])]
    design = np.stack([*parts, np.ones_like(parts[0])], 1)
    weights = np.linalg.lstsq(design, smooth[0][mask].astype(np.float64), rcond=None)[0]
    scale = weights[5]
    if abs(scale) < 1e-6:
        return other
    return other + sum(np.float32(w / scale) * change for w, change in zip(weights, changes, strict=False))


def _derivatives(v: np.ndarray) -> list[np.ndarray]:
    """Three slopes, the second derivative in the slice and that across slices, by voxel."""
    slopes = [np.gradient(v, axis=axis) for axis in range(3)]
    bends = [np.gradient(slope, axis=axis) for axis, slope in enumerate(slopes)]
    return [*slopes, bends[0] + bends[1], bends[2]]
