"""Sensitivity and false alarms of the structure check: planted faults and correct pairs of the embedded cohort.

    python benchmarks/planted_faults.py [--trials 200] [--first 8000] [--workers 1] [--json FILE] [--correct-only]

A trial is one patient: the contrast scan is the input, the true non-contrast scan with one planted fault is the output,
and the check gets no truth. A fault is detected only by a finding of its kind at its position: a lesion within its
radius (at least 6 mm), the name of the enhancing structure (without labels: a position inside it), the axis of a flip
or shift, the sign of an offset. Without labels, only findings from input and output alone count. Correct pairs (the
truth, and truths as a correct but imperfect converter would produce) should pass. Intervals are exact 95 % intervals
(Clopper & Pearson 1934). The limits were chosen on seeds 1000 to 1299, 5000 to 5025 and 7000 to 7008.
"""

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage, stats

from medgen.phantom.cohort import LABELS, build_anatomy, render
from medgen.qa.case import Reason
from medgen.qa.check import check_case
from medgen.qa.measures.geometry import SIDES
from medgen.terminology import is_lesion

# Grids in voxels and mm, used by the trials in turn.
GRIDS = (((125, 94, 30), (3.0, 3.0, 3.0)), ((150, 112, 24), (2.5, 2.5, 4.0)), ((150, 112, 30), (2.5, 2.5, 2.5)))
NAMES = {value: name for name, value in LABELS.items()}
LESIONS = tuple(filter(is_lesion, LABELS))
ENHANCING = (
    ("aorta", "arteries"),
    ("inferior_vena_cava", "veins"),
    ("portal_vein", "hepatic_vessels"),
    ("kidney_left", "kidney_right"),
    ("liver",),
    ("spleen",),
)
# {tissue: range of the contrast of a lesion in it, HU}; of either sign in organs.
HOSTS = {"liver": (30, 60), "spleen": (30, 60), "muscle": (40, 60), "fat": (80, 130), "lung": (150, 600)}
COUNTS = 36.0  # mm, minimum of diameter · contrast / noise of the host for an added lesion
# Faults that should be detectable from the images alone: a lesion in tissue up to ALONE_HU in the input; residual
# enhancement of at least CLEAR_ML above CLEAR_HU, one voxel inside the border.
ALONE_HU, CLEAR_ML, CLEAR_HU = 125.0, 8.0, 85.0
ERASED_ML, ERASED_HU = 1.5, 25.0  # minimum size (a ball of 14 mm) and contrast in the truth of an erased lesion
LEAST_NEAR = 6.0  # mm
RIBS_ML, RIB_HU = 5.0, 140.0  # minimum of erased bone that is brighter than this


@dataclass
class Planted:
    """An output with a fault, a note on it, and a test whether a finding detects it at its position."""

    image: np.ndarray
    note: str
    hit: Callable[[Reason], bool]
    alone: bool = True  # whether it should be detectable from the images alone


class Patient:
    """Scans with and without contrast medium, the latter also noise-free, HU added by iodine, and labels; (X, Y, Z)."""

    def __init__(self, seed: int, size: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
        anatomy = build_anatomy(seed, size, spacing)
        self.size, self.spacing, self.voxel_ml = size, spacing, float(np.prod(spacing)) / 1000
        self.contrast, self.truth = render(anatomy, "portal_venous"), render(anatomy, "none")
        self.iodine = anatomy.mixture("portal_venous") - anatomy.mixture("none")
        self.clean, self.labels = anatomy.mixture("none"), anatomy.labels
        self.lesions = self.inside(*LESIONS)

    def inside(self, *names: str) -> np.ndarray:
        return np.isin(self.labels, [LABELS[name] for name in names])

    def noise(self, host: str, at: np.ndarray) -> float:
        """Robust standard deviation (HU) of the truth in a tissue within 20 mm of a position (voxels)."""
        away = [((np.arange(n) - a) * s) ** 2 for n, a, s in zip(self.size, at, self.spacing, strict=True)]
        values = self.truth[(sum(np.ix_(*away)) < 20**2) & self.inside(host)]
        return float(np.median(np.abs(values - np.median(values)))) / 0.6745

    def near(self, fault: str, centre: np.ndarray, radius: float) -> Callable[[Reason], bool]:
        """Test for findings of a kind within ``radius`` mm of ``centre`` (voxels)."""
        at, most = centre * self.spacing, max(radius, LEAST_NEAR)
        return lambda r: r.fault == fault and r.place is not None and bool(np.linalg.norm(middle(r) - at) <= most)


def middle(reason: Reason) -> np.ndarray:
    """Centre of the box of a finding, mm from the first voxel."""
    assert reason.place is not None
    return (np.array(reason.place.low) + reason.place.high) / 2


def lesion_erased(p: Patient, rng: np.random.Generator) -> Planted | None:
    """Replace one lesion by its host tissue."""
    parts, count = ndimage.label(p.lesions, np.ones((3, 3, 3)))
    for number in rng.permutation(np.arange(1, count + 1)):
        inside = parts == number
        around = ndimage.binary_dilation(inside, iterations=3) & ~ndimage.binary_dilation(inside)
        host = np.bincount(p.labels[around]).argmax()
        tissue = around & (p.labels == host)
        level, ml = float(np.median(p.clean[tissue])), inside.sum() * p.voxel_ml
        contrast = p.clean[inside].mean() - level
        if ml < ERASED_ML or abs(contrast) < ERASED_HU:
            continue
        region = inside | (ndimage.binary_dilation(inside) & (p.labels == host))
        # Keep the noise of the scan; replace the tissue by that of the host with its texture.
        texture = np.median(np.abs(p.clean[tissue] - level)) / 0.6745
        new = p.truth.copy()
        new[region] += (level + rng.normal(0, texture, region.sum()) - p.clean[region]).astype(np.float32)
        note = f"{NAMES[int(p.labels[inside][0])]} in {NAMES[int(host)]}, {ml:.1f} ml, {contrast:+.0f} HU"
        radius = (3000 * ml / (4 * np.pi)) ** (1 / 3)
        return Planted(new, note, p.near("lesion_lost", np.argwhere(inside).mean(0), radius), alone=False)
    return None


def lesion_added(p: Patient, rng: np.random.Generator) -> Planted | None:
    """Add an ellipsoid of 10-20 mm at least 4 mm inside its host; half of them in the liver."""
    for _ in range(100):
        host = "liver" if rng.random() < 0.5 else str(rng.choice([h for h in HOSTS if h != "liver"]))
        radii = rng.uniform(5.5, 10) * rng.uniform(0.9, 1.1, 3)
        deep = ndimage.distance_transform_edt(p.inside(host), p.spacing) > radii.max() + 4
        deep[:, :, [0, 1, -1, -2]] = False
        places = np.argwhere(deep)
        if not len(places):
            continue
        at, (low, high) = places[rng.integers(len(places))], HOSTS[host]
        noise, diameter = p.noise(host, at), 2 * radii.mean()
        hu = rng.uniform(low, high) * (1 if host in ("fat", "lung") else rng.choice([-1, 1]))
        if diameter * abs(hu) >= COUNTS * noise:
            break
    else:
        return None
    new = p.truth.copy()
    box, share = ellipsoid(p, at, radii)
    new[box] += (hu * share).astype(np.float32)
    before = float(np.median(p.contrast[p.inside(host)]))
    note = f"{diameter:.0f} mm, {hu:+.0f} HU at noise of {noise:.0f} HU in {host} of {before:.0f} HU"
    return Planted(new, note, p.near("lesion_new", at, radii.max()), alone=bool(before <= ALONE_HU))


def ellipsoid(p: Patient, at: np.ndarray, radii: np.ndarray) -> tuple[tuple[slice, ...], np.ndarray]:
    """Box of an ellipsoid in the volume, and the fraction of each voxel that it fills."""
    fine = np.linspace(-0.375, 0.375, 4)  # four samples per voxel and axis, for partial volume
    axes = [(np.arange(n)[:, None] + fine - a) * s / r for n, a, s, r in zip(p.size, at, p.spacing, radii, strict=True)]
    box = tuple(
        slice(max(int(a - r / s) - 1, 0), int(a + r / s) + 2) for a, r, s in zip(at, radii, p.spacing, strict=True)
    )
    x, y, z = (axis[part] ** 2 for axis, part in zip(axes, box, strict=True))
    sums = x[:, None, None, :, None, None] + y[None, :, None, None, :, None] + z[None, None, :, None, None, :]
    return box, (sums < 1).mean((3, 4, 5))


def flipped(p: Patient, rng: np.random.Generator) -> Planted:
    return Planted(p.truth[::-1].copy(), "", lambda r: r.fault == "flip" and "left-right" in r.text)


def shifted(p: Patient, rng: np.random.Generator) -> Planted:
    axis, way = int(rng.integers(3)), int(rng.choice([-1, 1]))
    padded = np.pad(p.truth, 1, mode="edge")
    cut = tuple(slice(1 - way, 1 - way + n) if a == axis else slice(1, 1 + n) for a, n in enumerate(p.size))
    return Planted(padded[cut], f"axis {axis}, {way:+d}", lambda r: r.fault == "shift" and SIDES[axis] in r.text)


def enhancement_left(p: Patient, rng: np.random.Generator) -> Planted:
    """Leave 30-100 % of the iodine in one structure, or with probability 1/3 in the whole body."""
    share = rng.uniform(0.3, 1)
    everywhere = rng.random() < 1 / 3
    names = tuple(n for group in ENHANCING for n in group) if everywhere else ENHANCING[rng.integers(len(ENHANCING))]
    inside = p.inside(*names)
    left = share * p.iodine * (1 if everywhere else inside)
    around = ndimage.binary_dilation(inside, iterations=2)

    def hit(r: Reason) -> bool:
        if r.fault != "enhancement" or r.place is None:
            return False
        if r.by == "labels":
            return r.text.startswith(tuple(name.replace("_", " ") for name in names)) and "still enhanced" in r.text
        return bool(around[tuple(np.rint(middle(r) / p.spacing).astype(int))])

    clear = ndimage.binary_erosion((left > 8) & (p.clean + left >= CLEAR_HU) & (p.clean + p.iodine > 100))
    ml = clear.sum() * p.voxel_ml
    note = f"{share:.0%} in {'all' if everywhere else names[0]}, {ml:.0f} ml clear of its border"
    return Planted((p.truth + left).astype(np.float32), note, hit, alone=bool(ml >= CLEAR_ML))


def offset(p: Patient, rng: np.random.Generator) -> Planted:
    hu = float(rng.choice([-15, 15]))
    return Planted(
        p.truth + np.float32(hu), f"{hu:+.0f} HU", lambda r: r.fault == "offset" and f"by {hu:+.0f}"[:4] in r.text
    )


def ribs_erased(p: Patient, rng: np.random.Generator) -> Planted | None:
    """Make muscle of all ribs of one side, from `RIBS_ML` of bone above `RIB_HU` on, as if they were vessels."""
    side = int(rng.choice([-1, 1]))
    lateral = side * (np.arange(p.size[0]) - p.size[0] / 2) * p.spacing[0] > 60
    bone = p.inside("bone") & (p.truth > 0) & lateral[:, None, None]
    if (bone & (p.truth > RIB_HU)).sum() * p.voxel_ml < RIBS_ML:
        return None
    level = float(np.median(p.clean[p.inside("muscle")]))
    new = np.where(bone, np.minimum(p.truth, level + (p.truth - p.clean)), p.truth).astype(np.float32)
    inside = ndimage.binary_dilation(bone, iterations=3)

    def hit(r: Reason) -> bool:
        if r.fault != "bone" or r.place is None:
            return False
        at = np.clip(np.rint(middle(r) / p.spacing).astype(int), 0, np.array(p.size) - 1)
        return bool(inside[tuple(at)])

    return Planted(new, f"{(bone & (p.truth > RIB_HU)).sum() * p.voxel_ml:.0f} ml of ribs", hit)


FAULTS: dict[str, Callable[[Patient, np.random.Generator], Planted | None]] = {
    "lesion erased": lesion_erased,
    "lesion added": lesion_added,
    "left-right flip": flipped,
    "one-voxel shift": shifted,
    "enhancement left in": enhancement_left,
    "offset of 15 HU": offset,
    "ribs erased": ribs_erased,
}


def resampled(p: Patient, rng: np.random.Generator) -> np.ndarray:
    """Resample linearly to voxels 1.25 times as large and back."""
    coarse = ndimage.zoom(p.truth, 0.8, order=1, grid_mode=True, mode="nearest")
    return ndimage.zoom(coarse, np.divide(p.size, coarse.shape), order=1, grid_mode=True, mode="nearest")


def moved(p: Patient, rng: np.random.Generator) -> np.ndarray:
    """Shift by 0.3 voxels along a random axis, within the tolerance of half a voxel."""
    way = np.zeros(3)
    way[rng.integers(3)] = rng.choice([-0.3, 0.3])
    return ndimage.shift(p.truth, way, order=1, mode="nearest")


DEGRADED: dict[str, Callable[[Patient, np.random.Generator], np.ndarray]] = {
    "noise of 8 HU more": lambda p, rng: p.truth + rng.normal(0, 8, p.size),
    "noise reduced by half": lambda p, rng: (p.truth + p.clean) / 2,
    "blurred by half a voxel": lambda p, rng: ndimage.gaussian_filter(p.truth, 0.5),
    "resampled to voxels of 1.25 and back": resampled,
    "3 HU off": lambda p, rng: p.truth + float(rng.choice([-3, 3])),
    "0.3 voxels off": moved,
    "sharp kernel": lambda p, rng: p.truth + 0.5 * (p.truth - ndimage.gaussian_filter(p.truth, (0.7, 0.7, 0))),
    "smooth kernel": lambda p, rng: ndimage.gaussian_filter(p.truth, (0.6, 0.6, 0)),
}


def trial(seed: int, number: int, faults: bool = True) -> list[dict[str, Any]]:
    """Check every fault and two correct pairs of one patient; return rows {seed, kind, note, results, texts}."""
    p = Patient(seed, *GRIDS[number % len(GRIDS)])
    rows = [correct(p, seed, "the truth", p.truth)]
    kind = list(DEGRADED)[number % len(DEGRADED)]
    rows.append(correct(p, seed, kind, DEGRADED[kind](p, np.random.default_rng([seed, 100])).astype(np.float32)))
    for n, (name, plant) in enumerate(FAULTS.items() if faults else ()):
        planted = plant(p, np.random.default_rng([seed, n]))
        if planted is not None:
            found = [reason for reason in reasons(p, planted.image) if planted.hit(reason)]
            alone = any(reason.by == "images" for reason in found)
            row = {"seed": seed, "kind": name, "note": planted.note, "labels": bool(found), "alone": alone}
            rows.append(row | {"alone_counts": planted.alone})
    return rows


def correct(p: Patient, seed: int, kind: str, image: np.ndarray) -> dict[str, Any]:
    found = reasons(p, image)
    alone = all(reason.by != "images" for reason in found)
    row = {"seed": seed, "kind": kind, "note": "", "labels": not found, "alone": alone}
    return row | {"correct": True, "texts": [f"{r.by}: {r.text}" for r in found]}


def reasons(p: Patient, image: np.ndarray) -> tuple[Reason, ...]:
    inputs = {"labels": p.labels, "names": NAMES, "lesions": p.lesions, "affine": np.diag([*p.spacing, 1.0])}
    found = check_case(p.contrast, image, p.spacing, **inputs).reasons
    return tuple(reason for reason in found if reason.status != "pass")  # notes do not count


def table(rows: list[dict[str, Any]]) -> str:
    head = ("with labels and lesion masks", "images alone, detectable faults", "images alone, all faults")
    lines = [f"| fault | {' | '.join(head)} |", "|---|---|---|---|"]
    for name in FAULTS:
        mine = [r for r in rows if r["kind"] == name]
        alone = [ratio([r["alone"] for r in mine if r["alone_counts"]]), ratio([r["alone"] for r in mine])]
        alone = ["not detectable", "–"] if name == "lesion erased" else alone
        lines.append(f"| {name} | {ratio([r['labels'] for r in mine])} | {' | '.join(alone)} |")
    lines += ["", "| correct pair | false alarms with labels | images alone |", "|---|---|---|"]
    pairs = [r for r in rows if r.get("correct")]
    for name in ("the truth", *DEGRADED, "degraded, all", "all"):
        kinds = {"degraded, all": [*DEGRADED], "all": ["the truth", *DEGRADED]}.get(name, [name])
        mine = [r for r in pairs if r["kind"] in kinds]
        lines.append(f"| {name} | {ratio([not r['labels'] for r in mine])} | {ratio([not r['alone'] for r in mine])} |")
    return "\n".join(lines)


def ratio(hits: list[bool]) -> str:
    """Count, share and interval, such as "196 of 200, 98.0 % [95.0, 99.5]"."""
    if not hits:
        return "–"
    interval = stats.binomtest(sum(hits), len(hits)).proportion_ci(method="exact")
    share, low, high = (100 * float(x) for x in (sum(hits) / len(hits), interval.low, interval.high))
    return f"{sum(hits)} of {len(hits)}, {share:.1f} % [{low:.1f}, {high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--first", type=int, default=8000, help="seed of the first patient")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file of all rows; its existing trials are reused")
    parser.add_argument("--correct-only", action="store_true", help="only correct pairs, no faults")
    a = parser.parse_args()
    rows = json.loads(a.json.read_text()) if a.json and a.json.exists() else []
    done = {r["seed"] for r in rows}
    with ProcessPoolExecutor(a.workers, mp_context=get_context("spawn")) as pool:
        seeds = [s for s in range(a.first, a.first + a.trials) if s not in done]
        for future in as_completed([pool.submit(trial, seed, seed - a.first, not a.correct_only) for seed in seeds]):
            rows += future.result()
            if a.json:
                a.json.write_text(json.dumps(rows, indent=1))
    print(table(rows))
    for r in sorted(rows, key=lambda r: r["seed"]):
        if r.get("correct") and not (r["labels"] and r["alone"]):
            print(f"- seed {r['seed']}, {r['kind']}: {' '.join(r['texts'])}")
        elif not r.get("correct") and not (r["labels"] and (r["alone"] or not r["alone_counts"])):
            print(f"- seed {r['seed']}, {r['kind']} missed{'' if not r['labels'] else ' without labels'}: {r['note']}")


if __name__ == "__main__":
    main()
