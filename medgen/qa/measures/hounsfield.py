"""Whether a CT translation kept the HU of what contrast medium never reaches: an offset, a drift of the scale."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from medgen.data.fast_filters import gaussian

# HU of the input, smoothed by 2.5 mm, between which a voxel is that tissue (ICRU Report 44; Aubrey et al., Acta
# Physiol 2014;210:489 for fat). Unenhanced muscle shares its HU with enhanced bowel: it needs labels.
BANDS = {"fat": (-130.0, -70.0), "lung": (-950.0, -650.0), "dense bone": (350.0, 3000.0)}
LEAST_VOXELS = 200


def unenhancing_change(
    source: np.ndarray,
    output: np.ndarray,
    body: np.ndarray,
    spacing: Sequence[float],
    *,
    labels: np.ndarray | None = None,
    names: Mapping[int, str] | None = None,
) -> dict[str, tuple[float, float]]:
    """{tissue: (median HU in the source, median change output - source)} of what contrast medium hardly reaches.

    Fat and lung are HU bands of the source less their outermost voxels, dense bone its band with both images smoothed
    by 4 mm (a thin cortex loses HU to the least blur); muscle where ``labels`` name it. Iodine adds nothing to fat,
    about 10 HU to lung and muscle (their blood). Medians: iodine in a part of the voxels does not move them.

    Args:
        source, output: (X, Y, Z) HU on one grid.
        body: (X, Y, Z) bool.
        spacing: mm.
        names: {label: structure}.

    Returns:
        Tissues of at least 200 voxels.
    """
    smooth = gaussian(source, [2.5 / s for s in spacing])
    masks = {name: body & (smooth > low) & (smooth < high) for name, (low, high) in BANDS.items()}
    masks |= {name: ndimage.binary_erosion(masks[name]) for name in ("fat", "lung")}
    for value, name in (names or {}).items():
        if name == "muscle" and labels is not None:
            masks["muscle"] = ndimage.binary_erosion(labels == value)
    change = output.astype(np.float32) - source
    found = {}
    for name, mask in masks.items():
        if mask.sum() >= LEAST_VOXELS:
            moved = gaussian(change, [4 / s for s in spacing]) if name == "dense bone" else change
            found[name] = float(np.median(smooth[mask])), float(np.median(moved[mask]))
    return found


def scale_drift(change: Mapping[str, tuple[float, float]]) -> float:
    """Slope of HU in the output over HU in the source, minus 1, by lung and fat; NaN where one is missing.

    Bone would reach further but is blurred by every converter. 0.01 is 7 HU between lung and fat; the iodine that
    leaves the lung's blood is worth about 0.013.
    """
    if "lung" not in change or "fat" not in change:
        return float("nan")
    (lung, lung_change), (fat, fat_change) = change["lung"], change["fat"]
    return (fat_change - lung_change) / (fat - lung)
