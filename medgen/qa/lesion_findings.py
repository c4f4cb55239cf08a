"""Findings of `check.check_case` on lost and new lesions. The rule on the truth in `findings` applies here too."""

from dataclasses import replace
from typing import Any

import numpy as np

from medgen.qa.case import Checked, Status, ball_mm, place_of
from medgen.qa.measures import lesions

SAME_SHARE = 0.9  # of the true contrast


def lesion_findings(case: Checked) -> None:
    """Check whether every lesion with a known mask is kept."""
    masks = case.lesions
    if masks is None:
        return
    kept_z = case.limits.lesion_kept_z
    limits: dict[str, Any] = {"visible_z": case.limits.lesion_visible_z, "kept_z": kept_z}
    removed = case.hu and case.limits.contrast_removed and case.truth is None
    limits["gone_z"] = case.limits.lesion_gone_z
    limits |= {"uptake": case.limits.lesion_uptake} if removed else {"either_sign": True}

    def measured(image: np.ndarray) -> list[lesions.Lesion]:
        return lesions.lesion_conservation(case.source, image, masks, case.spacing, labels=case.labels, **limits)

    found, true_contrasts = measured(case.output), {}
    only_true: set[tuple[float, float, float]] = set()  # places of lesions that the input hardly shows
    if case.truth is not None:  # a lesion absent from the true image cannot be lost
        pairs = [(lesion, true) for lesion, true in zip(found, measured(case.truth), strict=True) if true.kept]
        only_true = {lesion.place for lesion, true in pairs if not lesion.visible and _clear(true, case)}
        found = [
            replace(lesion, kept=_matches_truth(lesion, true, case), visible=lesion.visible or _clear(true, case))
            for lesion, true in pairs
        ]
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
            state = "is lost" if sure else "is no longer visible (erased, or without contrast of its own)"
            text = (
                f"A lesion of {lesion.volume_ml:.1f} ml at {case.at(lesion.place)} {state}: contrast to its host "
                f"{lesion.contrast:+.0f}{case.unit} before, {lesion.contrast_output:+.0f}{case.unit} after, "
            )
            if case.truth is not None:
                text += f"{true_contrasts[lesion.place]:+.0f}{case.unit} in the true image."
            elif lesion.sure and -np.sign(lesion.contrast) * lesion.contrast_output >= kept_z * lesion.noise_output:
                text += "inverted."
            elif lesion.replaced:
                text += "HU that removing contrast medium cannot produce."
            else:
                times = abs(lesion.contrast_output) / lesion.noise_output
                limit = kept_z if lesion.sure or not removed else case.limits.lesion_gone_z
                text += f"{times:.1f} times the noise (limit {limit:g})."
            status: Status = "fail" if sure else "pass" if removed else "review"
            if lesion.place in only_true:
                text += " The input hardly shows it."
                status = "review"
            place = case.ball(lesion.place, ball_mm(lesion.volume_ml))
            case.add("lesion_lost", status, text, place, by="lesions")


def _clear(true: lesions.Lesion, case: Checked) -> bool:
    """Whether the true image clearly shows a lesion."""
    return abs(true.contrast_output) >= case.limits.lesion_visible_z * true.noise_output


def _matches_truth(lesion: lesions.Lesion, true: lesions.Lesion, case: Checked) -> bool:
    """Whether a lesion has enough of its true contrast with the same sign, within the noise.

    A lesion that is hardly visible in the truth may be lost in an output with a little more noise: with `SAME_SHARE`
    of its true contrast it is kept.
    """
    contrast = lesion.contrast_output * np.sign(true.contrast_output)
    if not lesion.kept:
        return bool(contrast >= SAME_SHARE * abs(true.contrast_output))
    deficit = abs(true.contrast_output) - contrast
    low = contrast < case.limits.lesion_true_share * abs(true.contrast_output)
    return not (low and deficit > case.limits.lesion_kept_z * lesion.noise_output)


def detected_findings(case: Checked, source: np.ndarray, output: np.ndarray, voxel_ml: float) -> None:
    """Compare the lesions that a segmenter finds in input and output: masks (X, Y, Z) bool on the volume's own grid.

    Lost and new lesions ask for review and do not fail, because a segmenter also errs on real images.
    """
    kept, lost, new = lesions.matched_lesions(source, output, least=lesions.LEAST_ML / voxel_ml)
    if case.lesions is None:
        case.values |= {"lesions": float(kept + lost), "lesions_kept": float(kept), "lesions_lost": float(lost)}
        case.values |= {"lesion_sensitivity": kept / (kept + lost) if kept + lost else float("nan")}
        case.values["lesions_new"] = float(new)
    if lost:
        text = f"The segmenter no longer finds {lost} of {kept + lost} lesions of the input."
        place = place_of(lesions.unmatched(source, output), case.affine)
        case.add("lesion_lost", "review", text, place, by="segmenter")
    if new:
        text = f"The segmenter finds {new} lesions that are absent from the input."
        place = place_of(lesions.unmatched(output, source), case.affine)
        case.add("lesion_new", "review", text, place, by="segmenter")
