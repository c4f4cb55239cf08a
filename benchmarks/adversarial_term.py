"""What the adversarial term of Pix2Pix buys: with and without it, three seeds, equal minutes.

    python benchmarks/adversarial_term.py ct OUT [--minutes 5]
    python benchmarks/adversarial_term.py mr OUT --data OPEN_MS --train-on patient19 --test-on patient07 [--minutes 5]

``ct``: ``ct_contrast_pix2pix`` on 10 patients of the embedded cohort, four others for testing. ``mr``:
``mr_t1_to_t2_pix2pix`` on one real patient, tested on the other. Prints for each arm the mean over seeds of:

- MAE, SSIM and gradient error, inside the body or brain;
- noise: power above half the Nyquist frequency relative to the truth's (1: the same texture; 0: smooth);
- Fréchet radiomics distance between prediction and truth at the same voxels (features of the two smaller scales);
- lesion contrast: of lesions against liver, or of MS lesions against their surroundings, relative to the truth's;
- Dice of organs and lesions (``ct``): a segmenter trained on true non-contrast scans, applied to the predictions.

Then the differences from the arm without the term, with 95 % intervals over the seeds (Student's t).
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import ndimage, stats
from t1_to_t2 import linked

from medgen.checkpoint import load_model
from medgen.config import config_file, load_settings
from medgen.data.body_mask import body_mask
from medgen.evaluation.distribution.frechet import frechet_distance
from medgen.evaluation.distribution.patch_features import patch_features, standardised
from medgen.evaluation.metrics.segmentation import dice_scores
from medgen.evaluation.metrics.ssim import ssim
from medgen.evaluation.metrics.voxelwise import gradient_error, mae
from medgen.inference.predict import translate_volume
from medgen.io.read import read_volume
from medgen.io.write import write_volume
from medgen.phantom.cohort import LABELS, write_cohort
from medgen.segmentation.model import Segmenter
from medgen.segmentation.train import Example, train_segmenter
from medgen.terminology import is_lesion
from medgen.training.loop import train

SEEDS, CUBE, SCALES = (0, 1, 2), 16, (1.0, 3.0)
TRAINED, TESTED, SIZE = 10, 4, (150, 112, 64)
ARMS = {
    "ct": {
        "without": ["method.weight_gan=0"],
        "source and target": ["method.adversary_input=pair"],
        "difference": ["method.adversary_input=difference", "method.adversary.norm=none"],
    },
    "mr": {
        "without": ["method.weight_gan=0"],
        "weight 0.02": ["method.weight_gan=0.02"],
        "weight 1": ["method.weight_gan=1"],
    },
}
LESIONS = tuple(filter(is_lesion, LABELS))
SEGMENTED = (("liver",), ("spleen",), ("kidney_left", "kidney_right"), ("aorta",), LESIONS)
Case = dict[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(ARMS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--train-on", default="patient19")
    parser.add_argument("--test-on", default="patient07")
    parser.add_argument("--minutes", type=float, default=5)
    a = parser.parse_args()
    segmenter = None
    if a.task == "ct":
        cohort, sources, cases = phantoms(a.out)
        segmenter = trained_segmenter(cohort, a.out, a.minutes)
    else:
        cohort = linked(a.out / "cohort", *(a.data / a.train_on / f"{c}.nii.gz" for c in ("t1", "t2")))
        sources, cases = [a.data / a.test_on / "t1.nii.gz"], [brain(a.data / a.test_on)]
    config = {"ct": "ct_contrast_pix2pix", "mr": "mr_t1_to_t2_pix2pix"}[a.task]
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in SEEDS:
        for arm, overrides in ARMS[a.task].items():
            done = a.out / arm.replace(" ", "_") / str(seed) / "scores.json"
            if not done.exists():
                given = [f"data.root={cohort}", f"train.seed={seed}", f"train.minutes={a.minutes}", "data.validation=0"]
                given += ["train.steps=100000", "train.validate_every=100000", *overrides]
                run = done.parent / "run"
                resume = (run / "last").exists()
                train(load_settings(config_file(config), given), run, resume=resume, say=lambda _: None)
                model = load_model(run / "last")
                predictions = [translate_volume(model, read_volume(x)) for x in sources]
                scores = measured(cases, [p.data for p in predictions])
                if segmenter:
                    scores["Dice"] = dice(segmenter, predictions, cases)
                done.write_text(json.dumps(scores | {"steps": model.info.step}))
                write_volume(done.parent / "prediction.nii.gz", predictions[0])
            rows.setdefault(arm, []).append(json.loads(done.read_text()))
    print(table(rows))


def phantoms(out: Path) -> tuple[Path, list[Path], list[Case]]:
    cohort, tests = out / "cohort", out / "tests"
    write_cohort(cohort, patients=TRAINED, seed=51, size=SIZE)
    write_cohort(tests, patients=TESTED, seed=52, size=SIZE)
    sources = sorted((tests / "source").glob("*.nii.gz"))
    cases = []
    for file in sources:
        truth, labels = (read_volume(tests / side / file.name) for side in ("target", "labels"))
        lesion = np.isin(labels.data, [LABELS[k] for k in LESIONS])
        cases.append({
            "truth": truth.data, "mask": body_mask(truth.data), "spacing": np.asarray(truth.spacing),
            "range": np.asarray(4095), "lesion": lesion, "around": labels.data == LABELS["liver"],
            "labels": labels.data,
        })  # fmt: skip
    return cohort, sources, cases


def brain(patient: Path) -> Case:
    """Truth scaled by its 99.5th percentile in the brain; surroundings of lesions are within 3 voxels of them."""
    truth, t1 = read_volume(patient / "t2.nii.gz"), read_volume(patient / "t1.nii.gz")
    lesion = read_volume(patient / "lesions.nii.gz").data > 0
    mask = t1.data != 0
    around = ndimage.binary_dilation(lesion, iterations=3) & ~ndimage.binary_dilation(lesion) & mask
    y = truth.data / np.percentile(truth.data[mask], 99.5)
    one = {"truth": y, "mask": mask, "spacing": np.asarray(truth.spacing), "range": np.asarray(1.0)}
    return one | {"lesion": lesion, "around": around}


def measured(cases: list[Case], predictions: list[np.ndarray]) -> dict[str, float]:
    """Scores averaged over the cases."""
    found = []
    features: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    for n, (case, y) in enumerate(zip(cases, predictions, strict=True)):
        truth, mask, spacing = case["truth"], case["mask"], [float(s) for s in case["spacing"]]
        if case["range"] == 1:  # the gain of a new MR scan is unknown
            y = y * float((truth[mask] @ y[mask]) / (y[mask] @ y[mask]))
        contrasts = [float(v[case["lesion"]].mean() - v[case["around"]].mean()) for v in (y, truth)]
        found.append({
            "MAE": mae(truth, y, mask), "SSIM": ssim(truth, y, data_range=float(case["range"]), mask=mask),
            "gradient error": gradient_error(truth, y, spacing=spacing, mask=mask),
            "noise": texture(y, mask) / texture(truth, mask),
            "lesion contrast": contrasts[0] / contrasts[1],
        })  # fmt: skip
        for rows, image in zip(features, (truth, y), strict=True):
            rows.append(patch_features(image, mask, spacing, count=1000, seed=n, scales=SCALES))
    real, fake = (np.concatenate(rows) for rows in features)
    scores = {k: float(np.mean([f[k] for f in found])) for k in found[0]}
    return scores | {"Fréchet": frechet_distance(standardised(real, real), standardised(fake, real))}


def texture(image: np.ndarray, mask: np.ndarray) -> float:
    """Mean power above half the Nyquist frequency of cubes inside the mask (Hann window)."""
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*[np.fft.fftfreq(CUBE)] * 3, indexing="ij", sparse=True)))
    hann = np.hanning(CUBE)
    window = hann[:, None, None] * hann[:, None] * hann
    inner = ndimage.minimum_filter(mask, CUBE, mode="constant")[::CUBE, ::CUBE, ::CUBE]
    powers = []
    for place in np.argwhere(inner) * CUBE:
        cube = image[tuple(slice(p - CUBE // 2, p + CUBE // 2) for p in place)]
        spectrum = np.abs(np.fft.fftn((cube - cube.mean()) * window)) ** 2
        powers.append(spectrum[frequency > 0.25].mean())
    return float(np.median(powers))


def trained_segmenter(cohort: Path, out: Path, minutes: float) -> Segmenter:
    """Segmenter of ``SEGMENTED``, trained on the true non-contrast scans of the training patients."""
    examples = []
    for file in sorted((cohort / "target").glob("*.nii.gz")):
        labels = read_volume(cohort / "labels" / file.name)
        path = out / "organs" / file.name
        write_volume(path, labels.replaced(organs(labels.data)))
        examples.append(Example(file.name, file.name, file, path))
    return train_segmenter(examples, out / "segmenter", minutes=minutes, steps=100_000, intensities="ct")


def organs(labels: np.ndarray) -> np.ndarray:
    out = np.zeros(labels.shape, np.uint8)
    for value, names in enumerate(SEGMENTED, 1):
        out[np.isin(labels, [LABELS[n] for n in names])] = value
    return out


def dice(segmenter: Segmenter, predictions: list, cases: list[Case]) -> float:
    scores = []
    for prediction, case in zip(predictions, cases, strict=True):
        found = dice_scores(
            organs(case["labels"]), np.asarray(segmenter(prediction)), labels=range(1, len(SEGMENTED) + 1)
        )
        scores += [v for v in found.values() if np.isfinite(v)]
    return float(np.mean(scores))


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    columns = [k for k in rows["without"][0] if k != "steps"]
    lines = ["| adversarial term | steps | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for arm, scores in rows.items():
        means = [f"{np.mean([s[k] for s in scores]):.4g}" for k in columns]
        lines.append(f"| {arm} | {np.mean([s['steps'] for s in scores]):.0f} | " + " | ".join(means) + " |")
    for arm in list(rows)[1:]:
        cells = []
        for k in columns:
            d = np.asarray([s[k] - w[k] for s, w in zip(rows[arm], rows["without"], strict=True)])
            half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
            cells.append(f"{d.mean():+.3g} ({d.mean() - half:.3g} to {d.mean() + half:.3g})")
        lines.append(f"| {arm} minus without | | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
