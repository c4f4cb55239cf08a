"""Build the anatomy of one patient: paint all tissues in order, and convert the layers to HU and labels."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from medgen.phantom.anatomy.chest import paint_heart, paint_lungs
from medgen.phantom.anatomy.lesions import paint_lesions
from medgen.phantom.anatomy.shapes import WHOLE, Array, Canvas, Layer, stream
from medgen.phantom.anatomy.skeleton import paint_ribs, paint_spine
from medgen.phantom.anatomy.tissues import TISSUES, draw_values
from medgen.phantom.anatomy.torso import draw_habitus, paint_wall, table_height
from medgen.phantom.anatomy.vessels import (
    paint_great_vessels,
    paint_liver_vessels,
    paint_mesentery,
)
from medgen.phantom.anatomy.viscera import (
    liver,
    paint_adrenals,
    paint_back_muscles,
    paint_gallbladder,
    paint_gut,
    paint_kidney,
    paint_solid,
    spleen,
)


@dataclass(frozen=True)
class Anatomy:
    """Anatomy of one patient before any scan: tissue layers from bottom to top, HU of each tissue in each phase,
    texture in HU and labels (X, Y, Z)."""

    seed: int
    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    layers: list[Layer]
    values: dict[str, dict[str, float]]
    texture: Array  # HU, the same in every scan of this patient
    labels: Array
    info: dict[str, Any]

    def mixture(self, phase: str) -> Array:
        """Return noise-free HU (X, Y, Z) float32 in a phase, with partial volume effects between tissues."""
        values = self.values[phase]
        hu = np.full(self.size, values["air"], np.float32)
        for layer in self.layers:
            part = hu[layer.box]
            value = np.float32(values[layer.tissue])
            part += layer.alpha * ((value if layer.shade is None else value + layer.shade) - part)
        return hu + self.texture


def build_anatomy(
    seed: int, size: tuple[int, int, int], spacing: tuple[float, float, float], lesions: bool = True
) -> Anatomy:
    """Build the patient of a seed on a grid; the same seed gives the same patient on every grid."""
    habitus = draw_habitus(seed)
    canvas = Canvas(size, spacing, seed, habitus.frame, table_height(habitus))
    trunk = paint_wall(canvas, habitus)
    paint_lungs(canvas, trunk)
    paint_heart(canvas, trunk)
    paint_ribs(canvas, trunk)
    paint_spine(canvas)
    paint_back_muscles(canvas, habitus)
    paint_mesentery(canvas, trunk, habitus)
    paint_gut(canvas, trunk, habitus)
    organs = liver(canvas, trunk), spleen(canvas, trunk)
    for region, name in zip(organs, ("liver", "spleen"), strict=True):
        paint_solid(canvas, region, name)
    paint_gallbladder(canvas)
    paint_adrenals(canvas)
    kidneys = [paint_kidney(canvas, side) for side in (1, -1)]
    paint_great_vessels(canvas, habitus)
    paint_liver_vessels(canvas, organs[0])
    found = paint_lesions(canvas, organs[0], kidneys) if lesions else []
    values, factors = draw_values(seed)
    info = {"habitus": habitus.__dict__, "enhancement": factors, "lesions": found}
    texture, labels = finish(canvas)
    return Anatomy(seed, size, spacing, canvas.layers, values, texture, labels, info)


def finish(canvas: Canvas) -> tuple[Array, Array]:
    """Return the texture in HU and the label of every voxel (the topmost tissue that fills at least half of it)."""
    amount, labels = np.zeros(canvas.size, np.float32), np.zeros(canvas.size, np.uint8)
    for layer in canvas.layers:
        part = amount[layer.box]
        part += layer.alpha * (np.float32(TISSUES[layer.tissue].texture) - part)
        labels[layer.box][layer.alpha >= 0.5] = layer.label
    grain = stream(canvas.seed, "grain").standard_normal(canvas.size, dtype=np.float32)
    texture = amount * (0.75 * canvas.bumps("texture", WHOLE, 5.5, 1.0) + 0.5 * grain)
    return texture, labels
