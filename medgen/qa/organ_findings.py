"""Findings of `check.check_case` on the HU of labelled structures, for the whole region and for its core.

The table of regions shows the mean of the whole region. Partial volume at the border shifts this mean, and the limits
are shifted with it by the amount measured in the image (`enhancement.Organ.partial`): a thin artery in fat is darker
than its blood. Partial volume never raises a limit, so that residual enhancement counts in full.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from medgen.data.fast_filters import gaussian
from medgen.qa.case import Checked, Place, Status
from medgen.qa.measures import enhancement
from medgen.qa.measures.enhancement import Organ
from medgen.terminology import structure_of

FAIL_FACTOR = 1.5  # a larger multiple of organ_error off the truth fails; below it asks for review
# A structure that fills less than SPARSE of its bounding box is marked around its largest error only, within NEAR_MM.
SPARSE, NEAR_MM = 0.25, 24.0
# Share of fat or air in a solid organ from which its label does not fit. Label maps of other patients (12 phantoms): at
# least one organ is above it in 132 of 132; right ones have at most 0.1 %, those of two real scans 0.4 %.
FATTY_SHARE = 0.05
FAIL_HU = 10.0  # more HU beyond a range fail; fewer ask for review


def organ_findings(case: Checked, measure_organs: Sequence[Organ], by: str) -> None:
    """Check structures against the truth if it is given, else against their ranges without contrast medium.

    Args:
        case: the case under check.
        organs: measured in input, output and, if there is one, truth.
        by: origin of the structures, "labels" or "segmenter".
    """
    _phases(case, measure_organs)
    wrong = [organ for organ in measure_organs if _darker_than_possible(case, organ)]
    if wrong:
        _labels_do_not_fit(case, wrong, by)
    for organ in measure_organs:
        truth = by == "labels" and len(organ.region) > 2
        limits = region_limits(case, organ, truth)
        if limits is None:
            continue
        if by == "labels":
            case.regions[organ.name] = limits
        case.values |= {f"hu_{organ.name}": organ.core[1]} if organ.core else {}
        case.values[f"region_hu_{organ.name}"] = organ.region[1]
        _judge(case, organ, limits, "truth" if truth else by, dark=truth or not wrong)


def _darker_than_possible(case: Checked, organ: Organ) -> bool:
    """Whether a structure is darker in the input than without contrast medium, which only brightens."""
    if organ.fatty > FATTY_SHARE:
        return True
    limits = _range(case, organ)
    if limits is None:
        return False
    of_core = organ.core is not None and organ.core[0] < limits[0] - FAIL_HU
    return of_core or organ.region[0] < limits[0] + 2 * min(organ.partial[0], 0.0) - FAIL_HU


def _labels_do_not_fit(case: Checked, organs: Sequence[Organ], by: str) -> None:
    """Add a finding for labels that lie in other tissue: of another patient, or on another grid."""
    shown = ", ".join(map(_too_dark, organs[:3]))
    more = f" and {len(organs) - 3} more" if len(organs) > 3 else ""
    maps = "label map" if by == "labels" else "segmentation"
    text = (
        f"The {maps} does not fit the input: {shown}{more}, which is too dark with or without contrast "
        "medium. Numbers of labelled structures of this case mean little."
    )
    case.add("anatomy", "review", text, _of_label(case, organs[0].name), by=by)


def _too_dark(organ: Organ) -> str:
    name = organ.name.replace("_", " ")
    if organ.fatty > FATTY_SHARE:
        return f"{organ.fatty:.0%} of the inside of {name} have the HU of fat or air"
    return f"{name} has {min(organ.region[0], organ.core[0] if organ.core else np.inf):.0f} HU"


def region_limits(case: Checked, organ: Organ, truth: bool) -> tuple[float, float] | None:
    """Lowest and highest accepted mean (HU) of a structure's region; None without a range or truth.

    Without the truth, both limits of the range are lowered by the partial volume of darker neighbours, measured in the
    output. The lower limit is lowered further by the partial volume of the input or output, whichever is larger: a
    softer kernel spreads the border, so that less partial volume is measured and more HU are lost. Contrast medium
    about doubles partial volume in the input. Calcium in a vessel wall raises the upper limit by its effect on the
    mean.

    With the truth, the limits are its mean ± ``organ_error``. Its mean includes partial volume already, so only the
    lower limit is lowered, once.
    """
    if truth:
        error = case.limits.organ_error
        return organ.region[2] - error + min(organ.partial[2], 0.0), organ.region[2] + error
    limits = _range(case, organ)
    fall = min(organ.partial[1], 0.0)
    softer = min(organ.partial[0], fall)
    return None if limits is None else (limits[0] + fall + softer, limits[1] + fall + max(organ.calcium, 0.0))


def _range(case: Checked, organ: Organ) -> tuple[float, float] | None:
    return case.limits.organ_ranges.get(structure_of(organ.name) or "")


def _judge(case: Checked, organ: Organ, limits: tuple[float, float], by: str, *, dark: bool) -> None:
    """Add a finding if the region or the core of a structure is beyond its limits.

    ``dark``: also below them; not if the labels do not fit, which would blame the conversion for what the input shows.
    """
    parts = [("whole region", organ.region, limits)]
    if organ.core:
        own = case.limits.organ_error
        around = (organ.core[2] - own, organ.core[2] + own) if by == "truth" else _range(case, organ)
        parts += [("core", organ.core, around)] if around else []
    beyond = {part: max(low - hu[1] if dark else -np.inf, hu[1] - high) for part, hu, (low, high) in parts}
    worst = max(beyond, key=lambda part: beyond[part])
    if beyond[worst] <= 0:
        return
    hu, (low, high) = next((hu, limits) for part, hu, limits in parts if part == worst)
    far = (FAIL_FACTOR - 1) * case.limits.organ_error if by == "truth" else FAIL_HU
    status: Status = "fail" if beyond[worst] > far else "review"
    text = (
        f"{organ.name.replace('_', ' ')} is {_state(hu, low, high)}: its {worst} has {hu[1]:.0f} HU (input "
        f"{hu[0]:.0f} HU), {_against(hu, low, high, by)}."
    )
    centre = np.subtract(organ.place, case.origin)
    place = case.ball(centre, NEAR_MM) if by == "segmenter" else _of_label(case, organ.name)
    case.add("enhancement", status, text, place, by=by)


def _of_label(case: Checked, name: str) -> Place | None:
    """Box of a labelled structure; of a sparse one, such as a vessel, the box around its largest error."""
    mask = np.isin(case.labels, [value for value, known in case.names.items() if known == name])  # type: ignore[arg-type]
    box = ndimage.find_objects(mask.astype(np.uint8))
    if box and mask[box[0]].mean() < SPARSE:
        wrong = np.abs(case.output - (case.source if case.truth is None else case.truth)) * mask
        smooth = gaussian(wrong, [NEAR_MM / 4 / s for s in case.spacing])
        peak = np.unravel_index(smooth.argmax(), smooth.shape)
        reach = [int(np.ceil(NEAR_MM / 2 / s)) for s in case.spacing]
        near = np.zeros_like(mask)
        near[tuple(slice(max(p - r, 0), p + r + 1) for p, r in zip(peak, reach, strict=True))] = True
        mask = mask & near if (mask & near).any() else mask
    return case.box(mask)


def _state(hu: Sequence[float], low: float, high: float) -> str:
    if hu[1] < low:
        return "too dark"
    return "still enhanced" if hu[0] > high else "too bright"


def _against(hu: Sequence[float], low: float, high: float, by: str) -> str:
    if by == "truth":
        off, least, most = hu[1] - hu[2], low - hu[2], high - hu[2]
        shown = f"{off:+.1f}" if round(off) in (round(least), round(most)) else f"{off:+.0f}"  # not 12 beyond 12
        return f"{shown} HU off the truth (limits {least:+.0f} to {most:+.0f} HU)"
    source = " as the segmenter finds it" if by == "segmenter" else ""
    return f"outside {low:.0f} to {high:.0f} HU without contrast medium{source}"


def _phases(case: Checked, measure_organs: Sequence[Organ]) -> None:
    """Record the estimated contrast phases of input and output."""
    for n, role in enumerate(("source", "output")):
        hu = {organ.name: (organ.core or organ.region)[n] for organ in measure_organs}
        urine = [value for name, value in hu.items() if structure_of(name) == "collecting_system"]
        case.values[f"phase_{role}"] = enhancement.phase(hu, float(np.mean(urine)) if urine else None)
