"""Parts of the body that an output does not show: tissue that became fat or air, and parts of one value."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from medgen.data.fast_filters import gaussian
from medgen.qa.measures.enhancement import Region, regions_of
from medgen.qa.measures.masks import deeper, eroded, opened

TISSUE_HU, INNER_MM, SIGMA_MM = 20.0, 2.0, 2.0
LOST_TO_FAT_HU, LOST_TO_AIR_HU = -40.0, -200.0  # tissue below is fat, or air beside partial volume
CAVITY_HU = -700.0  # air and lung, which outputs may show as one value
EQUAL = 1e-4  # of the range of an image: smaller differences are rounding
FLAT_MM2, FLAT_VOXELS = 300.0, 40  # least area of one value in a plane
LEVELS = 50  # an image of fewer values has areas of one value by itself
MIDDLE = (15, 85)  # percentiles of the source; ventricles, fat and vessels are beyond them
ONE_SIDED = 0.7  # share of the voxels of a part that a window cuts off; a hole has dark and bright ones
SATURATED = 0.05  # share of the body that a window cuts off at most


def lost_tissue(
    source: np.ndarray, output: np.ndarray, body: np.ndarray, spacing: Sequence[float], *, below: float = LOST_TO_AIR_HU
) -> list[Region]:
    """Find soft tissue or bone of the source that is air in the output, or fat or air; largest first.

    Regions above `TISSUE_HU` in the source and below ``below`` in the output, both smoothed by a Gaussian of
    `SIGMA_MM` (at least one voxel), and at least `INNER_MM` (one voxel or more) inside the tissue: its border is darker
    in an output that loses contrast medium, because it contains fat.

    Args:
        source, output: (X, Y, Z) HU on one grid.
        body: (X, Y, Z) bool.
        spacing: mm.
        below: HU; `LOST_TO_FAT_HU` where contrast medium is removed, because this leaves no tissue darker than water.
    """
    if not opened((source > output + TISSUE_HU - below) & body).any():
        return []
    sigma = [max(SIGMA_MM / s, 1.0) for s in spacing]
    before, after = (gaussian(np.clip(v, -1000, 1000).astype(np.float32), sigma) for v in (source, output))
    tissue = body & (before > TISSUE_HU)
    inner = eroded(tissue, border=True) & deeper(tissue, INNER_MM, spacing)
    return regions_of(opened(inner & (after < below)), before, after, spacing)


def flat_parts(
    source: np.ndarray, output: np.ndarray, body: np.ndarray, spacing: Sequence[float], *, hu: bool
) -> list[Region]:
    """Find parts of the body in which the output has one value and the source varies, such as empty tiles or slices.

    Areas of at least `FLAT_MM2` and `FLAT_VOXELS` in a plane along two axes, so that a single slice counts. What a
    window cuts off does not count: in CT voxels at an end of the output's range with a source beyond it; in other
    images parts at an end of the range, such as liquor that is 0 in a FLAIR image, in which nearly all of the source is
    dark, or bright. In CT, air and lung do not count. Largest first.

    Args:
        source, output: (X, Y, Z) on one grid.
        body: (X, Y, Z) bool.
        spacing: mm.
        hu: whether the source is CT in HU.
    """
    values = output[body]
    if values.size < FLAT_VOXELS or len(np.unique(values[:: max(1, values.size // 20000)])) < LEVELS:
        return []
    low, high = float(values.min()), float(values.max())
    margin = 1e-3 * (high - low)
    at_low, at_high = output < low + margin, output > high - margin
    cut_off = (at_low & (source <= output)) | (at_high & (source >= output))
    flat = np.zeros(body.shape, bool)
    for axis in range(3):
        across = [a for a in range(3) if a != axis]
        area = float(np.prod([spacing[a] for a in across]))
        least = max(FLAT_VOXELS, FLAT_MM2 / area)
        here = _one_value(output, across, EQUAL * (high - low)) & body
        if np.count_nonzero(here) < least:
            continue
        tolerance = EQUAL * float(np.ptp(source[body]))
        here &= ~_one_value(source, across, tolerance)
        if hu:  # a window cuts off what is beyond it
            here &= (source > CAVITY_HU) & ~cut_off
        in_plane = np.zeros((3, 3, 3), bool)
        in_plane[tuple(1 if a == axis else slice(None) for a in range(3))] = True
        parts, _ = ndimage.label(here, in_plane)
        flat |= (np.bincount(parts.ravel()) >= least)[parts] & here
    if not flat.any():
        return []
    if not hu:
        flat &= ~_by_window(flat, source, at_low | at_high, body)
    return regions_of(flat, source, output, spacing)


def _by_window(flat: np.ndarray, source: np.ndarray, at_end: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Parts that a window of an output without units may have cut off, (X, Y, Z) bool.

    They are at an end of the output's range, have at most `SATURATED` of the body's voxels, and for `ONE_SIDED` of
    their voxels the source is dark, or bright.
    """
    dark, bright = np.percentile(source[body], MIDDLE)
    parts, _ = ndimage.label(flat)
    sizes = np.maximum(np.bincount(parts.ravel()), 1)

    def share(mask: np.ndarray) -> np.ndarray:
        return np.bincount(parts.ravel(), weights=mask.ravel()) / sizes

    one_sided = np.maximum(share(source <= dark), share(source >= bright)) >= ONE_SIDED
    excused = one_sided & (share(at_end) > ONE_SIDED) & (sizes <= SATURATED * np.count_nonzero(body))
    excused[0] = False
    return excused[parts]


def _one_value(image: np.ndarray, across: Sequence[int], tolerance: float) -> np.ndarray:
    """Voxels whose neighbours in a plane, 3 x 3, have their value."""
    one = np.ones(image.shape, bool)
    for axis in across:
        same = np.abs(np.diff(np.moveaxis(image, axis, 0), axis=0)) <= tolerance
        mask = np.moveaxis(one, axis, 0)
        before = mask.copy()
        mask[1:-1] &= same[1:] & same[:-1] & before[2:] & before[:-2]
        mask[0] = mask[-1] = False
    return one
