"""How a lesion looks in numbers, and whether one that was made looks as real ones of its kind do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medgen.augmentation.lesions.host_organ import spread

CORE = 20  # voxels within the edge of a lesion that are enough to measure its texture
KNOWN = 10  # real lesions of a kind, fewer of which do not tell how the texture of such lesions may vary
TAILS = (0.05, 0.95)  # of the volume of the real ones: what lies beyond is no guide for their contrast
SLACK = 1 / 3  # of their middle contrast, that a new one may lie beyond theirs
ONE_SIGN = 0.75  # of their volume: if so much is brighter than its host, such lesions are bright; darker likewise
MEASURES = ("contrast", "sd", "skewness", "grain_mm")


@dataclass(frozen=True, eq=False)
class Appearance:
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


def appearance_features(
    images: Sequence[np.ndarray], mask: np.ndarray, around: np.ndarray, spacing: Sequence[float]
) -> Appearance:
    """The look of a lesion in crops.

    Args:
        images: (X, Y, Z) each, around the lesion.
        mask, around: (X, Y, Z) bool; the lesion, and the shell of host tissue around it.
        spacing: mm.
    """
    means, sds = [float(v[around].mean()) for v in images], [spread(v[around]) for v in images]
    inner = ndimage.binary_erosion(mask)
    core = inner if inner.sum() >= CORE else mask  # the edge is a mixture, no texture
    return Appearance(
        means,
        sds,
        [float(v[mask].mean()) - m for v, m in zip(images, means, strict=True)],
        [spread(v[core]) for v in images],
        [_skewness(v[core]) for v in images],
        [_grain(v, core, spacing) for v in images],
    )


def appearance_outliers(
    look: Appearance, known: Sequence[Appearance], absolute: Sequence[bool], volumes: Sequence[float] = ()
) -> list[str]:
    """In which measures a lesion is unlike real ones of its kind, in each contrast.

    ``contrast``, of however few: its sign and size must be theirs, see ``contrast_check``. The measures of texture, of
    ten and more: within the least and the most of theirs.

    Args:
        known: the real ones.
        absolute: of each contrast, whether its unit means the same in every scan, as HU do.
        volumes: of the real ones; none: all count alike.
    """
    found = [("contrast", i) for i in contrast_check(known, absolute, volumes)(look)]
    for name in MEASURES[1:] if len(known) >= KNOWN else ():
        for i, unit in enumerate(absolute):
            values = [real.measured(name, i, unit) for real in known]
            if not min(values) <= look.measured(name, i, unit) <= max(values):
                found.append((name, i))
    return [name if len(absolute) == 1 else f"{name} of image {i + 1}" for name, i in found]


def contrast_check(
    known: Sequence[Appearance], absolute: Sequence[bool], volumes: Sequence[float] = ()
) -> Callable[[Appearance], list[int]]:
    """A lesion -> the channels in which sign or size of its contrast are not those of real ones.

    Where units mean nothing, contrasts count in spreads of the host and, where its mean is no chance, as part of that.
    """
    limits = []
    for i, unit in enumerate(absolute):
        scales: list[Scale] = [_unscaled if unit else _spread]
        if not unit and all(_has_mean(real, i) for real in known):
            scales.append(_mean)
        for scale in scales if known else ():
            limits.append((i, scale, contrast_limits([real.contrast[i] / scale(real, i) for real in known], volumes)))

    def check(look: Appearance) -> list[int]:
        outside = {
            i
            for i, scale, (low, high) in limits
            if (scale is not _mean or _has_mean(look, i)) and not low <= look.contrast[i] / scale(look, i) <= high
        }
        return sorted(outside)

    return check


Scale = Callable[[Appearance, int], float]


def _unscaled(look: Appearance, i: int) -> float:
    return 1.0


def _spread(look: Appearance, i: int) -> float:
    return max(look.host_sd[i], 1e-9)


def _mean(look: Appearance, i: int) -> float:
    return abs(look.host_mean[i])


def _has_mean(look: Appearance, i: int) -> bool:
    return abs(look.host_mean[i]) > look.host_sd[i]


def contrast_limits(values: Sequence[float], volumes: Sequence[float] = ()) -> tuple[float, float]:
    """Between which the contrast of such lesions lies, by that of real ones: (low, high).

    The ends of theirs, of ten and more without the twentieth of the volume at each end, widened by a third of the
    median; but of one sign where three quarters of the volume have it. By volume, since the surroundings of specks are
    often no host: a few voxels beside a ventricle are bright there, whatever lesions are.
    """
    order = np.argsort(values)
    sorted_values = np.asarray(values, float)[order]
    weights = (np.asarray(volumes, float) if len(volumes) else np.ones(len(values)))[order]
    share = np.cumsum(weights) / weights.sum()
    ends = TAILS if len(values) >= KNOWN else (0.0, 1.0)
    at = [min(int(np.searchsorted(share, q - 1e-9)), len(values) - 1) for q in (*ends, 0.5)]
    low, high, middle = (float(v) for v in sorted_values[at])
    low, high = low - SLACK * abs(middle), high + SLACK * abs(middle)
    bright = float(weights[sorted_values > 0].sum() / weights.sum())
    if bright >= ONE_SIGN:
        low = max(low, np.finfo(float).tiny)
    elif bright <= 1 - ONE_SIGN:
        high = min(high, -np.finfo(float).tiny)
    return low, high


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
