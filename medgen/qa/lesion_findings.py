"""Lost lesions as findings of `safety.check_case`; the rule of `findings` holds here too."""

from dataclasses import replace
from typing import Any

import numpy as np

from medgen.qa.case import Checked, Status, ball_mm, place_of
from medgen.qa.measures import lesions


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
