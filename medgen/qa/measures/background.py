"""What an output shows around the body, where the input has air or nothing."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medgen.data.fast_filters import gaussian

AROUND_MM = 4.0  # distance from all that is not background
LEAST_AROUND = 0.02  # share of the volume: a smaller background is not judged
LEAST_HU, AIR_HU, DENSE_HU = -1000.0, -850.0, -500.0
SMOOTH_MM = 2.0


@dataclass(frozen=True)
class Background:
    """Measures of an image around the body of the input.

    Attributes:
        level: CT: median change (HU). Other images: median, from 0 (zero, or the darkest voxels if they are negative)
            to 1 (brightest of the body).
        noise: CT: 90th percentile of the change without its median (HU). Other images: 0.
        dense_ml: CT: volume above `DENSE_HU` where the input has air. Other images: 0.
    """

    level: float
    noise: float
    dense_ml: float


def background_of(source: np.ndarray, body: np.ndarray, spacing: tuple[float, ...], hu: bool) -> np.ndarray | None:
    """Mask (X, Y, Z) of the background of an input; None if there is hardly any.

    Args:
        source: (X, Y, Z).
        body: its body mask.
        hu: whether it is CT in HU; then a table and clothes are no background.
    """
    filled = body | (source > AIR_HU) if hu else body
    steps = [max(1, round(AROUND_MM / s)) for s in spacing]
    for axis, count in enumerate(steps):
        line = np.ones([2 * count + 1 if a == axis else 1 for a in range(3)], bool)
        filled = ndimage.binary_dilation(filled, line)
    return None if (~filled).mean() < LEAST_AROUND else ~filled


def measure(
    image: np.ndarray, source: np.ndarray, around: np.ndarray, body: np.ndarray, spacing: tuple[float, ...], hu: bool
) -> Background:
    """Measure an image on the background of its input; arrays are (X, Y, Z) on one grid, ``hu``: all are CT in HU."""
    if not hu:
        low, high = min(0.0, np.percentile(image, 0.5)), np.percentile(image[body], 99)
        return Background(float((np.median(image[around]) - low) / max(high - low, 1e-9)), 0.0, 0.0)
    change = np.maximum(image[around], LEAST_HU) - np.maximum(source[around], LEAST_HU)  # padding is below air
    level = float(np.median(change))
    noise = float(np.percentile(np.abs(change - level), 90))
    smooth = gaussian(np.asarray(image, np.float32), [SMOOTH_MM / s for s in spacing])
    return Background(level, noise, float(((smooth > DENSE_HU) & around).sum() * np.prod(spacing) / 1000))
