"""Findings of `check.check_case` on new structures. The rule on the truth in `findings` applies here too."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from medgen.qa.case import Checked, Status
from medgen.qa.measures.masks import closed, dilated, eroded, opened
from medgen.qa.measures.new_structures import RADII_MM, Blob, brighter, edges_and_tissues, new_structures, slope
from medgen.qa.measures.rendition import match_rendition
from medgen.terminology import is_homogeneous

# HU of the input in which new structures are searched: lung below the first; then fat, muscle, enhanced organs.
LUNG_HU, TISSUES_HU = -500.0, ((-140.0, -60.0), (0.0, 85.0), (85.0, 140.0))
GAS_HU, LUNG_ML = -930.0, 5.0  # lung is brighter than gas; smaller components are mostly border
LEAST_VOXELS, LARGE_ML = 200, 60.0  # minimum size of a searched region; of a label that is searched separately
LABEL_FACTOR = 0.8  # of new_structure_z within a label of CT, where correct pairs reach 6
SHOWN_SHARE = 0.5  # the truth shows a structure if the output exceeds it by less than this share of the contrast
MOST = 3  # maximum number of reported new structures, strongest first


Maps = tuple[np.ndarray, np.ndarray]  # of `edges_and_tissues`


def new_structure_findings(case: Checked) -> None:
    """Check for structures of the output that are absent from the input and from the truth, if it is given.

    They are searched by HU alone and within each large label. Without the truth they are counted, but are findings
    only if the limits forbid new structures.
    """
    plain, labelled = _new_relative_to(case, case.source)
    labelled = [blob for blob in labelled if not _near(blob, plain)]
    shown_by_truth = [] if case.truth is None else _shown_by_truth(case, case.truth, plain + labelled)
    case.values["new_structures"] = float(len(plain) + len(labelled) - len(shown_by_truth))
    if case.truth is None and not case.limits.forbid_new_structures:
        return
    if case.lesions is not None:
        case.values["lesions_new"] = case.values["new_structures"]
    for blobs, by in ((plain, "images"), (labelled, "labels")):
        for blob in sorted(blobs, key=lambda b: -b.z)[:MOST]:
            _new_structure(case, blob, by, excused=blob in shown_by_truth)


def _new_structure(case: Checked, blob: Blob, by: str, *, excused: bool) -> None:
    limit = _least_z(case, by)
    text = (
        f"A structure of about {blob.diameter:.0f} mm at {case.at(blob.place)} is not in the input: contrast "
        f"{blob.contrast:+.0f}{case.unit}, {_times(blob.z)} times the noise (limit {limit:g})."
    )
    status: Status = "fail" if blob.z > 2 * limit else "review"
    case.add("lesion_new", status, text, case.ball(blob.place, blob.diameter), by=by, excused=excused)


def _times(z: float) -> str:
    """In a host without noise, as air that was set to one value, the ratio has no meaning beyond "many"."""
    return f"{z:.1f}" if z < 1000 else "more than 1000"


def _least_z(case: Checked, by: str) -> float:
    """Minimum contrast / noise; lower within a label of CT, where nothing else looks like a lesion."""
    return case.limits.new_structure_z * (LABEL_FACTOR if by == "labels" and case.hu else 1.0)


def _shown_by_truth(case: Checked, truth: np.ndarray, blobs: list[Blob]) -> list[Blob]:
    """Those that are not new relative to the truth either.

    The search alone does not decide: if the output equals the truth but for one lesion, nothing but the lesion makes
    noise, and it is found anywhere around its place.
    """
    if not blobs:
        return []
    new = sum(_new_relative_to(case, truth), [])
    inner = eroded(case.body, 2)
    change = case.output - slope(truth[inner], case.output[inner]) * truth if inner.any() else case.output - truth
    return [
        blob
        for blob in blobs
        if not _near(blob, new)
        and np.sign(blob.contrast) * _contrast(change, blob, case.spacing) < SHOWN_SHARE * abs(blob.contrast)
    ]


def _contrast(image: np.ndarray, blob: Blob, spacing: Sequence[float]) -> float:
    """Mean in the inner two thirds of a blob's radius, minus the median in a ring around the blob."""
    reach = [int(np.ceil(blob.diameter / s)) for s in spacing]
    at = [round(p / s) for p, s in zip(blob.place, spacing, strict=True)]
    box = tuple(slice(max(a - r, 0), a + r + 1) for a, r in zip(at, reach, strict=True))
    axes = [(np.arange(image.shape[n])[box[n]] * spacing[n] - blob.place[n]) ** 2 for n in range(3)]
    distance = np.sqrt(axes[0][:, None, None] + axes[1][:, None] + axes[2])
    ball = distance <= max(blob.diameter / 3, distance.min())
    ring = (distance > 0.7 * blob.diameter) & (distance <= blob.diameter)
    around = np.median(image[box][ring]) if ring.any() else 0.0
    return float(image[box][ball].mean() - around)


def _new_relative_to(case: Checked, other: np.ndarray) -> tuple[list[Blob], list[Blob]]:
    """Structures of the output that are absent from another image: by the images alone, and within labels."""
    inner, smooth = eroded(case.body, 2), case.smooth_source
    matched = match_rendition(case.output, other, inner, case.spacing) if case.hu else other
    known = edges_and_tissues(matched, case.spacing)
    min_contrast = case.limits.new_structure_contrast if case.hu else 0.0
    labelled = [
        blob for mask in _labelled(case, inner) for blob in _blobs(case, matched, mask, "labels", min_contrast, known)
    ]
    if not case.hu:
        return _blobs(case, matched, inner, "images", min_contrast, known), labelled
    tissues = list(_tissues(case, inner, smooth))
    plain = [
        blob for mask, min_contrast in tissues for blob in _blobs(case, matched, mask, "images", min_contrast, known)
    ]
    plain += [blob for blob in _added_to_fat(case, other, matched, tissues[0][0]) if not _near(blob, plain)]
    return plain + _nodules(case, matched, inner, smooth), labelled


def _tissues(case: Checked, inner: np.ndarray, smooth: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    """Masks of fat, muscle and enhanced organs by HU, without thin layers of partial volume, with minimum contrasts.

    Brighter voxels are excluded: they are vessel or bone, which look alike but change differently.
    """
    bright = dilated(smooth > TISSUES_HU[-1][1])
    for low, high in TISSUES_HU:
        fat = high < 0
        min_contrast = case.limits.new_fat_contrast if fat else case.limits.new_structure_contrast
        yield opened(inner & (smooth > low) & (smooth <= high)) & ~bright, min_contrast


def _added_to_fat(case: Checked, other: np.ndarray, matched: np.ndarray, fat: np.ndarray) -> list[Blob]:
    """Bright structures in thin or uneven fat, where `new_structures` cannot search because of edges nearby."""
    highest = np.maximum(other, matched)  # matching overshoots beside gas
    limits = case.limits.new_structure_z, case.limits.new_fat_contrast
    return brighter(case.output, highest, fat, case.spacing, *limits, tolerant=True)


def _nodules(case: Checked, other: np.ndarray, inner: np.ndarray, smooth: np.ndarray) -> list[Blob]:
    """Nodules in the lung including its vessels, at least one voxel from its border."""
    lung = np.pad(_lung(case, case.body & (smooth < LUNG_HU)), 3, mode="edge")  # the lung extends beyond the volume
    filled = eroded(closed(lung, 2), border=True)[3:-3, 3:-3, 3:-3]
    limits = case.limits.new_structure_z, case.limits.new_lung_contrast
    return brighter(case.output, other, inner & filled, case.spacing, *limits)


def _lung(case: Checked, dark: np.ndarray) -> np.ndarray:
    """Large dark components brighter than gas, which stomach and bowel contain."""
    parts, count = ndimage.label(dark)
    sizes = np.bincount(parts.ravel(), minlength=count + 1) * np.prod(case.spacing) / 1000
    lung = np.zeros(count + 1, bool)
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        if sizes[number] >= LUNG_ML:
            lung[number] = np.median(case.source[box][parts[box] == number]) > GAS_HU
    return lung[parts]


def _near(blob: Blob, others: list[Blob]) -> bool:
    return any(np.linalg.norm(np.subtract(blob.place, other.place)) <= blob.diameter for other in others)


def _labelled(case: Checked, inner: np.ndarray) -> Iterator[np.ndarray]:
    """Masks of the large labels without known lesions; in CT only of homogeneous organs, whose HU change uniformly."""
    for value in _large_labels(case, inner):
        if case.hu and not is_homogeneous(case.names.get(value, "")):
            continue
        region = inner & (case.labels == value)
        if case.lesions is not None:
            region &= case.lesions == 0
        if region.any():
            yield region


def _large_labels(case: Checked, inner: np.ndarray) -> list[int]:
    if case.labels is None:
        return []
    millilitres = np.bincount(case.labels[inner]) * np.prod(case.spacing) / 1000
    return [int(value) for value in np.flatnonzero(millilitres >= LARGE_ML) if value]


def _blobs(case: Checked, other: np.ndarray, mask: np.ndarray, by: str, min_contrast: float, known: Maps) -> list[Blob]:
    if mask.sum() < LEAST_VOXELS:
        return []
    margin = [int(20 / s) for s in case.spacing]
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    box = tuple(slice(max(b.start - m, 0), b.stop + m) for b, m in zip(box, margin, strict=True))
    found = new_structures(
        case.output[box],
        other[box],
        mask[box],
        case.spacing,
        least_z=_least_z(case, by),
        least_contrast=min_contrast,
        known=(known[0][box], known[1][box]),
        radii=RADII_MM[1:] if case.hu else RADII_MM,  # in CT beam hardening and kernels leave spots of 8 mm
    )
    corner = np.multiply([b.start for b in box], case.spacing)
    return [replace(blob, place=tuple(corner + blob.place)) for blob in found]
