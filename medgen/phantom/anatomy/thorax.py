"""The whole chest for the randomised cohort: lungs up to the apex, heart, great vessels, airways and shoulders.

The embedded cohort ends at the lower chest (``chest.py``). Coordinates as in ``shapes``: x to the patient's right, y to
the front, z to the head, in mm from L1. Positions follow a standing atlas of an adult, heart between T6 and T10.
"""

import numpy as np

from medgen.phantom.anatomy.labels import LABELS
from medgen.phantom.anatomy.shapes import Array, Canvas, Places, crop, ellipsoid, grow_tree, rotated, smin, stream
from medgen.phantom.anatomy.torso import Trunk, spine_depth

APEX = 282.0  # mm, height of the top of the lungs
HEART = (-20.0, 24.0, 124.0)  # mm, centre of the heart


def paint_thorax(canvas: Canvas, trunk: Trunk) -> None:
    """Lungs, heart, airways and vessels of the chest, as far as they lie in view."""
    lung = paint_whole_lungs(canvas, trunk)
    chambers = paint_whole_heart(canvas, trunk)
    if chambers:
        paint_chest_vessels(canvas)
    paint_airways(canvas)
    if lung is not None:
        paint_lung_trees(canvas, *lung)


def paint_whole_lungs(canvas: Canvas, trunk: Trunk) -> tuple[tuple[slice, slice, slice], Array] | None:
    """Both lungs, from the diaphragm to the apex, with the mediastinum between them; box and signed distance."""
    box = canvas.box((-150, -95, -90), (150, 115, APEX))
    x, y, z = canvas.at(box)
    if x.size == 0:
        return None
    half = 19 + 9 * np.exp(-(((z - 215) / 45) ** 2)) + canvas.bumps("mediastinum", box, 30, 3)
    middle = np.abs(x + 4) - np.where(y < -30, 24 - 8 * np.clip((-30 - y) / 30, 0, 1), half)
    heart = ellipsoid(x, y, z, HEART, (66, 56, 60))
    middle = smin(heart, middle, 10.0)
    dome, cavity = trunk.dome[box], trunk.cavity[box]
    top = z - APEX + 0.012 * (np.abs(x) - 55) ** 2 + 0.01 * (y + 15) ** 2
    canvas.paint("muscle", LABELS["muscle"], box, np.maximum(np.abs(dome + 1) - 1.6, cavity))
    lung = np.maximum(np.maximum(cavity + 2.2, -dome + 0.5), -middle)
    lung = np.maximum(lung, 0.6 * top)
    # Above the lungs the cavity is neck and shoulder: muscle and fat in place of air.
    canvas.paint("muscle", LABELS["muscle"], box, np.maximum(np.maximum(cavity + 1, -top), -(np.abs(x) - 28)))
    shade = -0.45 * np.clip(y, -80, 80) + canvas.bumps("lung", box, 24, 14)
    canvas.paint("lung", LABELS["lung"], box, lung, shade=shade)
    return box, lung


def paint_lung_trees(canvas: Canvas, box: tuple[slice, slice, slice], lung: Array) -> None:
    """Arteries and veins of each lung, grown from the hilum to random tips."""
    for side, name in ((1, "right"), (-1, "left")):
        for tissue, shift, count in (("blood_pulmonary", 4.0, 300), ("blood_left", -10.0, 180)):
            rng = stream(canvas.seed, f"lung {tissue} {name}")
            tips = np.stack(
                [side * rng.uniform(20, 135, 1400), rng.uniform(-85, 90, 1400), rng.uniform(-20, APEX, 1400)], 1
            )
            tips = tips[canvas.inside(tips, box, lung, -3.0)][:count]
            hilum = np.array([[side * 24, -4, 172 + shift], [side * 38, -10, 168.0 + shift]])
            if len(tips):
                points, radii, segments = grow_tree(rng, hilum, tips, 0.9, largest=8.0, step=11.0)
                where, sd = canvas.tubes(points, radii, segments, reach=3.0)
                hidden = np.maximum(sd, crop(lung, box, where) - 3)
                canvas.paint(tissue, LABELS["lung"], where, hidden)


def paint_whole_heart(canvas: Canvas, trunk: Trunk) -> bool:
    """Heart muscle with four chambers; False where it lies out of view."""
    box = canvas.box((-110, -60, 30), (75, 110, 215))
    x, y, z = canvas.at(box)
    if x.size == 0:
        return False
    rng = stream(canvas.seed, "whole heart")
    turn, grow = 0.62 + rng.normal(0, 0.1), 1 + rng.normal(0, 0.09)
    u, v = rotated((x - HEART[0]) / grow, (y - HEART[1]) / grow, -turn)  # u: to the right and back, the long axis
    w = (z - HEART[2]) / grow - 0.28 * u
    label, bump = LABELS["heart"], canvas.bumps("heart", box, 24, 1.5)
    limit = np.maximum(-trunk.dome[box] + 3.5, trunk.cavity[box] + 5)
    whole = np.maximum(ellipsoid(u, v, w, (0, 0, 0), (62, 44, 48)) + bump, limit)
    canvas.paint("fat_visceral", LABELS["fat"], box, whole - 6)
    canvas.shell("fascia", LABELS["fat"], box, whole - 6, 1.2, opacity=0.7)
    canvas.paint("heart_muscle", label, box, whole + 2)
    inner, wall = whole + 5, rng.uniform(7, 14)
    left = ellipsoid(u, v, w, (-16, -14, 0), (38, 21, 26)) + 1.5 * bump
    right = ellipsoid(u, v, w, (-4, 22, -2), (46, 22, 32)) + 1.5 * bump
    right = np.maximum(right, -(left - wall))
    atrium_right = np.maximum(ellipsoid(u, v, w, (38, 16, 4), (26, 28, 34)) + bump, -(right - 2))
    atrium_left = np.maximum(ellipsoid(u, v, w, (30, -26, 16), (30, 22, 28)) + bump, -(left - 2))
    trabeculae = np.abs(canvas.bumps("trabeculae", box, 6, 1.0)) - 0.12
    canvas.paint("blood_right", label, box, np.maximum(np.maximum(right, inner), -trabeculae * 4 - 1))
    canvas.paint("blood_right", label, box, np.maximum(atrium_right, whole + 3))
    canvas.paint("blood_left", label, box, np.maximum(atrium_left, np.maximum(whole + 3, -(atrium_right - 3))))
    canvas.paint("blood_left", label, box, np.maximum(left, whole + wall))
    for k in range(4):  # coronary arteries in the fat of the surface
        a = rng.uniform(0, 2 * np.pi)
        places = [
            (HEART[0] + 44 * np.cos(a + 0.5 * t), HEART[1] + 40 * np.sin(a + 0.5 * t), HEART[2] + 48 - 26 * t)
            for t in range(4)
        ]
        where, sd = canvas.path(places, [2.0, 1.8, 1.5, 1.1], f"coronary {k}", 2.0, reach=3.0)
        canvas.paint("blood_left", LABELS["arteries"], where, sd)
        spots = canvas.bumps(f"coronary calcium {k}", where, 5, 1.0) - rng.uniform(1.2, 3.5)
        canvas.paint("calcification", LABELS["arteries"], where, np.maximum(sd - 0.4, -3 * spots))
    return True


def chest_aorta(canvas: Canvas) -> tuple[Places, list[float]]:
    """Centre line (mm) and radii of the aorta from its root over the arch to the diaphragm."""
    rng = stream(canvas.seed, "arch")
    wide = rng.uniform(0.85, 1.45)
    s = float(spine_depth(190))
    places = [
        (-8, 22, 150),
        (8, 34, 172),
        (12, 34, 196),
        (4, 20, 222 + rng.normal(0, 5)),
        (-12, -4, 230 + rng.normal(0, 5)),
        (-24, s + 20, 208),
        (-27, s + 18, 170),
        (-24, float(spine_depth(120)) + 18, 120),
        (-18, float(spine_depth(80)) + 22, 80),
    ]
    return places, [wide * r for r in (14.5, 15.5, 15, 14, 13, 12.5, 12.5, 12, 11.5)]


def paint_chest_vessels(canvas: Canvas) -> None:
    """Aortic arch with its branches, pulmonary arteries, superior vena cava and its tributaries."""

    def tube(tissue: str, label: str, points: Places, radii: list[float], name: str, wobble: float = 1.5) -> None:
        box, sd = canvas.path(points, radii, name, wobble, reach=4.0)
        canvas.paint("fat_visceral", LABELS["fat"], box, sd - 2.5, opacity=0.8)
        canvas.paint("gut_wall", LABELS[label], box, sd - 1.0)
        canvas.paint(tissue, LABELS[label], box, sd)

    rng = stream(canvas.seed, "chest vessels")
    big = rng.uniform(0.8, 1.25)
    tube("blood_pulmonary", "arteries", [(-20, 44, 138), (-16, 34, 166), (-14, 14, 184)], [13 * big] * 3, "trunk")
    tube("blood_pulmonary", "arteries", [(-14, 16, 184), (18, 2, 182), (46, -4, 172)], [10 * big, 9 * big, 7], "right")
    tube("blood_pulmonary", "arteries", [(-14, 14, 184), (-34, 0, 188), (-48, -6, 176)], [10 * big, 9 * big, 7], "left")
    for side in (1, -1):
        tube("blood_left", "veins", [(side * 16 - 2, -8, 142), (side * 44, -6, 156)], [6, 5], f"lung vein {side}")
    tube("blood_superior", "veins", [(26, 14, 146), (28, 18, 180), (28, 16, 216)], [9, 9, 8.5], "superior cava")
    tube("blood_superior", "veins", [(28, 16, 216), (-4, 26, 228), (-34, 20, 250)], [7, 6, 6], "left brachiocephalic")
    tube(
        "blood_superior", "veins", [(28, 16, 216), (36, 12, 250), (100, -2, 272)], [8, 7, 5.5], "right subclavian vein"
    )
    for name, points, r in (
        ("brachiocephalic", [(4, 20, 224), (20, 12, 252), (28, 4, 300)], [6.5, 5.5, 3.5]),
        ("left carotid", [(-8, 4, 230), (-18, 4, 262), (-26, 2, 310)], [4, 3.5, 3.2]),
        ("left subclavian", [(-18, -8, 230), (-30, -8, 264), (-100, -4, 276)], [5, 4.5, 3.5]),
        ("right subclavian", [(20, 12, 252), (50, -4, 270), (110, -8, 276)], [4.5, 4, 3.5]),
    ):
        tube("blood_left", "arteries", points, r, name)
    places, radii = chest_aorta(canvas)
    box, sd = canvas.path(places, radii, "chest aorta", 1.5)
    paint_aorta(canvas, "chest aorta", box, sd)


def paint_aorta(canvas: Canvas, name: str, box: tuple[slice, slice, slice], sd: Array) -> None:
    """Wall, lumen and plaque; in some patients a dissection (two lumens and a flap), a thrombus or a stent."""
    if sd.size == 0:
        return
    rng = stream(canvas.seed, "aortic disease")
    label = LABELS["aorta"]
    canvas.paint("fat_visceral", LABELS["fat"], box, sd - 3.5, opacity=0.8)
    canvas.paint("gut_wall", label, box, sd - 1.2)
    canvas.paint("blood_left", label, box, sd)
    disease = rng.random()
    if disease < 0.25:  # dissection: a flap that winds along the vessel
        x, y, z = canvas.at(box)
        turn = rng.uniform(-0.03, 0.03) * z + rng.uniform(0, 2 * np.pi)
        offset = rng.uniform(-5, 5)
        x, y = x + 14, y - float(spine_depth(60)) - 20
        plane = x * np.cos(turn) + y * np.sin(turn) - offset
        plane += rng.uniform(-0.04, 0.04) * (y * np.cos(turn) - x * np.sin(turn)) ** 2  # one lumen is a crescent
        plane = plane + canvas.bumps(name + " flap", box, 18, 2.5)
        canvas.paint("gut_wall", label, box, np.maximum(sd, plane))
        canvas.paint("blood_false", label, box, np.maximum(sd, plane + rng.uniform(0.8, 2.0)))
    elif disease < 0.4:  # thrombus that lines one side
        lining = canvas.bumps(name + " thrombus", box, 30, 4.0) + rng.uniform(-1, 4)
        canvas.paint("thrombus", label, box, np.maximum(sd, -(sd + np.clip(lining, 0, 12))))
    elif disease < 0.5:  # stent
        mesh = np.abs(canvas.bumps(name + " mesh", box, 5, 1.0)) - 0.7
        canvas.paint("stent", label, box, np.maximum(np.abs(sd + 0.6) - 0.7, mesh * 2))
    plaque = canvas.bumps(name + " plaque", box, 7, 1.0) - rng.uniform(1.2, 3.5)
    canvas.paint("calcification", label, box, np.maximum(np.abs(sd - 0.4) - 1.0, -3 * plaque), opacity=0.9)


def paint_airways(canvas: Canvas) -> None:
    """Trachea and main bronchi: gas in a thin wall."""
    for points, radii, name in (
        ([(0, -2, 320), (0, -8, 250), (2, -12, 202)], [9, 9, 9], "trachea"),
        ([(2, -12, 202), (20, -12, 184), (34, -12, 170)], [7.5, 6.5, 5], "right bronchus"),
        ([(2, -12, 202), (-18, -14, 184), (-40, -16, 166)], [7, 6, 4.5], "left bronchus"),
    ):
        box, sd = canvas.path(points, radii, name, 1.0, reach=4.0)
        canvas.paint("cartilage", LABELS["bowel"], box, sd - 1.5, opacity=0.6)
        canvas.paint("gas", LABELS["bowel"], box, sd)


def paint_shoulders(canvas: Canvas) -> None:
    """Clavicles, shoulder blades, and arms beside the trunk in patients who keep them down."""
    rng = stream(canvas.seed, "shoulders")
    down = rng.random() < 0.3
    head = float(rng.uniform(7, 13))
    for side in (1, -1):
        paint_long_bone(
            canvas,
            [(side * 22, 58, 284), (side * 40, 58, 288), (side * 76, 46, 296), (side * 140, 4, 306)],
            [head, 0.7 * head, 5, 6],
            "clavicle",
        )
        box = canvas.box((side * 100 - 60, -115, 140), (side * 100 + 60, -50, 290))
        x, y, z = canvas.at(box)
        if x.size:
            blade = np.abs(y + 92 + 0.25 * (np.abs(x) - 100)) - 2.2
            blade = np.maximum(blade, np.hypot((np.abs(x) - 95) / 38, (z - 215) / 62) * 38 - 38)
            canvas.paint("cortical_bone", LABELS["bone"], box, np.where(x * side > 0, blade, 1e3))
        if down:
            line = [(side * 185, -20, 290), (side * 205, -25, 150), (side * 215, -15, 20), (side * 200, 10, -160)]
            where, sd = canvas.path(line, [44, 40, 36, 28], f"arm {side}", 2.0)
            for tissue, label, depth in (("skin", "skin", 0), ("fat_subcutaneous", "fat", 2), ("muscle", "muscle", 8)):
                canvas.paint(tissue, LABELS[label], where, sd + depth)
            paint_long_bone(canvas, line, [12, 11, 10, 8], f"humerus {side}")


def paint_long_bone(canvas: Canvas, points: Places, radii: list[float], name: str) -> None:
    """A tubular bone: cortex around marrow."""
    box, sd = canvas.path(points, radii, name, 1.0, reach=4.0)
    canvas.paint("cortical_bone", LABELS["bone"], box, sd)
    cortex = float(stream(canvas.seed, name + " cortex").uniform(0.06, 0.25)) * max(5.5, min(radii))
    canvas.paint("trabecular_bone", LABELS["bone"], box, sd + cortex, shade=marrow(canvas, name, box))


def marrow(canvas: Canvas, name: str, box: tuple[slice, slice, slice]) -> Array:
    """HU of the variation within the marrow of a bone: trabeculae that follow its load, and denser and fatty parts."""
    rng = stream(canvas.seed, name + " marrow")
    amount = float(rng.uniform(0, 70))
    coarse = canvas.bumps(name + " coarse", box, float(rng.uniform(8, 20)), amount)
    return coarse + canvas.bumps(name + " fine", box, float(rng.uniform(2.5, 6)), 0.6 * amount)
