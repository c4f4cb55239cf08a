"""Real MR pairs: train on one patient, test on another, beside a MONAI U-Net with L1 and the same minutes.

    python benchmarks/real_mr.py TASK DATA OUT --train-on PATIENT --test-on PATIENT --minutes N [section.key=value ...]

TASK: t1_to_t2, t1_to_flair or t2w_to_adc. DATA contains ``PATIENT/NAME.nii.gz``. Prints one row for each of medgen
(the shipped config ``mr_TASK_regression``, by the commands that a user types) and ``peers/monai_unet.py``. Truth and
prediction are compared on the truth's grid, inside the brain (source not 0) or, for ADC, where the truth is above 0.
The truth is scaled by its 99.5th percentile there, and the prediction by the one factor that fits it best, because the
gain between the two contrasts of a new patient is unknown.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from medgen.data.grid import resample_like
from medgen.evaluation.metrics.ssim import ssim
from medgen.evaluation.metrics.voxelwise import mae, psnr
from medgen.io.read import read_volume
from medgen.io.volume import to_canonical

PEER = Path(__file__).parent / "peers" / "monai_unet.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("t1_to_t2", "t1_to_flair", "t2w_to_adc"))
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train-on", nargs="+", required=True)
    parser.add_argument("--test-on", required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", choices=("medgen", "monai"))
    parser.add_argument("overrides", nargs="*")
    a = parser.parse_intermixed_args()
    source, target = a.task.split("_to_")
    out = a.out / f"{a.task}_{'+'.join(a.train_on)}_to_{a.test_on}"
    out.mkdir(parents=True, exist_ok=True)
    x = a.data / a.test_on / f"{source}.nii.gz"
    if a.only != "monai":
        cohort = linked(out / "cohort", [a.data / p for p in a.train_on], (source, target))
        one = [] if len(a.train_on) > 2 else ["data.validation=0"]
        given = [f"data.root={cohort}", *one, f"train.minutes={a.minutes}", "train.validate_every=100000"]
        run("-m", "medgen", "train", f"mr_{a.task}_regression", "--out", out / "run", *given, *a.overrides)
        run("-m", "medgen", "translate", out / "run" / "last", x, out / "medgen", "--overwrite")
        row(a, "medgen", score(a, source, target, next((out / "medgen").glob("*.nii.gz"))))
    if a.only != "medgen":
        pairs = [a.data / p / f"{name}.nii.gz" for p in a.train_on for name in (source, target)]
        run(PEER, a.minutes, out / "monai", "--train", *pairs, "--test", x)
        row(a, "MONAI U-Net, L1", score(a, source, target, out / "monai" / x.name))


def run(*arguments: object) -> None:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1, 3):
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    print(done.stdout.strip().splitlines()[-1], file=sys.stderr)


def linked(cohort: Path, patients: list[Path], names: tuple[str, str]) -> Path:
    for patient in patients:
        for name in names:
            link = cohort / name / f"{patient.name}.nii.gz"
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to((patient / f"{name}.nii.gz").resolve())
    return cohort


def score(a: argparse.Namespace, source: str, target: str, prediction: Path) -> tuple[float, float, float]:
    """MAE, PSNR and SSIM (data range 1) inside the mask."""
    truth = to_canonical(read_volume(a.data / a.test_on / f"{target}.nii.gz"))
    y = resample_like(to_canonical(read_volume(prediction)), truth)
    if target == "adc":
        mask = truth.data > 0
    else:
        mask = to_canonical(read_volume(a.data / a.test_on / f"{source}.nii.gz")).data != 0
    true = truth.data / np.percentile(truth.data[mask], 99.5)
    y = y * float((true[mask] @ y[mask]) / (y[mask] @ y[mask]))
    return mae(true, y, mask), psnr(true, y, data_range=1, mask=mask), ssim(true, y, data_range=1, mask=mask)


def row(a: argparse.Namespace, system: str, scores: tuple[float, float, float]) -> None:
    shown = " | ".join(f"{s:.{d}f}" for s, d in zip(scores, (4, 2, 3), strict=True))
    print(f"| {a.task} | {'+'.join(a.train_on)} | {a.test_on} | {system} | {a.minutes:g} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
