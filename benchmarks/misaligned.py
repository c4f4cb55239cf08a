"""Misaligned pairs: RegGAN beside Pix2Pix and regression, on phantom pairs whose target has moved.

    python benchmarks/misaligned.py OUT [--minutes 8] [--seed 21] [section.key=value ...]

The target of every training pair is deformed by a smooth random field with a maximum of 2 to 6 mm. The three methods
train for the same minutes, one after the other, and translate two test patients whose truth has not moved, once as
scanned and once without noise, because the noise of the truth (10 to 11 HU in the body) cannot be predicted and hides
the errors. Prints the MAE (HU) in the body and in the voxels that the contrast medium raises by more than 20 HU.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage

from medgen.checkpoint import load_model
from medgen.config import config_file, load_settings
from medgen.data.body_mask import body_mask
from medgen.inference.predict import translate_volume
from medgen.io.read import read_volume
from medgen.io.volume import Volume
from medgen.io.write import write_volume
from medgen.phantom.cohort import write_cohort
from medgen.training.loop import train

CONFIGS = ("ct_contrast_pix2pix", "ct_contrast_regression", "ct_contrast_reggan")
SIZE = (112, 88, 64)
TESTED = 2


def moved(volume: Volume, seed: int) -> Volume:
    """Deform by cubic B-splines through random points about 40 mm apart; the longest displacement is 2 to 6 mm."""
    rng = np.random.default_rng(seed)
    shape, spacing = volume.data.shape, np.asarray(volume.spacing)
    coarse = [max(4, int(n * s / 40)) for n, s in zip(shape, spacing, strict=True)]
    field = np.stack([
        ndimage.zoom(rng.normal(size=coarse), [n / c for n, c in zip(shape, coarse, strict=True)], order=3)
        for _ in range(3)
    ])  # fmt: skip
    field *= rng.uniform(2, 6) / np.sqrt((field**2).sum(0)).max()
    places = np.indices(shape) + field / spacing[:, None, None, None]
    data = ndimage.map_coordinates(volume.data, places, order=1, mode="nearest")
    return volume.replaced(data.astype(np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--patients", type=int, default=10)
    parser.add_argument("--seed", type=int, default=21, help="of the phantoms; choose settings on another one")
    parser.add_argument("--only", choices=CONFIGS)
    parser.add_argument("overrides", nargs="*")
    a = parser.parse_intermixed_args()
    aligned, cohort = a.out / "aligned", a.out / "moved"
    for place, noise_free in ((aligned, False), (a.out / "noise_free", True)):
        write_cohort(place, patients=a.patients + TESTED, seed=a.seed, size=SIZE, noise_free=noise_free)
    cases = sorted(p.name for p in (aligned / "source").glob("*.nii.gz"))
    for n, case in enumerate(cases[: a.patients]):
        write_volume(cohort / "source" / case, read_volume(aligned / "source" / case))
        write_volume(cohort / "target" / case, moved(read_volume(aligned / "target" / case), n))
    print("| method | minutes | steps | test scans | MAE in the body | MAE in enhancing voxels |")
    print("|---|---|---|---|---|---|")
    for config in [a.only] if a.only else CONFIGS:
        given = [f"data.root={cohort}", "data.validation=0", f"train.minutes={a.minutes}", "train.steps=100000"]
        given += ["data.spacing=null", "train.validate_every=100000", *a.overrides]
        run = a.out / config
        train(load_settings(config_file(config), given), run, resume=(run / "last").exists(), say=lambda _: None)
        model = load_model(run / "last")
        for place in (aligned, a.out / "noise_free"):
            found = []
            for case in cases[a.patients :]:
                x, truth = (read_volume(place / side / case).data for side in ("source", "target"))
                error = np.abs(translate_volume(model, read_volume(place / "source" / case)).data - truth)
                found.append([error[body_mask(truth)].mean(), error[(x - truth) > 20].mean()])
            body, enhancing = np.mean(found, 0)
            row = f"| {config} | {a.minutes:g} | {model.info.step} | {place.name} | {body:.2f} | {enhancing:.2f} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
