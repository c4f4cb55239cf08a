"""Measure one converted case with nibabel, scikit-image and MONAI: image metrics by region, overlap by label, a figure.

The same numbers as ``medgen evaluate``, except for MS-SSIM and slice jumps, which neither library has by region.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

HU_RANGE = 4095.0
SSIM_OPTIONS = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}


def main(folder: Path, out: Path, names: Mapping[str, int], body: np.ndarray) -> dict[str, dict[str, float]]:
    """``folder``: reference, prediction, labels and prediction_labels.nii.gz; returns {region: {metric: value}}."""
    images = {path.name.split(".")[0]: nib.load(path) for path in folder.glob("*.nii.gz")}
    spacing = [float(s) for s in images["reference"].header.get_zooms()]
    x, y = (images[role].get_fdata(dtype=np.float32) for role in ("reference", "prediction"))
    labels, found = (np.asarray(images[role].dataobj) for role in ("labels", "prediction_labels"))
    _, ssim = structural_similarity(x, y, data_range=HU_RANGE, **SSIM_OPTIONS)
    steps = [np.sqrt(sum(g**2 for g in np.gradient(image, *spacing))) for image in (x, y)]
    gradients = np.abs(steps[1] - steps[0])
    regions = {"body": body, **{name: labels == value for name, value in names.items()}}
    rows = {}
    for name, mask in regions.items():
        a, b = x[mask].astype(np.float64), y[mask].astype(np.float64)
        rows[name] = {
            "voxels": float(mask.sum()),
            "mean_prediction": b.mean(),
            "mean_reference": a.mean(),
            "mae": np.abs(b - a).mean(),
            "rmse": mean_squared_error(a, b) ** 0.5,
            "psnr": peak_signal_noise_ratio(a, b, data_range=HU_RANGE),
            "ssim": ssim[mask].mean(dtype=np.float64),
            "ncc": np.corrcoef(a, b)[0, 1],
            "gradient_error": gradients[mask].mean(dtype=np.float64),
        }
    classes = max(names.values()) + 1
    one_hot = [torch.stack([torch.from_numpy(v == k) for k in range(classes)])[None].float() for v in (labels, found)]
    truth, made = one_hot
    scores = {
        "dice": compute_dice(made, truth, include_background=False),
        "hd95": compute_hausdorff_distance(made, truth, percentile=95, spacing=spacing),
        "assd": compute_average_surface_distance(made, truth, symmetric=True, spacing=spacing),
        "surface_dice": compute_surface_dice(made, truth, [2.0] * (classes - 1), spacing=spacing),
    }
    for name, value in names.items():
        rows[name] |= {score: float(values[0, value - 1]) for score, values in scores.items()}
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "regions.csv", "w", newline="") as file:
        columns = ["region", *dict.fromkeys(column for row in rows.values() for column in row)]
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({"region": name, **row} for name, row in rows.items())
    figure, axes = plt.subplots(1, 3, figsize=(12, 4))
    middle = x.shape[2] // 2
    for axis, image in zip(axes, (x, y, y - x), strict=True):
        axis.imshow(image[:, :, middle].T, cmap="gray", origin="lower", vmin=-200, vmax=300)
    figure.savefig(out / "figure.png", dpi=150)
    plt.close(figure)
    return rows
