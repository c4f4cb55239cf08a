"""Contrast CT with known truth: iodine added to a real non-contrast CT, structure by structure, as its labels say.

Collecting same-patient pairs of contrast and non-contrast CT is rarely possible. Attenuation is linear in iodine
concentration, so that a real scan plus simulated iodine keeps the scan's own texture, noise and artefacts, and its
truth is the scan itself. What it cannot show: vessels and lesions that no label names, motion between phases, and the
change of noise with another dose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from medgen.contrast.enhancement import PHASES, Uptake, draw_iodine, uptake_of

Array = np.ndarray
PSF_MM = 0.9  # standard deviation of the blur of the added iodine: a body kernel, in the slice
RIM_MM = 3.0  # thickness of an enhancing wall
CORTEX_MM = 7.0  # thickness of the renal cortex, with columns
CALCIUM = (110.0, 180.0)  # HU above which a voxel of a vessel or organ is more and more calcification, no iodine
FAT = (-80.0, -20.0)  # HU below which a voxel holds no blood


@dataclass(frozen=True)
class Simulation:
    """HU (X, Y, Z) float32 with contrast medium, the HU added, and what was added to which structure."""

    contrast: Array
    iodine: Array
    record: dict[str, Any]


def simulate(
    hu: Array,
    labels: Array,
    names: Mapping[int, str],
    spacing: Sequence[float],
    phase: str,
    seed: int,
    *,
    excreted: bool = False,
    oral: bool = False,
) -> Simulation:
    """Add contrast medium of one phase to a non-contrast CT.

    Args:
        hu: (X, Y, Z) HU without contrast medium.
        labels: (X, Y, Z) integer label map on the same grid.
        names: value → structure name; see `enhancement.uptake_of` for the names that are known.
        spacing: mm.
        phase: "arterial", "portal_venous" or "late".
        seed: of the patient's dose, timing and mixing; the same seed and phase give the same scan.
        excreted: dense urine in the collecting system and bladder, also before the late phase.
        oral: the content of stomach and bowel is dense, with and without contrast medium: it is added to both.

    Returns:
        The simulation; ``contrast - iodine`` is the truth, which with ``oral`` holds the oral contrast medium too.

    Raises:
        ValueError: shapes that differ, or an unknown phase.
    """
    if hu.shape != labels.shape:
        raise ValueError(f"image {hu.shape} and labels {labels.shape} must have one shape")
    if phase not in PHASES:
        raise ValueError(f"phase {phase!r} must be one of {', '.join(PHASES)}")
    rng = np.random.default_rng([seed, PHASES.index(phase)])
    drawn = draw_iodine(phase, rng)
    if excreted:
        drawn["urine"] = float(rng.uniform(150, 900))
    field = _mixing_field(hu.shape, spacing, rng)
    smooth = ndimage.gaussian_filter(hu, [1.5 / s for s in spacing], mode="nearest")  # without noise: what a voxel is
    added = np.zeros(hu.shape, np.float32)
    record: dict[str, float] = {}
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        uptake = uptake_of(names[value]) if value in names else None
        if box is None or uptake is None or not drawn.get(uptake.tissue):
            continue
        box = _grown(box, labels.shape, spacing)
        mask = labels[box] == value
        amount = _amount(mask, smooth[box], uptake, drawn, spacing)
        added[box] += np.where(mask, amount * np.clip(1 + uptake.mixing * field[box], 0, 2), 0)
    blood = np.clip((hu - FAT[0]) / (FAT[1] - FAT[0]), 0, 1)
    calcium = np.clip((hu - CALCIUM[0]) / (CALCIUM[1] - CALCIUM[0]), 0, 1)
    bone = np.isin(labels, [v for v, name in names.items() if is_bone(name)])
    added *= blood * np.where(bone, 1, 1 - calcium)
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        uptake = uptake_of(names[value]) if value in names else None
        if box is not None and uptake is not None and drawn.get(uptake.tissue):
            record[names[value]] = round(float(added[box][labels[box] == value].mean()), 1)
    iodine = ndimage.gaussian_filter(added, [PSF_MM / s for s in spacing], mode="nearest")
    iodine += _beam_hardening(iodine, spacing) * float(rng.uniform(0.2, 1))
    plain = hu + (_oral(hu, labels, names, spacing, rng) if oral else 0)
    return Simulation(
        (plain + iodine).astype(np.float32), iodine.astype(np.float32), {"phase": phase, "seed": seed, "added": record}
    )


def _amount(
    mask: Array, hu: Array, uptake: Uptake, drawn: Mapping[str, float], spacing: Sequence[float]
) -> Array | float:
    """HU added in a structure before mixing: a number, or one for each voxel."""
    if uptake.place == "rim":
        depth = ndimage.distance_transform_edt(mask, sampling=spacing)
        wall = np.clip((hu + 30) / 40, 0, 1)  # gas and fat at the border hold none
        return np.where(depth <= RIM_MM, drawn[uptake.tissue], 0) * wall
    if uptake.place == "cortex":
        depth = ndimage.distance_transform_edt(mask, sampling=spacing)
        inner = np.clip((depth - CORTEX_MM + 1.5) / 3, 0, 1)
        amount = drawn["renal_cortex"] * (1 - inner) + drawn["renal_medulla"] * inner
        return amount * np.clip((hu + 10) / 25, 0, 1)  # sinus fat and urine hold none
    if uptake.place == "vessels":
        return drawn[uptake.tissue] * np.clip((hu + 500) / 450, 0, 1)
    return drawn[uptake.tissue]


def _oral(
    hu: Array, labels: Array, names: Mapping[int, str], spacing: Sequence[float], rng: np.random.Generator
) -> Array:
    """HU of oral contrast medium in the content of stomach and bowel."""
    hollow = [
        v for v, name in names.items() if any(w in name.lower() for w in ("stomach", "bowel", "colon", "duodenum"))
    ]
    inside = np.isin(labels, hollow)
    depth = ndimage.distance_transform_edt(inside, sampling=spacing)
    content = np.clip((depth - RIM_MM) / 2, 0, 1) * np.clip((hu + 100) / 100, 0, 1)
    return ndimage.gaussian_filter(content * float(rng.uniform(100, 400)), [PSF_MM / s for s in spacing])


def _mixing_field(shape: tuple[int, ...], spacing: Sequence[float], rng: np.random.Generator) -> Array:
    """Smooth noise of unit variance with bumps of about 8 mm."""
    rough = rng.standard_normal(shape, dtype=np.float32)
    smooth = ndimage.gaussian_filter(rough, [4.0 / s for s in spacing], mode="wrap")
    return smooth / max(float(smooth.std()), 1e-6)


def _beam_hardening(iodine: Array, spacing: Sequence[float]) -> Array:
    """HU below 0: dark bands beside dense contrast medium, along x and in the slice (Barrett & Keat 2004)."""
    dense = np.clip(iodine - 250, 0, 800)
    if not dense.any():
        return np.zeros_like(iodine)
    wide = ndimage.uniform_filter1d(dense, max(1, round(50 / spacing[0])), axis=0, mode="constant")
    wide = ndimage.uniform_filter1d(wide, max(1, round(5 / spacing[1])), axis=1, mode="constant")
    return -0.2 * np.minimum(wide, 120) * (dense < 20)


def is_bone(name: str) -> bool:
    """Whether a label's name means a bone, or a lesion in one."""
    return any(term in name.lower() for term in ("vertebra", "sacrum", "rib", "bone", "hip", "femur", "sternum"))


def _grown(box: tuple[slice, ...], shape: tuple[int, ...], spacing: Sequence[float]) -> tuple[slice, ...]:
    margin = [int(np.ceil(2 / s)) + 1 for s in spacing]
    return tuple(slice(max(0, b.start - m), min(n, b.stop + m)) for b, m, n in zip(box, margin, shape, strict=True))
