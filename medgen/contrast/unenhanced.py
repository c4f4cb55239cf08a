"""The unenhanced twin of a labelled contrast CT: each structure is lowered to its HU without contrast medium.

The twin keeps the scan's noise and texture: what is subtracted is the scan smoothed within structures, less the
literature's mean HU of the structure without contrast medium (`phantom.anatomy.tissues`). So its mean is an assumption,
not a measurement: fat in this patient's liver or a low haematocrit are unknown, and the record says what else is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from medgen.contrast.enhancement import Uptake, uptake_of
from medgen.contrast.simulate import PSF_MM, is_bone
from medgen.data.body_mask import body_mask
from medgen.networks.blocks.diffusion import scan_within_structures
from medgen.phantom.anatomy.tissues import TISSUES

Array = np.ndarray
SMOOTH_MM = 1.5  # standard deviation; structures are found on the scan smoothed by it
SLOPE = 8.0  # HU per mm that are an edge
# Enhancement relative to the median of a structure's enhanced voxels, and HU, above which a voxel also holds calcium, a
# stone or metal. Not in veins, where undiluted contrast medium is as bright.
CALCIUM, CALCIUM_HU = 1.6, 250.0
ENHANCED = 20.0  # HU
SOFT = 60.0  # HU that tissue has without contrast medium at most
BRIGHT = (100.0, 250.0)  # HU of soft tissue that must be enhanced, if no label says what it is
# Structures whose enhancement labels alone cannot place or measure.
UNPLACED = ("rim", "urine")
UNMEASURED = ("trabecular_bone", "skin", "muscle")
VEINS = ("blood_right", "blood_cava", "blood_portal", "blood_hepatic")
LESIONS = ("lesion_hypovascular", "lesion_hypervascular")  # lowered to a mean that theirs need not be


@dataclass(frozen=True)
class Twin:
    """HU (X, Y, Z) float32 without contrast medium, the HU removed, and what is not known."""

    plain: Array
    removed: Array
    record: dict[str, Any]


def unenhanced(hu: Array, labels: Array, names: Mapping[int, str], spacing: Sequence[float]) -> Twin:
    """Remove contrast medium from the labelled structures of a contrast CT.

    Args:
        hu: (X, Y, Z) HU with contrast medium.
        labels: (X, Y, Z) integer label map on the same grid.
        names: value → structure name; see `enhancement.uptake_of` for the names that are known.
        spacing: mm.

    Returns:
        The twin. Its record has ``removed`` (structure → mean HU), ``unchanged`` (labels that take up contrast medium,
        but not in a way that they tell: walls, urine, bone marrow, muscle), ``assumed`` (lesions, whose own HU can be
        any), ``calcium_ml`` (voxels that stay bright as calcification, stone or metal), and ``unlabelled_bright_ml``
        (soft tissue of 100 to 250 HU without a named label).

    Raises:
        ValueError: shapes that differ.
    """
    if hu.shape != labels.shape:
        raise ValueError(f"image {hu.shape} and labels {labels.shape} must have one shape")
    hu = hu.astype(np.float32)
    value = _within(hu, spacing)
    removed = np.zeros_like(hu)
    means: dict[str, float] = {}
    unchanged, assumed = [], []
    calcium = np.zeros(hu.shape, bool)
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        uptake = uptake_of(names[number]) if number in names else None
        if box is None or uptake is None:
            continue
        if uptake.place in UNPLACED or uptake.tissue in UNMEASURED or is_bone(names[number]):
            unchanged.append(names[number])
            continue
        if uptake.tissue in LESIONS:
            assumed.append(names[number])
        mask = labels[box] == number
        fall = np.maximum(value[box] - _level(uptake), 0)
        if uptake.place == "vessels":
            mask = mask & (value[box] > 0)  # lung itself is not lowered
        if not mask.any():
            continue
        enhanced = fall[mask & (fall > ENHANCED)]
        most = max(CALCIUM * float(np.median(enhanced)) if enhanced.size else 0.0, CALCIUM_HU - _level(uptake))
        dense = mask & (fall > most) if uptake.tissue not in VEINS else np.zeros_like(mask)
        calcium[box] |= dense  # calcium, stones and metal hold no blood
        # Where the edge of a small vessel is low, as of a vein in the liver, the scan smoothed within structures is too
        # dark; the mean within the label is not.
        fall = np.maximum(fall, _within_label(hu[box], mask & ~dense) - _level(uptake))
        fall = np.where(dense, 0, fall)
        removed[box] += np.where(mask, fall, 0)
        means[names[number]] = round(float(fall[mask].mean()), 1)
    # Labels end at voxel borders, blood does not: beyond them the edge of what is removed is as soft as the kernel, as
    # far as a voxel is brighter than soft tissue.
    soft = ndimage.gaussian_filter(removed, [PSF_MM / s for s in spacing], mode="nearest")
    removed = np.where(labels > 0, removed, np.minimum(soft, np.maximum(hu - SOFT, 0)))
    bright = body_mask(hu) & ~np.isin(labels, list(names)) & (value > BRIGHT[0]) & (value < BRIGHT[1])
    ml = float(np.prod(spacing)) / 1000
    record = {
        "removed": means,
        "unchanged": sorted(unchanged),
        "assumed": sorted(assumed),
        "calcium_ml": round(float(calcium.sum()) * ml, 1),
        "unlabelled_bright_ml": round(float(ndimage.binary_opening(bright).sum()) * ml, 1),
    }
    return Twin(hu - removed, removed, record)


def _level(uptake: Uptake) -> float:
    """HU of a structure without contrast medium; a kidney's cortex and medulla have nearly the same."""
    return TISSUES["heart_muscle" if uptake.tissue == "heart" else uptake.tissue].hu


def _within(hu: Array, spacing: Sequence[float]) -> Array:
    """The scan smoothed within structures, with a variance of 2 · 1.5² mm² where there are no edges.

    Over at least one voxel along each axis: the noise of a scan of large voxels would be removed with the medium.
    """
    finer = [max(SMOOTH_MM / s, 1.0) for s in spacing]
    return scan_within_structures(hu, SLOPE * SMOOTH_MM, finer, [slice(0, n) for n in hu.shape])


def _within_label(hu: Array, mask: Array) -> Array:
    """Gaussian mean over one voxel of the voxels of the mask."""
    weight = ndimage.gaussian_filter(mask.astype(np.float32), 1.0, mode="constant")
    return ndimage.gaussian_filter(np.where(mask, hu, 0), 1.0, mode="constant") / np.maximum(weight, 1e-3)
