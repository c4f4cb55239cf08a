"""Paint the trunk: table, skin, fat and muscles around the body cavity, and the surface of the diaphragm."""

from dataclasses import dataclass

import numpy as np

from medgen.phantom.anatomy.labels import LABELS
from medgen.phantom.anatomy.shapes import WHOLE, Array, Canvas, smin, stream


@dataclass(frozen=True)
class Habitus:
    """Body type of one patient: lengths in mm, ``belly`` and ``age`` from 0 to 1."""

    fat: float  # thickness of subcutaneous fat
    belly: float  # visceral fat
    muscle: float  # factor on muscle thickness
    age: float
    frame: tuple[float, float, float]  # factor on width, depth and height


def draw_habitus(seed: int) -> Habitus:
    """Draw the body type of the patient of a seed."""
    rng = stream(seed, "habitus")
    build = rng.beta(2, 2.6)
    frame = 1 + rng.normal(0, 0.025) + rng.normal(0, 0.015, 3)
    frame = frame.clip(0.94, 1.05)
    return Habitus(
        fat=float(7 + 27 * build + np.clip(rng.normal(0, 2), -3, 3)),
        belly=float(np.clip(0.75 * build + 0.4 * rng.beta(2, 2) - 0.08, 0.02, 1)),
        muscle=float(rng.uniform(0.85, 1.15)),
        age=float(rng.uniform(0, 1)),
        frame=(float(frame[0]), float(frame[1]), float(frame[2])),
    )


def table_height(habitus: Habitus) -> float:
    """Return y (mm) of the field-of-view centre, which is set to the middle of the patient."""
    front, back = 96 + 26 * habitus.belly + 1.2 * habitus.fat, 109 + 0.7 * habitus.fat
    return (front - back) / 2 - 5


def squircle(
    x: Array, y: Array, width: Array | float, front: Array | float, back: Array | float, power: float
) -> Array:
    """Radial distance to a superellipse with different half-depths in front and at the back."""
    depth = np.where(y > 0, front, back).astype(np.float32)
    f = ((np.abs(x) / width) ** power + (np.abs(y) / depth) ** power) ** np.float32(1 / power)
    r = np.sqrt(x * x + y * y)
    return r * (1 - 1 / np.maximum(f, 0.02))


def spine_depth(z: Array | float) -> Array:
    """Return y (mm) of the centre of the vertebral bodies, with lumbar lordosis and thoracic kyphosis."""
    return np.asarray(
        -37 + 9 * np.exp(-(((np.asarray(z) + 90) / 70) ** 2)) - 8 / (1 + np.exp(-(np.asarray(z) - 70) / 25)),
        np.float32,
    )


@dataclass
class Trunk:
    """Surfaces used by several organs: signed distances (X, Y, Z) in mm."""

    cavity: Array  # inside of the rib cage and abdominal wall
    dome: Array  # positive above the diaphragm
    skin: Array


def paint_wall(canvas: Canvas, habitus: Habitus) -> Trunk:
    """Paint table, skin, fat, muscles and the fat-filled cavity; return the surfaces."""
    x, y, z = canvas.x, canvas.y, canvas.z
    heights = canvas.axes[2][None, None, :]
    low = 1 / (1 + np.exp((heights - 20) / 28))  # 1 in the abdomen, 0 in the chest
    erector = back_muscle(x, y, z, low, habitus.muscle)
    cavity, muscle = wall_surfaces(canvas, habitus, low, erector)
    skin = muscle - fat_thickness(canvas, habitus, low)
    flat = -y - (109 + 0.7 * habitus.fat)  # the table flattens the back
    skin = -smin(-skin, -flat, 10.0)
    paint_table(canvas, skin)
    canvas.paint("skin", LABELS["skin"], WHOLE, skin)
    canvas.paint("fat_subcutaneous", LABELS["fat"], WHOLE, skin + 2.0)
    septa = np.abs(canvas.bumps("septa", WHOLE, 22, 12.0)) - 0.35
    canvas.paint("fascia", LABELS["fat"], WHOLE, np.maximum(septa, skin + 3.0), opacity=0.22)
    wall = np.maximum(muscle, skin + 4)
    linea = np.where(y > 0, 3.0 - np.abs(x), -50)  # no muscle in the anterior midline
    canvas.paint("fascia", LABELS["muscle"], WHOLE, wall - 0.3)
    canvas.paint("muscle", LABELS["muscle"], WHOLE, np.maximum(wall + 0.8, linea))
    paint_fat_planes(canvas, habitus, cavity, muscle, wall, erector)
    canvas.paint("muscle", LABELS["muscle"], WHOLE, cavity - 2.0)  # transversus, intercostals
    canvas.paint("fat_visceral", LABELS["fat"], WHOLE, cavity)
    return Trunk(cavity, diaphragm(canvas, cavity), skin)


def wall_surfaces(canvas: Canvas, habitus: Habitus, low: Array, erector: Array) -> tuple[Array, Array]:
    """Return signed distances to the inner and outer surface of the muscular wall."""
    x, y, heights = canvas.x, canvas.y, canvas.axes[2][None, None, :]
    waist = 5 * np.exp(-(((heights + 40) / 45) ** 2)) + 9 / (1 + np.exp(-(heights - 75) / 25))
    width = 137 + 7 * habitus.belly * low - waist
    front = 84 + 26 * habitus.belly * low + 8 * (1 - low)
    cavity = squircle(x, y, width, front, 76, 2.45) + canvas.bumps("cavity", WHOLE, 45, 1.2)
    cavity = -smin(-cavity, erector - 1.0, 8.0)
    angle = np.arctan2(np.abs(x), -y)  # 0 at the back, pi in front
    flank, seam = np.exp(-(((angle - 1.45) / 0.5) ** 2)), np.exp(-(((angle - 2.45) / 0.17) ** 2))
    thick = habitus.muscle * (low * (8.5 + 6.5 * flank - 4 * seam) + (1 - low) * (13 + 4 * flank))
    groove = 6 * np.exp(-((x / 9) ** 2)) / (1 + np.exp((y + 50) / 10))
    muscle = squircle(x, y, width + thick + 2, front + thick * 0.9, 93, 2.4) + groove
    return cavity, smin(muscle, erector - 3.0, 14.0)


def fat_thickness(canvas: Canvas, habitus: Habitus, low: Array) -> Array:
    """Return the thickness of subcutaneous fat (mm): most at posterior flanks and belly, least at the spine."""
    x, y = canvas.x, canvas.y
    angle = np.arctan2(np.abs(x), -y)
    around = 0.72 + 0.5 * np.exp(-(((angle - 0.95) / 0.5) ** 2))
    around += 0.45 * low * np.exp(-(((angle - 3.1) / 0.8) ** 2))
    fat = habitus.fat * (around + 0.12 * canvas.bumps("fat", WHOLE, 70, 1.0)) + 3
    return fat * (1 - 0.5 * np.exp(-((x / 12) ** 2)) / (1 + np.exp((y + 50) / 10)))


def paint_fat_planes(
    canvas: Canvas, habitus: Habitus, cavity: Array, muscle: Array, wall: Array, erector: Array
) -> None:
    """Paint the fat between the muscles of the wall, and intramuscular fat that increases with age."""
    x, y, z = canvas.x, canvas.y, canvas.z

    def fat(sd: Array, opacity: float) -> None:
        canvas.paint("fat_visceral", LABELS["muscle"], WHOLE, sd, opacity=opacity)

    fat(np.maximum(np.abs(erector - 0.5) - 0.7, np.maximum(wall + 4, y + 66)), 0.4)
    ragged = np.abs(canvas.bumps("ragged", WHOLE, 16, 1.0))
    flank = np.maximum(np.maximum(62 - np.abs(x), -58 - y), wall + 2)
    for fraction in (0.36, 0.68):  # between external oblique, internal oblique and transversus
        sheet = np.abs(muscle * (1 - fraction) + cavity * fraction + 1.0) - 0.45 + 0.5 * ragged
        fat(np.maximum(sheet, flank), 0.45)
    sheet = np.abs(cavity - 11.5 + 2 * ragged) - 1.1 + 0.9 * ragged  # between ribs and latissimus, serratus
    fat(np.maximum(sheet, np.maximum(wall + 1, 10 - z)), 0.8)
    marbling = np.abs(canvas.bumps("marbling", WHOLE, 13, 6.0)) - 0.45
    fat(np.maximum(marbling, wall + 2), 0.15 + 0.4 * habitus.age)


def back_muscle(x: Array, y: Array, z: Array, low: Array, muscle: float) -> Array:
    """Return the distance (mm) to erector spinae and multifidus, thick in the lumbar region and thin in the chest."""
    wide, deep = (25 + 9 * low) * muscle, (15 + 12 * low) * muscle
    f = np.hypot((np.abs(x) - 28 - 4 * low) / wide, (y - spine_depth(z) + 43 + 5 * low) / deep)
    return ((f - 1) * 0.5 * (wide + deep)).astype(np.float32)


def paint_table(canvas: Canvas, skin: Array) -> None:
    """Paint a curved carbon table and a mattress below the back, without contact to the skin."""
    x, y, _ = np.meshgrid(*canvas.axes, indexing="ij", sparse=True)
    inside = np.nonzero((skin < 0).any(axis=(0, 2)))[0]
    lowest = float(canvas.axes[1][inside[0]]) if len(inside) else -110.0
    top = lowest - 14 + np.maximum(np.abs(x) - 60, 0) ** 2 / 420 + 0 * canvas.axes[2][None, None, :]
    edge = np.abs(x) - 195
    under = np.maximum(y - top, edge)
    canvas.paint("mattress", 0, WHOLE, np.maximum(np.maximum(y - top - 9, top - y), edge))
    canvas.paint("table_core", 0, WHOLE, np.maximum(under, top - 26 - y))
    canvas.shell("table", 0, WHOLE, np.maximum(under, top - 26 - y), 2.3)


def diaphragm(canvas: Canvas, cavity: Array) -> Array:
    """Return the approximate distance above the diaphragm: two domes that descend to a recess along the wall."""
    rng = stream(canvas.seed, "diaphragm")
    x, y, z = canvas.x, canvas.y, canvas.z
    right, left = 74 + rng.normal(0, 5), 62 + rng.normal(0, 5)
    behind = np.clip((4 - y) / 78, 0, None) ** 2 * 88 + np.clip((y - 4) / 78, 0, None) ** 2 * 20
    wall = 44 * np.exp(np.clip(cavity, -60, 0) / 5.5) * (0.4 + 0.6 / (1 + np.exp((y - 25) / 18)))
    domes = [top - 46 * np.abs((x - cx) / 68) ** 2.2 for top, cx in ((right, 66.0), (left, -66.0), (right - 22, 0.0))]
    height = -smin(smin(-domes[0], -domes[1], 12.0), -domes[2], 12.0)
    above = z - (height - behind - wall)
    if min(above.shape) < 2:
        return above
    slope = sum(g * g for g in np.gradient(above, *canvas.spacing))
    return above / np.sqrt(np.clip(slope, 1, 25))
