"""T1 → T2 on real MR: train on one patient, convert and evaluate the other, beside two fitted baselines.

    python benchmarks/t1_to_t2.py DATA OUT [--unpaired] [section.key=value ...]

DATA holds ``PATIENT/t1.nii.gz`` and ``PATIENT/t2.nii.gz`` of registered, skull-stripped brains. For every
ordered pair of patients (train on one, test on the other) it prints a row each for: the unconverted T1 after
histogram matching to the training T2, a voxelwise regression T1 → T2 fitted on the training patient, and the
model of ``configs/mr_t1_to_t2_pix2pix.yaml``. Both images are scaled by the truth's 99.5th percentile inside
the brain; MAE, PSNR and SSIM (data range 1) count inside the brain. The baselines know the test scan's gain in
the same way as the model does (range of its T1 times the training patient's ratio of T2 to T1).

``--unpaired``: the model is that of ``configs/mr_t1_to_t2_cut.yaml``, trained on the T1 of the tested patient and the
T2 of the other, beside histogram matching of the one, and of its negative, to the other. Nothing tells the gain of
the tested patient's T2: all are decoded in the range of the other's.
"""

import argparse
import time
from itertools import permutations
from pathlib import Path

import numpy as np
from skimage.exposure import match_histograms

from medgen.checkpoint import load_model
from medgen.config import load_settings
from medgen.data.codecs import Range, TargetRange, fit_range
from medgen.evaluation.fidelity import mae, psnr
from medgen.evaluation.ssim import ssim
from medgen.inference.predict import translate_volume
from medgen.io.volume import Volume, read_volume, write_volume
from medgen.train import train

CONFIGS = Path(__file__).parent.parent / "configs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--train-on", help="only this patient as the training one")
    parser.add_argument("--unpaired", action="store_true", help="T1 of the tested patient, T2 of the other")
    arguments = parser.parse_intermixed_args()
    patients = sorted(p.name for p in arguments.data.iterdir() if (p / "t1.nii.gz").exists())
    print("| trained on | tested on | system | MAE | PSNR | SSIM | minutes |\n|---|---|---|---|---|---|---|")
    for trained, tested in permutations(patients, 2):
        if arguments.train_on not in (None, trained):
            continue
        run = unpaired if arguments.unpaired else systems
        for name, prediction, minutes in run(arguments, trained, tested):
            truth = read_volume(arguments.data / tested / "t2.nii.gz")
            brain = brain_mask(read_volume(arguments.data / tested / "t1.nii.gz").data)
            top = np.percentile(truth.data[brain], 99.5)
            a, b = truth.data / top, prediction.data / top
            scores = mae(a, b, brain), psnr(a, b, data_range=1, mask=brain), ssim(a, b, data_range=1, mask=brain)
            shown = " | ".join(f"{s:.{d}f}" for s, d in zip(scores, (4, 2, 3), strict=True))
            print(f"| {trained} | {tested} | {name} | {shown} | {minutes:.1f} |", flush=True)
            write_volume(arguments.out / f"{trained}_to_{tested}" / f"{name.replace(' ', '_')}.nii.gz", prediction)


def systems(arguments: argparse.Namespace, trained: str, tested: str):
    """Name, prediction and training minutes of the baselines and the model."""
    data = arguments.data
    x_train, y_train = (read_volume(data / trained / f"{s}.nii.gz") for s in ("t1", "t2"))
    x_test = read_volume(data / tested / "t1.nii.gz")
    run = arguments.out / f"{trained}_to_{tested}"
    cohort = linked(run / "cohort", data / trained / "t1.nii.gz", data / trained / "t2.nii.gz")
    settings = load_settings(CONFIGS / "mr_t1_to_t2_pix2pix.yaml", [f"data.root={cohort}", *arguments.overrides])
    codec = settings.codec
    code = {
        name: fit_range(v.data, **codec.source.model_dump(exclude={"follow"}))
        for name, v in (("train", x_train), ("test", x_test))
    }
    target = fit_range(y_train.data, **codec.target.model_dump(exclude={"follow"}))
    decode = TargetRange(target, code["train"], follow=True).of(code["test"])
    yield "histogram matching", histogram_matching(x_test, y_train, target, decode), 0.0
    yield "voxelwise regression", voxelwise(x_train, y_train, x_test, code, target, decode), 0.0
    started = time.monotonic()
    best = train(settings, run / "run", resume=(run / "run" / "last").exists(), say=lambda _: None)
    minutes = (time.monotonic() - started) / 60
    yield "medgen Pix2Pix", translate_volume(load_model(best), x_test), minutes


def unpaired(arguments: argparse.Namespace, trained: str, tested: str):
    """As ``systems``, for T1 of one patient and T2 of another."""
    data, run = arguments.data, arguments.out / f"t2_of_{trained}_t1_of_{tested}"
    x, y = read_volume(data / tested / "t1.nii.gz"), read_volume(data / trained / "t2.nii.gz")
    brain = brain_mask(x.data)
    for name, sign in (("histogram matching", 1), ("histogram matching of the negative", -1)):
        matched = np.zeros_like(x.data)
        matched[brain] = match_histograms(sign * x.data[brain], y.data[brain_mask(y.data)])
        yield name, x.replaced(matched), 0.0
    cohort = linked(run / "cohort", data / tested / "t1.nii.gz", data / trained / "t2.nii.gz")
    settings = load_settings(CONFIGS / "mr_t1_to_t2_cut.yaml", [f"data.root={cohort}", *arguments.overrides])
    started = time.monotonic()
    train(settings, run / "run", resume=(run / "run" / "last").exists(), say=lambda _: None)
    minutes = (time.monotonic() - started) / 60
    for chosen in ("best", "last"):
        yield f"medgen CUT {chosen}", translate_volume(load_model(run / "run" / chosen), x), minutes


def linked(cohort: Path, source: Path, target: Path) -> Path:
    """A cohort folder of one scan a side."""
    for side, scan in (("source", source), ("target", target)):
        link = cohort / side / f"{scan.parent.name}.nii.gz"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(scan.resolve())
    return cohort


def brain_mask(t1: np.ndarray) -> np.ndarray:
    """Skull-stripped volumes are exactly zero outside the brain."""
    return t1 != 0


def histogram_matching(x: Volume, y_train: Volume, target: Range, decode: Range) -> Volume:
    brain = brain_mask(x.data)
    matched = match_histograms(x.data[brain], y_train.data[brain_mask(y_train.data)])
    out = np.zeros_like(x.data)
    out[brain] = decode.decode(target.encode(matched))
    return x.replaced(out)


def voxelwise(
    x_train: Volume, y_train: Volume, x_test: Volume, code: dict[str, Range], target: Range, decode: Range
) -> Volume:
    """Median T2 code of the training brain in each of 256 bins of T1 code, the best of all such functions in MAE."""
    brain = brain_mask(x_train.data)
    bins = bin_of(code["train"].encode(x_train.data[brain]))
    y = target.encode(y_train.data[brain])
    table = np.array([np.median(y[bins == b]) if (bins == b).any() else np.nan for b in range(256)])
    known = np.flatnonzero(np.isfinite(table))
    table = np.interp(np.arange(256), known, table[known])
    out = np.zeros_like(x_test.data)
    inside = brain_mask(x_test.data)
    out[inside] = decode.decode(table[bin_of(code["test"].encode(x_test.data[inside]))])
    return x_test.replaced(out)


def bin_of(code: np.ndarray) -> np.ndarray:
    return np.clip(((code + 1) / 2 * 255).round().astype(int), 0, 255)


if __name__ == "__main__":
    main()
