"""T1 → T2 on real MR: train on one patient, test on another, compared with two fitted baselines.

    python benchmarks/t1_to_t2.py DATA OUT [--unpaired] [section.key=value ...]
    python benchmarks/t1_to_t2.py DATA OUT --test-on PATIENT_FOLDER [section.key=value ...]

DATA contains ``PATIENT/t1.nii.gz`` and ``PATIENT/t2.nii.gz`` of registered, skull-stripped brains. For every ordered
pair of patients (train on one, test on the other), one row is printed for each of: the T1 after histogram matching to
the training T2, a voxelwise regression T1 → T2 fitted on the training patient, and the model of
``configs/mr_t1_to_t2_pix2pix.yaml``. Both images are scaled by the truth's 99.5th percentile inside the brain; MAE,
PSNR and SSIM (data range 1) are computed inside the brain. The baselines use the same gain of the test scan as the
model: the range of its T1 times the ratio of T2 to T1 of the training patients.

``--test-on``: train on all patients of DATA, test on a patient from another source. The gain between its T1 and T2 is
unknown, so every prediction is first scaled by the factor that best fits the truth (least squares).

``--unpaired``: the model is that of ``configs/mr_t1_to_t2_cut.yaml``, trained on the T1 of the test patient and the T2
of the other patient. The baselines are histogram matching of that T1, and of its negative, to that T2. The gain of the
test patient's T2 is unknown: all predictions are decoded with the range of the other patient's T2.
"""

import argparse
import time
from itertools import permutations
from pathlib import Path

import numpy as np
from skimage.exposure import match_histograms

from medgen.checkpoint import load_model
from medgen.commands.shared import pick_device
from medgen.config import load_settings
from medgen.data.intensity import Range, fit_range
from medgen.evaluation.metrics.ssim import ssim
from medgen.evaluation.metrics.voxelwise import mae, psnr
from medgen.inference.predict import translate_volume
from medgen.io.read import read_volume
from medgen.io.volume import Volume
from medgen.io.write import write_volume
from medgen.training.loop import train

CONFIGS = Path(__file__).parent.parent / "configs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--train-on", help="use only this training patient")
    parser.add_argument("--test-on", type=Path, help="folder of a test patient outside DATA; train on all of DATA")
    parser.add_argument("--unpaired", action="store_true", help="train on T1 of the test patient and T2 of the other")
    arguments = parser.parse_intermixed_args()
    patients = sorted(p for p in arguments.data.iterdir() if (p / "t1.nii.gz").exists())
    print("| trained on | tested on | system | MAE | PSNR | SSIM | minutes |\n|---|---|---|---|---|---|---|")
    pairs = [([a], b) for a, b in permutations(patients, 2) if arguments.train_on in (None, a.name)]
    for training_patients, test_patient in [(patients, arguments.test_on)] if arguments.test_on else pairs:
        run = unpaired if arguments.unpaired else systems
        names = "+".join(p.name for p in training_patients)
        for name, prediction, minutes in run(arguments, training_patients, test_patient):
            truth = read_volume(test_patient / "t2.nii.gz")
            brain = brain_mask(read_volume(test_patient / "t1.nii.gz").data)
            top = np.percentile(truth.data[brain], 99.5)
            a, b = truth.data / top, prediction.data / top
            if arguments.test_on:
                b = b * (a[brain] @ b[brain]) / (b[brain] @ b[brain])
            scores = mae(a, b, brain), psnr(a, b, data_range=1, mask=brain), ssim(a, b, data_range=1, mask=brain)
            shown = " | ".join(f"{s:.{d}f}" for s, d in zip(scores, (4, 2, 3), strict=True))
            print(f"| {names} | {test_patient.name} | {name} | {shown} | {minutes:.1f} |", flush=True)
            write_volume(
                arguments.out / f"{names}_to_{test_patient.name}" / f"{name.replace(' ', '_')}.nii.gz", prediction
            )


def systems(arguments: argparse.Namespace, training_patients: list[Path], test_patient: Path):
    """Yield name, prediction and training minutes of the baselines and the model."""
    pairs = [tuple(read_volume(p / f"{s}.nii.gz") for s in ("t1", "t2")) for p in training_patients]
    x_test = read_volume(test_patient / "t1.nii.gz")
    run = arguments.out / f"{'+'.join(p.name for p in training_patients)}_to_{test_patient.name}"
    for patient in training_patients:
        cohort = linked(run / "cohort", patient / "t1.nii.gz", patient / "t2.nii.gz")
    overrides = [
        f"data.root={cohort}",
        *(["data.validation=0"] if len(training_patients) > 1 else []),
        *arguments.overrides,
    ]
    settings = load_settings(CONFIGS / "mr_t1_to_t2_pix2pix.yaml", overrides)
    intensity = settings.intensity
    started = time.monotonic()
    best = train(settings, run / "run", resume=(run / "run" / "last").exists(), say=lambda _: None)
    minutes = (time.monotonic() - started) / 60
    model = load_model(best, pick_device("auto"))
    code = fit_range(x_test.data, **intensity.source.model_dump(exclude={"follow"}))
    decode = model.target_ranges[0].of(code)
    x, y = (
        np.concatenate([coded(pair[i], pair[0], c) for pair in pairs])
        for i, c in ((0, intensity.source), (1, intensity.target))
    )
    yield "histogram matching", histogram_matching(x_test, y, decode), 0.0
    yield "voxelwise regression", voxelwise(x, y, x_test, code, decode), 0.0
    yield "medgen Pix2Pix", translate_volume(model, x_test), minutes


def coded(scan: Volume, t1: Volume, intensity: object) -> np.ndarray:
    """Intensity codes (N,) of the brain voxels, scaled by the scan's own range."""
    return fit_range(scan.data, **intensity.model_dump(exclude={"follow"})).encode(scan.data[brain_mask(t1.data)])


def unpaired(arguments: argparse.Namespace, training_patients: list[Path], test_patient: Path):
    """As ``systems``, for T1 of one patient and T2 of another."""
    run = arguments.out / f"t2_of_{training_patients[0].name}_t1_of_{test_patient.name}"
    x, y = read_volume(test_patient / "t1.nii.gz"), read_volume(training_patients[0] / "t2.nii.gz")
    brain = brain_mask(x.data)
    for name, sign in (("histogram matching", 1), ("histogram matching of the negative", -1)):
        matched = np.zeros_like(x.data)
        matched[brain] = match_histograms(sign * x.data[brain], y.data[brain_mask(y.data)])
        yield name, x.replaced(matched), 0.0
    cohort = linked(run / "cohort", test_patient / "t1.nii.gz", training_patients[0] / "t2.nii.gz")
    settings = load_settings(CONFIGS / "mr_t1_to_t2_cut.yaml", [f"data.root={cohort}", *arguments.overrides])
    started = time.monotonic()
    train(settings, run / "run", resume=(run / "run" / "last").exists(), say=lambda _: None)
    minutes = (time.monotonic() - started) / 60
    for chosen in ("best", "last"):
        yield (
            f"medgen CUT {chosen}",
            translate_volume(load_model(run / "run" / chosen, pick_device("auto")), x),
            minutes,
        )


def linked(cohort: Path, source: Path, target: Path) -> Path:
    """Cohort folder with one source and one target scan, as links."""
    for side, scan in (("source", source), ("target", target)):
        link = cohort / side / f"{scan.parent.name}.nii.gz"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(scan.resolve())
    return cohort


def brain_mask(t1: np.ndarray) -> np.ndarray:
    """Brain mask of a skull-stripped volume, which is exactly zero outside the brain."""
    return t1 != 0


def histogram_matching(x: Volume, y: np.ndarray, decode: Range) -> Volume:
    """Match the histogram of a T1 to ``y``, intensity codes of the training brains' T2."""
    brain = brain_mask(x.data)
    out = np.zeros_like(x.data)
    out[brain] = decode.decode(match_histograms(x.data[brain], y))
    return x.replaced(out)


def voxelwise(x: np.ndarray, y: np.ndarray, x_test: Volume, code: Range, decode: Range) -> Volume:
    """Map each of 256 bins of T1 code ``x`` to its median T2 code ``y``, which minimises the MAE."""
    bins = bin_of(x)
    table = np.array([np.median(y[bins == b]) if (bins == b).any() else np.nan for b in range(256)])
    known = np.flatnonzero(np.isfinite(table))
    table = np.interp(np.arange(256), known, table[known])
    out = np.zeros_like(x_test.data)
    inside = brain_mask(x_test.data)
    out[inside] = decode.decode(table[bin_of(code.encode(x_test.data[inside]))])
    return x_test.replaced(out)


def bin_of(code: np.ndarray) -> np.ndarray:
    return np.clip(((code + 1) / 2 * 255).round().astype(int), 0, 255)


if __name__ == "__main__":
    main()
