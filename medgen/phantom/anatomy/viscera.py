"""Paint the abdominal organs into the fat of the cavity: gut first, then solid organs."""

from dataclasses import dataclass

import numpy as np

from medgen.phantom.anatomy.labels import LABELS
from medgen.phantom.anatomy.shapes import Canvas, Places, Region, ellipsoid, rotated, smin, stream, wander
from medgen.phantom.anatomy.torso import Habitus, Trunk, spine_depth


def paint_back_muscles(canvas: Canvas, habitus: Habitus) -> None:
    """Paint psoas, quadratus lumborum and the crura of the diaphragm."""
    m = habitus.muscle
    for side, name in ((-1, "l"), (1, "r")):
        ys = [float(spine_depth(z)) for z in (10, -30, -70, -130)]
        psoas = canvas.path(
            [
                (side * 26, ys[0] - 6, 10),
                (side * 30, ys[1] - 8, -30),
                (side * 36, ys[2] - 6, -70),
                (side * 46, ys[3] + 2, -140),
            ],
            [5 * m, 10 * m, 16 * m, 21 * m],
            "psoas" + name,
            1,
        )
        box = canvas.box((side * 66 - 34, -90, -400), (side * 66 + 34, -40, 20))
        x, y, z = canvas.at(box)
        u = side * x - 56 + 0.13 * (z + 20)
        quadratus = box, (np.hypot(u / 17, (y + 65 - 0.3 * u) / (7.5 * m)) - 1) * 8 + np.clip(z - 5, 0, None)
        crus = canvas.path(
            [(side * 14, -8, 66), (side * 15, -16, 30), (side * 17, -22, -10), (side * 16, -16, -50)],
            [4, 5, 4.5, 2],
        )
        for box, sd in (quadratus, psoas, crus):
            canvas.paint("fascia", LABELS["muscle"], box, sd - 0.4, opacity=0.4)
            canvas.paint("muscle", LABELS["muscle"], box, sd)


def paint_gut(canvas: Canvas, trunk: Trunk, habitus: Habitus) -> None:
    """Paint pancreas, duodenum, small bowel, colon and stomach, filled with fluid, faeces and gas."""
    rng = stream(canvas.seed, "gut")
    front = 52 + 22 * habitus.belly
    paint_pancreas(canvas)
    duodenum = [(26, 34, -6), (46, 18, -18), (50, -2, -45), (36, -12, -68), (6, -2, -72), (-24, 8, -60)]
    paint_tube(canvas, trunk, "duodenum", duodenum, [12, 12, 12, 12, 11, 11], "gut_fluid", gas=0.0)
    for k in range(28):
        start = np.array([rng.uniform(-86, 74), rng.uniform(0, front), rng.uniform(-150, -40)])
        if k < 8:  # jejunum: under the stomach on the left
            start = np.array([rng.uniform(-92, -34), rng.uniform(2, 50), rng.uniform(-60, -8)])
        walk = wander(rng, 9, 1.0) * (42, 16, 24) + start
        walk[:, 2] = np.minimum(walk[:, 2], 4 if k < 8 else -36)
        walk[:, 1] = np.clip(walk[:, 1], 0, front + 14)
        paint_tube(
            canvas,
            trunk,
            f"ileum {k}",
            [tuple(p) for p in walk],
            [float(rng.uniform(6.5, 14))] * 9,
            "gut_fluid",
            gas=float(rng.choice([0, 0, 0.3])),
        )
    low = -46 - rng.uniform(0, 26)
    right: list[tuple[float, ...]] = [(84, -4, -150), (88, 2, -110), (92, 6, -76), (84, 26, -52)]
    across: list[tuple[float, ...]] = [
        (66, front - 2, low),
        (20, front + 10, low - 16),
        (-30, front + 8, low - 10),
        (-76, front - 8, low + 22),
    ]
    left = [(-100, 6, 8), (-104, -22, -10), (-102, -24, -70), (-98, -16, -150)]
    wide = rng.uniform(0.85, 1.15)
    paint_tube(
        canvas,
        trunk,
        "colon",
        right + across,
        [28 * wide] * 3 + [22 * wide] * 5,
        "faeces",
        gas=0.45,
        folds=3.5,
    )
    paint_tube(canvas, trunk, "sigmoid", left, [17 * wide] * 2 + [14 * wide] * 2, "faeces", gas=0.3, folds=2.5)
    paint_stomach(canvas, trunk)


def paint_tube(
    canvas: Canvas,
    trunk: Trunk,
    name: str,
    points: Places,
    radii: list[float],
    content: str,
    *,
    gas: float,
    folds: float = 0.0,
) -> None:
    """Paint a bowel segment: wall, content, bubbles, and gas above a fluid level."""
    box, sd = canvas.path(points, radii, name, 4.0, step=8.0, reach=6.0)
    if sd.size == 0:
        return
    limit = np.maximum(trunk.cavity[box] + 4, trunk.dome[box] + 7)
    sd = sd + canvas.bumps(name, box, 11 if folds else 9, folds or 1.5)
    sd = -smin(-sd, -limit, 8.0)
    rng = stream(canvas.seed, name)
    wall = 2.3
    canvas.paint("fat_visceral", LABELS["fat"], box, sd - 2.0, opacity=0.75)  # fat between the loops
    canvas.paint("gut_wall", LABELS["bowel"], box, sd)
    texture = canvas.bumps(name + " content", box, 6, 14.0 if content == "faeces" else 5.0) + rng.normal(0, 9)
    canvas.paint(content, LABELS["bowel"], box, sd + wall, shade=texture)
    if content == "faeces":
        bubbles = canvas.bumps(name + " bubbles", box, 5, 2.2) + 2.4 + 2.5 * canvas.bumps(name + " dry", box, 40, 1)
        canvas.paint("gas", LABELS["bowel"], box, np.maximum(bubbles, sd + wall + 1), opacity=0.75)
    if gas:
        level = float(np.percentile(canvas.axes[1][box[1]], 100 * (1 - gas * rng.uniform(0.5, 1.1))))
        above = level - canvas.axes[1][box[1]][None, :, None] + canvas.bumps(name + " level", box, 60, 8)
        canvas.paint("gas", LABELS["bowel"], box, np.maximum(sd + wall, above))


def paint_stomach(canvas: Canvas, trunk: Trunk) -> None:
    """Paint the stomach wall with its folds, the content, and gas above the fluid level."""
    rng = stream(canvas.seed, "stomach")
    full = rng.uniform(0.75, 1.15)
    box, sd = canvas.path(
        [
            (-56, -22, 52),
            (-64, 4, 36),
            (-62, 36, 12),
            (-44, 56, -16),
            (-12, 58, -26),
            (16, 46, -16),
            (28, 36, -6),
        ],
        [30 * full, 33 * full, 30 * full, 25 * full, 19, 14, 9],
        "stomach",
        2,
        reach=12,
    )
    if sd.size == 0:
        return
    sd = sd + canvas.bumps("stomach", box, 18, 2.2)
    sd = -smin(-sd, -np.maximum(trunk.dome[box] + 6, trunk.cavity[box] + 5), 6.0)
    folds = canvas.bumps("rugae", box, 8, 1.2)
    canvas.paint("gut_wall", LABELS["stomach"], box, sd)
    content = "stomach_content" if rng.random() < 0.6 else "gut_fluid"
    canvas.paint(content, LABELS["stomach"], box, sd + 4.0 + folds, shade=canvas.bumps("meal", box, 10, 8))
    level = rng.uniform(18, 50)
    air = level - canvas.axes[1][box[1]][None, :, None] + 0 * sd
    canvas.paint("gas", LABELS["stomach"], box, np.maximum(sd + 3.6 + folds, air))


def paint_pancreas(canvas: Canvas) -> None:
    """Paint the pancreas with fatty clefts."""
    box, sd = canvas.path(
        [(38, 14, -40), (34, 20, -26), (16, 22, -14), (-10, 16, -4), (-40, 0, 6), (-74, -20, 16)],
        [13, 14, 10, 9, 9, 7],
        "pancreas",
        2,
    )
    if sd.size == 0:
        return
    sd = sd + canvas.bumps("pancreas", box, 6, 1.8)
    canvas.paint("pancreas", LABELS["pancreas"], box, sd)
    clefts = np.abs(canvas.bumps("pancreas clefts", box, 7, 5.0)) - 0.7
    canvas.paint("fat_visceral", LABELS["pancreas"], box, np.maximum(clefts, sd), opacity=0.5)


def liver(canvas: Canvas, trunk: Trunk, gap: float = 2.6) -> Region:
    """Return the liver: right lobe at wall and diaphragm, left lobe across the midline, concave inferior surface.

    ``gap``: mm of fat between it and the wall; below 0 it touches the wall.
    """
    rng = stream(canvas.seed, "liver")
    box = canvas.box((-80, -85, -130), (140, 105, 95))
    x, y, z = canvas.at(box)
    grow, tail = 1 + rng.normal(0, 0.05), rng.normal(0, 10)
    right = ellipsoid(x, y, z, (80, -4, 2 + 0.4 * tail), (66 * grow, 84, 92 * grow))
    left = ellipsoid(x, y, z, (2 - tail, 44, 34), (72 * grow, 46, 40))
    caudate = ellipsoid(x, y, z, (14, -4, 28), (17, 16, 30))
    sd = (
        smin(smin(right, left, 26.0), caudate, 8.0)
        + canvas.bumps("liver", box, 42, 4)
        + canvas.bumps("edge", box, 18, 1)
    )
    under = ellipsoid(x, y, z, (30, 10, -62), (58, 62, 54))  # impression of hilum, duodenum and colon
    cleft = x - 2 - 0.3 * (y - 40) + canvas.bumps("fissure", box, 16, 3)
    fissure = np.maximum(np.abs(cleft) - 0.035 * np.clip(y - 22, 0, None), np.maximum(22 - y, z - 34 + 0.4 * (70 - y)))
    hilum = ellipsoid(x, y, z, (30, 14, 6), (24, 9, 9))
    sd = -smin(-sd, under, 9.0)
    sd = np.maximum(np.maximum(sd, -fissure), -hilum)
    fossa = ellipsoid(x, y, z, (58, -64, -48), (42, 46, 66))  # impression of the right kidney
    sd = -smin(-sd, fossa, 6.0)
    slope = z * 0.9 + 100 - 0.35 * np.clip(y, -60, 80) + 20 * (1 - np.clip(x / 100, 0, 1)) * -1
    sd = -smin(-sd, slope, 8.0)
    return box, -smin(-sd, -np.maximum(trunk.cavity[box] + gap, trunk.dome[box] + 2.4), 4.0)


def spleen(canvas: Canvas, trunk: Trunk, gap: float = 3.5) -> Region:
    """Return the spleen, with an impression of the stomach; ``gap`` as in `liver`."""
    rng = stream(canvas.seed, "spleen")
    box = canvas.box((-145, -90, -60), (-40, 60, 90))
    x, y, z = canvas.at(box)
    grow = float(np.clip(1 + rng.normal(0, 0.1), 0.82, 1.25))
    u, v = rotated(x + 100, y + 30, -0.35)
    sd = ellipsoid(u, v, z, (0, 0, 14), (36 * grow, 54 * grow, 58 * grow)) + canvas.bumps("spleen", box, 30, 2.5)
    sd = -smin(-sd, ellipsoid(x, y, z, (-52, -4, 12), (38, 46, 60)), 8.0)
    return box, -smin(-sd, -np.maximum(trunk.cavity[box] + gap, trunk.dome[box] + 2.4), 5.0)


@dataclass(frozen=True)
class Kidney:
    """How a kidney differs from the usual one: displacement (mm), size, turn of the hilum (rad), fat around it (mm)."""

    move: tuple[float, float, float] = (0.0, 0.0, 0.0)
    size: float = 1.0
    turn: float = 0.55
    fat: float = 7.0
    cortex: float = 6.0


def paint_kidney(canvas: Canvas, side: int, kidney: Kidney = Kidney()) -> Region:
    """Paint cortex, medullary pyramids, sinus fat and collecting system in the fat capsule; return the kidney."""
    name = "kidney_right" if side > 0 else "kidney_left"
    rng = stream(canvas.seed, name)
    centre = (
        side * (62 + rng.normal(0, 2) + kidney.move[0]),
        -40 + rng.normal(0, 2) + kidney.move[1],
        (-46 if side > 0 else -34) + rng.normal(0, 6) + kidney.move[2],
    )
    long = kidney.size * (54 + rng.normal(0, 4))
    box = canvas.box(tuple(c - 70 for c in centre), tuple(c + 70 for c in centre), 6)
    x, y, z = canvas.at(box)
    if x.size == 0:
        return box, x
    w = z - centre[2]
    u = side * (x - centre[0]) + 0.2 * w  # lateral; the upper pole is tilted towards the spine
    v = y - centre[1] + 0.16 * w
    u, v = rotated(u, v, kidney.turn)  # the hilum faces anteromedially
    sd = (
        ellipsoid(u, v, w, (0, 0, 0), (27 * kidney.size, 24 * kidney.size, long))
        + canvas.bumps(name, box, 26, 1.6)
        + canvas.bumps(name + " lobes", box, 13, 0.7)
    )
    notch = ellipsoid(u, v, w, (-28, 0, 0), (17, 8, 19))
    sd = -smin(-sd, notch, 5.0)
    sinus = ellipsoid(u, v, w, (-9, 0, 0), (16, 8.5, 0.56 * long)) + canvas.bumps(name + " sinus", box, 9, 2.2)
    capsule = sd - kidney.fat - canvas.bumps(name + " capsule", box, 30, 2)
    canvas.paint("fat_visceral", LABELS["fat"], box, capsule)
    canvas.shell("fascia", LABELS["fat"], box, capsule, 0.9, opacity=0.5)
    canvas.paint("renal_cortex", LABELS[name], box, sd)
    rays = canvas.bumps(name + " pyramids", box, 8.5, 1.0)
    medulla = np.maximum(sd + kidney.cortex, -1.6 * (rays + 0.55))
    canvas.paint("renal_medulla", LABELS[name], box, medulla)
    canvas.paint("fat_visceral", LABELS["fat"], box, np.maximum(sinus, sd + 3 - 14 * (u < -14)))
    pelvis = np.maximum(sinus + 3.4, -3.5 * (canvas.bumps(name + " calyces", box, 8, 1.0) + 0.1))
    pelvis = np.minimum(pelvis, ellipsoid(u, v, w, (-20, 0, -2), (13, 4.5, 8)))
    canvas.paint("urine", LABELS["collecting_system"], box, pelvis)
    ureter = canvas.path(
        [
            (centre[0] - side * 22, centre[1] + 14, centre[2] - 4),
            (centre[0] - side * 24, centre[1] + 14, -80),
            (side * 40, -14, -150),
        ],
        [3, 2.0, 2.0],
        name + " ureter",
        1,
    )
    canvas.paint("urine", LABELS["collecting_system"], *ureter)
    return box, sd


def paint_adrenals(canvas: Canvas) -> None:
    """Paint the two limbs of each adrenal gland."""
    for side in (-1, 1):
        x0 = 34 * side if side > 0 else -36
        for dx, dy in ((-7, -16), (8, -15)):
            box, sd = canvas.path(
                [(x0, -8 - 4 * (side > 0), 24), (x0 + dx, -8 + dy, 18), (x0 + dx * 1.2, -8 + dy, 6)],
                [3.4, 2.4, 2],
            )
            canvas.paint("adrenal", LABELS["adrenal_glands"], box, sd)


def paint_gallbladder(canvas: Canvas) -> None:
    """Paint the gallbladder: surrounding fat, wall and bile."""
    rng = stream(canvas.seed, "gallbladder")
    box = canvas.box((20, 10, -80), (100, 100, 20))
    x, y, z = canvas.at(box)
    if x.size == 0:
        return
    u, w = rotated(x - 52, z + 30, 0.5)
    size = rng.uniform(0.8, 1.2)
    sd = ellipsoid(u, y - 0.4 * w, w, (0, 48, 0), (14 * size, 15 * size, 34 * size)) + canvas.bumps(
        "gallbladder", box, 16, 1
    )
    canvas.paint("fat_visceral", LABELS["fat"], box, sd - 2.0, opacity=0.5)
    canvas.paint("bile_wall", LABELS["gallbladder"], box, sd)
    canvas.paint("bile", LABELS["gallbladder"], box, sd + 1.6)


def paint_solid(canvas: Canvas, region: Region, name: str) -> None:
    """Paint liver or spleen with a thin layer of fat around it."""
    box, sd = region
    if sd.size:
        canvas.paint("fat_visceral", LABELS["fat"], box, sd - 1.5, opacity=0.5)
        canvas.paint(name, LABELS[name], box, sd)
