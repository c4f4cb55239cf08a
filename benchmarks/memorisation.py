"""How often the memorisation test is right, in two minutes: python benchmarks/memorisation.py

Patients of the embedded cohort are split at random into those that a generator was trained on and new ones. What the
generator returns is planted: new patients, or training images with noise, moved by a voxel, or one of them alone.
"""

import argparse
from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from medgen.data.body_mask import body_mask
from medgen.evaluation.distribution.memorisation import memorisation_test, volume_descriptor
from medgen.phantom.cohort import make_patient

SIZE, SPACING = (40, 32, 24), 10.0  # voxels, mm
PATIENTS = 60
SETS = ((16, 8), (30, 16))  # training and made volumes
HELD_OUT = 12

Array = np.ndarray


def noisy(volume: Array, rng: np.random.Generator) -> Array:
    return volume + rng.normal(0, 30, volume.shape)


# A patient's scan as the generator may return it.
KINDS: dict[str, Callable[[Array, np.random.Generator], Array]] = {
    "itself": lambda volume, rng: volume,
    "blurred": lambda volume, rng: gaussian_filter(volume, 1),
    "noisy": noisy,
    "moved": lambda volume, rng: np.roll(noisy(volume, rng), 1, axis=(0, 1)),
}


def descriptors() -> dict[str, Array]:
    """Rows (patients, d) of every kind."""
    rng = np.random.default_rng(0)
    scans = [make_patient(seed, size=SIZE, spacing=SPACING).noncontrast for seed in range(PATIENTS)]

    def row(volume: Array) -> Array:
        return volume_descriptor(volume, (SPACING,) * 3, mask=body_mask(volume))

    return {name: np.array([row(kind(scan, rng)) for scan in scans]) for name, kind in KINDS.items()}


def returned(rows: dict[str, Array], trained: Array, new: Array) -> dict[str, Array]:
    """What the generator returns by what it does: as many rows as there are new patients."""
    one_copy = np.vstack([rows["itself"][new[1:]], rows["noisy"][trained[:1]]])
    return {
        "new patients (false alarms)": rows["itself"][new],
        "new patients, blurred by 1 voxel": rows["blurred"][new],
        "training images with noise of 30 HU": rows["noisy"][trained[: len(new)]],
        "the same, moved by one voxel along two axes": rows["moved"][trained[: len(new)]],
        "new patients but for one training image with noise": one_copy,
    }


def alarms(rows: dict[str, Array], trained: int, made: int, splits: int) -> dict[str, float]:
    """{what the generator does: how often the test says that it memorised}."""
    found: dict[str, list[bool]] = {}
    for split in range(splits):
        order = np.random.default_rng(split).permutation(PATIENTS)
        training, new, others = np.split(order[: trained + made + HELD_OUT], [trained, trained + made])
        known = rows["itself"][training]
        for name, synthetic in returned(rows, training, new).items():
            found.setdefault(name, []).append(memorisation_test(known, synthetic).memorised)
        held = memorisation_test(known, rows["itself"][new], held_out=rows["itself"][others])
        found.setdefault(f"new patients, {HELD_OUT} held-out real ones given", []).append(held.memorised)
    return {name: float(np.mean(of)) for name, of in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=150)
    given = parser.parse_args()
    rows = descriptors()
    columns = [alarms(rows, trained, made, given.splits) for trained, made in SETS]
    print("| the generator returns | " + " | ".join(f"{t} training, {m} made volumes" for t, m in SETS) + " |")
    print("|---" * (1 + len(SETS)) + "|")
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(f"{100 * of[name]:.3g} %" for of in columns) + " |")


if __name__ == "__main__":
    main()
