"""Paint rib cage, iliac crests and spine, with a thin bright cortex around darker marrow."""

from dataclasses import dataclass

import numpy as np

from medgen.phantom.anatomy.labels import LABELS
from medgen.phantom.anatomy.shapes import WHOLE, Canvas, ellipsoid, smin, stream
from medgen.phantom.anatomy.torso import Trunk, spine_depth

# (height of the vertebral centre in mm, end of the bony rib as a fraction of the half circumference, descent in mm)
RIBS = {
    "T12": (33, 0.36, 58),
    "T11": (63, 0.50, 88),
    "T10": (92, 0.64, 118),
    "T9": (120, 0.69, 134),
    "T8": (147, 0.72, 140),
    "T7": (174, 0.75, 142),
    "T6": (200, 0.78, 142),
    "T5": (226, 0.80, 142),
    "T4": (252, 0.80, 142),
}
ARC = 408.0  # mm; half the circumference of the cavity
LUMBAR = (-252, -216, -180, -144, -108, -72, -36, 0)


@dataclass(frozen=True)
class Ribs:
    """Shape of the ribs of one patient.

    Attributes:
        thick: half the thickness of a rib, mm.
        cortex: thickness of its cortex, mm.
        shade: standard deviation of its marrow within a rib, HU.
        tall: half the height of its flat side, without the rounded edges, mm.
        depth: distance of its middle from the cavity, mm.
        steep: factor of its descent.
        tissue: of its cortex.
    """

    thick: float = 2.1
    cortex: float = 1.0
    shade: float = 0.0
    tall: float = 2.4
    depth: float = 5.0
    steep: float = 1.0
    tissue: str = "cortical_bone"


def paint_ribs(canvas: Canvas, trunk: Trunk, shape: Ribs = Ribs(), crests: bool = True) -> None:
    """Paint ribs in the shell outside the cavity; each descends from the spine and rises again as cartilage.

    ``crests``: also paint simple iliac crests, in the same shell.
    """
    cavity = trunk.cavity
    index = np.nonzero((cavity > -5) & (cavity < 24) & (trunk.skin < -4))
    if len(index[0]) == 0:
        return
    x, y, z, d = canvas.x[index], canvas.y[index], canvas.z[index], cavity[index]
    s = np.arctan2(np.abs(x), -y) / np.float32(np.pi)
    rng = stream(canvas.seed, "ribs")
    bone, cartilage = np.full(len(x), 1e3, np.float32), np.full(len(x), 1e3, np.float32)
    for head, end, drop in RIBS.values():
        for side in (-1, 1):
            fall = shape.steep * drop * (1 + rng.normal(0, 0.03))
            ramp = np.clip((s - 0.04) / (end - 0.04), 0, 1)
            centre = head + 4 + rng.normal(0, 1.5) - fall * ramp ** np.float32(0.9)
            rise = np.clip(s - end, 0, None) * 260
            # Height across a steep rib is less than along z; at most 1.3 times the usual slope is left as it is.
            upright = 0.85 * min(1.0, 1.3 / np.hypot(1, fall / (ARC * (end - 0.04))))
            p = np.abs(d - shape.depth) - 0.8
            q = np.abs(z - centre - rise) * upright - shape.tall
            bar = np.hypot(np.clip(p, 0, None), np.clip(q, 0, None)) + np.minimum(np.maximum(p, q), 0) - shape.thick
            bar = np.where(x * side > 0, bar, 1e3)
            bone = np.minimum(bone, np.maximum(bar, (s - end) * 300))
            if end > 0.6:
                cartilage = np.minimum(cartilage, np.maximum(bar - 0.5, np.maximum((end - s) * 300, (s - 0.97) * 300)))
    sternum = np.hypot(np.clip(np.abs(x) - 9, 0, None), 1.2 * (d - 6)) - 6.5
    bone = np.minimum(bone, np.maximum(sternum, np.maximum(82 - z, -y)))
    if crests:
        crest = -100 + rng.normal(0, 5) - 90 * (s - 0.40) ** 2 * np.pi**2
        aside = np.clip(np.abs(d - 8.5) - 1.5 - 0.02 * (crest - z), 0, None)
        bone = np.minimum(bone, np.hypot(aside, np.clip(z - crest, 0, None)) - 2.5)
    for tissue, sd in (("cartilage", cartilage), (shape.tissue, bone), ("rib_marrow", bone + shape.cortex)):
        field = np.full(canvas.size, 1e3, np.float32)
        field[index] = sd
        marrow = canvas.bumps("rib marrow", WHOLE, 7, shape.shade) if shape.shade and tissue == "rib_marrow" else None
        label = LABELS["cartilage" if tissue == "cartilage" else "bone"]
        canvas.paint(tissue, label, WHOLE, field, shade=marrow)


def paint_spine(canvas: Canvas, lowest: float = -400.0) -> None:
    """Paint discs, vertebrae, the vertebral ends of the ribs, and the spinal canal, above ``lowest`` (z, mm)."""
    heights = np.array([*(h for h in LUMBAR if h > lowest), *sorted(v[0] for v in RIBS.values())], float)
    whole = canvas.box((-50, -115, lowest), (50, 5, 400))
    x, y, z = canvas.at(whole)
    y = y - spine_depth(z)
    radius = np.sqrt((x / 1.28) ** 2 + np.where(y > 0, y, y * 1.12) ** 2)
    canvas.paint("disc", LABELS["bone"], whole, radius - 17.0)
    for k, height in enumerate(heights):
        gap_up = heights[min(k + 1, len(heights) - 1)] - height or 27
        gap_down = height - heights[max(k - 1, 0)] or 36
        paint_vertebra(canvas, float(height), float(min(gap_up, gap_down)))
    for side in (-1, 1):  # heads and necks of the ribs
        for head, _, _ in RIBS.values():
            depth = float(spine_depth(head + 6))
            box, tube = canvas.path(
                [
                    (side * 20, depth - 10, head + 8),
                    (side * 34, depth - 27, head + 4),
                    (side * 48, depth - 34, head - 2),
                ],
                [4.2, 3.8, 4.2],
            )
            canvas.paint("cortical_bone", LABELS["bone"], box, tube)
            canvas.paint("trabecular_bone", LABELS["bone"], box, tube + 1.4)
    canal = np.hypot(x / 1.25, y + 25) - 8.2
    canvas.paint("fat_visceral", LABELS["fat"], whole, canal, opacity=0.6)
    canvas.paint("cord", LABELS["spinal_canal"], whole, canal + 1.3)


def paint_vertebra(canvas: Canvas, height: float, gap: float) -> None:
    """Paint a vertebra; ``height``: z of its centre, ``gap``: distance to the nearest other vertebra, mm."""
    box = canvas.box((-50, -115, height - 34), (50, 0, height + 28), 6)
    x, y, z = canvas.at(box)
    if x.size == 0:
        return
    size = 1.0 if height <= 0 else 1.0 - 0.0012 * height
    y, z = (y - spine_depth(z)) / size, z - height
    x = x / size
    bump = canvas.bumps(f"vertebra {height}", box, 9, 0.5)
    half = gap / 2 - (4.6 if height <= 20 else 3.0)
    radius = np.sqrt((x / 1.3) ** 2 + np.where(y > 0, y, y * 1.12) ** 2)
    body = (
        np.maximum(
            radius - 17.3 + 2.2 * (1 - (z / half) ** 2).clip(-1, 1),
            np.abs(z) - half + 1.4 * np.exp(-((radius / 9) ** 2)),
        )
        + bump
    )
    arch = np.hypot(x / 1.2, y + 25)
    ring = np.maximum(np.abs(arch - 12.0) - 2.8, np.abs(z + 2) - 0.36 * gap)
    ring = np.maximum(ring, y + 13)
    pedicle = np.hypot(np.abs(x) - 14.5, z - 3) * 1.0 - 4.8
    pedicle = np.maximum(pedicle, np.maximum(y + 10, -30 - y))
    spine = np.maximum(np.abs(x) - 3.2, np.maximum(np.abs(z + 6 + 0.25 * (y + 45) * -1) - 8.5, np.abs(y + 47) - 15))
    facet = ellipsoid(np.abs(x), y, z, (16.5, -32, -gap / 2), (7, 6, 10))
    reach = 40 if height <= 0 else 30
    t = np.clip((np.abs(x) - 14) / (reach - 14), 0, 1)
    wing = np.maximum(np.hypot(y + 26 + 8 * t, (z - 2) * 0.7) - 3.6, np.maximum(np.abs(x) - reach, 14 - np.abs(x)))
    rear = smin(smin(ring, spine, 3.0), smin(np.minimum(facet, pedicle), wing, 3.0), 2.0) + bump
    bone = np.minimum(body, rear)
    canvas.paint("cortical_bone", LABELS["bone"], box, bone, opacity=0.92)
    canvas.paint(
        "trabecular_bone",
        LABELS["bone"],
        box,
        np.minimum(body + 1.3, rear + 2.2),
        shade=canvas.bumps(f"marrow {height}", box, 8, 14),
    )


def paint_inlet(canvas: Canvas, thick: float, cortex: float) -> None:
    """Upper three vertebrae and ribs, and manubrium: the bones beside the large vessels at the top of the chest.

    ``thick``: half the thickness of a rib, ``cortex``: thickness of the cortex, both in mm.
    """
    rng = stream(canvas.seed, "inlet")
    bump = float(rng.uniform(0, 1))
    for n, (head, front, wide) in enumerate(((326.0, 284.0, 58.0), (303.0, 258.0, 82.0), (279.0, 236.0, 98.0))):
        back = float(spine_depth(head))
        paint_vertebra(canvas, head - 4.0, 24.0)
        head, front, wide = (v + float(rng.normal(0, s)) for v, s in ((head, 4), (front, 5), (wide, 5)))
        for side in (1, -1):
            points = [
                (side * 22, back - 12, head),
                (side * 0.75 * wide, back - 8, head - 4),
                (side * wide, -20, 0.6 * head + 0.4 * front),
                (side * 0.8 * wide, 32, 0.2 * head + 0.8 * front),
                (side * 34, 56, front),
            ]
            box, sd = canvas.path(points, [thick + 2.6] * 5, f"upper rib {n} {side}", 2.0, reach=4.0)
            end = points[-2][0] * side - 4  # bone ends here, cartilage goes on to the manubrium
            x, y, _ = canvas.at(box)
            if sd.size == 0:
                continue
            bony = np.maximum(sd, np.where(y > 20, end - np.abs(x), -1e3))
            canvas.paint("cartilage", LABELS["cartilage"], box, sd - 0.5)
            canvas.paint("cortical_bone", LABELS["bone"], box, bony)
            shade = canvas.bumps(f"upper rib marrow {n}", box, 7, 40 * bump)
            canvas.paint("rib_marrow", LABELS["bone"], box, bony + cortex, shade=shade)
    box = canvas.box((-40, 40, 225), (40, 80, 300))
    x, y, z = canvas.at(box)
    if x.size == 0:
        return
    width = 15 + 16 * np.clip((z - 238) / 50, 0, 1)
    sd = np.maximum(
        np.maximum(np.abs(x) - width, np.abs(y - 58 - 0.1 * (262 - z)) - rng.uniform(4.5, 8)), np.abs(z - 264) - 27
    )
    sd = sd + canvas.bumps("manubrium", box, 14, 1.0)
    canvas.paint("cortical_bone", LABELS["bone"], box, sd, opacity=float(rng.uniform(0.7, 1)))
    marrow = str(rng.choice(("rib_marrow", "trabecular_bone")))
    canvas.paint(marrow, LABELS["bone"], box, sd + cortex, shade=canvas.bumps("manubrium marrow", box, 6, 40 * bump))
