"""Enhancement of labelled structures as findings of `safety.check_case`: the whole region as well as its core.

The mean of a whole region is what the table of regions shows. At the border of a structure it holds partial volume, so
its limits follow what that does in this image (`enhancement.Organ.partial`): a thin artery in fat is darker than its
blood, and so is its limit. The limits are never widened upwards: what is left of the enhancement counts in full.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from medgen.data.fast_filters import gaussian
from medgen.qa.case import Checked, Place, Status
from medgen.qa.measures import enhancement
from medgen.qa.measures.enhancement import Organ
from medgen.terminology import structure_of

FAR = 1.5  # times organ_error: off the truth by more fails rather than asks for review
SPARSE, NEAR_MM = 0.25, 24.0  # part of its box that a structure fills at least to be marked as a whole; else so much
FAR_HU = 10.0  # the same beyond a range


def organ_findings(case: Checked, organs: Sequence[Organ], by: str) -> None:
    """Structures beyond their limits: those of the truth where it is given, else the ranges without contrast medium.

    Args:
        organs: measured in input, output and, if there is one, truth.
        by: "labels" or "segmenter", which the structures come from.
    """
    _phases(case, organs)
    for organ in organs:
        truth = by == "labels" and len(organ.region) > 2
        limits = region_limits(case, organ, truth)
        if limits is None:
            continue
        if by == "labels":
            case.regions[organ.name] = limits
        case.values |= {f"hu_{organ.name}": organ.core[1]} if organ.core else {}
        case.values[f"region_hu_{organ.name}"] = organ.region[1]
        _judge(case, organ, limits, "truth" if truth else by)


def region_limits(case: Checked, organ: Organ, truth: bool) -> tuple[float, float] | None:
    """Lowest and highest mean (HU) of a structure's region; None where it has no range and no truth.

    Both limits of a range fall with the partial volume of darker neighbours, measured in the output. A softer rendition
    spreads that border, so that less of it is measured and more is lost: the lower limit falls by the partial volume of
    the input too, where contrast medium about doubles it. Around the truth, which holds its own partial volume, it
    falls once and the upper one stays. Calcium in a vessel's wall raises the upper one by what it adds to the mean.
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


def _judge(case: Checked, organ: Organ, limits: tuple[float, float], by: str) -> None:
    """One finding for a structure whose region or core is beyond its limits."""
    parts = [("whole region", organ.region, limits)]
    if organ.core:
        own = case.limits.organ_error
        around = (organ.core[2] - own, organ.core[2] + own) if by == "truth" else _range(case, organ)
        parts += [("core", organ.core, around)] if around else []
    beyond = {part: max(low - hu[1], hu[1] - high) for part, hu, (low, high) in parts}
    worst = max(beyond, key=lambda part: beyond[part])
    if beyond[worst] <= 0:
        return
    hu, (low, high) = next((hu, limits) for part, hu, limits in parts if part == worst)
    far = (FAR - 1) * case.limits.organ_error if by == "truth" else FAR_HU
    status: Status = "fail" if beyond[worst] > far else "review"
    text = (
        f"{organ.name.replace('_', ' ')} is {_state(hu, low, high)}: its {worst} has {hu[1]:.0f} HU after "
        f"{hu[0]:.0f} HU, {_against(hu, low, high, by)}."
    )
    centre = np.subtract(organ.place, case.origin)
    place = case.ball(centre, NEAR_MM) if by == "segmenter" else _of_label(case, organ.name)
    case.add("enhancement", status, text, place, by=by)


def _of_label(case: Checked, name: str) -> Place | None:
    """The place of a labelled structure; of one that fills little of its box, as vessels do, where it is most wrong."""
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
        off = hu[1] - hu[2]
        return f"{off:+.0f} HU off the truth (limits {low - hu[2]:+.0f} to {high - hu[2]:+.0f} HU)"
    source = " as the segmenter finds it" if by == "segmenter" else ""
    return f"outside {low:.0f} to {high:.0f} HU without contrast medium{source}"


def _phases(case: Checked, organs: Sequence[Organ]) -> None:
    """The phases that input and output seem to be in."""
    for n, role in enumerate(("source", "output")):
        hu = {organ.name: (organ.core or organ.region)[n] for organ in organs}
        urine = [value for name, value in hu.items() if structure_of(name) == "collecting_system"]
        case.values[f"phase_{role}"] = enhancement.phase(hu, float(np.mean(urine)) if urine else None)
