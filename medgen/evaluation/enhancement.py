"""Whether contrast medium was removed from a CT: HU of what takes it up, and the phase a scan seems to be in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from medgen.data.separable import gaussian

Phase = Literal["none", "arterial", "portal_venous", "late", "unknown"]

# HU (lowest, highest) without contrast medium, of the mean over an organ's inside. Liver 57 ± 9, spleen 48 ± 5, kidney
# 31 ± 4, aorta 41 ± 5: Lamba et al., AJR 2014;203:1013, two standard deviations and 5 HU for scanner and noise. The
# lower end of the liver is left open to steatosis (below 40 HU: Boyce et al., AJR 2010;194:623).
RANGES: dict[str, tuple[float, float]] = {
    "aorta": (20.0, 60.0),
    "inferior_vena_cava": (18.0, 57.0),
    "portal_vein": (18.0, 60.0),
    "kidney": (12.0, 52.0),
    "spleen": (28.0, 62.0),
    "liver": (0.0, 70.0),
}
WORDS = {  # structure of the ranges above ← words in the name of a label
    "aorta": ("aorta",),
    "inferior_vena_cava": ("vena_cava", "ivc"),
    "portal_vein": ("portal",),
    "kidney": ("kidney",),
    "spleen": ("spleen",),
    "liver": ("liver",),
}
NOT = ("cyst", "lesion", "tumor", "tumour", "vessel", "stone")
LEAST_VOXELS = 30


@dataclass(frozen=True)
class Region:
    """A part of the image: where its middle is (mm from voxel 0), ml, mean HU in source and output."""

    place: tuple[float, float, float]
    volume_ml: float
    source: float
    output: float


def structure_of(name: str) -> str | None:
    """Which of `RANGES` a label's name falls under: kidney_left is "kidney"; None for any other."""
    name = name.lower().replace(" ", "_").replace("-", "_")
    if any(word in name for word in NOT):
        return None
    return next((structure for structure, words in WORDS.items() if any(word in name for word in words)), None)


def organ_hu(images: Sequence[np.ndarray], labels: np.ndarray, names: Mapping[int, str]) -> dict[str, list[float]]:
    """{label's name: median HU of each image} inside the organs of `RANGES`, a voxel off their border where they can.

    Medians, so that a lesion, a vessel or a stone in an organ does not count.

    Args:
        images: each (X, Y, Z) HU on the grid of ``labels``.
        names: {label: structure}.
    """
    found = {}
    for value, box in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
        if box is None or structure_of(names.get(value, "")) is None:
            continue
        inside = labels[box] == value
        core = ndimage.binary_erosion(inside)
        core = core if core.sum() >= LEAST_VOXELS else inside
        if core.sum() >= LEAST_VOXELS:
            found[names[value]] = [float(np.median(image[box][core])) for image in images]
    return found


def left_over(source: np.ndarray, output: np.ndarray, body: np.ndarray, spacing: Sequence[float]) -> list[Region]:
    """Without labels: regions that are as bright in the output as only contrast medium makes them, largest first.

    Candidates are soft tissue of 100-300 HU in the source. Averaged over 4 mm within them, an output above 75 HU
    (62 where the source exceeds 150: that was blood or kidney, 30-50 HU without contrast medium) is left over. Bone
    lies in the same range; it is told by what did not change at all (less than 15 % of what exceeds 55 HU) and is
    rough (standard deviation more than 1.5 times the candidates' median), with 2 voxels around it.

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
    rough = np.sqrt(np.maximum(_within((source - before) ** 2, candidates, spacing), 0))
    unchanged = before - after < 0.15 * (before - 55)
    bone = candidates & unchanged & (rough > 1.5 * np.median(rough[candidates]))
    bright = candidates & (after > np.interp(before, [120, 150], [75, 62])) & (before < 250)
    kept = ndimage.binary_opening(bright & ~ndimage.binary_dilation(bone, iterations=2))
    return _regions(kept, before, after, spacing)


def phase(hu: Mapping[str, float], collecting: float | None = None) -> Phase:
    """The phase that the HU of organs speak of.

    Args:
        hu: {label's name: HU}, as `organ_hu` gives for one image; needs the aorta, and a vein (portal or caval).
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


def _within(v: np.ndarray, mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Gaussian mean over 4 mm of the voxels in the mask alone."""
    sigma = [4 / s for s in spacing]
    weight = np.maximum(gaussian(mask, sigma), 1e-3)
    return gaussian(np.where(mask, v, 0), sigma) / weight


def _regions(mask: np.ndarray, before: np.ndarray, after: np.ndarray, spacing: Sequence[float]) -> list[Region]:
    parts, count = ndimage.label(mask)
    index = range(1, count + 1)
    sizes = ndimage.sum_labels(mask, parts, index) * float(np.prod(spacing)) / 1000
    places = ndimage.center_of_mass(mask, parts, index)
    means = [ndimage.mean(v, parts, index) for v in (before, after)]
    found = [
        Region(tuple(float(p * s) for p, s in zip(place, spacing, strict=True)), float(ml), float(b), float(a))  # type: ignore[arg-type]
        for ml, place, b, a in zip(sizes, places, *means, strict=True)
    ]
    return sorted(found, key=lambda region: -region.volume_ml)
