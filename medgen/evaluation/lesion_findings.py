"""Lost lesions and new structures as findings of `safety.check_case`; the rule of `findings` holds here too."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import ndimage

from medgen.data.separable import gaussian
from medgen.evaluation import enhancement, lesions
from medgen.evaluation.checked import Checked, Status, ball_mm, place_of

LUNG_HU, BRIGHT_HU = -500.0, 135.0  # new structures are looked for in lung and in what is not enhanced vessel or bone
LEAST_VOXELS, LARGE_ML = 200, 60.0  # of a region in which new structures are looked for; of a labelled one by itself
NODULE = 2.0  # times new_lung_contrast, within a label of lung
MOST = 3  # new structures that are named, strongest first
LESIONS = ("lesion", "cyst", "tumour", "tumor", "metasta")  # words in the names of labels


def is_lesion(name: str) -> bool:
    """Whether a label's name says lesion, cyst, tumour or metastasis."""
    return any(word in name.lower() for word in LESIONS)


def lesion_findings(case: Checked) -> None:
    """The fate of every lesion whose mask is known."""
    masks = case.lesions
    if masks is None:
        return
    limits: dict[str, Any] = {"visible_z": case.limits.lesion_visible_z, "kept_z": case.limits.lesion_kept_z}
    removed = case.hu and case.limits.contrast_removed and case.truth is None
    limits["gone_z"] = case.limits.lesion_gone_z
    limits |= {"uptake": case.limits.lesion_uptake} if removed else {"either_sign": True}

    def fates(image: np.ndarray) -> list[lesions.Lesion]:
        return lesions.lesion_conservation(case.source, image, masks, case.spacing, labels=case.labels, **limits)

    found, true_contrasts = fates(case.output), {}
    if case.truth is not None:  # a lesion that the true image does not show cannot be lost
        pairs = [(lesion, true) for lesion, true in zip(found, fates(case.truth), strict=True) if true.kept]
        found = [replace(lesion, kept=_like_the_truth(lesion, true, case)) for lesion, true in pairs]
        true_contrasts = {true.place: true.contrast_output for _, true in pairs}
    judged = [lesion for lesion in found if lesion.visible]
    case.values |= {
        "lesions": float(len(found)),
        "lesions_kept": float(sum(lesion.kept for lesion in judged)),
        "lesions_lost": float(sum(lesion.lost for lesion in judged)),
        "lesion_sensitivity": lesions.sensitivity(found),
    }
    for lesion in judged:
        if lesion.lost:
            sure = lesion.sure or lesion.replaced or case.truth is not None
            state = "is lost" if sure else "is not seen any more, erased or without contrast of its own"
            text = (
                f"A lesion of {lesion.volume_ml:.1f} ml at {case.at(lesion.place)} {state}: contrast to its host "
                f"{lesion.contrast:+.0f}{case.unit} before, {lesion.contrast_output:+.0f}{case.unit} after, "
            )
            if case.truth is not None:
                text += f"{true_contrasts[lesion.place]:+.0f}{case.unit} in the true image."
            elif lesion.sure and lesion.contrast * lesion.contrast_output < 0:
                text += "turned round."
            elif lesion.replaced:
                text += "by HU that removing contrast medium cannot leave there."
            else:
                times = abs(lesion.contrast_output) / lesion.noise_output
                limit = case.limits.lesion_kept_z if lesion.sure or not removed else case.limits.lesion_gone_z
                text += f"{times:.1f} times the noise (limit {limit:g})."
            status: Status = "fail" if sure else "pass" if removed else "review"
            place = case.ball(lesion.place, ball_mm(lesion.volume_ml))
            case.add("lesion_lost", status, text, place, by="lesions")


def _like_the_truth(lesion: lesions.Lesion, true: lesions.Lesion, case: Checked) -> bool:
    """Seen, and with enough of its true contrast, of the same sign; what noise explains is forgiven."""
    contrast = lesion.contrast_output * np.sign(true.contrast_output)
    wanting = abs(true.contrast_output) - contrast
    short = contrast < case.limits.lesion_true_share * abs(true.contrast_output)
    return lesion.kept and not (short and wanting > case.limits.lesion_kept_z * lesion.noise_output)


def new_structure_findings(case: Checked) -> None:
    """What the output has and the input has not, nor the truth if it is given.

    It is looked for by HU alone and, where structures are labelled, in each of them too. Without the truth it is
    counted, but held against the output only where the translation can add nothing.
    """
    inner = ndimage.binary_erosion(case.body, iterations=2)
    smooth = gaussian(case.source, [2.5 / s for s in case.spacing])
    plain = [blob for mask in _regions(case, inner, smooth) for blob in _blobs(case, case.source, mask)]
    labelled = [blob for mask in _labelled(case, inner, smooth) for blob in _blobs_of_label(case, case.source, mask)]
    labelled = [blob for blob in labelled if not _near(blob, plain)]
    shown = _shown_by_truth(case, [*plain, *labelled], inner, smooth)
    case.values["new_structures"] = float(len(plain) + len(labelled) - len(shown))
    if case.truth is None and not case.limits.adds_nothing:
        return
    if case.lesions is not None:
        case.values["lesions_new"] = case.values["new_structures"]
    for blobs, by in ((plain, "images"), (labelled, "labels")):
        for blob in sorted(blobs, key=lambda b: -b.z)[:MOST]:
            _new_structure(case, blob, by, excused=blob in shown)


def _new_structure(case: Checked, blob: lesions.Blob, by: str, *, excused: bool) -> None:
    text = (
        f"A structure of about {blob.diameter:.0f} mm at {case.at(blob.place)} is not in the input: contrast "
        f"{blob.contrast:+.0f}{case.unit}, {blob.z:.1f} times the noise (limit {case.limits.new_structure_z:g})."
    )
    status: Status = "fail" if blob.z > 2 * case.limits.new_structure_z else "review"
    case.add("lesion_new", status, text, case.ball(blob.place, blob.diameter), by=by, excused=excused)


def _shown_by_truth(
    case: Checked, blobs: list[lesions.Blob], inner: np.ndarray, smooth: np.ndarray
) -> list[lesions.Blob]:
    """Those that are no news beside the truth."""
    if case.truth is None or not blobs:
        return []
    beside = [blob for mask in _regions(case, inner, smooth) for blob in _blobs(case, case.truth, mask)]
    beside += [blob for mask in _labelled(case, inner, smooth) for blob in _blobs_of_label(case, case.truth, mask)]
    return [blob for blob in blobs if not _near(blob, beside)]


def _near(blob: lesions.Blob, others: list[lesions.Blob]) -> bool:
    return any(np.linalg.norm(np.subtract(blob.place, other.place)) <= blob.diameter for other in others)


def _regions(case: Checked, inner: np.ndarray, smooth: np.ndarray) -> list[np.ndarray]:
    """Where new structures are looked for by HU alone.

    Those that lose contrast medium and those that do not may look alike, so vessels and bone are left out.
    """
    if not case.hu:
        return [inner]
    soft = (smooth > LUNG_HU) & ~ndimage.binary_dilation(smooth > BRIGHT_HU)
    return [inner & soft, inner & (smooth < LUNG_HU)]


def _labelled(case: Checked, inner: np.ndarray, smooth: np.ndarray) -> Iterator[np.ndarray]:
    """Each large labelled structure by itself: within it the change is even.

    A known lesion is no place for a new one. Calcium in a vessel's wall, which contrast medium hid, is none either.
    """
    for value in _large_labels(case, inner):
        region = inner & (case.labels == value)
        if case.lesions is not None:
            region &= case.lesions == 0
        vessel = enhancement.structure_of(case.names.get(value, "")) in enhancement.BLOOD
        if region.any() and not (case.hu and (vessel or np.median(smooth[region]) > BRIGHT_HU)):
            yield region


def _large_labels(case: Checked, inner: np.ndarray) -> list[int]:
    if case.labels is None:
        return []
    millilitres = np.bincount(case.labels[inner]) * np.prod(case.spacing) / 1000
    return [int(value) for value in np.flatnonzero(millilitres >= LARGE_ML) if value]


def _blobs_of_label(case: Checked, other: np.ndarray, mask: np.ndarray) -> list[lesions.Blob]:
    """Of 9 mm and more: at its border a label holds partial volume, which any other kernel moves.

    In lung that is much, and nodules stand out of it.
    """
    blobs = _blobs(case, other, mask, lesions.RADII_MM[1:])
    if case.hu and blobs and np.median(case.source[mask]) < LUNG_HU:
        return [blob for blob in blobs if blob.contrast >= NODULE * case.limits.new_lung_contrast]
    return blobs


def _blobs(
    case: Checked, other: np.ndarray, mask: np.ndarray, radii: Sequence[float] = lesions.RADII_MM
) -> list[lesions.Blob]:
    if mask.sum() < LEAST_VOXELS:
        return []
    lung = np.median(case.source[mask]) < LUNG_HU
    least = case.limits.new_lung_contrast if lung else case.limits.new_structure_contrast
    margin = [int(20 / s) for s in case.spacing]
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    box = tuple(slice(max(b.start - m, 0), b.stop + m) for b, m in zip(box, margin, strict=True))
    found = lesions.new_structures(
        case.output[box],
        other[box],
        mask[box],
        case.spacing,
        least_z=case.limits.new_structure_z,
        least_contrast=least if case.hu else 0.0,
        radii=radii,
    )
    corner = np.multiply([b.start for b in box], case.spacing)
    return [replace(blob, place=tuple(corner + blob.place)) for blob in found]


def detected_findings(case: Checked, source: np.ndarray, output: np.ndarray, voxel_ml: float) -> None:
    """What a detector finds in the masks of input and output (X, Y, Z) bool, on the volume's own grid.

    It errs on real images too, so that what it misses or adds asks for review and does not fail.
    """
    kept, lost, new = lesions.matched_lesions(source, output, least=lesions.LEAST_ML / voxel_ml)
    if case.lesions is None:
        case.values |= {"lesions": float(kept + lost), "lesions_kept": float(kept), "lesions_lost": float(lost)}
        case.values |= {"lesion_sensitivity": kept / (kept + lost) if kept + lost else float("nan")}
        case.values["lesions_new"] = float(new)
    if lost:
        text = f"The segmenter finds {lost} of {kept + lost} lesions of the input no more."
        place = place_of(lesions.unmatched(source, output), case.affine)
        case.add("lesion_lost", "review", text, place, by="segmenter")
    if new:
        text = f"The segmenter finds {new} lesions that the input has not."
        place = place_of(lesions.unmatched(output, source), case.affine)
        case.add("lesion_new", "review", text, place, by="segmenter")
