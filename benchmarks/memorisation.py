"""Error rates of the memorisation test, in two minutes: python benchmarks/memorisation.py

Patients of the embedded cohort are split at random into training patients of a generator and new patients. The
generator's output is simulated: new patients, training images with noise or shifted by one voxel, or new patients and a
single training image.
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
SETS = ((16, 8), (30, 16))  # numbers of training and synthetic volumes
HELD_OUT = 12

Array = np.ndarray


def noisy(volume: Array, rng: np.random.Generator) -> Array:
    return volume + rng.normal(0, 30, volume.shape)


# Simulated outputs of a generator for the scan of a patient.
KINDS: dict[str, Callable[[Array, np.random.Generator], Array]] = {
    "itself": lambda volume, rng: volume,
    "blurred": lambda volume, rng: gaussian_filter(volume, 1),
    "noisy": noisy,
    "moved": lambda volume, rng: np.roll(noisy(volume, rng), 1, axis=(0, 1)),
}


def descriptors() -> dict[str, Array]:
    """{kind: descriptors (patients, d)}."""
    rng = np.random.default_rng(0)
    scans = [make_patient(seed, size=SIZE, spacing=SPACING).noncontrast for seed in range(PATIENTS)]

    def row(volume: Array) -> Array:
        return volume_descriptor(volume, (SPACING,) * 3, mask=body_mask(volume))

    return {name: np.array([row(kind(scan, rng)) for scan in scans]) for name, kind in KINDS.items()}


def returned(rows: dict[str, Array], trained: Array, new: Array) -> dict[str, Array]:
    """{behaviour of the generator: descriptors of its outputs}, as many as there are new patients."""
    one_copy = np.vstack([rows["itself"][new[1:]], rows["noisy"][trained[:1]]])
    return {
        "new patients (false alarms)": rows["itself"][new],
        "new patients, blurred by 1 voxel": rows["blurred"][new],
        "training images with noise of 30 HU": rows["noisy"][trained[: len(new)]],
        "the same, moved by one voxel along two axes": rows["moved"][trained[: len(new)]],
        "new patients but for one training image with noise": one_copy,
    }


def alarms(rows: dict[str, Array], trained: int, synthetic_count: int, splits: int) -> dict[str, float]:
    """{behaviour of the generator: fraction of splits in which the test reports memorisation}."""
    found: dict[str, list[bool]] = {}
    for split in range(splits):
        order = np.random.default_rng(split).permutation(PATIENTS)
        training, new, others = np.split(
            order[: trained + synthetic_count + HELD_OUT], [trained, trained + synthetic_count]
        )
        known = rows["itself"][training]
        for name, synthetic in returned(rows, training, new).items():
            found.setdefault(name, []).append(memorisation_test(known, synthetic).memorised)
        held = memorisation_test(known, rows["itself"][new], held_out=rows["itself"][others])
        found.setdefault(f"new patients, {HELD_OUT} held-out real ones given", []).append(held.memorised)
    return {name: float(np.mean(of)) for name, of in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=150)
    args = parser.parse_args()
    rows = descriptors()
    columns = [alarms(rows, trained, synthetic_count, args.splits) for trained, synthetic_count in SETS]
    print("| simulated output | " + " | ".join(f"{t} training, {m} synthetic volumes" for t, m in SETS) + " |")
    print("|---" * (1 + len(SETS)) + "|")
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(f"{100 * of[name]:.3g} %" for of in columns) + " |")


if __name__ == "__main__":
    main()
