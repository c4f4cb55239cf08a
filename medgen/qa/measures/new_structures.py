"""Find structures that a translation shows and its input does not.

No mask of them is known, so whole regions are searched. All positions are in mm from the centre of voxel (0, 0, 0).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medgen.data.fast_filters import gaussian, gradient_magnitude
from medgen.qa.measures.lesions import Spacing, spread
from medgen.qa.measures.masks import sampled
from medgen.qa.measures.rendition import mean_bounds

BALL = 0.36  # filter response to a ball of contrast 1 and matching radius: P(χ₃ < √3) - P(χ₃ < √3 / 1.6)
WIDER = 1.6  # ratio of the two Gaussians that best approximates a Laplacian of Gaussian (Marr & Hildreth 1980)
RADII_MM = (4.0, 6.0, 9.0)  # radii of the filters; each also responds to radii a third smaller or larger
EDGE_MM = 3.0  # sigma of the Gaussian gradient for edges
RISE_MM = 2.3  # sigma for the rise in lung: radius of a ball of 4 mm divided by √3
STEEP = 4.0  # an edge has more than this multiple of the gradient of noise
SCATTER = 1.2  # scatter above this multiple of the median is more than noise
FEW = 2e-3  # share of similar voxels nearby below which the mean over the whole image is used
UNEVEN = (0.3, 1.2)  # limits of the measured change of a structure, relative to its contrast in the other image
LEVELS = 24  # intensities of the other image between which `explained` interpolates
NEARBY_MM = 20.0  # sigma of the neighbourhood within which a tissue changes uniformly


@dataclass(frozen=True)
class Blob:
    """A round structure: centre and diameter (mm), contrast to its surroundings, and ``z``: contrast / noise."""

    place: tuple[float, float, float]
    diameter: float
    contrast: float
    z: float


def new_structures(
    image: np.ndarray,
    other: np.ndarray,
    mask: np.ndarray,
    spacing: Spacing,
    *,
    least_z: float = 8.0,
    least_contrast: float = 0.0,
    radii: Sequence[float] = RADII_MM,
    known: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[Blob]:
    """Find round structures of ``image`` at positions where ``other`` has no edge, strongest first.

    1. The change is image - slope · other. Its part that ``other`` explains (`explained`) is subtracted.
    2. The rest is filtered by a difference of Gaussians per radius, nearly the matched filter of a ball (Lindeberg
       1998).
    3. The response is divided by its noise: the unexplained scatter of similar voxels nearby, scaled to the filter by
       the median absolute response.

    Where the scatter is far above its usual level, tissues that change differently look similar in the other
    image, such as bone and enhanced vessels; a blob must then exceed this scatter too. Swap the images to find lost
    structures.

    Args:
        image, other: (X, Y, Z) on one grid, each in any unit.
        mask: (X, Y, Z) bool, the searched voxels; exclude the outermost millimetres, where skin moves.
        spacing: mm.
        least_z: minimum contrast / noise of a blob.
        least_contrast: minimum contrast of a blob, in the unit of ``image``.
        radii: of the filters, mm.
        known: `edges_and_tissues` of ``other``, if they were computed before.
    """
    if not mask.any():
        return []
    image, other = (v.astype(np.float32, copy=False) for v in (image, other))
    steepness, smooth = known or edges_and_tissues(other, spacing)
    flat = mask & (steepness <= STEEP * np.quantile(sampled(steepness, mask), 0.2))  # the lowest fifth is noise
    change = image - slope(other[mask], image[mask]) * other  # cancels what both show, and copied noise
    mean, scatter = _predicted(change, smooth, flat, spacing)
    rest, typical = (change - mean) * flat, float(np.median(sampled(scatter, flat)))
    scatter = np.maximum(scatter, 0.8 * typical)  # few similar voxels have a small spread by chance
    found: list[Blob] = []
    if float(rest.max() - rest.min()) < least_contrast * BALL:  # the filters' responses are less than this
        return found
    for radius in radii:
        sigma = [radius / np.sqrt(3) / s for s in spacing]
        response, share_inside = _masked_dog(rest, flat, sigma)
        strength = np.abs(response)
        seen = flat & (response != 0)
        strong = seen & (strength >= least_contrast * BALL)
        if not strong.any():  # most tissues of most cases; what follows only removes voxels
            continue
        noise = scatter * _noise_near_border(flat, share_inside, sigma)
        noise *= spread(sampled(response, seen) / np.maximum(sampled(noise, seen), 1e-6))
        strong &= strength >= least_z * noise
        if not strong.any():  # what follows only lowers z
            continue
        uneven = _variance(smooth, flat, [WIDER * s for s in sigma])
        uneven = np.maximum(uneven - SCATTER**2 * np.quantile(sampled(uneven, seen), 0.2), 0)
        share = _share(sampled(response, seen), BALL * np.sqrt(sampled(uneven, seen)))
        ambiguous = np.maximum(scatter[strong] ** 2 - (SCATTER * typical) ** 2, 0)
        doubt = BALL * np.sqrt(ambiguous + share**2 * uneven[strong])
        z = np.zeros_like(response)
        z[strong] = strength[strong] / np.maximum(np.hypot(noise[strong], doubt), 1e-6)
        for at, height in _peaks(z, least_z):
            place = tuple(float(p) for p in at * np.array(spacing))
            found.append(Blob(place, 2 * radius, float(response[tuple(at)]) / BALL, height))  # type: ignore[arg-type]
    return _strongest(found)


def edges_and_tissues(other: np.ndarray, spacing: Spacing) -> tuple[np.ndarray, np.ndarray]:
    """Gradient magnitude of an image for its edges, and the image smoothed, which tells tissues apart."""
    return gradient_magnitude(other, [EDGE_MM / s for s in spacing]), gaussian(other, [2.0 / s for s in spacing])


def brighter(
    image: np.ndarray,
    other: np.ndarray,
    mask: np.ndarray,
    spacing: Spacing,
    least_z: float,
    least_contrast: float,
    tolerant: bool = False,
) -> list[Blob]:
    """Find regions of the lung or of fat in which ``image`` is brighter than ``other``, strongest first.

    They are full of edges (vessels, thin layers), where `new_structures` cannot search. Removing contrast medium only
    darkens them, so a region that became brighter was added. The rise is a Gaussian mean over `RISE_MM`, which shows
    four fifths of the contrast of a ball of 10 mm. Adapt ``other`` to the kernel of ``image`` first (`rendition`):
    softer edges would otherwise count as brighter.

    Args:
        image, other: (X, Y, Z) HU on one grid.
        mask: (X, Y, Z) bool, the searched voxels.
        spacing: mm.
        least_z: minimum rise / noise of a region.
        least_contrast: minimum rise, HU.
        tolerant: only what exceeds the effect of resampling, a smoother kernel or a small shift (`mean_bounds`).
    """
    if not mask.any():
        return []
    sigma = [RISE_MM / s for s in spacing]
    rise = gaussian(image - other, sigma) * mask
    if rise.max() < least_contrast:  # most cases
        return []
    if tolerant:  # at least the mean is subtracted
        rise = (gaussian(image, sigma) - mean_bounds(other, sigma)[1]) * mask
    noise, found = spread(rise[mask]), []
    parts, _ = ndimage.label(rise > least_contrast / 2)
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        values = np.where(parts[box] == number, rise[box], 0)
        peak = float(values.max())
        if peak >= max(least_contrast, least_z * noise):
            core = values > peak / 2
            centre = (np.argwhere(core).mean(0) + [b.start for b in box]) * spacing
            diameter = float(6 / np.pi * core.sum() * np.prod(spacing)) ** (1 / 3)
            found.append(Blob(tuple(float(p) for p in centre), diameter, peak, peak / noise))  # type: ignore[arg-type]
    return _strongest(found)


def predict_from_other(
    image: np.ndarray, other: np.ndarray, mask: np.ndarray, spacing: Spacing
) -> tuple[np.ndarray, np.ndarray]:
    """Predict ``image`` from ``other``: mean and standard deviation (X, Y, Z) of similar voxels nearby.

    Nadaraya-Watson regression of the image on intensity in ``other`` and position, on a bilateral grid (Chen, Paris &
    Durand 2007). Weights are hat functions around `LEVELS` quantiles of ``other`` and a Gaussian of `NEARBY_MM` in
    space. The regression follows any change of contrast per tissue, but no structure that ``other`` does not show.

    Args: as in `new_structures`.

    Returns:
        Mean and standard deviation, 0 outside ``mask``.
    """
    return _predicted(image, gaussian(other, [2.0 / s for s in spacing]), mask, spacing)


def _predicted(
    image: np.ndarray, smooth: np.ndarray, mask: np.ndarray, spacing: Spacing
) -> tuple[np.ndarray, np.ndarray]:
    """`predict_from_other`, from the smoothed other image."""
    step = [max(1, int(NEARBY_MM / 2.5 / s)) for s in spacing]
    coarse = tuple(slice(None, None, k) for k in step)
    levels = _levels(sampled(smooth, mask))
    number = np.arange(len(levels))
    hats = 1 - np.abs(np.interp(smooth[coarse], levels, number)[..., None] - number)
    hats = np.where(mask[coarse][..., None], np.maximum(hats, 0), 0)  # (x, y, z, level)
    values, nearby = image[coarse][..., None], [NEARBY_MM / s / k for s, k in zip(spacing, step, strict=True)]
    parts = [hats, hats * values, hats * values**2]
    total = np.maximum(hats.sum((0, 1, 2)), 1e-6)
    weight, *sums = (gaussian(part, nearby, truncate=3) for part in parts)
    tables = [
        ((smoothed + FEW * part.sum((0, 1, 2)) / total) / (weight + FEW)).astype(np.float32)
        for smoothed, part in zip(sums, parts[1:], strict=True)
    ]
    where = np.nonzero(mask)
    at = [index / k for index, k in zip(where, step, strict=True)]
    at.append(np.interp(smooth[where], levels, number))
    result = np.zeros((2, *image.shape), np.float32)
    mean, square = (ndimage.map_coordinates(table, at, order=1, mode="nearest") for table in tables)
    result[0][where], result[1][where] = mean, np.sqrt(np.maximum(square - mean**2, 0))
    return result[0], result[1]


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Least-squares slope of y on x: about 1 for CT in HU, any value for two MR contrasts."""
    x, y = x - x.mean(dtype=np.float64), y - y.mean(dtype=np.float64)
    power = float((x * x).sum())
    return float((x * y).sum()) / power if power > 0 else 0.0


def _levels(values: np.ndarray) -> np.ndarray:
    levels = np.quantile(values, np.linspace(0, 1, LEVELS))
    levels = levels[
        np.diff(levels, prepend=-np.inf) > 1e-5 * (levels[-1] - levels[0])
    ]  # closer levels differ by rounding
    return levels if len(levels) > 1 else np.array([levels[0], levels[0] + 1])


def _masked_dog(v: np.ndarray, mask: np.ndarray, sigma: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Difference of two Gaussian means over the mask, and the share of the narrower Gaussian that lies in the mask.

    The difference is 0 where less than half of one of the Gaussians lies in the mask.
    """
    means, shares, weight = [], [], mask.astype(np.float32)
    v = v * weight
    for scale in (1.0, WIDER):
        share = gaussian(weight, [scale * s for s in sigma], mode="constant")
        means.append(gaussian(v, [scale * s for s in sigma], mode="constant") / np.maximum(share, 0.1))
        shares.append(share)
    return (means[0] - means[1]) * ((shares[0] > 0.5) & (shares[1] > 0.5)), shares[0]


def _noise_near_border(mask: np.ndarray, share: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    """Noise of `_masked_dog` relative to that far from the border of the mask; ``share`` is its second result.

    White noise under Gaussian weights w is scaled by sqrt(Σ w²) / Σ w, and w² is a Gaussian narrower by √2.
    """
    squares = gaussian(mask, [s / np.sqrt(2) for s in sigma], mode="constant")
    return np.sqrt(np.maximum(squares, 0.1)) / np.maximum(share, 0.1)


def _share(response: np.ndarray, uneven: np.ndarray) -> float:
    """Ratio of filter response to unevenness of the other image, from the tenth of voxels with most unevenness."""
    most = uneven >= max(float(np.quantile(uneven, 0.9)), 1e-6)
    return float(np.clip(spread(response[most] / uneven[most]), *UNEVEN)) if most.any() else UNEVEN[0]


def _variance(v: np.ndarray, mask: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    """Variance over the mask in a Gaussian window."""
    v = (v - np.float32(v[mask].mean(dtype=np.float64))) * mask
    share = np.maximum(gaussian(mask, sigma), 0.1)
    mean, square = (gaussian(x, sigma) / share for x in (v, v * v))
    return np.maximum(square - mean**2, 0)


def _peaks(z: np.ndarray, least: float) -> list[tuple[np.ndarray, float]]:
    parts, _ = ndimage.label(z >= least)
    found = []
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        inside = np.where(parts[box] == number, z[box], 0)
        at = np.array(np.unravel_index(inside.argmax(), inside.shape))
        found.append((at + [b.start for b in box], float(inside.max())))
    return found


def _strongest(blobs: list[Blob], most: int = 100) -> list[Blob]:
    """The ``most`` strongest, without those that overlap a stronger one."""
    kept: list[Blob] = []
    for blob in sorted(blobs, key=lambda b: -b.z)[:most]:
        if all(math.dist(blob.place, k.place) > max(k.diameter, blob.diameter) for k in kept):
            kept.append(blob)
    return kept
