"""Lesions of an input in its translation: kept or lost, and what the translation has that the input has not.

`lesion_conservation` judges lesions whose masks are known; `new_structures` needs none, for an invented lesion has no
mask; `matched_lesions` counts what a detector finds in both. All places are in mm from the centre of voxel (0, 0, 0).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medgen.data.separable import gaussian, gradient_magnitude
from medgen.evaluation.enhancement import partial_volume

BALL = 0.36  # response of the filter below to a ball of contrast 1 whose radius fits it: P(χ₃ < √3) - P(χ₃ < √3 / 1.6)
WIDER = 1.6  # Marr & Hildreth 1980: two Gaussians of this ratio are nearest to the Laplacian of one
RADII_MM = (4.0, 6.0, 9.0)  # of the lesions looked for; a filter answers to radii a third smaller or larger
EDGE_MM = 3.0  # scale at which edges are taken
STEEP = 4.0  # times the gradient of noise: an edge
SCATTER = 1.2  # times the median scatter: more than that is not noise
FEW = 2e-3  # share of the voxels nearby below which like voxels of the whole image are asked
UNEVEN = (0.3, 1.2)  # a translation changes structures of the other image by at least and at most so many times their
# contrast; in between, by what it is seen to change
LEVELS = 24  # values of the other image between which `explained` interpolates
NEARBY_MM = 20.0  # a tissue's change is the same within this distance

WATER_HU = 0.0  # without contrast medium nothing but fat and air is darker
CYST_HU = 20.0  # what is darker in a scan with contrast medium holds water, some of it with blood, and takes up nothing
LEAST_ML, LEAST_VOXELS = 0.2, 30  # of a lesion that is judged; of fewer voxels nearly all are partial volume
MARGIN_HU = 15.0  # by which removal of contrast medium alone cannot move a lesion out of its bounds

Spacing = Sequence[float]


@dataclass(frozen=True)
class Lesion:
    """One lesion of the input. ``contrast``: mean in it minus median of its host tissue, in the image's unit (HU);
    ``noise``: standard error of that contrast; ``expected``: the least contrast in the output, 0 if it may have none;
    ``visible``: clear in the input; ``sure``: and sure to be clear in a correct output; ``kept``: seen there;
    ``replaced``: of HU that no removal of contrast medium leaves there."""

    place: tuple[float, float, float]
    volume_ml: float
    contrast: float
    contrast_output: float
    noise: float
    noise_output: float
    expected: float
    visible: bool
    sure: bool
    kept: bool
    replaced: bool = False

    @property
    def lost(self) -> bool:
        return self.visible and not self.kept


@dataclass(frozen=True)
class Blob:
    """A round structure: where, of which diameter (mm) and contrast to its surroundings, and that over its noise."""

    place: tuple[float, float, float]
    diameter: float
    contrast: float
    z: float


def lesion_conservation(
    source: np.ndarray,
    output: np.ndarray,
    lesions: np.ndarray,
    spacing: Spacing,
    *,
    labels: np.ndarray | None = None,
    least_ml: float = LEAST_ML,
    visible_z: float = 8.0,
    kept_z: float = 3.0,
    gone_z: float = 1.6,
    uptake: float | None = None,
    either_sign: bool = False,
) -> list[Lesion]:
    """The fate of every lesion: a connected part of ``lesions`` of at least ``least_ml`` and `LEAST_VOXELS`.

    Contrast is measured against a ring 2-6 mm outside: in the host tissue, which is the commonest label of the ring
    where ``labels`` are given, else what lies within 60 HU (or units) of the ring's median. Its noise is the spread
    of the ring over the root of the number of voxels, each counted as half a one for the correlation of CT noise.

    A lesion is visible where |contrast| ≥ visible_z · noise in the source. It is sure to be so in the output where
    |expected| ≥ 2 kept_z · noise there, and is kept where it has at least kept_z · noise of contrast, of the expected
    sign if it is sure. Expected is the contrast in the source. Where contrast medium was removed (``uptake``), it is
    the least that may be left: a dark lesion that took up that share of what its host did loses (1 - uptake) · (what
    its host lost) of it, one as dark as water in the source keeps its HU, and a bright one falls to water at most (0
    HU; one in fat stays bright, one in the liver may be without contrast). One that is visible without being sure is
    then kept where its contrast can be told from none, from gone_z · noise; if it is lost, it may have been erased or
    have no contrast of its own: only the truth can tell. Nor may its HU rise, or fall below those of water and host:
    what does was replaced.

    Args:
        source, output: (X, Y, Z) on one grid.
        lesions: (X, Y, Z) non-zero in lesions.
        spacing: mm.
        labels: (X, Y, Z) whole numbers, structures of the source; 0 is background.
        uptake: in [0, 1]: the output is without contrast medium, both in HU; None: any other translation.
        either_sign: the contrast in the output is not known beforehand: no lesion is sure, and one is kept where it
            stands out to either side, as one that is dark in T1 and bright in T2.
    """
    parts, _ = ndimage.label(lesions > 0, np.ones((3, 3, 3)))
    voxel_ml, margin = float(np.prod(spacing)) / 1000, [int(np.ceil(8 / s)) for s in spacing]
    found = []
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        box = tuple(slice(max(b.start - m, 0), b.stop + m) for b, m in zip(box, margin, strict=True))
        inside = parts[box] == number
        if inside.sum() < LEAST_VOXELS or inside.sum() * voxel_ml < least_ml:
            continue
        ring = _host(source[box], parts[box], inside, spacing, None if labels is None else labels[box])
        if ring.sum() < 20:
            continue
        (c, noise), (c_out, noise_out) = (_contrast(v[box], inside, ring) for v in (source, output))
        host, host_out = (float(np.median(v[box][ring])) for v in (source, output))
        expected = c
        if uptake is not None:
            expected = _least_left(c, c - partial_volume(source[box], inside), host, host_out, uptake)
        visible = abs(c) >= visible_z * noise
        sure = visible and not either_sign and abs(expected) >= 2 * kept_z * noise_out
        least = kept_z if sure or uptake is None else gone_z
        replaced = uptake is not None and _replaced(host + c, host_out + c_out, host_out, 3 * noise_out)
        kept = (c_out * np.sign(expected) if sure else abs(c_out)) >= least * noise_out and not replaced
        centre = np.argwhere(inside).mean(0) + [b.start for b in box]
        x, y, z = (float(p) for p in centre * spacing)
        volume = float(inside.sum()) * voxel_ml
        state = bool(visible), bool(sure), bool(kept), bool(replaced)
        found.append(Lesion((x, y, z), volume, c, c_out, noise, noise_out, expected, *state))
    return found


def _least_left(contrast: float, own: float, host: float, host_output: float, uptake: float) -> float:
    """Least contrast (HU) of a lesion once contrast medium is gone, of the sign it had; see `lesion_conservation`.

    ``own``: its contrast without the partial volume at its border.
    """
    if contrast > 0:
        return max(0.0, min(contrast, min(host + contrast, WATER_HU) - host_output))
    if host + own < CYST_HU:
        return min((host + own - host_output) * contrast / own, 0.0)
    return min(contrast + (1 - uptake) * max(host - host_output, 0.0), 0.0)


def _replaced(before: float, after: float, host: float, noise: float) -> bool:
    """Whether a lesion (HU before, after) has other HU than iodine can leave, beside its host's HU after."""
    margin = max(MARGIN_HU, noise)
    return after > max(before, host) + margin or after < min(before, WATER_HU, host) - margin


def sensitivity(lesions: Sequence[Lesion]) -> float:
    """Kept lesions / visible ones, in [0, 1]; NaN where none was visible."""
    visible = [lesion.kept for lesion in lesions if lesion.visible]
    return float(np.mean(visible)) if visible else float("nan")


def matched_lesions(
    source_lesions: np.ndarray, output_lesions: np.ndarray, *, least: float = 1
) -> tuple[int, int, int]:
    """(kept, lost, new): lesions of a detector's mask on the source and on the output that match, or do not.

    A lesion is a connected part of at least ``least`` voxels; it matches where one voxel of it lies in the other mask,
    whatever the size of the part there.
    """
    kept, lost = _touched(source_lesions > 0, output_lesions > 0, least)
    return kept, lost, _touched(output_lesions > 0, source_lesions > 0, least)[1]


def _touched(lesions: np.ndarray, other: np.ndarray, least: float) -> tuple[int, int]:
    """How many parts of ``lesions`` touch the other mask, and how many do not."""
    parts, count = ndimage.label(lesions, np.ones((3, 3, 3)))
    large = np.bincount(parts.ravel(), minlength=count + 1)[1:] >= least
    hit = np.isin(np.arange(1, count + 1), parts[other])
    return int((large & hit).sum()), int((large & ~hit).sum())


def unmatched(lesions: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The largest lesion (X, Y, Z) bool that no voxel of the other mask touches; all False if there is none."""
    parts, count = ndimage.label(lesions > 0, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[np.unique(parts[other > 0])] = sizes[0] = 0
    return parts == sizes.argmax() if sizes.any() else np.zeros(parts.shape, bool)


def new_structures(
    image: np.ndarray,
    other: np.ndarray,
    mask: np.ndarray,
    spacing: Spacing,
    *,
    least_z: float = 7.5,
    least_contrast: float = 0.0,
    radii: Sequence[float] = RADII_MM,
) -> list[Blob]:
    """Round structures of ``image`` where ``other`` is flat, strongest first.

    The change, image - slope · other, less what is `explained` of it is what the other does not account for; of that,
    where the other has no edge, a difference of Gaussians per radius (the matched filter of a ball, nearly: Lindeberg
    1998) is divided by its noise. Noise is what is left unexplained of like voxels nearby, scaled to the filter by the
    median absolute response; where that is far above the usual, tissues that change differently look alike in the
    other image (bone and enhanced vessels), and a blob has to stand out of that too. Exchange the two images for what
    was lost.

    Args:
        image, other: (X, Y, Z) on one grid, any unit each.
        mask: (X, Y, Z) bool where to look; leave out the outermost millimetres, where skin moves.
        spacing: mm.
        least_z, least_contrast: of the blobs returned, in units of noise and of ``image``.
    """
    if not mask.any():
        return []
    image, other = (v.astype(np.float32) for v in (image, other))
    flat = mask & _flat(other, mask, spacing)
    change = image - _slope(other[mask], image[mask]) * other  # what both show, noise too if it was copied, cancels
    mean, scatter = explained(change, other, flat, spacing)
    rest, typical = np.where(flat, change - mean, 0), float(np.median(scatter[flat]))
    scatter = np.maximum(scatter, 0.8 * typical)  # of few like voxels the spread is small by chance
    ambiguous = np.maximum(scatter**2 - (SCATTER * typical) ** 2, 0)
    smooth = gaussian(other, [2.0 / s for s in spacing])
    found: list[Blob] = []
    for radius in radii:
        sigma = [radius / np.sqrt(3) / s for s in spacing]
        response, fewer = _masked_dog(rest, flat, sigma)
        seen = flat & (response != 0)
        if not seen.any():
            continue
        noise = scatter * fewer * _spread(response[seen] / np.maximum(scatter[seen] * fewer[seen], 1e-6))
        uneven = _variance(smooth, flat, [WIDER * s for s in sigma])
        uneven = np.maximum(uneven - SCATTER**2 * np.quantile(uneven[seen], 0.2), 0)
        share = _share(response[seen], BALL * np.sqrt(uneven[seen]))
        doubt = BALL * np.sqrt(ambiguous + share**2 * uneven)
        z = np.abs(response) / np.maximum(np.hypot(noise, doubt), 1e-6)
        z[~flat | (np.abs(response) < least_contrast * BALL)] = 0
        for at, height in _peaks(z, least_z):
            place = tuple(float(p) for p in at * np.array(spacing))
            found.append(Blob(place, 2 * radius, float(response[tuple(at)]) / BALL, height))  # type: ignore[arg-type]
    return _strongest(found)


def explained(
    image: np.ndarray, other: np.ndarray, mask: np.ndarray, spacing: Spacing
) -> tuple[np.ndarray, np.ndarray]:
    """What ``other`` leads to expect in ``image``: mean and standard deviation (X, Y, Z) of like voxels nearby.

    Nadaraya-Watson regression of the image on (value of the other, place), by a grid of values (Chen, Paris & Durand
    2007): weights are hats around `LEVELS` quantiles of the other and a Gaussian of `NEARBY_MM` in space, over
    ``mask``, outside of which both are 0. It follows any change of contrast, tissue by tissue, and none that the
    other does not show.
    """
    step = [max(1, int(NEARBY_MM / 2.5 / s)) for s in spacing]
    coarse = tuple(slice(None, None, k) for k in step)
    smooth = gaussian(other, [2.0 / s for s in spacing])
    inside, values, few = mask[coarse], image[coarse], smooth[coarse]
    levels = _levels(smooth[mask])
    nearby = [NEARBY_MM / s / k for s, k in zip(spacing, step, strict=True)]
    means, squares = np.empty((2, len(levels), *few.shape), np.float32)
    for k in range(len(levels)):
        hat = np.where(inside, _hat(few, levels, k), 0)
        weight, first, second = (gaussian(hat * v, nearby, truncate=3) for v in (1, values, values**2))
        everywhere = max(float(hat.sum()), 1e-6)
        first += FEW * float((hat * values).sum()) / everywhere
        second += FEW * float((hat * values**2).sum()) / everywhere
        means[k], squares[k] = first / (weight + FEW), second / (weight + FEW)
    where = np.nonzero(mask)
    at = [np.interp(smooth[where], levels, np.arange(len(levels)))]
    at += [index / k for index, k in zip(where, step, strict=True)]
    result = np.zeros((2, *image.shape), np.float32)
    mean, square = (ndimage.map_coordinates(table, at, order=1, mode="nearest") for table in (means, squares))
    result[0][where], result[1][where] = mean, np.sqrt(np.maximum(square - mean**2, 0))
    return result[0], result[1]


def _host(
    source: np.ndarray, parts: np.ndarray, inside: np.ndarray, spacing: Spacing, labels: np.ndarray | None
) -> np.ndarray:
    away = ndimage.distance_transform_edt(~inside, spacing)
    ring = (away > 2) & (away <= max(6.0, 2 + 1.5 * max(spacing))) & (parts == 0)
    if not ring.any():
        return ring
    if labels is not None:
        return ring & (labels == np.bincount(labels[ring].astype(np.intp)).argmax())
    return ring & (np.abs(source - np.median(source[ring])) < 60)


def _contrast(image: np.ndarray, inside: np.ndarray, ring: np.ndarray) -> tuple[float, float]:
    """Contrast and its standard error. Noise of CT is correlated: each voxel counts as half a one."""
    host = image[ring].astype(np.float64)
    error = _spread(host) * np.sqrt(2 / inside.sum() + 2 / ring.sum())
    return float(image[inside].mean(dtype=np.float64) - np.median(host)), max(float(error), 1e-6)


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """Least-squares slope of y on x: 1 for CT in HU, whatever the units of two MR contrasts make it."""
    x, y = x - x.mean(dtype=np.float64), y - y.mean(dtype=np.float64)
    power = float((x * x).sum())
    return float((x * y).sum()) / power if power > 0 else 0.0


def _levels(values: np.ndarray) -> np.ndarray:
    levels = np.quantile(values, np.linspace(0, 1, LEVELS))
    levels = levels[np.diff(levels, prepend=-np.inf) > 1e-5 * (levels[-1] - levels[0])]  # nearer is rounding
    return levels if len(levels) > 1 else np.array([levels[0], levels[0] + 1])


def _hat(values: np.ndarray, levels: np.ndarray, k: int) -> np.ndarray:
    """1 at level k, falling to 0 at its neighbours; the first and the last go on for ever. Hats add up to 1."""
    return np.interp(values, levels, np.eye(len(levels))[k]).astype(np.float32)


def _masked_dog(v: np.ndarray, mask: np.ndarray, sigma: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Difference of two Gaussian means over the mask; 0 where less than half of the narrower lies in it.

    Beside it by how much more noise it has there than far from the mask's border: white noise under Gaussian weights w
    keeps sqrt(Σ w²) / Σ w of itself, and w² is a Gaussian narrower by √2.
    """
    means, shares, weight = [], [], mask.astype(np.float32)
    for scale in (1.0, WIDER):
        share = gaussian(weight, [scale * s for s in sigma], mode="constant")
        mean = gaussian(v * weight, [scale * s for s in sigma], mode="constant") / np.maximum(share, 0.1)
        means.append(np.where(share > 0.5, mean, np.nan))
        shares.append(share)
    squares = gaussian(weight, [s / np.sqrt(2) for s in sigma], mode="constant")
    return np.nan_to_num(means[0] - means[1]), np.sqrt(np.maximum(squares, 0.1)) / np.maximum(shares[0], 0.1)


def _share(response: np.ndarray, uneven: np.ndarray) -> float:
    """How strongly the filter answers to unevenness of the other image, from the tenth where that is strongest."""
    most = uneven >= max(float(np.quantile(uneven, 0.9)), 1e-6)
    return float(np.clip(_spread(response[most] / uneven[most]), *UNEVEN)) if most.any() else UNEVEN[0]


def _variance(v: np.ndarray, mask: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    """Variance over the mask in a Gaussian window."""
    v = np.where(mask, v - v[mask].mean(dtype=np.float64), 0).astype(np.float32)
    share = np.maximum(gaussian(mask, sigma), 0.1)
    mean, square = (gaussian(x, sigma) / share for x in (v, v * v))
    return np.maximum(square - mean**2, 0)


def _flat(v: np.ndarray, mask: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Where the gradient is not far above the least fifth, which is noise."""
    slope = gradient_magnitude(v, [EDGE_MM / s for s in spacing])
    return slope <= STEEP * np.quantile(slope[mask], 0.2)


def _spread(values: np.ndarray) -> float:
    """Standard deviation of Gaussian noise from the median absolute deviation; at least 1e-6."""
    return max(float(np.median(np.abs(values - np.median(values)))) / 0.6745, 1e-6)


def _peaks(z: np.ndarray, least: float) -> list[tuple[np.ndarray, float]]:
    parts, count = ndimage.label(z >= least)
    tops = ndimage.maximum_position(z, parts, range(1, count + 1)) if count else []
    return [(np.array(at), float(z[at])) for at in tops]


def _strongest(blobs: list[Blob], most: int = 100) -> list[Blob]:
    """The ``most`` strongest, without those that a stronger one of another radius covers."""
    kept: list[Blob] = []
    for blob in sorted(blobs, key=lambda b: -b.z)[:most]:
        if all(math.dist(blob.place, k.place) > max(k.diameter, blob.diameter) for k in kept):
            kept.append(blob)
    return kept
