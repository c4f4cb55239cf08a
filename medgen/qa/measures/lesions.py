"""Check whether the lesions of an input are kept or lost in its translation.

`lesion_conservation` judges lesions with known masks; `matched_lesions` compares the detections of a segmenter.
Structures that only the translation shows are found by `new_structures`, which needs no mask. All positions are in mm
from the centre of voxel (0, 0, 0).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medgen.qa.measures.enhancement import partial_volume

WATER_HU = 0.0  # only fat and air are darker than water in a scan without contrast medium
CYST_HU = 20.0  # a darker lesion in a scan with contrast medium is a cyst (filled with water or blood); no enhancement
LEAST_ML, LEAST_VOXELS = 0.2, 30  # minimum size of a judged lesion; smaller ones are mostly partial volume
MARGIN_HU = 15.0  # tolerance beyond the HU that removing contrast medium can produce

Spacing = Sequence[float]


@dataclass(frozen=True)
class Lesion:
    """One lesion of the input, measured in input and output.

    Attributes:
        place: its centre, mm.
        contrast: mean of the lesion minus median of its host tissue, in the unit of the image (HU).
        noise: standard error of that contrast.
        expected: minimum contrast in a correct output; 0 if the lesion may have no contrast there.
        visible: whether it is clearly visible in the input.
        sure: whether it must also be clearly visible in a correct output.
        kept: whether it is visible in the output.
        replaced: whether its HU in the output cannot result from removing contrast medium.
    """

    place: tuple[float, float, float]
    volume_ml: float
    contrast: float
    contrast_output: float
    noise: float
    noise_output: float
    expected: float
    visible: bool
    sure: bool
    kept: bool
    replaced: bool = False

    @property
    def lost(self) -> bool:
        return self.visible and not self.kept


def lesion_conservation(
    source: np.ndarray,
    output: np.ndarray,
    lesions: np.ndarray,
    spacing: Spacing,
    *,
    labels: np.ndarray | None = None,
    least_ml: float = LEAST_ML,
    visible_z: float = 8.0,
    kept_z: float = 3.0,
    gone_z: float = 1.6,
    uptake: float | None = None,
    either_sign: bool = False,
) -> list[Lesion]:
    """Judge every lesion, i.e. each connected component of a value of ``lesions``.

    It has at least ``least_ml`` and `LEAST_VOXELS`.

    Contrast is the mean of the lesion minus the median of its host tissue in a ring 2-6 mm around it. The host is the
    most frequent label of the ring if ``labels`` are given, else the voxels within 60 HU (or other image units) of
    the median of the ring. The noise of the contrast is the spread of the ring divided by the root of the number of
    voxels; a voxel counts half because CT noise is correlated.

    - visible: |contrast| ≥ visible_z · noise in the source;
    - sure: visible, and |expected| ≥ 2 kept_z · noise in the output;
    - kept: |contrast in the output| ≥ kept_z · noise, and of the expected sign if the lesion is sure.

    The expected contrast is that of the source. If contrast medium was removed (``uptake``), it is the minimum that can
    remain. A dark lesion took up the share ``uptake`` of the contrast medium of its host, so its contrast shrinks by
    (1 - uptake) · (HU lost by the host). A lesion darker than `CYST_HU` in the source keeps its HU. The HU of a bright
    lesion can fall, but not below water (0 HU): in fat it stays bright, in the liver it may lose its contrast. A
    visible lesion that is not sure then counts as kept if |contrast in the output| ≥ gone_z · noise. If it is lost, it
    was erased or has no contrast without contrast medium; only the true image can show which. A lesion is replaced if
    its HU in the output are, by more than a margin, above both its HU in the source and those of the host, or below
    its HU in the source, water and the host.

    Args:
        source, output: (X, Y, Z) on one grid.
        lesions: (X, Y, Z) whole numbers, above 0 in lesions; each value marks lesions of its own, which may touch.
        spacing: mm.
        labels: (X, Y, Z) whole numbers, structures of the source; 0 is background.
        uptake: in [0, 1], for an output without contrast medium (both images in HU); None for other translations.
        either_sign: the sign of the contrast in the output is unknown, such as for a lesion that is dark in T1 and
            bright in T2: no lesion is sure, and contrast of either sign counts.
    """
    parts = _components(lesions)
    voxel_ml, margin = float(np.prod(spacing)) / 1000, [int(np.ceil(8 / s)) for s in spacing]
    found = []
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        box = tuple(slice(max(b.start - m, 0), b.stop + m) for b, m in zip(box, margin, strict=True))
        inside = parts[box] == number
        if inside.sum() < LEAST_VOXELS or inside.sum() * voxel_ml < least_ml:
            continue
        ring = _host_ring(source[box], parts[box], inside, spacing, None if labels is None else labels[box])
        if ring.sum() < 20:
            continue
        (c, noise), (c_out, noise_out) = (_contrast(v[box], inside, ring) for v in (source, output))
        host, host_out = (float(np.median(v[box][ring])) for v in (source, output))
        expected = c
        if uptake is not None:
            expected = _minimum_contrast(c, c - partial_volume(source[box], inside), host, host_out, uptake)
        visible = abs(c) >= visible_z * noise
        sure = visible and not either_sign and abs(expected) >= 2 * kept_z * noise_out
        least = kept_z if sure or uptake is None else gone_z
        replaced = uptake is not None and _replaced(host + c, host_out + c_out, host_out, 3 * noise_out)
        kept = (c_out * np.sign(expected) if sure else abs(c_out)) >= least * noise_out and not replaced
        centre = np.argwhere(inside).mean(0) + [b.start for b in box]
        x, y, z = (float(p) for p in centre * spacing)
        volume = float(inside.sum()) * voxel_ml
        state = bool(visible), bool(sure), bool(kept), bool(replaced)
        found.append(Lesion((x, y, z), volume, c, c_out, noise, noise_out, expected, *state))
    return found


def _minimum_contrast(contrast: float, own: float, host: float, host_output: float, uptake: float) -> float:
    """Return the minimum contrast (HU) of a lesion after removing contrast medium, signed as in the source.

    ``own``: contrast of the lesion corrected for partial volume at its border. See `lesion_conservation`.
    """
    if contrast > 0:
        return max(0.0, min(contrast, min(host + contrast, WATER_HU) - host_output))
    if host + own < CYST_HU:
        return min((host + own - host_output) * contrast / own, 0.0)
    return min(contrast + (1 - uptake) * max(host - host_output, 0.0), 0.0)


def _replaced(before: float, after: float, host: float, noise: float) -> bool:
    """Return True if removing iodine cannot explain a lesion's change of HU; ``host``: HU of its host in the output."""
    margin = max(MARGIN_HU, noise)
    return after > max(before, host) + margin or after < min(before, WATER_HU, host) - margin


def sensitivity(lesions: Sequence[Lesion]) -> float:
    """Share of the visible lesions that are kept, in [0, 1]; NaN if none is visible."""
    visible = [lesion.kept for lesion in lesions if lesion.visible]
    return float(np.mean(visible)) if visible else float("nan")


def matched_lesions(
    source_lesions: np.ndarray, output_lesions: np.ndarray, *, least: float = 1
) -> tuple[int, int, int]:
    """Count (kept, lost, new) lesions, from the masks that a detector found on the source and on the output.

    A lesion is a connected component of at least ``least`` voxels. It is matched if one of its voxels lies in the other
    mask, regardless of the size of the component there.
    """
    kept, lost = _overlap_counts(source_lesions > 0, output_lesions > 0, least)
    return kept, lost, _overlap_counts(output_lesions > 0, source_lesions > 0, least)[1]


def _components(lesions: np.ndarray) -> np.ndarray:
    """Number the connected components (26 neighbours) of each value above 0: (X, Y, Z), from 1."""
    values = np.zeros(lesions.shape, np.int32)
    values[lesions > 0] = np.unique(lesions[lesions > 0], return_inverse=True)[1].ravel() + 1
    parts, total = np.zeros(values.shape, np.int32), 0
    for value, box in enumerate(ndimage.find_objects(values), start=1):
        if box is not None:
            own, count = ndimage.label(values[box] == value, np.ones((3, 3, 3)))
            parts[box][own > 0] = own[own > 0] + total
            total += count
    return parts


def _overlap_counts(lesions: np.ndarray, other: np.ndarray, least: float) -> tuple[int, int]:
    """Return how many components of ``lesions`` overlap the other mask, and how many do not."""
    parts, count = ndimage.label(lesions, np.ones((3, 3, 3)))
    large = np.bincount(parts.ravel(), minlength=count + 1)[1:] >= least
    hit = np.isin(np.arange(1, count + 1), parts[other])
    return int((large & hit).sum()), int((large & ~hit).sum())


def unmatched(lesions: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the mask (X, Y, Z), bool, of the largest lesion that does not overlap the other mask, or all False."""
    parts, count = ndimage.label(lesions > 0, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[np.unique(parts[other > 0])] = sizes[0] = 0
    return parts == sizes.argmax() if sizes.any() else np.zeros(parts.shape, bool)


def _host_ring(
    source: np.ndarray, parts: np.ndarray, inside: np.ndarray, spacing: Spacing, labels: np.ndarray | None
) -> np.ndarray:
    distance = ndimage.distance_transform_edt(~inside, spacing)
    ring = (distance > 2) & (distance <= max(6.0, 2 + 1.5 * max(spacing))) & (parts == 0)
    if not ring.any():
        return ring
    if labels is not None:
        return ring & (labels == np.bincount(labels[ring].astype(np.intp)).argmax())
    return ring & (np.abs(source - np.median(source[ring])) < 60)


def _contrast(image: np.ndarray, inside: np.ndarray, ring: np.ndarray) -> tuple[float, float]:
    """Return the contrast and its standard error. CT noise is correlated, so each voxel counts half."""
    host = image[ring].astype(np.float64)
    error = spread(host) * np.sqrt(2 / inside.sum() + 2 / ring.sum())
    return float(image[inside].mean(dtype=np.float64) - np.median(host)), max(float(error), 1e-6)


def spread(values: np.ndarray) -> float:
    """Estimate the standard deviation of Gaussian noise from the median absolute deviation; at least 1e-6."""
    return max(float(np.median(np.abs(values - np.median(values)))) / 0.6745, 1e-6)
