"""Metric profiles: exact definitions that make results comparable with published ones.

PSNR of the same images differs by decibels if clipping, data range, mask or window differ. Metrics therefore carry the
name of their profile ("synthrad2025_psnr"), and `PROFILES` describes each profile. `organ_scores` computes a
challenge's Dice and HD95 on organ masks.
"""

import math
from collections.abc import Iterable, Mapping
from statistics import fmean

import numpy as np

from medgen.errors import InputError
from medgen.evaluation.metrics.metric import Array, Pair
from medgen.evaluation.metrics.ssim import LEVEL_WEIGHTS, RADIUS, halved, inside, mean_ssim, ssim_map
from medgen.evaluation.metrics.voxelwise import psnr

PROFILES: Mapping[str, str] = {
    "generic": (
        "no clipping; data range as stated here; MAE, RMSE, PSNR, NCC, gradient error, SSIM and MS-SSIM with a "
        "Gaussian window (Wang 2004, 2003) in the mask or the whole volume"
    ),
    "synthrad2023": (
        "MAE, PSNR and SSIM in the body mask; for PSNR and SSIM images are clipped to [-1024, 3000] HU, data range "
        "4024; SSIM with a uniform 7-voxel window on images set to -1024 HU outside the mask and shifted to start at 0 "
        "(https://github.com/SynthRAD2023/metrics, functions/image_metrics.py)"
    ),
    "synthrad2025": (
        "MAE, PSNR and 5-level MS-SSIM in the body mask; for PSNR and MS-SSIM images are clipped to [-1024, 3071] HU, "
        "data range 4095; MS-SSIM with a uniform 7-voxel window and luminance at every level, on images set to -1024 "
        "HU outside the mask, shifted to start at 0 and downsampled by 2 starting at the patient's right, front and "
        "feet; Dice and HD95 of segmentations are means over the labels of the reference, HD95 without the labels "
        "that are missing in the prediction "
        "(https://github.com/SynthRAD2025/evaluation, image_metrics.py and segmentation_metrics.py)"
    ),
    "restoration": (
        "in the mask or the body, relative to the reference: frequency at which the MTF across its edges is 50 %, and "
        "standard deviation and mean frequency of the noise power spectrum in its flattest tenth of regions of 10 mm"
    ),
}
ANY_UNIT = ("generic", "restoration")  # the other profiles are defined for HU
SYNTHRAD2023 = (-1024.0, 3000.0)  # HU
SYNTHRAD2025 = (-1024.0, 3071.0)  # HU
SYNTHRAD_SIZE = 97  # voxels, (7 - 1) * 2**4 + 1: every axis is padded to this size before the five levels


def organ_scores(scores: Iterable[Mapping[str, float]], *, profile: str) -> dict[str, float]:
    """Return a challenge's segmentation metrics of one case: synthrad2025_dice in [0, 1] and synthrad2025_hd95 in mm.

    Means over the labels in the reference, as in the challenge. The challenge uses organs of TotalSegmentator by body
    part; here the label maps decide which organs are used. A label that is missing in the prediction has Dice 0 and
    is excluded from HD95, like in MONAI, which the challenge uses. Empty for profiles without segmentation metrics and
    for a reference without labels; without hd95 if no label is left.

    Args:
        scores: rows of `medgen.evaluation.metrics.segmentation.segmentation_scores`, one per label.
        profile: a key of `PROFILES`.
    """
    in_reference = [row for row in scores if row["volume_reference"] > 0]
    if profile != "synthrad2025" or not in_reference:
        return {}
    organ_metrics = {f"{profile}_dice": fmean(row["dice"] for row in in_reference)}
    distances = [row["hd95"] for row in in_reference if math.isfinite(row["hd95"])]
    return organ_metrics | ({f"{profile}_hd95": fmean(distances)} if distances else {})


def clipped_psnr(pair: Pair, mask: Array | None, limits: tuple[float, float]) -> float:
    """Return PSNR in dB of both images clipped to ``limits`` (HU), whose difference is the data range."""
    x, y = _clipped(pair, limits)
    return psnr(x, y, data_range=limits[1] - limits[0], mask=mask)


def synthrad2023_ssim(pair: Pair, mask: Array | None) -> float:
    """Return the mean over the mask of scikit-image's default SSIM map, without the outermost three voxels."""
    x, y, data_range = _shifted(pair, mask, SYNTHRAD2023)
    similarity = ssim_map(x, y, data_range=data_range, window="uniform")
    return mean_ssim(similarity, None if mask is None else _without_face_voxels(mask), window="uniform")


def synthrad2025_ms_ssim(pair: Pair, mask: Array | None) -> float:
    """Return Π_j (mean over the mask of max(SSIM_j, 0)^w_j), five levels with the weights of Wang 2003.

    The challenge raises luminance, contrast and structure to w_j in every voxel, before the mean, and uses the
    luminance at every level. Contrast times structure is (2 σxy + C2) / (σx² + σy² + C2) when C3 = C2 / 2, so the
    product of the three factors is SSIM. Axes below 97 voxels are padded with their edge values, the mask too. A
    coarse voxel k is the mean of voxels 2k - 1 and 2k along every axis (0 before the first) and is in the mask if 2k
    is, so the result depends on the direction of each axis. The challenge reads its files in stored order, with axes
    to the patient's left, back and head; the flip below matches that order.
    """
    x, y, data_range = _shifted(pair, mask, SYNTHRAD2025)
    in_mask = np.ones(x.shape, bool) if mask is None else np.asarray(mask, bool)
    x, y, in_mask = (image[::-1, ::-1] for image in (x, y, in_mask))
    padding = [((short := max(SYNTHRAD_SIZE - n, 0)) // 2, short - short // 2) for n in x.shape]
    x, y, in_mask = (np.pad(image, padding, mode="edge") for image in (x, y, in_mask))
    product = 1.0
    for level, weight in enumerate(LEVEL_WEIGHTS):
        if level:
            x, y = (halved(np.pad(image, [(1, 0)] * 3)) for image in (x, y))
            in_mask = in_mask[::2, ::2, ::2]
        similarity = np.maximum(ssim_map(x, y, data_range=data_range, window="uniform"), 0)
        product *= mean_ssim(similarity**weight, _without_face_voxels(in_mask), window="uniform")
    return product


def _without_face_voxels(mask: Array) -> Array:
    """Return the mask without the voxels whose 7-voxel window crosses a face of the volume."""
    inner = np.zeros(mask.shape, bool)
    centre = inside(mask.shape, RADIUS["uniform"])
    inner[centre] = np.asarray(mask, bool)[centre]
    if not inner.any():
        raise InputError(
            "metric-mask-at-faces",
            "the mask has no voxel that is more than 3 voxels from the faces of the volume, but the challenge's SSIM "
            "uses only such voxels; give a larger mask",
        )
    return inner


def _clipped(pair: Pair, limits: tuple[float, float]) -> list[Array]:
    return [np.clip(np.asarray(image, np.float32), *limits) for image in (pair.reference, pair.prediction)]


def _shifted(pair: Pair, mask: Array | None, limits: tuple[float, float]) -> tuple[Array, Array, float]:
    """Clip both images, set the lowest value outside the mask, shift it to 0; return them and the data range."""
    low = np.float32(limits[0])
    x, y = ((v if mask is None else np.where(np.asarray(mask, bool), v, low)) - low for v in _clipped(pair, limits))
    return x, y, limits[1] - limits[0]
