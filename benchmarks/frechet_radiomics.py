"""Test the Fréchet radiomics distance on scans of known rank: python benchmarks/frechet_radiomics.py HIPPOCAMPUS

On the embedded cohort, non-contrast scans of some patients are the reference. Scans of other patients are compared with
it: non-contrast, simulated conversions (residual contrast, or blurred), and contrast. On the real MR volumes of
HIPPOCAMPUS (its ``images`` folder), one half is the reference and the other half is degraded in steps.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from medgen.evaluation.distribution.feature_set import FeatureSet, collect
from medgen.evaluation.distribution.frechet import frechet_distance, statistics_of
from medgen.evaluation.distribution.scores import compare_distributions
from medgen.evaluation.features.radiomics import Radiomics
from medgen.io.read import find_volumes, read_volume
from medgen.io.volume import Volume
from medgen.phantom.cohort import make_patient

SOFT_TISSUE = (-200.0, 300.0)  # HU

DEGRADATIONS: dict[str, tuple[tuple[float, ...], Callable[[np.ndarray, float, np.random.Generator], np.ndarray]]] = {
    "blur, σ in voxels": ((0, 0.5, 0.75, 1, 1.5), lambda v, level, rng: gaussian_filter(v, level)),
    "noise, part of the image's deviation": (
        (0, 0.1, 0.2, 0.4, 0.8),
        lambda v, level, rng: v + level * v.std() * rng.normal(size=v.shape),
    ),
    "bias field, largest factor e^level": ((0, 0.25, 0.5, 1, 2), lambda v, level, rng: v * bias(v.shape, level)),
}


def bias(shape: tuple[int, ...], level: float) -> np.ndarray:
    """Smooth factors from e^-level to e^level along the diagonal, as from a coil at one corner."""
    ramp = sum(np.ogrid[tuple(slice(-1, 1, complex(n)) for n in shape)]) / 3
    return np.exp(level * ramp)


# Kinds of scans compared with non-contrast scans of other patients, by expected distance.
KINDS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "non-contrast": lambda plain, contrast: plain,
    "converted, 15 % of the contrast left": lambda plain, contrast: plain + 0.15 * (contrast - plain),
    "converted, 30 % of the contrast left": lambda plain, contrast: plain + 0.3 * (contrast - plain),
    "contrast": lambda plain, contrast: contrast,
    "(not ranked) non-contrast, blurred by 0.7 voxels": lambda plain, contrast: gaussian_filter(plain, 0.7),
}
patient_of = cache(make_patient)


def scans(seeds: range, kind: str, size: tuple[int, int, int], spacing: float) -> Iterator[Volume]:
    for seed in seeds:
        patient = patient_of(seed, size=size, spacing=spacing)
        yield Volume(KINDS[kind](patient.noncontrast, patient.contrast), patient.affine)


def embedded(
    extractor: Radiomics,
    *,
    patients: int,
    size: tuple[int, int, int],
    spacing: float,
    kinds: tuple[str, ...] = tuple(KINDS),
) -> dict[str, FeatureSet]:
    """{kind of scan: features of ``2 * patients`` patients}; the first kind is that of the reference."""
    return {kind: collect(scans(range(2 * patients), kind, size, spacing), extractor) for kind in kinds}


def compared(extractor: Radiomics, sets: dict[str, FeatureSet]) -> dict[str, list[dict]]:
    """{kind: distances of the second half of the patients from the first half's scans of the first kind}."""
    first, *_ = sets.values()
    halves = np.arange(first.volumes) < first.volumes // 2
    reference = of_patients(first, halves)
    return {
        kind: compare_distributions(reference, of_patients(found, ~halves), extractor) for kind, found in sets.items()
    }


def in_draws(sets: dict[str, FeatureSet], draws: int = 100) -> np.ndarray:
    """Distances (draws, kinds) for random choices of the reference patients; one split of few patients is noisy."""
    first, *_ = sets.values()
    rng, made = np.random.default_rng(0), []
    for _ in range(draws):
        halves = rng.permutation(first.volumes) < first.volumes // 2
        reference = of_patients(first, halves)
        others = [of_patients(found, ~halves).standardised(reference) for found in sets.values()]
        base = reference.standardised(reference).statistics
        made.append([frechet_distance(base, other.statistics) for other in others])
    return np.array(made)


def of_patients(features: FeatureSet, chosen: np.ndarray) -> FeatureSet:
    """The features of the patients where ``chosen`` (volumes,) is True."""
    kept = chosen[features.groups]
    rows, groups = features.rows[kept], features.groups[kept]
    return replace(features, statistics=statistics_of(rows), rows=rows, groups=groups, volumes=int(chosen.sum()))


def degraded(
    extractor: Radiomics, files: list[Path], *, levels: tuple[int, ...] = (0, 1, 2, 3, 4)
) -> dict[str, dict[float, list[dict]]]:
    """{degradation: {level: distances of the degraded second half from the first half}}; ``levels``: their indices."""
    half = len(files) // 2
    reference = collect((read_volume(f) for f in files[:half]), extractor)
    clean = collect((read_volume(f) for f in files[half:]), extractor)
    made: dict[str, dict[float, list[dict]]] = {}
    for name, (steps, change) in DEGRADATIONS.items():
        made[name] = {}
        for level in (steps[number] for number in levels):
            features = clean if level == 0 else changed(files[half:], level, change)
            made[name][level] = compare_distributions(reference, features, extractor)
    return made


def changed(files: list[Path], level: float, change: Callable) -> Iterator[Volume]:
    for number, file in enumerate(files):
        volume = read_volume(file)
        yield volume.replaced(change(volume.data, level, np.random.default_rng(number)), np.float32)


def print_row(label: str, numbers: list[dict]) -> None:
    frechet, kernel = numbers[0], numbers[1]
    print(f"| {label} | {frechet['value']:.3f} | {kernel['value']:.3f} ± {kernel['standard_error']:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hippocampus", type=Path, help="folder of the MR volumes")
    parser.add_argument("--patients", type=int, default=24, help="patients per half of the embedded cohort")
    parser.add_argument("--cases", type=int, default=48, help="number of MR volumes, divided into halves")
    parser.add_argument("--patches", type=int, default=16, help="patches per volume")
    args = parser.parse_args()

    extractor = Radiomics(window=SOFT_TISSUE, patches=args.patches)
    print(extractor.preprocessing)
    sets = embedded(extractor, patients=args.patients, size=(96, 80, 64), spacing=4.0)
    print("\n| scans of other patients | Fréchet radiomics distance | kernel distance |\n|---|---|---|", flush=True)
    for kind, numbers in compared(extractor, sets).items():
        print_row(kind, numbers)
    ranked = [kind for kind in sets if not kind.startswith("(")]
    distances = in_draws({kind: sets[kind] for kind in ranked})
    print(
        "\n| 100 draws of the reference patients | mean distance | farther than the non-contrast scans |\n|---|---|---|"
    )
    for kind, column in zip(ranked, distances.T, strict=True):
        print(f"| {kind} | {column.mean():.2f} | {(column > distances[:, 0]).mean():.0%} |")

    extractor = Radiomics(patches=args.patches)
    files = find_volumes(args.hippocampus)[: args.cases]
    print(f"\n{extractor.preprocessing}")
    print("\n| MR volumes | Fréchet radiomics distance | kernel distance |\n|---|---|---|", flush=True)
    for name, rows in degraded(extractor, files).items():
        for level, numbers in rows.items():
            print_row(f"{name}: {level:g}", numbers)


if __name__ == "__main__":
    main()
