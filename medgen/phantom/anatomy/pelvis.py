"""Pelvis for the randomised cohort: iliac vessels, hip bones, femurs and bladder, below the embedded cohort's view."""

import numpy as np

from medgen.phantom.anatomy.labels import LABELS
from medgen.phantom.anatomy.shapes import Canvas, ellipsoid, stream
from medgen.phantom.anatomy.thorax import marrow, paint_long_bone
from medgen.phantom.anatomy.torso import Trunk


def paint_pelvis(canvas: Canvas, trunk: Trunk) -> None:
    """Bones first, then bladder and vessels, as far as they lie in view (z below -100 mm)."""
    rng = stream(canvas.seed, "pelvis")
    if canvas.axes[2][0] > -100:
        return
    paint_pelvic_muscles(canvas, trunk)
    paint_sacrum(canvas)
    cortex = float(rng.uniform(0.6, 3.0))
    for side in (1, -1):
        box = canvas.box((side * 80 - 60, -90, -300), (side * 80 + 60, 60, -100))
        x, y, z = canvas.at(box)
        if x.size:
            t = np.clip((-110 - z) / 120, 0, 1)
            blade = np.abs(side * x - (112 - 34 * t) + 0.35 * (y + 20)) - (3.5 + 3 * t)
            blade = np.maximum(blade, np.hypot((y + 18) / 52, (z + 175) / 78) * 52 - 52)
            canvas.paint("cortical_bone", LABELS["bone"], box, blade)
            canvas.paint(
                "trabecular_bone", LABELS["bone"], box, blade + cortex, shade=marrow(canvas, f"hip {side}", box)
            )
            socket = ellipsoid(x, y, z, (side * 88, -2, -262), (34, 32, 32))
            canvas.paint("cortical_bone", LABELS["bone"], box, socket)
            canvas.paint(
                "trabecular_bone", LABELS["bone"], box, socket + 3, shade=marrow(canvas, f"socket {side}", box)
            )
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
