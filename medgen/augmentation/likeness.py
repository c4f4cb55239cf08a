"""How a lesion looks in numbers, and whether one that was made looks as real ones of its kind do."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medgen.augmentation.host import spread

CORE = 20  # voxels within the edge of a lesion that are enough to measure its texture
KNOWN = 10  # real lesions of a kind, fewer of which do not tell how such lesions may look
MEASURES = ("contrast", "sd", "skewness", "grain_mm")


@dataclass(frozen=True, eq=False)
class Look:
    """Lists have one entry a contrast, in the image's unit (HU); see ``lesion_library.Lesion``."""

    host_mean: list[float]
    host_sd: list[float]
    contrast: list[float]
    sd: list[float]
    skewness: list[float]
    grain_mm: list[float]

    def measured(self, name: str, image: int, absolute: bool) -> float:
        """One of `MEASURES`, in the image's unit or, where units mean nothing, in spreads of the host."""
        value = float(getattr(self, name)[image])
        return value / max(self.host_sd[image], 1e-9) if name in ("contrast", "sd") and not absolute else value


def look_of(images: Sequence[np.ndarray], mask: np.ndarray, around: np.ndarray, spacing: Sequence[float]) -> Look:
    """The look of a lesion in crops.

    Args:
        images: (X, Y, Z) each, around the lesion.
        mask, around: (X, Y, Z) bool; the lesion, and the shell of host tissue around it.
        spacing: mm.
    """
    means, sds = [float(v[around].mean()) for v in images], [spread(v[around]) for v in images]
    inner = ndimage.binary_erosion(mask)
    core = inner if inner.sum() >= CORE else mask  # the edge is a mixture, no texture
    return Look(
        means,
        sds,
        [float(v[mask].mean()) - m for v, m in zip(images, means, strict=True)],
        [spread(v[core]) for v in images],
        [_skewness(v[core]) for v in images],
        [_grain(v, core, spacing) for v in images],
    )


def unlike(look: Look, known: Sequence[Look], absolute: Sequence[bool]) -> list[str]:
    """In which measures a lesion lies beyond the least and the most of real ones of its kind; of few it says nothing.

    Args:
        known: the real ones.
        absolute: of each contrast, whether its unit means the same in every scan, as HU do.
    """
    if len(known) < KNOWN:
        return []
    found = []
    for name in MEASURES:
        for i, unit in enumerate(absolute):
            values = [real.measured(name, i, unit) for real in known]
            if not min(values) <= look.measured(name, i, unit) <= max(values):
                found.append(name if len(absolute) == 1 else f"{name} of image {i + 1}")
    return found


def _skewness(values: np.ndarray) -> float:
    z = values - values.mean()
    return float((z**3).mean() / max(float(values.std()) ** 3, 1e-12))


def _grain(image: np.ndarray, mask: np.ndarray, spacing: Sequence[float]) -> float:
    """σ in mm: white noise under a Gaussian of that σ has the correlation exp(-d² / 4σ²) of neighbours d apart."""
    z = np.where(mask, image - image[mask].mean(), 0)
    found = []
    for axis, step in enumerate(spacing):
        first, second = (np.moveaxis(v, axis, 0) for v in (mask, z))
        both = first[1:] & first[:-1]
        if both.sum() >= 4:
            a, b = second[1:][both], second[:-1][both]
            correlation = float((a * b).mean() / max(float((a * a).mean() * (b * b).mean()) ** 0.5, 1e-12))
            found.append(step / (2 * np.sqrt(-np.log(np.clip(correlation, 0.02, 0.98)))))
    return float(np.median(found)) if found else float(min(spacing)) / 2
