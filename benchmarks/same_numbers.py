"""Test that two checkouts compute the same numbers, for refactoring such as moves and renames.

Prints as JSON the losses of 20 seeded steps of every shipped config, and the SHA-256 of the outputs of a conversion, an
evaluation and an augmentation. Run it in both checkouts on the same machine and compare:

    cd CHECKOUT; PYTHONPATH=. OMP_NUM_THREADS=1 python PATH/same_numbers.py > numbers.json
    diff before.json after.json

Small cohorts and settings come from the checkout's own ``tests/test_configs.py``, so config keys may differ.
"""

import csv
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path.cwd() / "tests"))

STEPS = ["train.steps=20", "train.validate_every=20", "train.log_every=1", "train.checkpoint_every=20"]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def medgen(*words: object) -> None:
    """Run a command. The exit code is ignored: it is not 0 for a cohort with failed cases."""
    command = [sys.executable, "-m", "medgen", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    print(words[0], done.returncode, done.stderr[-300:], file=sys.stderr)


def losses(folder: Path) -> dict[str, list[dict[str, str]]]:
    """{config: rows of log.csv} without the seconds, columns sorted by name."""
    from test_configs import CONFIGS, tiny

    found = {}
    for path in CONFIGS:
        config = tiny(path, folder / path.stem, *STEPS)
        (folder / path.stem / "config.yaml").write_text(json.dumps(plain(config)))
        medgen("train", folder / path.stem / "config.yaml", "--out", folder / path.stem / "run")
        with open(folder / path.stem / "run" / "log.csv") as file:
            rows = list(csv.DictReader(file))
        found[path.stem] = [{k: v for k, v in sorted(row.items()) if k != "seconds"} for row in rows]
    return found


def outputs(folder: Path) -> dict[str, str]:
    """SHA-256 of the images and tables that translate, evaluate and augment write."""
    pair = folder / "ct_contrast_pix2pix"
    medgen("translate", pair / "run" / "best", pair / "cohort" / "source", folder / "converted")
    images = ["--prediction", folder / "converted", "--reference", pair / "cohort" / "target"]
    medgen("evaluate", *images, "--source", pair / "cohort" / "source", "--out", folder / "results")
    labelled = folder / "hippocampus_spade"
    dataset = folder / "dataset"
    dataset.mkdir()
    target = "target" if (labelled / "cohort" / "target").exists() else "images"
    for name, new in (("labels", "labels"), (target, "images")):
        (labelled / "cohort" / name).rename(dataset / new)
    (labelled / "cohort" / "labels.json").rename(dataset / "labels.json")
    medgen("augment", "procedural", dataset, folder / "augmented", "--lesion", "organ", "--host", "body")
    files = [*folder.glob("converted/*.nii.gz"), *folder.glob("results/*.csv"), *folder.rglob("augmented/*/*.nii.gz")]
    return {str(p.relative_to(folder)): digest(p) for p in sorted(files)}


if __name__ == "__main__":
    from medgen.config import plain

    with tempfile.TemporaryDirectory() as scratch:
        numbers = {"losses": losses(Path(scratch))}  # first, because it trains the models for translate
        numbers["outputs"] = outputs(Path(scratch))
    print(json.dumps(numbers, indent=1, sort_keys=True))
