"""``medgen train auto`` without options beside a MONAI U-Net with L1: the same pairs, the same minutes.

    python benchmarks/train_auto.py COHORT OUT --test PATIENT [PATIENT ...] --minutes N [--only medgen|monai]

COHORT contains ``source/PATIENT.nii.gz`` and ``target/PATIENT.nii.gz``, as ``medgen phantom`` writes them. All patients
but those of ``--test`` are training pairs. medgen gets their folder and the time, and nothing else; the peer is
``peers/monai_unet.py``, for CT with a window of -1000 to 1000 HU. Prints the mean over the test patients: for CT the
MAE in HU in the body, and where source and target differ by more than 20 HU; otherwise MAE and SSIM inside the brain
(source not 0), with the truth scaled by its 99.5th percentile there and the prediction by the factor that fits best.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from medgen.data.body_mask import body_mask
from medgen.data.grid import resample_like
from medgen.evaluation.metrics.ssim import ssim
from medgen.evaluation.metrics.voxelwise import mae
from medgen.io.read import read_volume
from medgen.io.volume import to_canonical

PEER = Path(__file__).parent / "peers" / "monai_unet.py"
DIFFERS = 20.0  # HU


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--test", nargs="+", required=True, metavar="PATIENT")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--only", choices=("medgen", "monai"))
    a = parser.parse_args()
    names = sorted(p.name for p in (a.cohort / "source").glob("*.nii.gz"))
    train = [n for n in names if n.removesuffix(".nii.gz") not in a.test]
    if len(train) + len(a.test) != len(names):
        raise SystemExit(f"{a.cohort}/source does not contain all of {a.test}")
    tests = [a.cohort / "source" / f"{p}.nii.gz" for p in a.test]
    ct = read_volume(tests[0]).data.min() < -500
    row(a, "unconverted", [score(a.cohort, t, a.cohort / "source", ct) for t in tests], ct)
    if a.only != "monai":
        pairs = linked(a.cohort, a.out / "pairs", train)
        if not (a.out / "run" / "last").exists():  # a finished training is not repeated
            train_auto = ("-m", "medgen", "train", "auto", f"data.root={pairs}")
            run(*train_auto, "--hours", a.minutes / 60, "--out", a.out / "run")
        best = a.out / "run" / "best"
        model = best if best.exists() else a.out / "run" / "last"
        scans = linked(a.cohort, a.out / "scans", [t.name for t in tests]) / "source"
        run("-m", "medgen", "translate", model, scans, a.out / "medgen", "--overwrite")
        row(a, "medgen train auto", [score(a.cohort, t, a.out / "medgen", ct) for t in tests], ct)
    if a.only != "medgen":
        files = [a.cohort / side / n for n in train for side in ("source", "target")]
        window = ["--window", -1000, 1000] if ct else []
        run(PEER, a.minutes, a.out / "monai", "--train", *files, "--test", *tests, *window)
        row(a, "MONAI U-Net, L1", [score(a.cohort, t, a.out / "monai", ct) for t in tests], ct)


def run(*arguments: object) -> None:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1, 3):
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    print(done.stdout.strip().splitlines()[-1], file=sys.stderr)


def linked(cohort: Path, pairs: Path, names: list[str]) -> Path:
    for side in ("source", "target"):
        (pairs / side).mkdir(parents=True, exist_ok=True)
        for name in names:
            link = pairs / side / name
            if not link.exists():
                link.symlink_to((cohort / side / name).resolve())
    return pairs


def score(cohort: Path, test: Path, outputs: Path, ct: bool) -> tuple[float, float]:
    """(MAE in the body, MAE where source and target differ) in HU for CT, otherwise (MAE, SSIM) in the brain."""
    name = test.name.removesuffix(".nii.gz")
    source, truth = to_canonical(read_volume(test)), to_canonical(read_volume(cohort / "target" / test.name))
    y = resample_like(to_canonical(read_volume(next(outputs.glob(f"{name}*.nii.gz")))), truth)
    if ct:
        body = body_mask(truth.data)
        differs = body & (np.abs(source.data - truth.data) > DIFFERS)
        return mae(truth.data, y, body), mae(truth.data, y, differs)
    mask = source.data != 0
    true = truth.data / np.percentile(truth.data[mask], 99.5)
    y = y * float((true[mask] @ y[mask]) / (y[mask] @ y[mask]))
    return mae(true, y, mask), ssim(true, y, data_range=1, mask=mask)


def row(a: argparse.Namespace, system: str, scores: list[tuple[float, float]], ct: bool) -> None:
    first, second = np.mean(scores, axis=0)
    shown = f"{first:.2f} HU | {second:.2f} HU" if ct else f"{first:.4f} | {second:.3f}"
    print(f"| {system} | {a.minutes:g} | {len(scores)} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
