"""Accuracy of the discriminator of every shipped GAN config, trained on the data that each is made for.

    pip install h5py
    python benchmarks/adversaries.py DATA OUT [--until 0.15] [--only CONFIG ...] [--set section.key=value ...]

DATA contains ``open_ms``, ``hippocampus`` and ``lung_patches`` (../shared/data); CT configs use the embedded cohort.
A discriminator at an accuracy of 0.5 tells nothing to the generator, one at 1.0 hardly more. Trains for the fraction
``--until`` of the config's steps. Prints the median accuracy (mean over real and translated patches) after the first
tenth of the config's steps, its quartiles, the share of the adversarial term in the generator's loss, and what the
health check reports. Finished configs in OUT are not repeated.
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hippocampus_spade import link
from lesions import make_cohort

from medgen.config import config_file, load_settings
from medgen.phantom.cohort import write_cohort
from medgen.settings import Settings
from medgen.training.gan_health import WINDOW, diagnose
from medgen.training.loop import train

ROOT = Path(__file__).parent.parent
PATIENTS, SIZE = 8, (128, 96, 64)
BRAIN = ["t1 t1", "flair flair", "t2 t2", "t1 source", "t2 target"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--until", type=float, default=0.15, help="fraction of the config's steps to train for")
    parser.add_argument("--only", nargs="+", help="names of configs")
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="section.key=value")
    a = parser.parse_args()
    print("| config | steps | accuracy after a tenth, median (quartiles) | share of G's loss | health check |")
    print("|---|---|---|---|---|")
    for name in a.only or sorted(p.stem for p in (ROOT / "configs").glob("*.yaml")):
        shipped = load_settings(config_file(name))
        if not hasattr(shipped.method, "adversary") or not getattr(shipped.method, "weight_gan", 1):
            continue
        cohort = cohort_of(name, shipped, a.data, a.out / "cohorts")
        steps = int(a.until * shipped.train.steps)
        given = [f"data.root={cohort}", "data.validation=0", f"train.steps={steps}", "train.log_every=5"]
        given += ["train.validate_every=100000", *a.overrides]
        run = a.out / name
        if not (run / "last").exists():
            train(load_settings(config_file(name), given), run, say=lambda _: None)
        print(row(name, shipped.train.steps, run / "log.csv"), flush=True)


def cohort_of(name: str, settings: Settings, data: Path, out: Path) -> Path:
    """Cohort for a config, made once: the embedded one for CT, real images for the others."""
    paired, domains = settings.data.paired, settings.data.domains
    makers: dict[str, Callable[[Path], None]] = {
        "hippocampus": lambda c: link_folders(data / "hippocampus", c),
        "lung": lambda c: lung(data / "lung_patches" / "val_patches.h5", c),
        "ms": lambda c: make_cohort("ms", c, data / "open_ms"),
        "brain": lambda c: link_patients(
            data / "open_ms", c, ["t1 t1", "flair flair", "t2 t2", "t1 source", "t2 target"]
        ),
        "brain_unpaired": lambda c: link_patients(data / "open_ms", c, ["t1 source", "t2 target"], one_each=True),
        "phases": lambda c: phantoms(c, phase="all"),
        "phases_unpaired": lambda c: phantoms(c, phase="all", unpaired=True),
        "phantom": phantoms,
        "phantom_unpaired": lambda c: phantoms(c, unpaired=True),
    }
    special = {"hippocampus_spade": "hippocampus", "ct_lung_2d_lesion_gan": "lung", "mr_ms_lesion_gan": "ms"}
    kind = "phases" if domains else "brain" if name.startswith("mr_") else "phantom"
    alone = not paired and not settings.data.paired_domains
    folder = special.get(name, kind + "_unpaired" * alone)
    if not (out / folder).exists():
        makers[folder](out / folder)
    return out / folder


def phantoms(cohort: Path, phase: str = "portal_venous", unpaired: bool = False) -> None:
    write_cohort(cohort, patients=PATIENTS, seed=41, size=SIZE, phase=phase, unpaired=unpaired)


def link_folders(source: Path, cohort: Path) -> None:
    for folder in ("images", "labels"):
        for path in (source / folder).glob("*.nii.gz"):
            link(cohort / folder / path.name, path)


def link_patients(source: Path, cohort: Path, files: list[str], one_each: bool = False) -> None:
    """Link COHORT/FOLDER/PATIENT.nii.gz for each "file folder"; ``one_each``: each patient in one folder only."""
    for n, patient in enumerate(sorted(p for p in source.iterdir() if p.is_dir())):
        for file, folder in map(str.split, [files[n % len(files)]] if one_each else files):
            link(cohort / folder / f"{patient.name}.nii.gz", patient / f"{file}.nii.gz")


def lung(patches: Path, cohort: Path) -> None:
    from lung_patches import write_dataset  # needs h5py

    write_dataset(patches, cohort)
    (cohort / "images").rename(cohort / "source")


def row(name: str, steps: int, log: Path) -> str:
    """Row of the table from a training log; ``steps``: of the config."""
    with log.open() as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    rows = [r for r in rows if any(k.endswith("/real_accuracy") for k in r)]
    rows = [r for r in rows if r["step"] > steps / 10]
    terms = ("share_G_gan", "share_F_gan", "share_G_gan_lesion")
    shares = [sum(r.get(k, 0) for k in terms) for r in rows]
    low, middle, high = np.percentile([accuracy(r) for r in rows], [25, 50, 75])
    problems = sorted(
        {s.partition(":")[0] for n in range(WINDOW, len(rows) + 1, WINDOW) for s in diagnose(rows[n - WINDOW : n])}
    )
    shown = [name, f"{rows[-1]['step']:.0f}", f"{middle:.2f} ({low:.2f} to {high:.2f})", f"{np.median(shares):.1%}"]
    return "| " + " | ".join([*shown, "; ".join(problems) or "nothing"]) + " |"


def accuracy(row: dict[str, float]) -> float:
    """Mean accuracy over real and fake patches and over discriminators."""
    return float(np.mean([v for k, v in row.items() if k.endswith(("/real_accuracy", "/fake_accuracy"))]))


if __name__ == "__main__":
    main()
