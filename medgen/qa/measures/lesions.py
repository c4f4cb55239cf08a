"""Lesions of an input in its translation: kept or lost.

`lesion_conservation` judges lesions whose masks are known; `matched_lesions` counts what a detector finds in both. What
the translation has that the input has not is looked for by `new_structures`, which needs no mask. All places are in mm
from the centre of voxel (0, 0, 0).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medgen.qa.measures.enhancement import partial_volume

WATER_HU = 0.0  # without contrast medium nothing but fat and air is darker
CYST_HU = 20.0  # what is darker in a scan with contrast medium holds water, some of it with blood, and takes up nothing
LEAST_ML, LEAST_VOXELS = 0.2, 30  # of a lesion that is judged; of fewer voxels nearly all are partial volume
MARGIN_HU = 15.0  # by which removal of contrast medium alone cannot move a lesion out of its bounds

Spacing = Sequence[float]


@dataclass(frozen=True)
class Lesion:
    """One lesion of the input. ``contrast``: mean in it minus median of its host tissue, in the image's unit (HU);
    ``noise``: standard error of that contrast; ``expected``: the least contrast in the output, 0 if it may have none;
    ``visible``: clear in the input; ``sure``: and sure to be clear in a correct output; ``kept``: seen there;
    ``replaced``: of HU that no removal of contrast medium leaves there."""

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
    """The fate of every lesion: a connected part of ``lesions`` of at least ``least_ml`` and `LEAST_VOXELS`.

    Contrast is measured against a ring 2-6 mm outside: in the host tissue, which is the commonest label of the ring
    where ``labels`` are given, else what lies within 60 HU (or units) of the ring's median. Its noise is the spread
    of the ring over the root of the number of voxels, each counted as half a one for the correlation of CT noise.

    A lesion is visible where |contrast| ≥ visible_z · noise in the source. It is sure to be so in the output where
    |expected| ≥ 2 kept_z · noise there, and is kept where it has at least kept_z · noise of contrast, of the expected
    sign if it is sure. Expected is the contrast in the source. Where contrast medium was removed (``uptake``), it is
    the least that may be left: a dark lesion that took up that share of what its host did loses (1 - uptake) · (what
    its host lost) of it, one as dark as water in the source keeps its HU, and a bright one falls to water at most (0
    HU; one in fat stays bright, one in the liver may be without contrast). One that is visible without being sure is
    then kept where its contrast can be told from none, from gone_z · noise; if it is lost, it may have been erased or
    have no contrast of its own: only the truth can tell. Nor may its HU rise, or fall below those of water and host:
    what does was replaced.

    Args:
        source, output: (X, Y, Z) on one grid.
        lesions: (X, Y, Z) non-zero in lesions.
        spacing: mm.
        labels: (X, Y, Z) whole numbers, structures of the source; 0 is background.
        uptake: in [0, 1]: the output is without contrast medium, both in HU; None: any other translation.
        either_sign: the contrast in the output is not known beforehand: no lesion is sure, and one is kept where it
            stands out to either side, as one that is dark in T1 and bright in T2.
    """
    parts, _ = ndimage.label(lesions > 0, np.ones((3, 3, 3)))
    voxel_ml, margin = float(np.prod(spacing)) / 1000, [int(np.ceil(8 / s)) for s in spacing]
    found = []
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        box = tuple(slice(max(b.start - m, 0), b.stop + m) for b, m in zip(box, margin, strict=True))
        inside = parts[box] == number
        if inside.sum() < LEAST_VOXELS or inside.sum() * voxel_ml < least_ml:
            continue
        ring = _host(source[box], parts[box], inside, spacing, None if labels is None else labels[box])
        if ring.sum() < 20:
            continue
        (c, noise), (c_out, noise_out) = (_contrast(v[box], inside, ring) for v in (source, output))
        host, host_out = (float(np.median(v[box][ring])) for v in (source, output))
        expected = c
        if uptake is not None:
            expected = _least_left(c, c - partial_volume(source[box], inside), host, host_out, uptake)
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


def _least_left(contrast: float, own: float, host: float, host_output: float, uptake: float) -> float:
    """Least contrast (HU) of a lesion once contrast medium is gone, of the sign it had; see `lesion_conservation`.

    ``own``: its contrast without the partial volume at its border.
    """
    if contrast > 0:
        return max(0.0, min(contrast, min(host + contrast, WATER_HU) - host_output))
    if host + own < CYST_HU:
        return min((host + own - host_output) * contrast / own, 0.0)
    return min(contrast + (1 - uptake) * max(host - host_output, 0.0), 0.0)


def _replaced(before: float, after: float, host: float, noise: float) -> bool:
    """Whether a lesion (HU before, after) has other HU than iodine can leave, beside its host's HU after."""
    margin = max(MARGIN_HU, noise)
    return after > max(before, host) + margin or after < min(before, WATER_HU, host) - margin


def sensitivity(lesions: Sequence[Lesion]) -> float:
    """Kept lesions / visible ones, in [0, 1]; NaN where none was visible."""
    visible = [lesion.kept for lesion in lesions if lesion.visible]
    return float(np.mean(visible)) if visible else float("nan")


def matched_lesions(
    source_lesions: np.ndarray, output_lesions: np.ndarray, *, least: float = 1
) -> tuple[int, int, int]:
    """(kept, lost, new): lesions of a detector's mask on the source and on the output that match, or do not.

    A lesion is a connected part of at least ``least`` voxels; it matches where one voxel of it lies in the other mask,
    whatever the size of the part there.
    """
    kept, lost = _touched(source_lesions > 0, output_lesions > 0, least)
    return kept, lost, _touched(output_lesions > 0, source_lesions > 0, least)[1]


def _touched(lesions: np.ndarray, other: np.ndarray, least: float) -> tuple[int, int]:
    """How many parts of ``lesions`` touch the other mask, and how many do not."""
    parts, count = ndimage.label(lesions, np.ones((3, 3, 3)))
    large = np.bincount(parts.ravel(), minlength=count + 1)[1:] >= least
    hit = np.isin(np.arange(1, count + 1), parts[other])
    return int((large & hit).sum()), int((large & ~hit).sum())


def unmatched(lesions: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The largest lesion (X, Y, Z) bool that no voxel of the other mask touches; all False if there is none."""
    parts, count = ndimage.label(lesions > 0, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[np.unique(parts[other > 0])] = sizes[0] = 0
    return parts == sizes.argmax() if sizes.any() else np.zeros(parts.shape, bool)


def _host(
    source: np.ndarray, parts: np.ndarray, inside: np.ndarray, spacing: Spacing, labels: np.ndarray | None
) -> np.ndarray:
    away = ndimage.distance_transform_edt(~inside, spacing)
    ring = (away > 2) & (away <= max(6.0, 2 + 1.5 * max(spacing))) & (parts == 0)
    if not ring.any():
        return ring
    if labels is not None:
        return ring & (labels == np.bincount(labels[ring].astype(np.intp)).argmax())
    return ring & (np.abs(source - np.median(source[ring])) < 60)


def _contrast(image: np.ndarray, inside: np.ndarray, ring: np.ndarray) -> tuple[float, float]:
    """Contrast and its standard error. Noise of CT is correlated: each voxel counts as half a one."""
    host = image[ring].astype(np.float64)
    error = spread(host) * np.sqrt(2 / inside.sum() + 2 / ring.sum())
    return float(image[inside].mean(dtype=np.float64) - np.median(host)), max(float(error), 1e-6)


def spread(values: np.ndarray) -> float:
    """Standard deviation of Gaussian noise from the median absolute deviation; at least 1e-6."""
    return max(float(np.median(np.abs(values - np.median(values)))) / 0.6745, 1e-6)
