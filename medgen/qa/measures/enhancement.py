"""Whether contrast medium was removed from a CT: HU of what takes it up, and the phase a scan seems to be in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from medgen.data.fast_filters import gaussian
from medgen.terminology import is_enhancing, is_pathology, is_vessel, structure_of

Phase = Literal["none", "arterial", "portal_venous", "late", "unknown"]

# HU (lowest, highest) of a structure without contrast medium. Liver 57 ± 9, spleen 48 ± 5, kidney 31 ± 4, aorta 41 ± 5:
# Lamba et al., AJR 2014;203:1013, two standard deviations and 5 HU for scanner and noise. Other vessels hold the same
# blood. The lower end of the liver is left open to steatosis (below 40 HU: Boyce et al., AJR 2010;194:623). The
# collecting system holds urine (0 to 15 HU) and, in a thin calyx, some of the fat around it.
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
UPTAKE_HU = 12.0  # mean of a structure in the source above its truth: by it a structure of any name takes up contrast
LEAST_VOXELS = 30  # of a core
CORE_MM = 2.0  # the core lies this far from the border, and a voxel at least
LEFT_HU = ((150.0, 165.0), (75.0, 62.0))  # HU of the source, and above which HU of the output contrast is left there
ROUGH_MM, ROUGH = 2.5, 1.8  # of bone: over so many mm its standard deviation is so many times the usual one
NARROWEST = 0.625  # voxels of a Gaussian mean: a narrower one holds the voxel alone, and nothing is rough beside it
CALCIUM_HU = 130.0  # Agatston et al., J Am Coll Cardiol 1990;15:827
ABOVE_BLOOD = 40.0  # HU of the source by which calcium stands out of enhanced blood: three times its noise
# Part of the steps across its border by which partial volume moves the mean of a structure. A plane at a random place
# in the grid leaves on average 1/8 of the contrast in the voxels labelled as inside, and a step of 3/4 to the next.
PARTIAL = 1 / 6


@dataclass(frozen=True)
class Region:
    """A part of the image: where its middle is (mm from voxel 0), ml, mean HU in source and output."""

    place: tuple[float, float, float]
    volume_ml: float
    source: float
    output: float


@dataclass(frozen=True)
class Organ:
    """A labelled structure that takes up contrast medium, measured in several images (HU each, in their order).

    ``region``: mean over all its voxels, as the table of regions has it. ``core``: median a voxel and 2 mm or more off
    its border; None where fewer than `LEAST_VOXELS` remain. ``partial``: by how much partial volume at its border
    moves ``region``: down in a thin vessel in fat, up in one in liver. ``calcium``: by how much calcium in a vessel's
    wall raises ``region`` of the second image, 0 in others and without a second image. ``place``: its voxel nearest to
    its middle, mm from voxel 0.
    """

    name: str
    voxels: int
    place: tuple[float, float, float]
    region: tuple[float, ...]
    core: tuple[float, ...] | None
    partial: tuple[float, ...]
    calcium: float = 0.0


def organs(
    images: Sequence[np.ndarray], labels: np.ndarray, names: Mapping[int, str], spacing: Sequence[float]
) -> list[Organ]:
    """Every labelled structure that takes up contrast medium, by its name or, where the truth is given, by its HU.

    Args:
        images: each (X, Y, Z) HU on the grid of ``labels``: source, output and, if there is one, truth.
        labels: (X, Y, Z) whole numbers.
        names: {label: structure}.
        spacing: mm.
    """
    labels = labels.astype(np.int32, copy=False)
    found = []
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None or value not in names:
            continue
        wide = tuple(slice(max(b.start - 1, 0), b.stop + 1) for b in box)
        parts, inside = [image[wide] for image in images], labels[wide] == value
        if is_enhancing(names[value]) or _brightened(names[value], parts, inside):
            found.append(_organ(names[value], parts, inside, wide, spacing))
    return found


def _brightened(name: str, images: Sequence[np.ndarray], inside: np.ndarray) -> bool:
    """Whether the truth shows that contrast medium brightened a structure, such as heart or pancreas.

    Lesions are left to the findings on lesions.
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
    x, y, z = (float(p) for p in (_middle(inside, spacing) + [b.start for b in box]) * spacing)
    values = [image[inside] for image in images]
    means, partial = (
        tuple(float(v.mean(dtype=np.float64)) for v in values),
        tuple(partial_volume(v, inside) for v in images),
    )
    calcium = _calcium(values[0], values[1]) if len(values) > 1 and is_vessel(name) else 0.0
    return Organ(name, int(inside.sum()), (x, y, z), means, medians, partial, calcium)


def _calcium(source: np.ndarray, output: np.ndarray) -> float:
    """HU by which calcium raises a vessel's mean in the output: bright there, and brighter than blood in the source.

    Contrast medium that was left is bright in the output too, but no brighter in the source than the other blood.
    """
    calcium = (output > CALCIUM_HU) & (source > np.median(source) + ABOVE_BLOOD)
    if not calcium.any() or calcium.all():
        return 0.0
    return float(output.mean(dtype=np.float64) - output[~calcium].mean(dtype=np.float64))


def _core(inside: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """What lies a voxel and about `CORE_MM` off the border along every axis."""
    core = inside.copy()
    for axis, step in enumerate(spacing):
        reach = max(1, round(CORE_MM / step))
        line = np.ones([2 * reach + 1 if a == axis else 1 for a in range(3)], bool)
        core &= ndimage.binary_erosion(inside, line)
    return core


def partial_volume(image: np.ndarray, inside: np.ndarray) -> float:
    """HU by which partial volume moves the mean: `PARTIAL` of all steps outwards over the border, per voxel inside."""
    total = 0.0
    for axis in range(3):
        low, high = (
            tuple(slice(None, -1) if a == axis else slice(None) for a in range(3)),
            tuple(slice(1, None) if a == axis else slice(None) for a in range(3)),
        )
        leaves, enters = inside[low] & ~inside[high], inside[high] & ~inside[low]
        step = image[high].astype(np.float64) - image[low]
        total += float(step[leaves].sum() - step[enters].sum())
    return PARTIAL * total / int(inside.sum())


def residual_enhancement(
    source: np.ndarray, output: np.ndarray, body: np.ndarray, spacing: Sequence[float]
) -> list[Region]:
    """Without labels: regions that are as bright in the output as only contrast medium makes them, largest first.

    Candidates are soft tissue of 100-300 HU in the source. Averaged over 4 mm within them, an output above 75 HU
    (62 where the source exceeds 165: that was blood or kidney, 30-50 HU without contrast medium; a liver of 70 HU
    reaches 150 with it) is left over. Bone lies in the same range; it is told by what did not change at all (less than
    15 % of what exceeds 55 HU) and is rough (standard deviation over 2.5 mm more than 1.8 times the candidates'
    median; over more than that, calcium in its wall makes a whole aorta rough), with 2 voxels around it. Calcium in a
    vessel's wall is brighter in the source than its blood and does not count.

    It misses enhancement in a source below 100 HU, beside bone, and a vessel of less than 5 voxels' width.

    Args:
        source, output: (X, Y, Z) HU on one grid.
        body: (X, Y, Z) bool.
        spacing: mm.
    """
    source, output = source.astype(np.float32), output.astype(np.float32)
    smooth = gaussian(source, [2.5 / s for s in spacing])
    candidates = ndimage.binary_erosion((smooth > 100) & (smooth < 300) & body)
    if not candidates.any():
        return []
    before, after = (_within(v, candidates, spacing) for v in (source, output))
    near = _within(source, candidates, spacing, ROUGH_MM)
    rough = np.sqrt(np.maximum(_within((source - near) ** 2, candidates, spacing, ROUGH_MM), 0))
    unchanged = before - after < 0.15 * (before - 55)
    bone = candidates & unchanged & (rough > ROUGH * np.median(rough[candidates]))
    calcium = (output > CALCIUM_HU) & (source > before + ABOVE_BLOOD)
    after = _within(output, candidates & ~calcium, spacing)
    bright = candidates & (after > np.interp(before, *LEFT_HU)) & (before < 250)
    kept = ndimage.binary_opening(bright & ~ndimage.binary_dilation(bone, iterations=2))
    return _regions(kept, before, after, spacing)


def phase(hu: Mapping[str, float], collecting: float | None = None) -> Phase:
    """The phase that the HU of organs speak of.

    Args:
        hu: {label's name: HU} of one image, as `organs` measures it; needs the aorta, and a vein (portal or caval).
        collecting: HU of the renal collecting system, if known: above 120, contrast medium is excreted.

    Rules: "none": aorta, veins and kidneys below 75 HU; "arterial": the aorta 60 HU above the portal vein (or, without
    it, the cava); "late": excretion, or an aorta below 125 HU no brighter than the veins by 15; else "portal_venous".
    Enhancement by time after injection: Bae, Radiology 2010;256:32. "unknown" without the vessels.
    """
    by: dict[str, list[float]] = {}
    for name, value in hu.items():
        by.setdefault(structure_of(name) or name, []).append(value)
    mean = {name: float(np.mean(values)) for name, values in by.items()}
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


def _within(v: np.ndarray, mask: np.ndarray, spacing: Sequence[float], mm: float = 4.0) -> np.ndarray:
    """Gaussian mean over ``mm``, and ``NARROWEST`` voxels at least, of the voxels in the mask alone."""
    sigma = [max(mm / s, NARROWEST) for s in spacing]
    weight = np.maximum(gaussian(mask, sigma), 1e-3)
    return gaussian(np.where(mask, v, 0), sigma) / weight


def _regions(mask: np.ndarray, before: np.ndarray, after: np.ndarray, spacing: Sequence[float]) -> list[Region]:
    parts, _ = ndimage.label(mask)
    found = []
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        inside = parts[box] == number
        place = [float(p) for p in (_middle(inside, spacing) + [b.start for b in box]) * spacing]
        ml = float(inside.sum() * np.prod(spacing)) / 1000
        found.append(
            Region((place[0], place[1], place[2]), ml, *(float(v[box][inside].mean()) for v in (before, after)))
        )
    return sorted(found, key=lambda region: -region.volume_ml)


def _middle(inside: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The voxel of a mask nearest to its centre of mass, which may lie in a hole."""
    voxels = np.argwhere(inside)
    return voxels[np.argmin(np.square((voxels - voxels.mean(0)) * spacing).sum(1))]
