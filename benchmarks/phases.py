"""Translate between contrast phases with one generator; test on held-out patients of the embedded cohort.

    python benchmarks/phases.py OUT [--unpaired] [--minutes 30] [--source portal_venous] [section.key=value ...]

Trains ``configs/ct_multiphase_multi_domain.yaml`` on 8 patients in all phases, or with ``--unpaired``
``configs/ct_phases_multi_domain.yaml`` on 8 patients per phase, each in one phase only. Then translates one phase of
three other patients to each phase. Prints body MAE and mean HU of some organs for source, converted image and truth.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from medgen.checkpoint import load_model
from medgen.config import load_settings
from medgen.data.body_mask import body_mask
from medgen.inference.predict import translate_volume
from medgen.io.read import read_volume
from medgen.phantom.cohort import PHASES
from medgen.training.loop import train

CONFIGS = Path(__file__).parent.parent / "configs"
ORGANS = ("aorta", "portal_vein", "kidney_left", "liver", "bone", "lung")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--unpaired", action="store_true", help="each patient in one phase only")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--source", default="portal_venous")
    arguments = parser.parse_intermixed_args()
    out = arguments.out
    if not (out / "train").exists():
        phantom(out / "train", "--patients", "8", *(["--unpaired"] if arguments.unpaired else []), "--seed", "11")
        phantom(out / "test", "--patients", "3", "--seed", "12")
    keys = [f"data.root={out / 'train'}", f"train.minutes={arguments.minutes}", *arguments.overrides]
    config = CONFIGS / f"ct_{'phases' if arguments.unpaired else 'multiphase'}_multi_domain.yaml"
    best = train(load_settings(config, keys), out / "run", resume=(out / "run" / "last").exists())
    print("| target | image | body MAE | " + " | ".join(ORGANS) + " |\n|" + "---|" * (3 + len(ORGANS)))
    for target in PHASES:
        for name, values in rows(best, out / "test", arguments.source, target).items():
            print(f"| {target} | {name} | " + " | ".join(f"{v:.1f}" for v in values) + " |", flush=True)


def phantom(folder: Path, *options: str) -> None:
    subprocess.run([sys.executable, "-m", "medgen", "phantom", str(folder), "--phases", *options], check=True)


def rows(model_folder: Path, test: Path, source: str, target: str) -> dict[str, np.ndarray]:
    """Body MAE and mean HU of the organs in source, converted image and truth, averaged over patients."""
    model = load_model(model_folder, target=target)
    values = json.loads((test / "labels.json").read_text())
    found: dict[str, list[list[float]]] = {"source": [], "converted": [], "truth": []}
    for path in sorted((test / source).glob("*.nii.gz")):
        x, truth = read_volume(path), read_volume(test / target / path.name).data
        labels = read_volume(test / "labels" / path.name).data
        body = body_mask(x.data)
        images = {"source": x.data, "converted": translate_volume(model, x).data, "truth": truth}
        for name, image in images.items():
            error = float(np.abs(image - truth)[body].mean())
            found[name].append([error, *(float(image[labels == values[o]].mean()) for o in ORGANS)])
    return {name: np.mean(v, 0) for name, v in found.items()}


if __name__ == "__main__":
    main()
