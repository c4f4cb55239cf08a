"""Measure HU offset and drift of the HU scale in a CT translation, in tissues with little contrast medium."""

from collections.abc import Mapping, Sequence

import numpy as np

from medgen.data.fast_filters import gaussian
from medgen.qa.measures.masks import eroded
from medgen.terminology import is_muscle

SMOOTH_MM = 2.5  # sigma of the Gaussian filter that separates tissues from noise
# HU range of each tissue in the input after that filter (ICRU Report 44; fat: Aubrey et al., Acta
# Physiol 2014;210:489).
# Muscle needs labels: unenhanced muscle and enhanced bowel have the same HU.
BANDS = {"fat": (-130.0, -70.0), "lung": (-950.0, -650.0), "dense bone": (350.0, 3000.0)}
SOFT = (-20.0, 200.0)  # HU of soft tissue, with contrast medium or without; its median stands in for that of fat
LEAST_VOXELS = 200


def unenhancing_change(
    source: np.ndarray,
    output: np.ndarray,
    body: np.ndarray,
    spacing: Sequence[float],
    *,
    labels: np.ndarray | None = None,
    names: Mapping[int, str] | None = None,
    smooth: np.ndarray | None = None,
) -> dict[str, tuple[float, float]]:
    """Measure the change of HU in tissues with little contrast medium.

    Fat and lung are the voxels of the source in an HU range without the outermost ones. Soft tissue stands in where
    there is too little fat, as in children. Dense bone is also an HU range; there the change is smoothed by 4 mm,
    because even slight blur lowers the HU of a thin cortex. Muscle is all labels whose names mean a skeletal muscle.
    Iodine adds nothing to fat and, in their blood, about 10 HU to lung and muscle. Medians are robust to iodine in some
    of the voxels.

    Args:
        source, output: (X, Y, Z) HU on one grid.
        body: (X, Y, Z) bool.
        spacing: mm.
        labels: (X, Y, Z) whole numbers; needed for muscle.
        names: {label: structure}.
        smooth: the source after a Gaussian filter of `SMOOTH_MM`, if it was computed before.

    Returns:
        {tissue: (median HU in the smoothed source, median of output - source)} for tissues of at least 200 voxels.
    """
    smooth = gaussian(source, [SMOOTH_MM / s for s in spacing]) if smooth is None else smooth
    masks = {name: body & (smooth > low) & (smooth < high) for name, (low, high) in BANDS.items()}
    masks |= {name: eroded(masks[name]) for name in ("fat", "lung")}
    if not masks["fat"].sum() >= LEAST_VOXELS:
        masks["soft tissue"] = body & (smooth > SOFT[0]) & (smooth < SOFT[1])
    muscles = [value for value, name in (names or {}).items() if is_muscle(name)]
    if muscles and labels is not None:
        masks["muscle"] = eroded(np.isin(labels, muscles))
    change = output.astype(np.float32) - source
    found = {}
    for name, mask in masks.items():
        if mask.sum() >= LEAST_VOXELS:
            smoothed = gaussian(change, [4 / s for s in spacing]) if name == "dense bone" else change
            found[name] = float(np.median(smooth[mask])), float(np.median(smoothed[mask]))
    return found


def scale_drift(change: Mapping[str, tuple[float, float]]) -> float:
    """Slope of output HU over source HU between lung and fat, minus 1; NaN if one of them is missing.

    A drift of 0.01 changes the difference between lung and fat by 7 HU. Removing the iodine in the blood of the lung
    accounts for about 0.013. Bone would give a wider range, but every translation model blurs it.
    """
    if "lung" not in change or "fat" not in change:
        return float("nan")
    (lung, lung_change), (fat, fat_change) = change["lung"], change["fat"]
    return (fat_change - lung_change) / (fat - lung)
