"""Paint cysts and tumours of the liver and cysts of the kidneys, and record each."""

import numpy as np

from medgen.phantom.anatomy.labels import LABELS
from medgen.phantom.anatomy.shapes import Array, Box, Canvas, Region, crop, ellipsoid, stream


def paint_lesions(canvas: Canvas, region: Region, kidneys: list[Region]) -> list[dict[str, object]]:
    """Paint cysts, hypovascular lesions with a faint rim, and hypervascular lesions; return a record of each."""
    box, liver = region
    rng = stream(canvas.seed, "lesions")
    found: list[dict[str, object]] = []
    taken: list[tuple[Array, float]] = []
    plan = [
        ("lesion_hypovascular", int(rng.integers(1, 4)), (6, 17)),
        ("lesion_hypervascular", int(rng.integers(1, 4)), (5, 13)),
        ("cyst", int(rng.integers(1, 4)), (5, 14)),
    ]
    for kind, count, (small, large) in plan:
        for k in range(count):
            radius = float(rng.uniform(small, large))
            position = place(canvas, rng, box, liver, radius, taken)
            if position is not None:
                taken.append((position, radius))
                paint_lesion(canvas, rng, kind, f"{kind} {k}", position, radius, liver, box)
                found.append(
                    {
                        "kind": kind,
                        "organ": "liver",
                        "position": [round(float(v), 1) for v in position],
                        "radius": round(radius, 1),
                    }
                )
    for kidney in kidneys:
        if kidney[1].size and rng.random() < 0.4:
            paint_kidney_cyst(canvas, rng, kidney, found)
    return found


def place(
    canvas: Canvas,
    rng: np.random.Generator,
    box: Box,
    liver: Array,
    radius: float,
    taken: list[tuple[Array, float]],
) -> Array | None:
    """Draw a position inside the liver without overlap with other lesions, in warped coordinates; None if none fits."""
    points = np.stack([rng.uniform(-50, 128, 400), rng.uniform(-68, 80, 400), rng.uniform(-80, 70, 400)], 1)
    good = canvas.inside(points, box, liver, -0.75 * radius - 1)
    ends = canvas.to_grid(points)
    low, high = (np.array([a[e] for a in canvas.axes]) for e in (0, -1))
    good &= ((ends > low + radius) & (ends < high - radius)).all(1)
    for point in points[good]:
        if all(np.linalg.norm(point - other) > radius + r + 5 for other, r in taken):
            return point
    return None


def paint_lesion(
    canvas: Canvas,
    rng: np.random.Generator,
    kind: str,
    name: str,
    centre: Array,
    radius: float,
    liver: Array,
    liver_box: Box,
) -> None:
    """Paint one lesion of the liver."""
    box = canvas.box(tuple(centre - radius), tuple(centre + radius))
    x, y, z = canvas.at(box)
    radii = tuple(radius * rng.uniform(0.8, 1.2, 3))
    rough = 0.05 if kind == "cyst" else 0.12
    sd = ellipsoid(x, y, z, tuple(centre), radii) + canvas.bumps(name, box, max(5.0, 0.7 * radius), rough * radius)
    sd = np.maximum(sd, crop(liver, liver_box, box) + 1.0)
    if kind == "lesion_hypovascular":
        canvas.paint("lesion_rim", LABELS[kind], box, sd)
        canvas.paint(kind, LABELS[kind], box, sd + 0.18 * radius, shade=canvas.bumps(name + " core", box, 5, 4))
    else:
        tissue = "cyst_fluid" if kind == "cyst" else kind
        canvas.paint(tissue, LABELS[kind], box, sd)


def paint_kidney_cyst(canvas: Canvas, rng: np.random.Generator, kidney: Region, found: list[dict[str, object]]) -> None:
    """Paint a cyst at the edge of a kidney and append its record to ``found``."""
    box, sd = kidney
    edge = np.argwhere((sd < -1) & (sd > -6))
    if len(edge) == 0:
        return
    at = tuple(edge[rng.integers(len(edge))])
    x, y, z = canvas.at(box)
    centre, radius = (float(x[at]), float(y[at]), float(z[at])), float(rng.uniform(5, 14))
    canvas.paint("cyst_fluid", LABELS["cyst"], box, ellipsoid(x, y, z, centre, (radius,) * 3))
    found.append(
        {
            "kind": "cyst",
            "organ": "kidney",
            "position": [round(v, 1) for v in centre],
            "radius": round(radius, 1),
        }
    )
