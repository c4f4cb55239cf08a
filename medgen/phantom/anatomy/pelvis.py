"""Pelvis for the randomised cohort: iliac vessels, hip bones, femurs and bladder, below the embedded cohort's view."""

from dataclasses import dataclass

import numpy as np

from medgen.phantom.anatomy.labels import LABELS
from medgen.phantom.anatomy.shapes import Array, Canvas, ellipsoid, stream
from medgen.phantom.anatomy.thorax import marrow, paint_long_bone
from medgen.phantom.anatomy.torso import Trunk


@dataclass(frozen=True)
class Hip:
    """Shape of the hip bones of one patient, mm.

    Attributes:
        top: z of the iliac crest.
        wing, rim: half the thickness of the ilium in its middle, and at its crest, spines and sacroiliac joint.
        bulge: lateral bulge of the wing in its middle.
        wide: lateral shift.
        cortex: thickness of the cortex.
    """

    top: float
    wing: float
    rim: float
    bulge: float
    wide: float
    cortex: float


def paint_pelvis(canvas: Canvas, trunk: Trunk) -> None:
    """Bones first, then bladder and vessels, as far as they lie in view (z below -80 mm)."""
    rng = stream(canvas.seed, "pelvis")
    if canvas.axes[2][0] > -80:
        return
    paint_pelvic_muscles(canvas, trunk)
    paint_sacrum(canvas)
    hip = Hip(
        top=float(rng.normal(-100, 8)),
        wing=float(rng.uniform(1.8, 5.5)),
        rim=float(rng.uniform(3.5, 9)),
        bulge=float(rng.uniform(-6, 14)),
        wide=float(rng.normal(0, 6)),
        cortex=float(rng.uniform(0.6, 3.0)),
    )
    for side in (1, -1):
        paint_hip(canvas, side, hip)
        paint_long_bone(canvas, [(side * 90, 0, -264), (side * 92, 0, -272)], [23, 23], f"femoral head {side}")
        paint_long_bone(
            canvas,
            [(side * 92, 0, -270), (side * 140, -4, -296), (side * 140, -4, -320)],
            [16, 17, 17],
            f"femur {side}",
        )
    box, sd = canvas.path([(0, 34, -240), (0, 30, -262)], [rng.uniform(15, 42)] * 2, "bladder", 2.0)
    canvas.paint("gut_wall", LABELS["bowel"], box, sd - 2.5)
    canvas.paint("bladder_urine", LABELS["collecting_system"], box, sd)
    for tissue, label, shift, start in (
        ("blood_cava", "veins", -8.0, (16, -16, -128)),
        ("blood_left", "arteries", 0.0, (-4, -8, -122)),
    ):
        for side in (1, -1):
            line = [
                start,
                (side * 32 + 4, -18 + shift, -170),
                (side * 56, 6 + shift, -226),
                (side * 74 + shift, 48, -290),
                (side * 78 + shift, 56, -320),
            ]
            where, tube = canvas.path(line, [7, 6, 5.2, 4.8, 4.5], f"iliac {tissue} {side}", 2.0, reach=4.0)
            canvas.paint("gut_wall", LABELS[label], where, tube - 0.8)
            canvas.paint(tissue, LABELS[label], where, tube)
            plaque = canvas.bumps(f"iliac plaque {side}", where, 6, 1.0) - rng.uniform(1.4, 3.5)
            if tissue == "blood_left":
                canvas.paint("calcification", LABELS[label], where, np.maximum(np.abs(tube - 0.3) - 0.8, -3 * plaque))


# (z in mm; sacroiliac end and front end of the wing in an axial plane, (x to the side, y), mm)
WING: tuple[tuple[float, tuple[float, float], tuple[float, float]], ...] = (
    (-80.0, (100.0, -56.0), (126.0, 4.0)),
    (-125.0, (78.0, -74.0), (130.0, 18.0)),
    (-165.0, (58.0, -84.0), (128.0, 44.0)),
    (-205.0, (56.0, -76.0), (112.0, 42.0)),
    (-235.0, (72.0, -46.0), (102.0, 28.0)),
    (-262.0, (84.0, -30.0), (98.0, 8.0)),
)


def paint_hip(canvas: Canvas, side: int, hip: Hip) -> None:
    """Hip bone of a side (1: right): wing with its crest, socket, pubis and ischium."""
    box = canvas.box((side * 85 - 70, -110, -300), (side * 85 + 70, 75, -65))
    x, y, z = canvas.at(box)
    if x.size:
        bump = canvas.bumps(f"hip shape {side}", box, 14, 1.2)
        paint_bone(canvas, box, wing_distance(side * x, y, z, hip) + bump, hip.cortex, f"hip {side}")
        socket = ellipsoid(x, y, z, (side * 88, -2, -262), (34, 32, 32)) + bump
        paint_bone(canvas, box, socket, hip.cortex, f"socket {side}")
    for name, line, radii in (
        ("pubis", [(72, 16, -262), (40, 38, -268), (8, 42, -284)], [12, 8, 10]),
        ("ischium", [(86, -22, -268), (72, -42, -296), (58, -42, -322)], [15, 14, 12]),
        ("ramus", [(58, -42, -322), (34, -2, -318), (9, 36, -292)], [10, 6, 8]),
    ):
        where, sd = canvas.path([(side * a, b, c) for a, b, c in line], radii, f"{name} {side}", 2.0, reach=4.0)
        if sd.size:
            paint_bone(canvas, where, sd, hip.cortex, f"{name} {side}")


def paint_bone(canvas: Canvas, box: tuple[slice, slice, slice], sd: Array, cortex: float, name: str) -> None:
    """Cortex (mm) around marrow of varying density."""
    canvas.paint("cortical_bone", LABELS["bone"], box, sd)
    canvas.paint("trabecular_bone", LABELS["bone"], box, sd + cortex, shade=marrow(canvas, name, box))


def wing_distance(x: Array, y: Array, z: Array, hip: Hip) -> Array:
    """Signed distance (mm) to the wing of the ilium, x to the side: a curved sheet, thick at its borders."""
    heights = [row[0] for row in reversed(WING)]
    ends = [(*joint, *front) for _, joint, front in reversed(WING)]
    xa, ya, xb, yb = (np.interp(z, heights, values).astype(np.float32) for values in zip(*ends, strict=True))
    along_x, along_y = xb - xa, yb - ya
    length = np.hypot(along_x, along_y)
    along = ((x - hip.wide - xa) * along_x + (y - ya) * along_y) / length  # mm from the joint
    across = ((x - hip.wide - xa) * along_y - (y - ya) * along_x) / length  # mm to the side and back
    t = along / length
    # The crest is an arch over the wing, highest in its middle.
    crest = hip.top - 95 * (np.clip(t, -0.3, 1.3) - 0.5) ** 2
    border = np.minimum(np.minimum(along, length - along), np.minimum(1.2 * (crest - z), z + 276))
    half = hip.wing + (hip.rim - hip.wing) * np.exp(-((np.clip(border, 0, None) / 9) ** 2))
    half = np.where(z < -205, half + 0.16 * (-205 - z), half)
    return np.maximum(np.abs(across - hip.bulge * 4 * t * (1 - t)) - half, -border)


def paint_pelvic_muscles(canvas: Canvas, trunk: Trunk) -> None:
    """Gluteal, iliopsoas, obturator and thigh muscles, with fat between them."""
    for side in (1, -1):
        for name, centre, radii in (
            ("gluteus", (78, -78, -235), (52, 30, 80)),
            ("gluteus medius", (118, -20, -190), (24, 52, 70)),
            ("obturator", (52, -14, -262), (18, 34, 40)),
            ("thigh", (96, 38, -320), (46, 30, 52)),
            ("adductor", (48, 18, -330), (34, 34, 46)),
        ):
            middle = (side * centre[0], centre[1], centre[2])
            box = canvas.box(
                tuple(c - r - 10 for c, r in zip(middle, radii, strict=True)),
                tuple(c + r + 10 for c, r in zip(middle, radii, strict=True)),
            )
            if canvas.x[box].size:
                sd = ellipsoid(*canvas.at(box), middle, radii) + canvas.bumps(f"{name} {side}", box, 30, 4.0)
                sd = np.maximum(sd, trunk.skin[box] + 6)
                canvas.paint("muscle", LABELS["muscle"], box, sd)
                seams = np.abs(canvas.bumps(f"{name} seam {side}", box, 18, 8.0)) - 0.7
                canvas.paint("fat_visceral", LABELS["muscle"], box, np.maximum(seams, sd + 2), opacity=0.6)
        box, sd = canvas.path(
            [(side * 38, -24, -110), (side * 66, -4, -190), (side * 84, 26, -270), (side * 96, 20, -330)],
            [20, 24, 20, 16],
            f"iliopsoas {side}",
            2.0,
        )
        if sd.size:
            canvas.paint("muscle", LABELS["muscle"], box, np.maximum(sd, trunk.skin[box] + 8))


def paint_sacrum(canvas: Canvas) -> None:
    """A wedge from between the hip bones to the coccyx, with foramina, in place of the lowest lumbar vertebrae."""
    box = canvas.box((-70, -130, -290), (70, -10, -130))
    x, y, z = canvas.at(box)
    if x.size == 0:
        return
    t = np.clip((-140 - z) / 140, 0, 1)
    deep = y - (-40 - 46 * np.sin(np.pi * np.clip(t, 0, 1) * 0.75))
    half, wide = 17 - 12 * t, 54 * (1 - t) ** 0.8 + 8
    wing = np.hypot(np.clip(np.abs(x) - 0.6 * wide, 0, None) / 0.9, deep * (1 + 0.5 * np.abs(x) / wide)) - half
    sd = np.maximum(np.maximum(wing, np.abs(x) - wide), np.maximum(z + 142, -285 - z))
    rows = np.abs((z + 142) % 27 - 13.5)
    foramen = np.hypot(np.hypot(np.abs(x) - 0.42 * wide, 0.6 * (rows - 2)), 0.25 * deep) - 3.5
    sd = np.maximum(sd, -foramen) + canvas.bumps("sacrum", box, 9, 0.6)
    canvas.paint("cortical_bone", LABELS["bone"], box, sd, opacity=0.9)
    canvas.paint("trabecular_bone", LABELS["bone"], box, sd + 1.6, shade=canvas.bumps("sacral marrow", box, 8, 20))
