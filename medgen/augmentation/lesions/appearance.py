"""Measure the appearance of a lesion, and compare a synthetic lesion with real lesions of its kind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medgen.augmentation.lesions.host_organ import robust_sd

CORE = 20  # minimum number of voxels inside the edge to measure texture without the edge
KNOWN = 10  # minimum number of real lesions of a kind to know the range of their texture
TAILS = (0.05, 0.95)  # volume quantiles of the real lesions; contrasts beyond are ignored
SLACK = 1 / 3  # of the median contrast: how far a new lesion may lie outside the range of the real ones
ONE_SIGN = 0.75  # if this share of the real volume is brighter (or darker) than the host, new lesions must be so too
MEASURES = ("contrast", "sd", "skewness", "grain_mm")


@dataclass(frozen=True, eq=False)
class Appearance:
    """Measures of a lesion. Lists have one entry per contrast, in the image's unit (HU); see ``library.Lesion``."""

    host_mean: list[float]
    host_sd: list[float]
    contrast: list[float]
    sd: list[float]
    skewness: list[float]
    grain_mm: list[float]

    def measured(self, name: str, image: int, absolute: bool) -> float:
        """Return one of `MEASURES`, in the image's unit if ``absolute``, else in standard deviations of the host."""
        value = float(getattr(self, name)[image])
        return value / max(self.host_sd[image], 1e-9) if name in ("contrast", "sd") and not absolute else value


def appearance_features(
    images: Sequence[np.ndarray], mask: np.ndarray, around: np.ndarray, spacing: Sequence[float]
) -> Appearance:
    """Measure the appearance of a lesion in image crops.

    Args:
        images: one crop around the lesion per contrast, (X, Y, Z).
        mask, around: (X, Y, Z) bool; the lesion, and the shell of host tissue around it.
        spacing: voxel spacing in mm.
    """
    means, sds = [float(v[around].mean()) for v in images], [robust_sd(v[around]) for v in images]
    inner = ndimage.binary_erosion(mask)
    core = inner if inner.sum() >= CORE else mask  # edge voxels mix lesion and host
    return Appearance(
        means,
        sds,
        [float(v[mask].mean()) - m for v, m in zip(images, means, strict=True)],
        [robust_sd(v[core]) for v in images],
        [_skewness(v[core]) for v in images],
        [_grain(v, core, spacing) for v in images],
    )


def appearance_outliers(
    look: Appearance, known: Sequence[Appearance], absolute: Sequence[bool], volumes: Sequence[float] = ()
) -> list[str]:
    """Return the measures in which a lesion differs from real lesions of its kind, for each contrast.

    ``contrast`` must have the sign and size of the real lesions, see ``contrast_check``. The texture measures must lie
    between the minimum and maximum of the real lesions; they are tested only if there are at least ten real lesions.

    Args:
        known: the real lesions.
        absolute: for each contrast, whether its unit is the same in every scan, as for HU.
        volumes: of the real lesions, used as weights; empty: equal weights.
    """
    found = [("contrast", i) for i in contrast_check(known, absolute, volumes)(look)]
    for name in MEASURES[1:] if len(known) >= KNOWN else ():
        for i, is_absolute in enumerate(absolute):
            values = [real.measured(name, i, is_absolute) for real in known]
            if not min(values) <= look.measured(name, i, is_absolute) <= max(values):
                found.append((name, i))
    return [name if len(absolute) == 1 else f"{name} of image {i + 1}" for name, i in found]


def contrast_check(
    known: Sequence[Appearance], absolute: Sequence[bool], volumes: Sequence[float] = ()
) -> Callable[[Appearance], list[int]]:
    """Return a function: lesion -> the channels in which its contrast has not the sign or size of the real ones.

    If the unit is arbitrary, contrasts are measured in standard deviations of the host and, if the host mean exceeds
    its standard deviation, also relative to that mean.
    """
    limits = []
    for i, is_absolute in enumerate(absolute):
        scales: list[Scale] = [_unscaled if is_absolute else _spread]
        if not is_absolute and all(_has_mean(real, i) for real in known):
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
    """Return the accepted range of contrast, (low, high), from the contrasts of real lesions.

    The range is their minimum and maximum (for ten or more lesions the 5th and 95th percentile by volume), widened by
    a third of the median. If three quarters of the volume have one sign, the range is limited to that sign. Lesions are
    weighted by volume, because the surroundings of very small ones are often not host tissue: next to a ventricle, for
    example, a few voxels are bright in comparison, regardless of the lesions.
    """
    order = np.argsort(values)
    sorted_values = np.asarray(values, float)[order]
    weights = (np.asarray(volumes, float) if len(volumes) else np.ones(len(values)))[order]
    share = np.cumsum(weights) / weights.sum()
    limits_q = TAILS if len(values) >= KNOWN else (0.0, 1.0)
    positions = [min(int(np.searchsorted(share, q - 1e-9)), len(values) - 1) for q in (*limits_q, 0.5)]
    low, high, middle = (float(v) for v in sorted_values[positions])
    low, high = low - SLACK * abs(middle), high + SLACK * abs(middle)
    bright_share = float(weights[sorted_values > 0].sum() / weights.sum())
    if bright_share >= ONE_SIGN:
        low = max(low, np.finfo(float).tiny)
    elif bright_share <= 1 - ONE_SIGN:
        high = min(high, -np.finfo(float).tiny)
    return low, high


def _skewness(values: np.ndarray) -> float:
    z = values - values.mean()
    return float((z**3).mean() / max(float(values.std()) ** 3, 1e-12))


def _grain(image: np.ndarray, mask: np.ndarray, spacing: Sequence[float]) -> float:
    """Return the texture grain as σ in mm.

    White noise smoothed by a Gaussian of this σ has the correlation exp(-d² / 4σ²) between voxels at distance d.
    """
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
