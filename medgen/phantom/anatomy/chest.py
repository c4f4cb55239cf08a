"""Paint the lungs with their vessels, and the heart."""

import numpy as np

from medgen.phantom.anatomy.labels import LABELS
from medgen.phantom.anatomy.shapes import Canvas, crop, ellipsoid, grow_tree, rotated, smin, stream
from medgen.phantom.anatomy.torso import Trunk


def paint_lungs(canvas: Canvas, trunk: Trunk) -> None:
    """Paint diaphragm, lungs and lung vessels."""
    box = canvas.box((-140, -90, -90), (140, 110, 130))
    x, y, z = canvas.at(box)
    if x.size == 0:
        return
    half = 17 + 4 * np.exp(-(((y - 10) / 30) ** 2)) + canvas.bumps("mediastinum", box, 30, 3)
    middle = np.abs(x + 3) - np.where(y < -30, 24 - 8 * np.clip((-30 - y) / 30, 0, 1), half)
    heart = ellipsoid(x, y, z, (-24, 26, 108), (68, 58, 58))
    middle = smin(heart, middle, 10.0)
    dome, cavity = trunk.dome[box], trunk.cavity[box]
    canvas.paint("muscle", LABELS["muscle"], box, np.maximum(np.abs(dome + 1) - 1.6, cavity))
    lung = np.maximum(np.maximum(cavity + 2.2, -dome + 0.5), -middle)
    shade = -0.45 * np.clip(y, -80, 80) + canvas.bumps("lung", box, 24, 12)  # dependent lung is denser
    canvas.paint("lung", LABELS["lung"], box, lung, shade=shade)
    for side, name in ((1, "right"), (-1, "left")):
        rng = stream(canvas.seed, f"lung vessels {name}")
        tips = np.stack([side * rng.uniform(20, 130, 1400), rng.uniform(-80, 85, 1400), rng.uniform(-20, 150, 1400)], 1)
        tips = tips[canvas.inside(tips, box, lung, -3.0)][:520]
        hilum = np.array([[side * 22, -8, 150], [side * 34, -12, 128.0]])
        if len(tips):
            points, radii, segments = grow_tree(rng, hilum, tips, 0.85, largest=6.0, step=11.0)
            where, sd = canvas.tubes(points, radii, segments, reach=3.0)
            canvas.paint("lung_vessel", LABELS["lung"], where, np.maximum(sd, crop(lung, box, where)))


def paint_heart(canvas: Canvas, trunk: Trunk) -> None:
    """Paint pericardium, myocardium, chambers and oesophagus."""
    box = canvas.box((-110, -60, 30), (70, 110, 130))
    x, y, z = canvas.at(box)
    if x.size == 0:
        return
    rng = stream(canvas.seed, "heart")
    turn, grow = 0.62 + rng.normal(0, 0.06), 1 + rng.normal(0, 0.04)
    u, v = rotated((x + 24) / grow, (y - 24) / grow, -turn)  # u: long axis, towards right and posterior
    w = (z - 106) / grow + 0.28 * -u
    label, bump = LABELS["heart"], canvas.bumps("heart", box, 24, 1.5)
    limit = np.maximum(-trunk.dome[box] + 3.5, trunk.cavity[box] + 5)
    whole = np.maximum(ellipsoid(u, v, w, (0, 0, 0), (62, 44, 46)) + bump, limit)
    canvas.shell("fascia", LABELS["fat"], box, whole - 4, 1.2, opacity=0.7)
    canvas.paint("heart_muscle", label, box, whole + 2)
    inner = whole + 5
    left = ellipsoid(u, v, w, (-16, -14, 2), (36, 18, 24)) + 1.5 * bump
    right = ellipsoid(u, v, w, (-4, 20, -2), (44, 20, 30)) + 1.5 * bump
    right = np.maximum(right, -(left - 10))
    atrium_right = np.maximum(ellipsoid(u, v, w, (38, 14, 6), (24, 26, 32)) + bump, -(right - 2))
    atrium_left = np.maximum(ellipsoid(u, v, w, (30, -24, 16), (26, 20, 26)) + bump, -(left - 2))
    canvas.paint("blood_right", label, box, np.maximum(right, inner))
    canvas.paint("blood_right", label, box, np.maximum(atrium_right, whole + 3))
    canvas.paint("blood_left", label, box, np.maximum(atrium_left, np.maximum(whole + 3, -(atrium_right - 3))))
    canvas.paint("blood_left", label, box, np.maximum(left, whole + 9))
    where, tube = canvas.path([(-10, -16, 150), (-9, -14, 90), (-16, -4, 62), (-34, 4, 50)], [7, 7, 8, 8], "gullet", 1)
    canvas.paint("gut_wall", LABELS["bowel"], where, tube)
    canvas.paint("gas", LABELS["bowel"], where, tube + 5.2)
