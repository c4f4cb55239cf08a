"""Parts of a randomised patient that no atlas foresees: vessels, bones, implants, and objects outside the body."""

import numpy as np

from medgen.phantom.anatomy.labels import LABELS
from medgen.phantom.anatomy.shapes import WHOLE, Canvas, stream
from medgen.phantom.anatomy.torso import Trunk

THIN = 1.5  # mm; radius of the vessels that may lie beside the wall of the trunk


def paint_extra_vessels(canvas: Canvas, trunk: Trunk) -> None:
    """Vessels at random places of the cavity, of random size and compartment: what no atlas foresees.

    There are none in the wall of the trunk, and only thin ones beside it: a bright tube there is a rib, which lies
    within millimetres of liver and spleen. At 3 mm, vessels beside the wall and ribs look alike, and a network that saw
    both removed ribs of real scans.
    """
    rng = stream(canvas.seed, "extra vessels")
    low, high = (np.array([a[i] for a in canvas.axes]) for i in (0, -1))
    for k in range(int(rng.integers(0, 10))):
        start = rng.uniform(low, high)
        walk = start + np.cumsum(rng.normal(0, 22, (4, 3)), axis=0)
        radius = float(np.exp(rng.uniform(np.log(0.8), np.log(9))))
        box, sd = canvas.path([tuple(p) for p in walk], [radius] * 4, f"extra {k}", 2.0, reach=4.0)
        if sd.size == 0:
            continue
        sd = np.maximum(sd, trunk.cavity[box] + (1 if radius < THIN else float(rng.uniform(8, 16))))
        tissue = str(rng.choice(("blood_left", "blood_cava", "blood_right", "blood_portal", "blood_superior")))
        canvas.paint("gut_wall", LABELS["arteries"], box, sd - 0.8)
        canvas.paint(tissue, LABELS["arteries" if tissue == "blood_left" else "veins"], box, sd)


def paint_implants(canvas: Canvas, trunk: Trunk) -> None:
    """Calcified nodes, clips, wires, tubes and prostheses, which must stay as they are."""
    rng = stream(canvas.seed, "implants")
    low, high = (np.array([a[i] for a in canvas.axes]) for i in (0, -1))
    for _ in range(int(rng.integers(0, 8))):
        centre = rng.uniform(low, high)
        radius = float(rng.uniform(1.0, 5))
        box = canvas.box(tuple(centre - radius), tuple(centre + radius))
        x, y, z = canvas.at(box)
        if x.size == 0:
            continue
        sd = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) - radius
        canvas.paint("calcification", LABELS["bone"], box, np.maximum(sd, trunk.skin[box] + 2))
    if rng.random() < 0.2:
        for k in range(int(rng.integers(1, 4))):
            start = rng.uniform(low, high)
            walk = start + np.cumsum(rng.normal(0, 18, (3, 3)), axis=0)
            box, sd = canvas.path(
                [tuple(p) for p in walk], [float(rng.uniform(0.6, 6))] * 3, f"wire {k}", 1.0, reach=4.0
            )
            if sd.size:
                canvas.paint("metal", LABELS["bone"], box, np.maximum(sd, trunk.skin[box]))


def paint_extra_bones(canvas: Canvas, trunk: Trunk) -> None:
    """Bones at random places of the wall: tubes, plates and lumps of marrow with a cortex that may be thin or absent.

    Only their place, and what surrounds and lines them, tells them from vessels of the same attenuation.
    """
    rng = stream(canvas.seed, "extra bones")
    low, high = (np.array([a[i] for a in canvas.axes]) for i in (0, -1))
    for k in range(int(rng.integers(0, 7))):
        start = rng.uniform(low, high)
        kind = str(rng.choice(("rib", "plate", "lump")))
        if kind == "plate":
            radius = np.exp(rng.uniform(np.log(8), np.log(45), 3))
            flat, thick = int(rng.integers(3)), float(rng.uniform(1, 5))
            box = canvas.box(tuple(start - radius), tuple(start + radius))
            x, y, z = (v - c for v, c in zip(canvas.at(box), start, strict=True))
            if x.size == 0:
                continue
            across = (x, y, z)[flat] + canvas.bumps(f"bone {k}", box, 30, 8.0)
            edge = np.sqrt((x / radius[0]) ** 2 + (y / radius[1]) ** 2 + (z / radius[2]) ** 2) - 1
            sd = np.maximum(np.abs(across) - thick, edge * float(radius.min()))
        else:
            n, step = (4, 18.0) if kind == "rib" else (2, 8.0)
            walk = start + np.cumsum(rng.normal(0, step, (n, 3)), axis=0)
            width = float(rng.uniform(2, 6) if kind == "rib" else rng.uniform(6, 24))
            radii = list(width * rng.uniform(0.8, 1.25, n))
            box, sd = canvas.path([tuple(p) for p in walk], radii, f"bone {k}", 1.0, reach=4.0)
            if sd.size == 0:
                continue
            sd = sd + canvas.bumps(f"bone {k}", box, 10, 0.08 * width)
        sd = np.maximum(np.maximum(sd, trunk.skin[box] + 3), -trunk.cavity[box])
        cortex = float(rng.choice((0.0, rng.uniform(0.5, 2.5)), p=(0.15, 0.85)))
        if cortex:
            canvas.paint("cortical_bone", LABELS["bone"], box, sd, opacity=float(rng.uniform(0.7, 1)))
        marrow = str(rng.choice(("rib_marrow", "trabecular_bone")))
        shade = canvas.bumps(f"bone marrow {k}", box, float(rng.uniform(4, 10)), float(rng.uniform(0, 40)))
        canvas.paint(marrow, LABELS["bone"], box, sd + cortex, shade=shade)


def paint_surroundings(canvas: Canvas, trunk: Trunk) -> None:
    """Shells, bars and cables outside the body, as of tables, cushions, arm rests and electrodes."""
    rng = stream(canvas.seed, "surroundings")
    low, high = (np.array([a[i] for a in canvas.axes]) for i in (0, -1))
    x, y, _ = np.meshgrid(*canvas.axes, indexing="ij", sparse=True)
    outside = 4.0 - trunk.skin
    for _ in range(int(rng.integers(0, 4))):
        centre, bend = rng.uniform(low, high), float(rng.uniform(-1, 1)) / 400
        tilt = float(rng.choice((rng.uniform(-0.1, 0.1), rng.uniform(-1, 1))))
        sheet = y - centre[1] - tilt * (x - centre[0]) + bend * (x - centre[0]) ** 2
        sd = np.abs(sheet) / np.hypot(1, tilt) - float(rng.uniform(0.4, 4)) + 0 * outside
        sd = np.maximum(sd, np.abs(x - centre[0]) - float(rng.uniform(10, 260)))
        tissue = str(rng.choice(("table", "cortical_bone", "mattress", "gut_fluid"), p=(0.5, 0.25, 0.15, 0.1)))
        canvas.paint(tissue, 0, WHOLE, np.maximum(sd, outside))
    for k in range(int(rng.integers(0, 4))):
        start = rng.uniform(low, high)
        along = rng.normal(0, 30, 3) + np.array([0, 0, rng.choice((0, 80.0))])
        walk = start + np.arange(4)[:, None] * along
        box, sd = canvas.path([tuple(p) for p in walk], [float(rng.uniform(0.6, 5))] * 4, f"cable {k}", 4.0, reach=4.0)
        if sd.size:
            canvas.paint(str(rng.choice(("table", "metal", "fascia"))), 0, box, np.maximum(sd, outside[box]))
