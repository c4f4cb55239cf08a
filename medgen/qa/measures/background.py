"""What an output shows outside the largest part of the body: in the air around it, and in limbs apart from it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medgen.data.fast_filters import gaussian

AROUND_MM = 4.0  # distance from all that is not background
LEAST_AROUND = 0.02  # share of the volume: a smaller background is not judged
LEAST_HU, AIR_HU, DENSE_HU = -1000.0, -850.0, -500.0
SMOOTH_MM = 2.0
BLOCK_MM, LEAST_BLOCK = 12.0, 0.25  # blocks of the background, and the least share of it in one
WORST, MANY = 0.02, 20  # share of the blocks, and in CT the most, that may have more: a small part counts too
EMPTY = 0.05  # of the range: images without units are judged where the input is no brighter than its background
LIMB_HU, LIMB_MM = -200.0, 8.0  # limbs: soft tissue, thicker than twice that; a table is hollow or filled with foam
BRIGHT_HU, CHANGED_HU, GONE_HU = 150.0, 100.0, -400.0  # vessels with contrast medium, and bone, may change


@dataclass(frozen=True)
class Background:
    """Measures of an image outside the largest part of the body of the input.

    Attributes:
        level: mean in the brightest blocks of the background but a few. CT: of the rise above the input (HU), see
            `_worst`. Other images: of their values, from 0 (zero, or the darkest voxels if they are negative) to 1
            (brightest of the body), in all but a share of `WORST`.
        noise: CT: the same of the standard deviations in blocks, beyond those of the input (HU). Other
            images: 0.
        dense_ml: CT: volume above `DENSE_HU` where the input has air. Other images: 0.
        limb_ml: CT: volume of limbs that becomes air, or is soft tissue and changes by more than `CHANGED_HU`. Other
            images: 0.
    """

    level: float
    noise: float = 0.0
    dense_ml: float = 0.0
    limb_ml: float = 0.0


def background_of(source: np.ndarray, body: np.ndarray, spacing: tuple[float, ...], hu: bool) -> np.ndarray | None:
    """Mask (X, Y, Z) of the background of an input; None if there is hardly any.

    Args:
        source: (X, Y, Z).
        body: its body mask.
        hu: whether it is CT in HU; then a table and clothes are no background.
    """
    around = ~_grown(body | (source > AIR_HU) if hu else body, AROUND_MM, spacing)
    return None if around.mean() < LEAST_AROUND else around


def limbs_of(source: np.ndarray, body: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Mask (X, Y, Z) of tissue of a CT that is apart from the body mask, such as arms and a second leg."""
    solid = (source > LIMB_HU) & ~_grown(body, AROUND_MM, spacing)
    return _grown(~_grown(~solid, LIMB_MM, spacing), LIMB_MM, spacing) & solid


def measure(
    image: np.ndarray,
    source: np.ndarray,
    around: np.ndarray | None,
    limbs: np.ndarray | None,
    body: np.ndarray,
    spacing: tuple[float, ...],
    hu: bool,
) -> Background:
    """Measure an image; arrays are (X, Y, Z) on one grid.

    Args:
        image: to be measured.
        source: the input.
        around: `background_of` the input; None: hardly any, or not judged.
        limbs: `limbs_of` a CT; None: none.
        body: body mask of the input.
        spacing: mm.
        hu: whether all are CT in HU.
    """
    means = _BlockMeans(around, spacing) if around is not None else None
    if not hu:
        if means is None:
            return Background(0.0)
        own, given = (_relative(means, v, body) for v in (image, source))
        return Background(float(np.percentile(own[given <= np.median(given) + EMPTY], 100 * (1 - WORST))))
    smooth = gaussian(np.asarray(image, np.float32), [SMOOTH_MM / s for s in spacing])
    ml = float(np.prod(spacing)) / 1000
    limb_ml = 0.0
    if limbs is not None:
        before = gaussian(np.asarray(source, np.float32), [SMOOTH_MM / s for s in spacing])
        soft = limbs & ~_grown(limbs & (source > BRIGHT_HU), AROUND_MM, spacing)
        changed = (soft & (np.abs(smooth - before) > CHANGED_HU)) | (limbs & (smooth < GONE_HU) & (before > LIMB_HU))
        limb_ml = float(changed.sum()) * ml
    if around is None or means is None:
        return Background(0.0, limb_ml=limb_ml)
    # Padding is below air. Heights above air are small where there is nothing, so their squares are exact.
    now, before = (np.maximum(v, LEAST_HU) - LEAST_HU for v in (image, source))
    rise = means(now - before)
    spread = means.variance(now) - means.variance(before)
    return Background(
        _worst(rise),
        float(np.sqrt(max(_worst(spread), 0.0))),
        float(((smooth > DENSE_HU) & around).sum()) * ml,
        limb_ml,
    )


class _BlockMeans:
    """Means over the background voxels of each block that has enough of them, as an array (blocks,)."""

    def __init__(self, around: np.ndarray, spacing: Sequence[float]) -> None:
        self.around = around
        self.starts = [np.arange(0, n, max(1, round(BLOCK_MM / s))) for n, s in zip(around.shape, spacing, strict=True)]
        count, size = self._sums(around.astype(np.float64)), self._sums(np.ones(around.shape))
        self.used = count >= min(LEAST_BLOCK, float((count / size).max())) * size
        self.count = count[self.used]

    def __call__(self, v: np.ndarray) -> np.ndarray:
        return self._sums(np.where(self.around, v, 0).astype(np.float64))[self.used] / self.count

    def variance(self, v: np.ndarray) -> np.ndarray:
        return self(np.square(v, dtype=np.float64)) - self(v) ** 2

    def _sums(self, v: np.ndarray) -> np.ndarray:
        for axis, starts in enumerate(self.starts):
            v = np.add.reduceat(v, starts, axis)
        return v


def _worst(blocks: np.ndarray) -> float:
    """The value that a share of `WORST` of the blocks exceeds, but at most `MANY` of them (35 ml of whole blocks)."""
    ranked = np.sort(blocks)
    return float(ranked[-1 - min(MANY, int(WORST * len(ranked)))])


def _relative(means: _BlockMeans, v: np.ndarray, body: np.ndarray) -> np.ndarray:
    low, high = min(0.0, float(np.percentile(v, 0.5))), float(np.percentile(v[body], 99))
    return (means(v) - low) / max(high - low, 1e-9)


def _grown(mask: np.ndarray, mm: float, spacing: Sequence[float]) -> np.ndarray:
    """Dilate a mask by a box of ``mm`` to each side."""
    for axis, s in enumerate(spacing):
        line = np.ones([2 * max(1, round(mm / s)) + 1 if a == axis else 1 for a in range(3)], bool)
        mask = ndimage.binary_dilation(mask, line)
    return mask
