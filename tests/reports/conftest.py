"""A small evaluation folder with measured results, and the optional sections of its summary."""

import json

import nibabel as nib
import numpy as np
import pytest
from evaluating import evaluate

from medgen.phantom.cohort import LABELS, make_patient

SYSTEMS = {"alpha": 0.1, "beta": 0.5}
STRUCTURES = ("aorta", "liver", "spleen", "kidney_left", "fat")


def write(path, data, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)


def write_cohort(root):
    """Two small phantoms, and conversions of two systems that leave part of the contrast."""
    labels = {name: LABELS[name] for name in STRUCTURES}
    (root / "labels.json").write_text(json.dumps(labels))
    for seed, case in enumerate(("patient_000", "patient_001")):
        patient = make_patient(seed, size=(40, 32, 28), spacing=9, noise_free=True)
        contrast = patient.contrast - patient.noncontrast
        made = {name: patient.noncontrast + (left + 0.2 * seed) * contrast for name, left in SYSTEMS.items()}
        for role, data in (made | {"target": patient.noncontrast, "source": patient.contrast}).items():
            write(root / role / f"{case}.nii.gz", data.astype(np.float32), patient.affine)
        known = np.where(np.isin(patient.labels, list(labels.values())), patient.labels, 0)
        write(root / "labels" / f"{case}.nii.gz", known.astype(np.uint8), patient.affine)


def extend(folder, **replaced):
    """Add every section that a summary may have, with numbers chosen by hand."""
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    summary |= sections([case["case"] for case in summary["cases"]], summary["cases"]) | replaced
    for stats in summary["metrics"].values():
        if stats["mean"] is not None:
            stats["mean_interval"] = [stats["mean"] - 1, stats["mean"] + 1]
    path.write_text(json.dumps(summary))
    return folder


def sections(cases, found):
    files = {"synthetic": found[0]["files"]["prediction"], "training": found[1]["files"]["reference"]}
    dice = {"mean": 0.912, "mean_interval": [0.9, 0.93], "n": 2}
    return {
        "profile": "generic",
        "agreement": {
            "aorta": {
                "bias": 12.5,
                "sd": 2.0,
                "lower": 8.58,
                "upper": 16.42,
                "n": 2,
                "bias_interval": [11.0, 14.0],
                "lower_interval": [6.0, 10.0],
                "upper_interval": [15.0, 19.0],
                "points": [{"case": case, "mean": 40 + i, "difference": 11 + 3 * i} for i, case in enumerate(cases)],
            }
        },
        "segmentation": {
            "tolerance_mm": 2.0,
            "labels": {"liver": {"dice": dice, "hd95": {"mean": 4.26}, "assd": {"mean": 0.812}}},
            "cases": [{"case": case, "label": "liver", "dice": 0.9, "hd95": 4.0, "assd": None} for case in cases],
        },
        "distribution": [
            {
                "metric": "Fréchet radiomics distance",
                "value": 3.41823,
                "standard_error": 0.0123,
                "extractor": "radiomics",
                "weights": "none",
                "preprocessing": "2.5 mm",
                "reference_rows": 64,
                "prediction_rows": 32,
                "reference_volumes": 2,
                "prediction_volumes": 1,
                "notes": ["fewer samples than features"],
            }
        ],
        "memorisation": {
            "p_value": 0.0004,
            "flagged": True,
            "note": "two against two",
            "closest": [{"synthetic": cases[0], "training": "train_007", "distance": 2.5, "files": files}],
        },
        "structure": {
            "counts": {"pass": 1, "review": 0, "fail": 1},
            "cases": [
                {"case": cases[0], "status": "pass", "reasons": [], "values": {"edge_agreement": 0.91}},
                {
                    "case": cases[1],
                    "status": "fail",
                    "reasons": ["lesion lost.", "liver too bright.", "all is odd."],
                    "findings": findings(found[1]["files"]["prediction"]),
                    "values": {"edge_agreement": 0.61, "scale_drift": -9.083e-05, "shift_mm_left-right": -0.00034},
                },
            ],
        },
        "downstream": {
            "note": "three seeds",
            "rows": [
                {"protocol": "real → synthetic", "label": "liver", "dice_mean": 0.87, "interval": [0.8, 0.9], "n": 6}
            ],
        },
        "provenance": {
            "model": {"name": "demo", "step": "12000", "weights": "ab" * 32, "versions": {"torch": "2.13"}},
            "conversion": {"to": "non-contrast CT"},
        },
    }


def findings(path):
    """Two findings with a location, in opposite parts of the volume, and one without."""
    image, found = nib.load(path), []
    for text, part in (("lesion lost.", 0.35), ("liver too bright.", 0.7)):
        corners = [image.affine @ [*((part + step) * n for n in image.shape), 1] for step in (-0.1, 0.1)]
        low, high = np.min(corners, 0)[:3].tolist(), np.max(corners, 0)[:3].tolist()
        found.append({"fault": "x", "status": "fail", "text": text, "place": {"low": low, "high": high}})
    return [*found, {"fault": "x", "status": "review", "text": "all is odd.", "place": None}]


@pytest.fixture(scope="session")
def two_results(tmp_path_factory):
    """The evaluation folders of two systems on the same cases, with every section."""
    root = tmp_path_factory.mktemp("cohort")
    write_cohort(root)
    for name in SYSTEMS:
        evaluate(root / "target", root / name, root / name / "out", source=root / "source", labels=root / "labels")
    return [extend(root / name / "out") for name in SYSTEMS]


@pytest.fixture(scope="session")
def results(two_results):
    """The evaluation folder of the first system."""
    return two_results[0]
