"""Sharpness and noise: the modulation transfer function (MTF) across edges, and the noise power spectrum (NPS).

The MTF is the Fourier transform of the line spread function, the slope of the mean profile across an edge (ICRU Report
54; for CT with patients' edges: Richard et al., Med Phys 2012;39:4115). The NPS of flat regions is

    NPS(f) = (Δx Δy Δz / N) ⟨|DFT(region - trend)|²⟩                       (ICRU Report 87; Siewerdsen et al., 2002)

whose integral over all frequencies is the variance of the noise. Both are those of the image as it is stored, with the
patient's own edges and flat regions: compare them with those of a reference, which `edge_sharpness` and `noise_ratios`
do.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage, signal

from medgen.evaluation.metrics.metric import Array

EDGES = 2000  # at most this many edge voxels
STRONG = 0.5  # slope of an edge, relative to the 99.9th percentile of slopes
REACH_MM = 8.0  # of a profile to each side of the edge
LEAST_VOXELS = 6  # of the smallest side, that a profile reaches at least
PLATEAU = 3  # such voxels from the edge, where the plateaus that scale a profile are read
STEPS = 4  # samples per smallest voxel side
REGION_MM = 10.0  # side of a flat region
FLATTEST = 0.1  # share of the regions that count as flat
ROUNDING = 1e-6  # relative deviation up to which a region has no noise
FEWEST = 4  # regions, and voxels along a side of one


def edge_mtf(profile: Array, step: float) -> tuple[Array, Array]:
    """MTF of an edge.

    Args:
        profile: (n,) values across the edge, its mean plateaus at the ends.
        step: distance of two samples in mm.

    Returns:
        Frequencies in cycles per mm, and the MTF there; 1 at 0.
    """
    spread = np.gradient(np.asarray(profile, float), step)
    spread = spread * signal.windows.tukey(len(spread), 0.5)  # the noise of the plateaus counts less
    spectrum = np.abs(np.fft.rfft(spread, 8 * len(spread)))
    frequencies = np.fft.rfftfreq(8 * len(spread), step)
    return frequencies, spectrum / max(spectrum[0], 1e-30)


def frequency_at(frequencies: Array, mtf: Array, level: float = 0.5) -> float:
    """Lowest frequency at which the MTF falls to ``level``; NaN if it never does."""
    below = np.flatnonzero(mtf <= level)
    if not below.size or below[0] == 0:
        return float("nan")
    b = below[0]
    share = (mtf[b - 1] - level) / (mtf[b - 1] - mtf[b])
    return float(frequencies[b - 1] + share * (frequencies[b] - frequencies[b - 1]))


def edge_profiles(
    reference: Array, images: Sequence[Array], spacing: Sequence[float], mask: Array | None = None
) -> tuple[list[Array], float] | None:
    """Mean profiles of images across the strongest edges of a reference, from its dark to its bright side.

    Args:
        reference, images: (X, Y, Z) on one grid.
        spacing: mm.
        mask: edges within it only.

    Returns:
        One profile (n,) per image, each edge scaled to the reference's plateaus 0 and 1, and the step in mm. None
        without edges.
    """
    reference = np.asarray(reference, np.float32)
    if min(reference.shape) < 2:
        return None
    smallest = float(min(spacing))
    gradients = np.stack([np.gradient(reference, s, axis=a) for a, s in enumerate(spacing)], -1)
    strength = np.sqrt(np.square(gradients).sum(-1))
    inside = np.ones(reference.shape, bool) if mask is None else np.asarray(mask) > 0
    least = STRONG * float(np.percentile(strength[inside], 99.9)) if inside.any() else 0.0
    peaks = inside & (strength == ndimage.maximum_filter(strength, 3)) & (strength > least)
    places = np.argwhere(peaks)
    if not len(places):
        return None
    order = np.argsort(-strength[peaks], kind="stable")
    kept = order[:EDGES]
    places, normals = places[kept], gradients[peaks][kept]
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    step = smallest / STEPS
    reach = round(max(REACH_MM, LEAST_VOXELS * smallest) / step)
    offsets = step * np.arange(-reach, reach + 1)
    mm = (places * np.asarray(spacing))[:, None] + offsets[None, :, None] * normals[:, None]
    at = np.moveaxis(mm / np.asarray(spacing), -1, 0)
    lines = [
        ndimage.map_coordinates(np.asarray(v, np.float32), at, order=1, mode="nearest") for v in (reference, *images)
    ]
    flank = STEPS * PLATEAU
    low, high = lines[0][:, reach - flank], lines[0][:, reach + flank]
    rises = high - low > 0.5 * np.median(high - low)
    if not rises.any():
        return None
    return [((line - low[:, None]) / (high - low)[:, None])[rises].mean(0) for line in lines[1:]], step


def edge_sharpness(reference: Array, image: Array, spacing: Sequence[float], mask: Array | None = None) -> float | None:
    """Frequency at which the MTF across the reference's edges is 50 %, of an image relative to the reference's own.

    Returns:
        1: as sharp, below 1: blurred, above 1: sharpened. None without edges or without such a frequency. Profiles of
        ± 8 mm hold a blur of up to about 2 mm (standard deviation); a wider one counts as less than it is.
    """
    found = edge_profiles(reference, [reference, image], spacing, mask)
    if found is None:
        return None
    own, others = (frequency_at(*edge_mtf(profile, found[1])) for profile in found[0])
    return others / own if np.isfinite([own, others]).all() and own > 0 else None


def noise_power_spectrum(regions: Array, spacing: Sequence[float]) -> tuple[Array, Array]:
    """NPS of regions of one size.

    Args:
        regions: (R, X, Y, Z), each without its linear trend, see `without_trend`.
        spacing: mm.

    Returns:
        Frequency in cycles per mm (X, Y, Z) and NPS (X, Y, Z), unit² mm³. The sum of the NPS over its frequencies,
        times their spacing 1 / (X Δx Y Δy Z Δz), is the mean variance of the regions.
    """
    shape = regions.shape[1:]
    power = np.square(np.abs(np.fft.fftn(regions, axes=(1, 2, 3)))).mean(0)
    nps = power * np.prod(spacing) / np.prod(shape)
    parts = np.meshgrid(*(np.fft.fftfreq(n, s) for n, s in zip(shape, spacing, strict=True)), indexing="ij")
    return np.sqrt(np.square(parts).sum(0)), nps


def without_trend(regions: Array) -> Array:
    """Regions (R, X, Y, Z) minus the linear function of the position that fits each best."""
    count, *shape = regions.shape
    axes = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    basis = np.stack([np.ones(shape), *axes]).reshape(4, -1)
    basis = basis[np.abs(basis).sum(1) > 0]
    flat = regions.reshape(count, -1).astype(float)
    weights = flat @ basis.T / np.square(basis).sum(1)  # the basis is orthogonal
    return (flat - weights @ basis).reshape(regions.shape)


def flat_regions(
    reference: Array, images: Sequence[Array], spacing: Sequence[float], mask: Array | None = None
) -> list[Array] | None:
    """The flattest regions of a reference in images, each (R, X, Y, Z) without its trend; None if there are too few."""
    sides = [max(FEWEST, round(REGION_MM / s)) for s in spacing]
    counts = [n // side for n, side in zip(reference.shape, sides, strict=True)]
    if min(counts) < 1:
        return None

    def cut(v: Array) -> Array:
        v = np.asarray(v)[tuple(slice(0, c * s) for c, s in zip(counts, sides, strict=True))]
        blocks = v.reshape(counts[0], sides[0], counts[1], sides[1], counts[2], sides[2])
        return blocks.transpose(0, 2, 4, 1, 3, 5).reshape(-1, *sides)

    whole = np.ones(np.prod(counts), bool) if mask is None else cut(np.asarray(mask) > 0).all((1, 2, 3))
    if not whole.any():
        return None
    own = without_trend(cut(reference)[whole])
    spread = own.std((1, 2, 3))
    least = ROUNDING * float(np.abs(reference).max(initial=0))
    varied = np.flatnonzero(spread > least)  # masked and padded regions have no noise
    if len(varied) < FEWEST:
        return None
    kept = varied[np.argsort(spread[varied], kind="stable")[: max(FEWEST, round(FLATTEST * len(varied)))]]
    return [without_trend(cut(v)[whole][kept]) for v in images]


def noise_ratios(
    reference: Array, image: Array, spacing: Sequence[float], mask: Array | None = None
) -> tuple[float, float] | None:
    """Noise of an image in the flattest regions of a reference, relative to the reference's.

    Returns:
        The ratio of the standard deviations, and that of the mean frequencies of the NPS: below 1, the noise is
        coarser. None without flat regions, or if the image has no noise there.
    """
    found = flat_regions(reference, [reference, image], spacing, mask)
    if found is None or not all(regions.any() for regions in found):
        return None
    sums = []
    for regions in found:
        frequency, nps = noise_power_spectrum(regions, spacing)
        sums.append((nps.sum(), (frequency * nps).sum() / nps.sum()))
    (power, middle), (other_power, other_middle) = sums
    return float(np.sqrt(other_power / power)), float(other_middle / middle)
