"""Removal of contrast medium from CT: HU of enhancing structures, residual enhancement, and the contrast phase."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from medgen.data.fast_filters import gaussian
from medgen.qa.measures.hounsfield import SMOOTH_MM
from medgen.qa.measures.masks import dilated, eroded, opened, sampled
from medgen.qa.measures.rendition import mean_bounds
from medgen.terminology import is_enhancing, is_pathology, is_vessel, structure_of, words

Phase = Literal["none", "arterial", "portal_venous", "late", "unknown"]

# Range of HU (lowest, highest) of each `terminology.STRUCTURES` without contrast medium. Liver 57 ± 9, spleen 48 ± 5,
# kidney 31 ± 4, aorta 41 ± 5 (Lamba et al., AJR 2014;203:1013), plus and minus two standard deviations and 5 HU for
# scanner and noise. All vessels hold the same blood. The lower limit of the liver allows for steatosis (below 40 HU:
# Boyce et al., AJR 2010;194:623). The collecting system holds urine (0 to 15 HU); a thin calyx includes some
# surrounding fat.
RANGES: dict[str, tuple[float, float]] = {
    "aorta": (20.0, 60.0),
    "inferior_vena_cava": (18.0, 57.0),
    "portal_vein": (18.0, 60.0),
    "artery": (18.0, 60.0),
    "vein": (18.0, 60.0),
    "kidney": (12.0, 52.0),
    "collecting_system": (-30.0, 45.0),
    "spleen": (28.0, 62.0),
    "liver": (0.0, 70.0),
}
UPTAKE_HU = 12.0  # a structure of any name enhances if its mean in the source exceeds that in the truth by this
LEAST_VOXELS = 30  # minimum size of a core
CORE_MM = 2.0  # distance of the core from the border; at least one voxel
RESIDUAL_HU = ((150.0, 165.0), (75.0, 62.0))  # HU of the source, and the output HU above which contrast medium remains
# Bone is rough: its standard deviation over ROUGH_MM is more than ROUGH times that of soft tissue.
ROUGH_MM, ROUGH = 2.5, 1.8
RESIDUAL_MM = 4.0  # sigma of the means of `residual_enhancement`
FILTER_REACH = 4  # sigmas after which a filter is cut off
MIN_SIGMA = 0.625  # voxels: a narrower Gaussian covers a single voxel, so that no roughness could be measured
DARKENED_HU, DENSE_HU, DENSE_MM = 40.0, 120.0, 2.0  # see `darkened_dense`
CALCIUM_HU = 130.0  # Agatston et al., J Am Coll Cardiol 1990;15:827
CALCIUM_ABOVE_BLOOD = 40.0  # HU of the source by which calcium exceeds enhanced blood: three times its noise
# Share of the steps across its border by which partial volume shifts the mean of a structure. A plane at a random
# position in the grid leaves on average 1/8 of the contrast in the voxels labelled as inside, and a step of 3/4 to the
# next voxel.
PARTIAL_VOLUME_SHARE = 1 / 6
# Organs without fat or air inside. Below FATTY_HU, after smoothing by FATTY_MM against noise, a voxel is neither blood
# nor parenchyma, with or without contrast medium; a steatotic liver stays above it.
SOLID = {"aorta", "inferior_vena_cava", "kidney", "spleen", "liver"}
FATTY_HU, FATTY_MM = -30.0, 2.0


@dataclass(frozen=True)
class Region:
    """A connected region: its centre (mm from voxel 0), volume in ml, mean HU in source and output."""

    place: tuple[float, float, float]
    volume_ml: float
    source: float
    output: float


@dataclass(frozen=True)
class Organ:
    """An enhancing labelled structure, measured in several images (HU, one value per image in their order).

    Attributes:
        place: the voxel of the structure nearest to its centre, mm from voxel 0.
        region: mean over all voxels, as in the table of regions.
        core: median at least one voxel and 2 mm inside the border; None for fewer than `LEAST_VOXELS` voxels.
        partial: shift of ``region`` by partial volume at the border: negative for a thin vessel in fat, positive for
            one in liver.
        calcium: increase of ``region`` in the second image by calcium in a vessel wall; 0 for other structures and
            without a second image.
        fatty: share of the core of a solid organ that is as dark as fat or air in the first image; 0 for others.
    """

    name: str
    voxels: int
    place: tuple[float, float, float]
    region: tuple[float, ...]
    core: tuple[float, ...] | None
    partial: tuple[float, ...]
    calcium: float = 0.0
    fatty: float = 0.0


def measure_organs(
    images: Sequence[np.ndarray], labels: np.ndarray, names: Mapping[int, str], spacing: Sequence[float]
) -> list[Organ]:
    """Measure every labelled structure that enhances, by its name or, if the truth is given, by its HU.

    Args:
        images: source, output and optionally truth, each (X, Y, Z) HU on the grid of ``labels``.
        labels: (X, Y, Z) whole numbers.
        names: {label: structure}.
        spacing: mm.
    """
    labels = labels.astype(np.int32, copy=False)
    found = []
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None or value not in names:
            continue
        padded = tuple(slice(max(b.start - 1, 0), b.stop + 1) for b in box)
        parts, inside = [image[padded] for image in images], labels[padded] == value
        if is_enhancing(names[value]) or _enhanced_by_truth(names[value], parts, inside):
            found.append(_organ(names[value], parts, inside, padded, spacing))
    return found


def _enhanced_by_truth(name: str, images: Sequence[np.ndarray], inside: np.ndarray) -> bool:
    """Whether the truth shows that contrast medium brightened a structure, such as heart or pancreas.

    False for lesions, which `lesion_findings` checks.
    """
    if len(images) < 3 or is_pathology(name):
        return False
    source, truth = (float(image[inside].mean(dtype=np.float64)) for image in (images[0], images[2]))
    return source - truth > UPTAKE_HU


def _organ(
    name: str, images: Sequence[np.ndarray], inside: np.ndarray, box: tuple[slice, ...], spacing: Sequence[float]
) -> Organ:
    core = _core(inside, spacing)
    medians = tuple(float(np.median(image[core])) for image in images) if core.sum() >= LEAST_VOXELS else None
    x, y, z = (float(p) for p in (_central_voxel(inside, spacing) + [b.start for b in box]) * spacing)
    values = [image[inside] for image in images]
    means, partial = (
        tuple(float(v.mean(dtype=np.float64)) for v in values),
        tuple(partial_volume(v, inside) for v in images),
    )
    calcium = _calcium(values[0], values[1]) if len(values) > 1 and is_vessel(name) else 0.0
    fatty = _fatty(images[0], core, spacing) if medians and _is_solid(name) else 0.0
    return Organ(name, int(inside.sum()), (x, y, z), means, medians, partial, calcium, fatty)


def _is_solid(name: str) -> bool:
    return structure_of(name) in SOLID or words(name) == ("heart",)


def _fatty(image: np.ndarray, core: np.ndarray, spacing: Sequence[float]) -> float:
    """Share of the core that is as dark as fat or air, where labels of another patient or place lie."""
    smooth = gaussian(image.astype(np.float32), [max(MIN_SIGMA, FATTY_MM / s) for s in spacing])
    return float((smooth[core] < FATTY_HU).mean())


def _calcium(source: np.ndarray, output: np.ndarray) -> float:
    """HU by which calcium raises a vessel's mean in the output: bright there, and brighter than blood in the source.

    Residual contrast medium is bright in the output too, but no brighter than the rest of the blood in the source.
    """
    calcium = (output > CALCIUM_HU) & (source > np.median(source) + CALCIUM_ABOVE_BLOOD)
    if not calcium.any() or calcium.all():
        return 0.0
    return float(output.mean(dtype=np.float64) - output[~calcium].mean(dtype=np.float64))


def _core(inside: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Mask eroded by about `CORE_MM`, at least one voxel, along every axis."""
    core = inside.copy()
    for axis, step in enumerate(spacing):
        reach = max(1, round(CORE_MM / step))
        line = np.ones([2 * reach + 1 if a == axis else 1 for a in range(3)], bool)
        core &= ndimage.binary_erosion(inside, line)
    return core


def partial_volume(image: np.ndarray, inside: np.ndarray) -> float:
    """Shift of a structure's mean (HU) by partial volume.

    `PARTIAL_VOLUME_SHARE` of the sum of all outward steps across its border, per voxel of the structure.
    """
    total = 0.0
    for axis in range(3):
        low, high = (
            tuple(slice(None, -1) if a == axis else slice(None) for a in range(3)),
            tuple(slice(1, None) if a == axis else slice(None) for a in range(3)),
        )
        leaves, enters = inside[low] & ~inside[high], inside[high] & ~inside[low]
        step = image[high].astype(np.float64) - image[low]
        total += float(step[leaves].sum() - step[enters].sum())
    return PARTIAL_VOLUME_SHARE * total / int(inside.sum())


def residual_enhancement(
    source: np.ndarray,
    output: np.ndarray,
    body: np.ndarray,
    spacing: Sequence[float],
    smooth: np.ndarray | None = None,
) -> list[Region]:
    """Find regions of the output that only contrast medium makes so bright, without labels; largest first.

    Candidates are soft tissue of 100-300 HU in the source. Both images are averaged over 4 mm within the candidates.
    Enhancement remains where the output exceeds 75 HU, or 62 HU where the source exceeds 165 HU. The latter is blood or
    kidney, 30-50 HU without contrast medium; a liver of 70 HU reaches 150 HU with it.

    Bone has the same range of HU. It is excluded, with a margin of 2 voxels, where the image is unchanged (less than
    15 % of the excess over 55 HU) and rough (standard deviation over 2.5 mm more than 1.8 times the median of soft
    tissue below 100 HU, which is noise; over a larger distance, calcium in its wall would make a whole aorta rough).
    Calcium in a vessel wall is brighter than blood in the source and is excluded.

    Not detected: enhancement below 100 HU in the source, beside bone, or in vessels narrower than 5 voxels.

    Args:
        source, output: (X, Y, Z) HU on one grid.
        body: (X, Y, Z) bool.
        spacing: mm.
        smooth: the source after a Gaussian filter of 2.5 mm, if it was computed before.
    """
    source, output = source.astype(np.float32, copy=False), output.astype(np.float32, copy=False)
    smooth = gaussian(source, [SMOOTH_MM / s for s in spacing]) if smooth is None else smooth
    candidates = eroded((smooth > 100) & (smooth < 300) & body)
    if not candidates.any():
        return []
    before, after = _masked_means((source, output), candidates, spacing)
    # Excluding bone and calcium, which is brighter than the limits, only removes regions from these.
    possible = opened(candidates & (after > _residual_limit(before)) & (before < 250))
    if not possible.any():
        return []
    soft = eroded((smooth > 0) & (smooth < 100) & body)
    tissue = soft if soft.any() else candidates
    noise = np.median(sampled(_roughness(source, tissue, spacing), tissue))
    twice, once = (np.multiply(FILTER_REACH, _sigma(mm, spacing)) + 1 for mm in (ROUGH_MM, RESIDUAL_MM))
    box = _box(possible, np.maximum(2 * twice + 3, once))
    x, y, inside, mean, allowed = (v[box] for v in (source, output, candidates, before, possible))
    rough = _roughness(x, inside, spacing)
    unchanged = mean - after[box] < 0.15 * (mean - 55)
    bone = inside & unchanged & (rough > ROUGH * noise)
    calcium = (y > CALCIUM_HU) & (x > mean + CALCIUM_ABOVE_BLOOD)
    (left,) = _masked_means((y,), inside & ~calcium, spacing)
    bright = allowed & (left > _residual_limit(mean))
    return regions_of(opened(bright & ~dilated(bone, 2)), mean, left, spacing, box)


def _residual_limit(before: np.ndarray) -> np.ndarray:
    """HU of the output above which contrast medium remains, by the HU of the source: `RESIDUAL_HU`, interpolated."""
    (low, high), (above_low, above_high) = RESIDUAL_HU
    return above_low + (above_high - above_low) * np.clip((before - low) / (high - low), 0, 1)


def _box(mask: np.ndarray, margin: Sequence[float] | np.ndarray) -> tuple[slice, ...]:
    """Bounding box of a mask with a margin in voxels, so that filters of the mask do not reach its border."""
    reach = np.ceil(margin).astype(int)
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    return tuple(slice(max(b.start - r, 0), b.stop + r) for b, r in zip(box, reach, strict=True))


def _roughness(image: np.ndarray, mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Standard deviation (HU) over `ROUGH_MM` within a mask."""
    sigma = _sigma(ROUGH_MM, spacing)
    weight = np.maximum(gaussian(mask, sigma), 1e-3)
    near = gaussian(image * mask, sigma) / weight
    near -= image
    np.square(near, out=near)
    near *= mask
    return np.sqrt(np.maximum(gaussian(near, sigma) / weight, 0))


def darkened_dense(source: np.ndarray, output: np.ndarray, body: np.ndarray, spacing: Sequence[float]) -> list[Region]:
    """Find regions that lost density and still are brighter than any tissue without contrast medium; largest first.

    Contrast medium is removed completely or not at all: tissue that loses more than `DARKENED_HU` ends below 75 HU. If
    it stays above `DENSE_HU`, either bone has lost density or contrast medium is left. Both images are averaged with a
    Gaussian of 2 mm (at least one voxel), so that calcium in the wall of a vessel counts little. What resampling, a
    smoother kernel or a shift of 0.3 voxels would do to thin bone is no loss: the source is taken as low as they make
    it (`rendition.mean_bounds`). Bone that is darkened to the HU of soft tissue
    is not found.

    Args:
        source, output: (X, Y, Z) HU on one grid.
        body: (X, Y, Z) bool.
        spacing: mm.
    """
    sigma = [max(DENSE_MM / s, 1.0) for s in spacing]
    x, y = (np.clip(v, -200, 1000).astype(np.float32) for v in (source, output))
    before, after = gaussian(x, sigma), gaussian(y, sigma)
    possible = body & (before - after > DARKENED_HU) & (after > DENSE_HU)
    if not possible.any():
        return []
    box = _box(possible, [FILTER_REACH * (s + 1) + 2 for s in sigma])
    least, _ = mean_bounds(x[box], sigma)  # at most the mean
    mask = possible[box] & (least - after[box] > DARKENED_HU)
    return regions_of(mask, before[box], after[box], spacing, box)


def phase(hu: Mapping[str, float], collecting: float | None = None) -> Phase:
    """Estimate the contrast phase of an image from the HU of its organs.

    The rules follow the enhancement by time after injection in Bae, Radiology 2010;256:32:

    - "unknown": HU of the aorta or of both veins (portal vein, inferior vena cava) are missing;
    - "none": aorta, vein and kidneys below 75 HU;
    - "arterial": aorta more than 60 HU above the portal vein, or above the cava if the portal vein is missing;
    - "late": excretion, or aorta below 125 HU and within 15 HU of the vein;
    - "portal_venous": otherwise.

    Args:
        hu: {name of a label: HU} of one image, as `organs` measures it.
        collecting: HU of the renal collecting system, if known; contrast medium is excreted above 120.
    """
    values_of: dict[str, list[float]] = {}
    for name, value in hu.items():
        values_of.setdefault(structure_of(name) or name, []).append(value)
    mean = {name: float(np.mean(values)) for name, values in values_of.items()}
    vein = mean.get("portal_vein", mean.get("inferior_vena_cava"))
    aorta, kidney = mean.get("aorta"), mean.get("kidney", 0.0)
    if aorta is None or vein is None:
        return "unknown"
    if max(aorta, vein, kidney) < 75:
        return "none"
    if aorta - vein > 60:
        return "arterial"
    if (collecting is not None and collecting > 120) or (aorta < 125 and abs(aorta - vein) < 15):
        return "late"
    return "portal_venous"


def _masked_means(images: Sequence[np.ndarray], mask: np.ndarray, spacing: Sequence[float]) -> list[np.ndarray]:
    """Gaussian means of images over the voxels of the mask, `RESIDUAL_MM`."""
    sigma = _sigma(RESIDUAL_MM, spacing)
    weight = np.maximum(gaussian(mask, sigma), 1e-3)
    return [gaussian(v * mask, sigma) / weight for v in images]


def _sigma(mm: float, spacing: Sequence[float]) -> list[float]:
    return [max(mm / s, MIN_SIGMA) for s in spacing]


def regions_of(
    mask: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    spacing: Sequence[float],
    within: tuple[slice, ...] = (slice(0), slice(0), slice(0)),
) -> list[Region]:
    """Connected parts of a mask, largest first; ``within``: the box of the volume in which the arrays lie."""
    parts, _ = ndimage.label(mask)
    found = []
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        inside = parts[box] == number
        corner = [b.start + (w.start or 0) for b, w in zip(box, within, strict=True)]
        place = [float(p) for p in (_central_voxel(inside, spacing) + corner) * spacing]
        ml = float(inside.sum() * np.prod(spacing)) / 1000
        found.append(
            Region((place[0], place[1], place[2]), ml, *(float(v[box][inside].mean()) for v in (before, after)))
        )
    return sorted(found, key=lambda region: -region.volume_ml)


def _central_voxel(inside: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The voxel of a mask nearest to its centre of mass, which itself may lie outside the mask."""
    voxels = np.argwhere(inside)
    return voxels[np.argmin(np.square((voxels - voxels.mean(0)) * spacing).sum(1))]
