"""Randomised patients: pairs of a CT with contrast medium and the same CT without, as varied as they can be made.

The embedded cohort (``cohort.py``) is made to look like patients; this one to cover more than patients show, so that a
network trained on it takes a real scan for one more variation (Billot et al., Med Image Anal 2023;86:102789). Both
scans share blur and noise: their difference is the iodine alone, which is what a network must learn to subtract.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from medgen.phantom.anatomy.lesions import paint_lesions
from medgen.phantom.anatomy.pelvis import paint_pelvis
from medgen.phantom.anatomy.shapes import WHOLE, Array, Canvas, smooth_field, stream
from medgen.phantom.anatomy.skeleton import Ribs, paint_inlet, paint_ribs, paint_spine
from medgen.phantom.anatomy.thorax import paint_shoulders, paint_thorax
from medgen.phantom.anatomy.torso import Habitus, paint_wall, table_height
from medgen.phantom.anatomy.vessels import paint_great_vessels, paint_liver_vessels, paint_mesentery
from medgen.phantom.anatomy.viscera import (
    Kidney,
    liver,
    paint_adrenals,
    paint_back_muscles,
    paint_gallbladder,
    paint_gut,
    paint_kidney,
    paint_solid,
    spleen,
)
from medgen.phantom.ct_physics import bias, noise, path_length
from medgen.phantom.random_parts import paint_extra_bones, paint_extra_vessels, paint_implants, paint_surroundings
from medgen.phantom.random_tissues import ALL_TISSUES, Draw, draw_tissues


@dataclass(frozen=True)
class RandomScan:
    """One randomised scan on a grid (X, Y, Z): float32 HU with contrast medium and without, labels, and its draw."""

    contrast: Array
    noncontrast: Array
    labels: Array
    info: dict[str, Any]


def random_grid(seed: int, most: tuple[int, int, int]) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Grid of a random scan: voxels (X, Y, Z) and spacing (mm), from thin slices of a crop to thick ones of a trunk.

    Args:
        seed: of the patient.
        most: its product is the largest number of voxels.
    """
    rng = stream(seed, "grid")
    fine = float(np.exp(rng.uniform(np.log(0.7), np.log(3.2))))
    thick = fine if rng.random() < 0.35 else float(np.exp(rng.uniform(np.log(0.8), np.log(5.0))))
    wide = float(rng.choice((rng.uniform(110, 200), rng.uniform(200, 420))))
    extent = np.array([wide, wide * rng.uniform(0.7, 1), rng.uniform(70, 260)])
    spacing = np.array([fine, fine, thick])
    voxels = extent / spacing
    crowded = max(1.0, float(np.prod(voxels) / np.prod(most)))
    extent /= crowded ** (1 / 6)  # half of what is too much is cut off, half is made coarser
    spacing *= crowded ** (1 / 6)
    voxels = np.maximum(16, np.floor(extent / spacing))
    voxels[:2] *= min(1.0, np.sqrt(np.prod(most) / np.prod(voxels)))  # few thick slices are narrower
    voxels = np.maximum(16, voxels).astype(int)
    return tuple(int(n) for n in voxels), tuple(round(float(s), 3) for s in spacing)  # type: ignore[return-value]


def random_anatomy(seed: int, size: tuple[int, int, int], spacing: tuple[float, float, float]) -> Canvas:
    """Layers of one random patient: build, posture, organs, vessels, implants, at a random place along the body."""
    rng = stream(seed, "random anatomy")
    frame = rng.uniform(0.82, 1.2) * rng.uniform(0.9, 1.1, 3)
    habitus = Habitus(
        fat=float(rng.uniform(3, 45)),
        belly=float(rng.uniform(0, 1)),
        muscle=float(rng.uniform(0.7, 1.3)),
        age=float(rng.uniform(0, 1)),
        frame=(float(frame[0]), float(frame[1]), float(frame[2])),
    )
    height = float(
        rng.choice((rng.uniform(120, 230), rng.uniform(-40, 120), rng.uniform(-230, -40)), p=(0.4, 0.3, 0.3))
    )
    wide = [n * s for n, s in zip(size, spacing, strict=True)]
    # A crop smaller than the body looks at its middle or aside of it; a whole field of view at the middle.
    side = float(rng.uniform(-1, 1) * max(0.0, 150 - wide[0] / 2))
    depth = float(rng.uniform(-1, 1) * max(0.0, 110 - wide[1] / 2))
    canvas = Canvas(
        size,
        spacing,
        seed,
        habitus.frame,
        table_height(habitus) + depth,
        warp=float(rng.uniform(2, 8)),
        height=height,
        side=side,
    )
    trunk = paint_wall(canvas, habitus)
    paint_thorax(canvas, trunk)
    limits = {"thick": (1.2, 4.0), "cortex": (0.3, 1.6), "shade": (0, 60), "tall": (0.3, 4), "depth": (2.5, 6.5)}
    # Steep ribs are short, faint spots in thick axial slices, and touch the liver.
    ribs = Ribs(
        **{name: float(rng.uniform(*both)) for name, both in limits.items()},
        steep=float(rng.uniform(0.9, 3.2)),
        tissue="rib_cortex",
    )
    paint_ribs(canvas, trunk, ribs, crests=False)
    paint_spine(canvas, lowest=-150.0)
    paint_inlet(canvas, ribs.thick, ribs.cortex)
    paint_shoulders(canvas)
    paint_back_muscles(canvas, habitus)
    paint_mesentery(canvas, trunk, habitus)
    paint_gut(canvas, trunk, habitus)
    # In most patients liver and spleen touch the wall, and ribs lie beside them without fat between.
    organs = liver(canvas, trunk, float(rng.uniform(-3, 3))), spleen(canvas, trunk, float(rng.uniform(-3, 4)))
    present = [rng.random() < p for p in (0.97, 0.92)]
    for region, name, there in zip(organs, ("liver", "spleen"), present, strict=True):
        if there:
            paint_solid(canvas, region, name)
    if rng.random() < 0.7:
        paint_gallbladder(canvas)
    paint_adrenals(canvas)
    kidneys = [paint_kidney(canvas, side, random_kidney(rng)) for side in (1, -1) if rng.random() < 0.93]
    paint_great_vessels(canvas, habitus)
    if present[0]:
        paint_liver_vessels(canvas, organs[0])
        paint_lesions(canvas, organs[0], kidneys)
    paint_pelvis(canvas, trunk)
    paint_extra_bones(canvas, trunk)
    paint_extra_vessels(canvas, trunk)
    paint_implants(canvas, trunk)
    paint_surroundings(canvas, trunk)
    return canvas


def random_kidney(rng: np.random.Generator) -> Kidney:
    """A kidney of another size and place, turned, and with little fat around it in half of the patients."""
    move = rng.normal(0, (6, 8, 14))
    return Kidney(
        move=(float(move[0]), float(move[1]), float(move[2])),
        size=float(rng.uniform(0.75, 1.25)),
        turn=float(rng.uniform(0.1, 1.0)),
        fat=float(rng.choice((rng.uniform(-2, 3), rng.uniform(3, 14)))),
        cortex=float(rng.uniform(3, 9)),
    )


def composed(canvas: Canvas, draw: Draw) -> tuple[Array, Array]:
    """HU without contrast medium and HU added by iodine (X, Y, Z), both without noise: partial volume by layers."""
    hu = np.full(canvas.size, draw.hu["air"], np.float32)
    iodine = np.zeros(canvas.size, np.float32)
    rng = stream(canvas.seed, "mixing")
    field = smooth_field(rng, canvas.axes, float(rng.uniform(5, 20)))
    steep = float(rng.choice((1.0, rng.uniform(1, 12))))  # blood with and without contrast medium can meet at an edge
    field = np.tanh(steep * field) if steep > 1 else field
    for layer in canvas.layers:
        value, added = np.float32(draw.hu[layer.tissue]), np.float32(draw.iodine[layer.tissue])
        under, iodine_under = hu[layer.box], iodine[layer.box]
        under += layer.alpha * ((value if layer.shade is None else value + layer.shade) - under)
        if added and draw.mixing[layer.tissue]:
            share = np.clip(1 + np.float32(draw.mixing[layer.tissue]) * field[layer.box], 0, 2)
            iodine_under += layer.alpha * (added * share - iodine_under)
        else:
            iodine_under += layer.alpha * (added - iodine_under)
    return hu, iodine


def texture(canvas: Canvas, rng: np.random.Generator) -> Array:
    """HU of variation within tissues, of a random strength."""
    amount = np.zeros(canvas.size, np.float32)
    for layer in canvas.layers:
        part = amount[layer.box]
        part += layer.alpha * (np.float32(ALL_TISSUES[layer.tissue].texture) - part)
    grain = ndimage.gaussian_filter(stream(canvas.seed, "grain").standard_normal(canvas.size, dtype=np.float32), 0.6)
    strength = float(rng.uniform(0.3, 1.8))
    return strength * amount * (0.75 * canvas.bumps("texture", WHOLE, float(rng.uniform(3.5, 9)), 1.0) + grain)


def labels_of(canvas: Canvas) -> Array:
    """Label of the topmost tissue that fills at least half of each voxel."""
    labels = np.zeros(canvas.size, np.uint8)
    for layer in canvas.layers:
        labels[layer.box][layer.alpha >= 0.5] = layer.label
    return labels


def scan_pair(canvas: Canvas, draw: Draw, rng: np.random.Generator) -> tuple[Array, Array]:
    """Contrast and non-contrast scans (HU) of one canvas, with one kernel, one noise and one bias."""
    hu, iodine = composed(canvas, draw)
    hu = hu + texture(canvas, rng)
    # Kernel: blur of 0 to 1.3 mm (soft), or edge enhancement (sharp).
    width = [float(rng.uniform(0, 1.3)) / s for s in canvas.spacing]
    hu, iodine = (ndimage.gaussian_filter(v, width, mode="nearest") for v in (hu, iodine))
    if rng.random() < 0.35:
        amount, wide = float(rng.uniform(0.1, 1.0)), [1.2 / s for s in canvas.spacing]
        hu, iodine = (v + amount * (v - ndimage.gaussian_filter(v, wide, mode="nearest")) for v in (hu, iodine))
    path = path_length(hu, canvas.spacing)
    sigma = float(np.exp(rng.uniform(np.log(3), np.log(40))))
    rough = noise(hu.shape, canvas.spacing, rng)
    smooth = float(rng.uniform(0, 1.2))
    if smooth > 0.3:
        rough = ndimage.gaussian_filter(rough, smooth)
        rough /= rough.std()
    added = rough * (sigma * path) + bias(hu + iodine, path, canvas.spacing, rng) * float(rng.uniform(0, 1.5))
    added += float(rng.normal(0, 4))  # calibration
    streaks = beam_hardening(iodine, canvas.spacing) * float(rng.uniform(0, 1))
    plain = np.maximum(hu + added, -1024)
    return np.maximum(plain + iodine + streaks, -1024).astype(np.float32), plain.astype(np.float32)


def beam_hardening(iodine: Array, spacing: tuple[float, float, float]) -> Array:
    """Dark bands beside dense contrast medium (HU below 0), in the slice."""
    dense = np.clip(iodine - 200, 0, 800)
    if not dense.any():
        return np.zeros_like(iodine)
    wide = ndimage.uniform_filter1d(dense, max(1, int(50 / spacing[0])), axis=0, mode="constant")
    wide = ndimage.uniform_filter1d(wide, max(1, int(5 / spacing[1])), axis=1, mode="constant")
    return (-0.25 * np.minimum(wide, 120) * (dense < 20)).astype(np.float32)


def random_scan(
    seed: int, size: tuple[int, int, int], spacing: tuple[float, float, float], draws: int = 1
) -> list[RandomScan]:
    """``draws`` scans of the random patient of a seed: other phases, attenuations, kernels and noise of one anatomy."""
    canvas = random_anatomy(seed, size, spacing)
    labels = labels_of(canvas)
    found = []
    for k in range(draws):
        rng = stream(seed, f"scan {k}")
        draw = draw_tissues(rng)
        contrast, plain = scan_pair(canvas, draw, rng)
        found.append(RandomScan(contrast, plain, labels, {"seed": seed, "draw": k, "phase": draw.phase}))
    return found
