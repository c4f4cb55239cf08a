"""Pelvis for the randomised cohort: iliac vessels, hip bones, femurs and bladder, below the embedded cohort's view."""

import numpy as np

from medgen.phantom.anatomy.labels import LABELS
from medgen.phantom.anatomy.shapes import Canvas, ellipsoid, stream
from medgen.phantom.anatomy.thorax import paint_long_bone
from medgen.phantom.anatomy.torso import Trunk


def paint_pelvis(canvas: Canvas, trunk: Trunk) -> None:
    """Bones first, then bladder and vessels, as far as they lie in view (z below -100 mm)."""
    rng = stream(canvas.seed, "pelvis")
    if canvas.axes[2][0] > -100:
        return
    for side in (1, -1):
        box = canvas.box((side * 80 - 60, -90, -300), (side * 80 + 60, 60, -100))
        x, y, z = canvas.at(box)
        if x.size:
            t = np.clip((-110 - z) / 120, 0, 1)
            blade = np.abs(side * x - (112 - 34 * t) + 0.35 * (y + 20)) - (3.5 + 3 * t)
            blade = np.maximum(blade, np.hypot((y + 18) / 52, (z + 175) / 78) * 52 - 52)
            canvas.paint("cortical_bone", LABELS["bone"], box, blade)
            canvas.paint("trabecular_bone", LABELS["bone"], box, blade + 2.0)
            socket = ellipsoid(x, y, z, (side * 88, -2, -262), (34, 32, 32))
            canvas.paint("cortical_bone", LABELS["bone"], box, socket)
            canvas.paint("trabecular_bone", LABELS["bone"], box, socket + 3)
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
