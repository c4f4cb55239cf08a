"""Paint aorta, inferior vena cava and portal vein with their branches."""

import numpy as np

from medgen.phantom.anatomy.labels import LABELS
from medgen.phantom.anatomy.shapes import WHOLE, Array, Canvas, Places, Region, crop, grow_tree, stream
from medgen.phantom.anatomy.torso import Habitus, Trunk, spine_depth


def paint_great_vessels(canvas: Canvas, habitus: Habitus) -> None:
    """Paint inferior vena cava, renal vessels, aorta, and the large abdominal branches, in this order."""
    rng = stream(canvas.seed, "great vessels")
    width = 1 + 0.25 * habitus.age + rng.normal(0, 0.06)
    _paint_cava(canvas)
    _paint_renal_vessels(canvas)
    _paint_aorta(canvas, habitus, width)
    _paint_abdominal_branches(canvas)


def _before_spine(z: float, forward: float) -> float:
    """Return y ``forward`` mm anterior to the centre of the spine at height ``z``."""
    return float(spine_depth(z)) + forward


def _paint_cava(canvas: Canvas) -> None:
    cava = [
        (20, _before_spine(-150, 26), -150),
        (20, _before_spine(-80, 26), -80),
        (22, _before_spine(-30, 27), -30),
        (24, _before_spine(10, 30), 10),
        (24, _before_spine(45, 40), 45),
        (17, 18, 72),
        (13, 22, 84),
    ]
    box, sd = canvas.path(cava, [9.5, 9.5, 10, 11, 12, 12, 13], "cava", 1.0)
    canvas.paint("blood_cava", LABELS["inferior_vena_cava"], box, sd + canvas.bumps("cava", box, 20, 1.2))


def _paint_renal_vessels(canvas: Canvas) -> None:
    for side, z in ((1, -42), (-1, -30)):
        artery = [(-6, _before_spine(z, 28), z + 2), (side * 16, _before_spine(z, 16), z), (side * 42, -30, z - 4)]
        vein = [
            (16, _before_spine(z, 32), z),
            (side * 24 - 4, _before_spine(z, 28 if side < 0 else 26), z - 3),
            (side * 44, -24, z - 6),
        ]
        branch(canvas, "blood_cava", "veins", vein, [5.5, 4.5, 4], f"renal vein {side}")
        branch(canvas, "blood_left", "arteries", artery, [3.4, 2.8, 2.6], f"renal artery {side}")


def _paint_aorta(canvas: Canvas, habitus: Habitus, width: float) -> None:
    """Paint aortic wall, blood, and calcified plaques, which increase with age."""
    aorta = [
        (-24, _before_spine(150, 14), 150),
        (-20, _before_spine(100, 20), 100),
        (-13, _before_spine(60, 26), 60),
        (-7, _before_spine(10, 29), 10),
        (-7, _before_spine(-50, 29), -50),
        (-5, _before_spine(-110, 29), -110),
        (-5, _before_spine(-150, 29), -150),
    ]
    radii = [width * r for r in (12.5, 12, 11.5, 10.5, 9, 8.5, 8.5)]
    box, sd = canvas.path(aorta, radii, "aorta", 1.0 + habitus.age)
    canvas.paint("gut_wall", LABELS["aorta"], box, sd - 1.2, opacity=0.8)
    canvas.paint("blood_left", LABELS["aorta"], box, sd)
    plaque = canvas.bumps("plaque", box, 7, 1.0) - (3.4 - 2.0 * habitus.age)
    canvas.paint("calcification", LABELS["aorta"], box, np.maximum(np.abs(sd - 0.4) - 1.0, -3 * plaque), opacity=0.8)


def _paint_abdominal_branches(canvas: Canvas) -> None:
    """Paint splenic, hepatic, mesenteric and epigastric arteries, and mesenteric and splenic veins."""
    s = _before_spine(20, 38)
    branch(
        canvas,
        "blood_left",
        "arteries",
        [(-6, s - 4, 22), (-6, s + 10, 20), (-24, s + 14, 22), (-52, -4, 18), (-84, -16, 16)],
        [4, 3.6, 3.2, 3, 2.6],
        "splenic artery",
        2.5,
    )
    branch(
        canvas,
        "blood_left",
        "arteries",
        [(-6, s + 10, 20), (12, s + 16, 14), (32, 14, 6)],
        [3.4, 2.8, 2.2],
        "hepatic artery",
    )
    branch(
        canvas,
        "blood_left",
        "arteries",
        [(-6, s - 4, 6), (-4, s + 12, -10), (-2, s + 22, -50), (2, s + 24, -150)],
        [3.8, 3.6, 3.4, 2.6],
        "mesenteric artery",
    )
    branch(
        canvas,
        "blood_portal",
        "veins",
        [(10, 14, -12), (12, 18, -50), (14, 22, -150)],
        [5.2, 4.8, 4],
        "mesenteric vein",
    )
    branch(
        canvas,
        "blood_portal",
        "veins",
        [(10, 14, -12), (-14, 12, -4), (-42, 0, 6), (-82, -18, 14)],
        [5.2, 4.6, 4.2, 3.6],
        "splenic vein",
    )
    branch(canvas, "blood_left", "arteries", [(0, 96, 10), (2, 100, 140)], [1.6, 1.6], "epigastric")


def branch(
    canvas: Canvas,
    tissue: str,
    label: str,
    points: Places,
    radii: list[float],
    name: str,
    wobble: float = 1.2,
) -> None:
    """Paint a vessel along a curve through ``points``; ``wobble``: size of random deviations, mm."""
    box, sd = canvas.path(points, radii, name, wobble, reach=4.0)
    canvas.paint(tissue, LABELS[label], box, sd)


def paint_mesentery(canvas: Canvas, trunk: Trunk, habitus: Habitus) -> None:
    """Paint connective tissue strands and small vessels in the mesenteric fat."""
    rng = stream(canvas.seed, "mesentery")
    strands = np.abs(canvas.bumps("strands", WHOLE, 11, 8.0)) - 0.5
    strands = np.maximum(strands, np.maximum(trunk.cavity + 4, trunk.dome + 6))
    canvas.paint("fascia", LABELS["fat"], WHOLE, strands, opacity=0.17)
    for tissue, label, shift, count in (
        ("blood_portal", "veins", 5.0, 90),
        ("blood_left", "arteries", -3.0, 60),
    ):
        tips = np.stack(
            [
                rng.uniform(-95, 95, count),
                rng.uniform(-12, 60 + 28 * habitus.belly, count),
                rng.uniform(-150, -10, count),
            ],
            1,
        )
        trunk_line = np.array([(shift, 18, -20), (shift, 22, -60), (shift, 24, -110), (shift, 22, -140)])
        points, radii, segments = grow_tree(rng, trunk_line, tips, 1.0, largest=3.2)
        box, sd = canvas.tubes(points, radii, segments, reach=3.0)
        canvas.paint(tissue, LABELS[label], box, np.maximum(sd, trunk.cavity[box] + 4))


def paint_liver_vessels(canvas: Canvas, region: Region) -> None:
    """Paint hepatic veins (to the vena cava) and portal tree (from the hilum), both limited to the liver."""
    box, liver = region
    if liver.size == 0:
        return
    rng = stream(canvas.seed, "liver vessels")

    def tips(count: int, spread: float) -> Array:
        p = np.stack(
            [
                rng.uniform(-60, 130, 9 * count),
                rng.uniform(-70, 90, 9 * count),
                rng.uniform(-90, 75, 9 * count),
            ],
            1,
        )
        return p[canvas.inside(p, box, liver, -spread)][:count]

    main = np.array([(10, 14, -12), (20, 15, -4), (30, 15, 6), (38, 14, 12.0)])
    portal = grow_tree(rng, main, tips(90, 6), 1.0, largest=6.2)
    outlet = np.array([(24, 8, 62), (26, 10, 56.0)])
    veins = [
        grow_tree(rng, np.vstack([outlet, point]), part, 1.0, largest=5.5)
        for point, part in zip(((52, 0, 44), (36, 26, 42), (8, 34, 40.0)), split(tips(84, 6)), strict=True)
    ]
    for points, radii, segments in veins:
        where, sd = canvas.tubes(points, radii, segments, reach=4.0)
        canvas.paint("blood_hepatic", LABELS["hepatic_vessels"], where, np.maximum(sd, crop(liver, box, where) + 2))
    points, radii, segments = portal
    radii[: len(main)] = 6.2
    where, sd = canvas.tubes(points, radii, segments, reach=4.0)
    within = crop(liver, box, where)
    extra = canvas.tubes(main, np.full(len(main), 6.2), np.array([(0, 1), (1, 2), (2, 3)]), reach=4.0)
    canvas.paint("blood_portal", LABELS["portal_vein"], where, np.maximum(sd, within + 1))
    canvas.paint("blood_portal", LABELS["portal_vein"], *extra)


def split(tips: Array) -> list[Array]:
    """Divide tips into the territories of the right, middle and left hepatic vein."""
    x = tips[:, 0]
    return [tips[x > 62], tips[(x <= 62) & (x > 22)], tips[x <= 22]]
