"""Fine-tune the shipped model on two patients for two minutes, beside training from scratch for ten.

    python benchmarks/fine_tuning.py OUT [--tune 2] [--scratch 10] [section.key=value ...]

The patients are those of the embedded cohort in the late phase, whose anatomy, kernel and noise the shipped model never
saw (it is trained on randomised patients only). Prints the MAE (HU) on four other patients, in the body and in the
voxels that the contrast medium raises by more than 20 HU, also of the shipped model as it is.
"""

import argparse
from pathlib import Path

import numpy as np

from medgen.checkpoint import Model, load_model
from medgen.config import config_file, load_settings
from medgen.data.body_mask import body_mask
from medgen.inference.predict import translate_volume
from medgen.io.read import read_volume
from medgen.models import model_folder
from medgen.phantom.cohort import write_cohort
from medgen.training.loop import train

TRAINED, TESTED, SIZE = 2, 4, (150, 112, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tune", type=float, default=2)
    parser.add_argument("--scratch", type=float, default=10)
    parser.add_argument("overrides", nargs="*")
    a = parser.parse_intermixed_args()
    cohort, tests = a.out / "cohort", a.out / "tests"
    write_cohort(cohort, patients=TRAINED, seed=31, size=SIZE, phase="late")
    write_cohort(tests, patients=TESTED, seed=32, size=SIZE, phase="late")
    print("| model | minutes | MAE in the body | MAE in enhancing voxels |\n|---|---|---|---|")
    row(tests, "shipped", 0, load_model(model_folder("ct-noncontrast")))
    for name, minutes, start in (
        ("fine-tuned", a.tune, ["train.start_from=ct-noncontrast"]),
        ("scratch", a.scratch, []),
    ):
        given = [f"data.root={cohort}", "data.validation=0", f"train.minutes={minutes}", "train.validate_every=100000"]
        settings = load_settings(config_file("ct_contrast_regression"), [*given, *start, *a.overrides])
        train(settings, a.out / name, resume=(a.out / name / "last").exists(), say=lambda _: None)
        row(tests, name, minutes, load_model(a.out / name / "last"))


def row(tests: Path, name: str, minutes: float, model: Model) -> None:
    found = []
    for file in sorted((tests / "source").glob("*.nii.gz")):
        x, truth = read_volume(file), read_volume(tests / "target" / file.name).data
        error = np.abs(translate_volume(model, x).data - truth)
        found.append([error[body_mask(truth)].mean(), error[(x.data - truth) > 20].mean()])
    body, enhancing = np.mean(found, 0)
    print(f"| {name} | {minutes:g} | {body:.2f} | {enhancing:.2f} |", flush=True)


if __name__ == "__main__":
    main()
