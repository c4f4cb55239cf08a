"""Does the structure and safety check find what is wrong? Faults planted in the embedded cohort, and correct pairs.

    python benchmarks/planted_faults.py [--trials 40] [--first 0] [--workers 2] [--json FILE]

A trial is a patient: the contrast scan is the input, the true non-contrast scan with one fault planted the output.
A fault is found where the verdict is review or fail with a reason that names it. Correct pairs (the truth as it is, and
truths as a mildly imperfect converter might give) should pass. The limits were chosen on seeds from 1000.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from medgen.data.phantom import LABELS, build_anatomy, render
from medgen.evaluation.safety import Verdict, check_case

SIZE, MM = (160, 128, 56), 2.5
NAMES = {value: name for name, value in LABELS.items()}
LESIONS = ("cyst", "lesion_hypovascular", "lesion_hypervascular")
ENHANCING = (
    ("aorta", "arteries"),
    ("inferior_vena_cava", "veins"),
    ("portal_vein", "hepatic_vessels"),
    ("kidney_left", "kidney_right"),
    ("liver",),
    ("spleen",),
)
# Tissue, and the HU (lowest, highest) of a lesion in it; either sign in organs.
HOSTS = {"liver": (25, 60), "spleen": (25, 60), "muscle": (25, 60), "fat": (80, 130), "lung": (200, 600)}
FAULTS = {
    "lesion erased": "lesion_lost",
    "lesion added": "lesion_new",
    "left-right flip": "flip",
    "one-voxel shift": "shift",
    "enhancement left in": "enhancement",
    "offset of 15 HU": "offset",
}
WITHOUT_LABELS = ("correct", "lesion erased", "lesion added", "enhancement left in", "mild")  # the rest needs none
MILD = ("blurred by half a voxel", "10 % of the enhancement left", "noise reduced by half", "3 HU off")


class Patient:
    """Scans with and without contrast, both without noise too, and labels; (X, Y, Z) HU."""

    def __init__(self, seed: int) -> None:
        anatomy = build_anatomy(seed, SIZE, (MM,) * 3)
        self.contrast, self.truth = render(anatomy, "portal_venous"), render(anatomy, "none")
        self.iodine = anatomy.mixture("portal_venous") - anatomy.mixture("none")
        self.clean, self.labels = anatomy.mixture("none"), anatomy.labels
        self.lesions = np.isin(self.labels, [LABELS[name] for name in LESIONS])

    def inside(self, *names: str) -> np.ndarray:
        return np.isin(self.labels, [LABELS[name] for name in names])


def lesion_erased(p: Patient, rng: np.random.Generator) -> tuple[np.ndarray, str] | None:
    """One lesion replaced by its host: of 10 mm at least, and of 15 HU in the truth, or nothing would be erased."""
    parts, count = ndimage.label(p.lesions)
    for number in rng.permutation(np.arange(1, count + 1)):
        inside = parts == number
        around = ndimage.binary_dilation(inside, iterations=3) & ~ndimage.binary_dilation(inside)
        host = np.bincount(p.labels[around]).argmax()
        level = float(np.median(p.clean[around & (p.labels == host)]))
        if inside.sum() * MM**3 < 520 or abs(p.clean[inside].mean() - level) < 15:
            continue
        region = inside | (ndimage.binary_dilation(inside) & (p.labels == host))
        # The scan's own noise stays; the tissue under it becomes the host's, texture included.
        texture = np.median(np.abs(p.clean[around & (p.labels == host)] - level)) / 0.6745
        new = p.truth.copy()
        new[region] += (level + rng.normal(0, texture, region.sum()) - p.clean[region]).astype(np.float32)
        return new, f"{NAMES[int(p.labels[inside][0])]} in {NAMES[int(host)]}, {inside.sum() * MM**3 / 1000:.1f} ml"
    return None


def lesion_added(p: Patient, rng: np.random.Generator) -> tuple[np.ndarray, str] | None:
    """An ellipsoid of 8-20 mm, its rim 4 mm inside the organ or further; every second one in the liver."""
    for _ in range(20):
        host = "liver" if rng.random() < 0.5 else str(rng.choice([h for h in HOSTS if h != "liver"]))
        radii = rng.uniform(4, 10) * rng.uniform(0.85, 1.15, 3)
        deep = ndimage.distance_transform_edt(p.inside(host), MM) > radii.max() + 4
        deep[:, :, [0, 1, -1, -2]] = False
        places = np.argwhere(deep)
        if len(places):
            break
    else:
        return None
    at, (low, high) = places[rng.integers(len(places))], HOSTS[host]
    hu = rng.uniform(low, high) * (1 if host in ("fat", "lung") else rng.choice([-1, 1]))
    grids = np.ogrid[tuple(slice(n) for n in SIZE)]
    distance = np.sqrt(sum(((g - a) * MM / r) ** 2 for g, a, r in zip(grids, at, radii, strict=True)))
    amount = np.clip((1 - distance) * radii.mean() / MM + 0.5, 0, 1)  # partial volume at the rim
    return (p.truth + hu * amount).astype(np.float32), f"{2 * radii.mean():.0f} mm, {hu:+.0f} HU in {host}"


def flipped(p: Patient, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    return p.truth[::-1].copy(), ""


def shifted(p: Patient, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    axis, way = int(rng.integers(3)), int(rng.choice([-1, 1]))
    padded = np.pad(p.truth, 1, mode="edge")
    cut = tuple(slice(1 - way, 1 - way + n) if a == axis else slice(1, 1 + n) for a, n in enumerate(SIZE))
    return padded[cut], f"axis {axis}, {way:+d}"


def enhancement_left(p: Patient, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """30-100 % of the iodine in one structure, or (every third time) in all of the body."""
    share = rng.uniform(0.3, 1)
    if rng.random() < 1 / 3:
        return (p.truth + share * p.iodine).astype(np.float32), f"{share:.0%} in all"
    names = ENHANCING[rng.integers(len(ENHANCING))]
    return (p.truth + share * p.iodine * p.inside(*names)).astype(np.float32), f"{share:.0%} in {names[0]}"


def offset(p: Patient, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    hu = float(rng.choice([-15, 15]))
    return p.truth + np.float32(hu), f"{hu:+.0f} HU"


def mild(p: Patient, kind: str) -> np.ndarray:
    if kind == MILD[0]:
        return ndimage.gaussian_filter(p.truth, 0.5)
    if kind == MILD[1]:
        return (p.truth + 0.1 * p.iodine).astype(np.float32)
    if kind == MILD[2]:
        return ((p.truth + p.clean) / 2).astype(np.float32)
    return p.truth + np.float32(3)


PLANT = dict(zip(FAULTS, (lesion_erased, lesion_added, flipped, shifted, enhancement_left, offset), strict=True))


def trial(seed: int, number: int) -> list[dict[str, Any]]:
    """Every fault and the correct pairs of one patient, as rows {kind, note, labels, status, faults, texts}."""
    p, rows = Patient(seed), []
    kind = MILD[number % len(MILD)]
    outputs: dict[str, tuple[np.ndarray, str] | None] = {"correct": (p.truth, ""), "mild": (mild(p, kind), kind)}
    for n, (name, plant) in enumerate(PLANT.items()):
        outputs[name] = plant(p, np.random.default_rng([seed, n]))
    for name, planted in outputs.items():
        for labelled in (True, False):
            if planted is None or not (labelled or name in WITHOUT_LABELS):
                continue
            given = {"labels": p.labels, "names": NAMES, "lesions": p.lesions} if labelled else {}
            verdict = check_case(p.contrast, planted[0], (MM,) * 3, **given)
            rows.append({"seed": seed, "kind": name, "note": planted[1], "labels": labelled, **summary(verdict)})
    return rows


def summary(verdict: Verdict) -> dict[str, Any]:
    reasons = verdict.reasons
    return {"status": verdict.status, "faults": [r.fault for r in reasons], "texts": [r.text for r in reasons]}


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| planted | found with labels | without labels |", "|---|---|---|"]
    for name, fault in FAULTS.items():
        cells = [ratio([fault in r["faults"] for r in rows if r["kind"] == name and r["labels"] == w]) for w in (1, 0)]
        lines.append(f"| {name} | {cells[0]} | {cells[1] if name in WITHOUT_LABELS else 'the same'} |")
    lines += ["", "| correct pair | passed with labels | without labels |", "|---|---|---|"]
    kinds = [("the truth", "correct", "")] + [(f"truth, {kind}", "mild", kind) for kind in MILD]
    for shown, name, note in kinds:
        chosen = [r for r in rows if r["kind"] == name and r["note"] == note]
        cells = [ratio([r["status"] == "pass" for r in chosen if r["labels"] == w]) for w in (1, 0)]
        lines.append(f"| {shown} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def ratio(hits: list[bool]) -> str:
    return f"{sum(hits)} of {len(hits)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="seed of the first patient")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="every verdict goes here; rows already there are kept and counted")
    a = parser.parse_args()
    rows = json.loads(a.json.read_text()) if a.json and a.json.exists() else []
    done = {r["seed"] for r in rows}
    with ProcessPoolExecutor(a.workers, mp_context=get_context("spawn")) as pool:
        seeds = [s for s in range(a.first, a.first + a.trials) if s not in done]
        for future in as_completed([pool.submit(trial, seed, seed - a.first) for seed in seeds]):
            rows += future.result()
            if a.json:
                a.json.write_text(json.dumps(rows, indent=1))
    print(table(rows))
    for r in rows:
        expected = FAULTS.get(r["kind"])
        if (expected and expected not in r["faults"]) or (not expected and r["status"] != "pass"):
            print(f"- seed {r['seed']}, {r['kind']} {r['note']}, labels {r['labels']}: {r['status']} {r['texts']}")


if __name__ == "__main__":
    main()
