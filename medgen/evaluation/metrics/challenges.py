"""Metric profiles: the exact definitions under which a fidelity number may be compared with published ones.

Two papers' PSNR of the same images differ by decibels when clipping, data range, mask and window differ, so a number
carries its profile's name ("synthrad2025_psnr"), and `PROFILES` says in a sentence
what was done. `organ_scores` are a challenge's Dice and HD95 on organ masks.
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
        "nothing is clipped; the data range is the user's; MAE, RMSE, PSNR, NCC, gradient error, SSIM and MS-SSIM with "
        "a Gaussian window (Wang 2004, 2003) in the mask, or the whole volume"
    ),
    "synthrad2023": (
        "MAE, PSNR and SSIM in the body mask; for PSNR and SSIM clipped to [-1024, 3000] HU, range 4024; SSIM with a "
        "uniform 7-voxel window on images set to -1024 HU outside the mask and shifted to start at 0 "
        "(https://github.com/SynthRAD2023/metrics, functions/image_metrics.py)"
    ),
    "synthrad2025": (
        "MAE, PSNR and 5-level MS-SSIM in the body mask; for PSNR and MS-SSIM clipped to [-1024, 3071] HU, range 4095; "
        "MS-SSIM with a uniform 7-voxel window, luminance at every level, on images set to -1024 HU outside the mask "
        "and shifted to start at 0, halved from the patient's right, front and feet; of segmentations, Dice and HD95, "
        "means over the labels that the truth has, HD95 without those that the prediction lacks "
        "(https://github.com/SynthRAD2025/evaluation, image_metrics.py and segmentation_metrics.py)"
    ),
}
SYNTHRAD2023 = (-1024.0, 3000.0)  # HU
SYNTHRAD2025 = (-1024.0, 3071.0)  # HU
SYNTHRAD_SIZE = 97  # voxels, (7 - 1) * 2**4 + 1: to this every axis is padded before the five levels


def organ_scores(scores: Iterable[Mapping[str, float]], *, profile: str) -> dict[str, float]:
    """A challenge's segmentation metrics of one case: synthrad2025_dice in [0, 1] and synthrad2025_hd95 in mm.

    Means over the labels in the truth, as the challenge takes them over those of its organs that the truth has; which
    organs (TotalSegmentator's, by part of the body) is for whoever gives the labels to choose. A label that the
    prediction lacks has Dice 0, and MONAI's HD95, which the challenge uses, leaves it out. Nothing for profiles
    without organs, or for a truth without labels; no hd95 where none is left.

    Args:
        scores: of `medgen.evaluation.metrics.segmentation.segmentation_scores`, one for every label.
    """
    known = [row for row in scores if row["volume_reference"] > 0]
    if profile != "synthrad2025" or not known:
        return {}
    found = {f"{profile}_dice": fmean(row["dice"] for row in known)}
    distances = [row["hd95"] for row in known if math.isfinite(row["hd95"])]
    return found | ({f"{profile}_hd95": fmean(distances)} if distances else {})


def clipped_psnr(pair: Pair, mask: Array | None, limits: tuple[float, float]) -> float:
    """PSNR in dB of both images clipped to ``limits`` (HU), whose span is the data range."""
    x, y = _clipped(pair, limits)
    return psnr(x, y, data_range=limits[1] - limits[0], mask=mask)


def synthrad2023_ssim(pair: Pair, mask: Array | None) -> float:
    """Mean over the mask of scikit-image's default SSIM map, the outermost three voxels left out."""
    x, y, data_range = _shifted(pair, mask, SYNTHRAD2023)
    similarity = ssim_map(x, y, data_range=data_range, window="uniform")
    return mean_ssim(similarity, None if mask is None else _off_the_faces(mask), window="uniform")


def synthrad2025_ms_ssim(pair: Pair, mask: Array | None) -> float:
    """Π_j mean over the mask of max(SSIM_j, 0)^w_j, five levels with the weights of Wang 2003.

    The challenge raises luminance, contrast and structure to w_j in every voxel, before the mean, and keeps the
    luminance at every level. Contrast times structure is (2 σxy + C2) / (σx² + σy² + C2) when C3 = C2 / 2, so the
    three factors are SSIM. Axes below 97 voxels are padded with their last value, the mask too. A coarse voxel k is
    the mean of 2k - 1 and 2k along every axis (0 before the first) and is in the mask if 2k is: so the value depends on
    where an axis begins. The challenge takes its files as they lie, to the patient's left, back and head.
    """
    x, y, data_range = _shifted(pair, mask, SYNTHRAD2025)
    counts = np.ones(x.shape, bool) if mask is None else np.asarray(mask, bool)
    x, y, counts = (image[::-1, ::-1] for image in (x, y, counts))
    padding = [((short := max(SYNTHRAD_SIZE - n, 0)) // 2, short - short // 2) for n in x.shape]
    x, y, counts = (np.pad(image, padding, mode="edge") for image in (x, y, counts))
    product = 1.0
    for level, weight in enumerate(LEVEL_WEIGHTS):
        if level:
            x, y = (halved(np.pad(image, [(1, 0)] * 3)) for image in (x, y))
            counts = counts[::2, ::2, ::2]
        similarity = np.maximum(ssim_map(x, y, data_range=data_range, window="uniform"), 0)
        product *= mean_ssim(similarity**weight, _off_the_faces(counts), window="uniform")
    return product


def _off_the_faces(mask: Array) -> Array:
    """The mask without the voxels whose 7-voxel window crosses a face of the volume."""
    inner = np.zeros(mask.shape, bool)
    centre = inside(mask.shape, RADIUS["uniform"])
    inner[centre] = np.asarray(mask, bool)[centre]
    if not inner.any():
        raise InputError(
            "metric-mask-at-faces", "the mask has no voxel more than 3 from the faces, where the challenge's SSIM looks"
        )
    return inner


def _clipped(pair: Pair, limits: tuple[float, float]) -> list[Array]:
    return [np.clip(np.asarray(image, np.float32), *limits) for image in (pair.reference, pair.prediction)]


def _shifted(pair: Pair, mask: Array | None, limits: tuple[float, float]) -> tuple[Array, Array, float]:
    """Both clipped, at the lowest value outside the mask, and then that value at 0; and the span of values."""
    low = np.float32(limits[0])
    x, y = ((v if mask is None else np.where(np.asarray(mask, bool), v, low)) - low for v in _clipped(pair, limits))
    return x, y, limits[1] - limits[0]
