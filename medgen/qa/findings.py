"""Findings of `check.check_case` on geometry, structure, HU, residual enhancement and segmented anatomy.

Every function takes a `Checked` case and adds to its ``values`` and ``reasons``. One rule applies to all findings: if
the truth is given, a finding against the input counts only if it also holds against the truth. Differences of a true
pair of images (other HU in MR, a lesion visible in one contrast only, patient motion) are not faults of the
translation.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from medgen.data.body_mask import looks_like_hu
from medgen.data.labels.overlap import label_dice
from medgen.qa import lesion_findings
from medgen.qa.case import Checked, Status, ball_mm, place_of
from medgen.qa.measures import background, enhancement, geometry, hounsfield, missing, structure, trunk_wall
from medgen.terminology import is_lesion

# Minimum edge correlation of two scans of one patient, in MR and in CT. Two contrasts of one patient reach at least
# 0.56 in MR, different patients 0.39. CT is compared below 0 HU, where contrast medium changes nothing: one patient
# 0.99 and more, different patients of the embedded cohort on one grid of 5 mm up to 0.49.
SAME_SCAN, SAME_CT = 0.47, 0.55
UNCLEAR_FLIP = 0.05  # gain up to which a flip is not told from another scan; flipped outputs gain 0.6 to 1.0
SHARED_EDGES_MM = 2.5  # finest voxel size up to which shifts are measured by the edges of the other findings (2 mm)
MOST_UPTAKE = 60.0  # HU by which contrast medium changes the median of soft tissue at most
HARDLY = ", which contrast medium hardly reaches,"  # of fat, muscle and lung
HAZE = 0.1  # of the range of an image without units, around the body; in masked images it should be 0
HAZE_HU, NOISE_HU, DENSE_ML = 100.0, 80.0, 3.0  # of CT around the body
LIMB_ML = 5.0  # of arms, or of a leg beside the other
FAIL_FACTOR = 1.5  # a value beyond this multiple of its limit fails, below it asks for review


def geometry_findings(case: Checked) -> None:
    """Check for a constant output, then for flips, then for shifts, and in CT for slices in the wrong order."""
    inside = case.output[case.body]
    if inside.size and inside.min() == inside.max():
        case.add("structure", "fail", f"The output has the value {inside[0]:g} in the whole body and shows nothing.")
        return
    gains = _flip_gains(case, case.source)
    case.values |= {f"flip_gain_{side}": float(gain) for side, gain in zip(geometry.SIDES, gains, strict=True)}
    limit, versus_truth = case.limits.flip_gain, gains
    if case.truth is not None and (gains > limit).any():
        versus_truth = _flip_gains(case, case.truth)
    for axis, (side, gain, own) in enumerate(zip(geometry.SIDES, gains, versus_truth, strict=True)):
        if gain > limit and gain <= limit + UNCLEAR_FLIP:  # then everything else is checked too
            if geometry.is_uniform(case.source, axis, case.spacing, known=case.edges(case.source)):
                continue
            text = (
                f"The output is flipped {side}, or shows another scan than the input: its edges agree no better with "
                "the input than with the mirrored input."
            )
            case.add("structure", "fail", text, excused=own <= limit)
        elif gain > limit:
            text = (
                f"The output is flipped {side}: its edges agree better with the mirrored input; the correlation is "
                f"{gain:.2f} higher (limit {limit:.2f})."
            )
            case.add("flip", "fail", text, excused=own <= limit)
    if not any(r.fault == "flip" for r in case.reasons):
        _shift(case)
    if case.hu and not any(r.fault in ("flip", "shift") for r in case.reasons):
        _slice_order(case)


def _flip_gains(case: Checked, image: np.ndarray) -> np.ndarray:
    known = case.edges(image), case.edges(case.output)
    return geometry.flip_gains(image, case.output, case.body, case.spacing, known=known)


def _measured_shift(case: Checked, image: np.ndarray) -> np.ndarray:
    known = (case.edges(image), case.edges(case.output)) if min(case.spacing) <= SHARED_EDGES_MM else None
    return geometry.measure_shift(image, case.output, case.spacing, known=known)


def _shift(case: Checked) -> None:
    moved = versus_truth = _measured_shift(case, case.source)
    limit = case.limits.shift_voxels
    axes = list(zip(geometry.SIDES, moved, case.spacing, strict=True))
    case.values |= {f"shift_mm_{side}": float(voxels * step) for side, voxels, step in axes}
    if case.truth is not None and (np.abs(moved) > limit).any():
        versus_truth = _measured_shift(case, case.truth)
    for (side, voxels, step), own in zip(axes, versus_truth, strict=True):
        if abs(voxels) > limit:
            text = (
                f"The output lies {abs(voxels) * step:.1f} mm ({abs(voxels):.2f} voxels) off the input along "
                f"{side} (limit {limit:g} voxels)."
            )
            case.add("shift", "fail", text, excused=abs(own) <= limit)


def _slice_order(case: Checked) -> None:
    axis, places = geometry.misplaced_slices(case.source, case.output, case.body, case.spacing)
    case.values["misplaced_slices"] = float(len(places))
    if not places:
        return
    kept = places
    if case.truth is not None:
        kept = geometry.misplaced_slices(case.truth, case.output, case.body, case.spacing)[1]
    mask = np.zeros(case.body.shape, bool)
    np.moveaxis(mask, axis, 0)[list(places)] = True
    offset = next(iter(places.values()))
    shown = "1 slice" if len(places) == 1 else f"{len(places)} slices"
    text = (
        f"In {shown} along {geometry.SIDES[axis]} the output shows what the input has in other slices, for example "
        f"{abs(offset)} further: slices are in the wrong order."
    )
    case.add("structure", "fail", text, case.box(mask & case.body), excused=not kept)


def structure_findings(case: Checked) -> None:
    """Check the positions of edges, their directions, and the fine structure."""
    descriptions = {
        "edge_correlation": ("Edges are not where the input has them: correlation", "below"),
        "gradient_agreement": ("Edges have other directions than in the input: agreement", "below"),
        "mind_distance": ("The fine structure differs from the input: descriptor distance", "above"),
    }
    found = versus_truth = _structure(case, case.source)
    case.values |= found
    limits = {name: float(getattr(case.limits, name)) for name in descriptions}
    # Ratio of value to limit, of 1 - value to 1 - limit where high values are good; above 1 is beyond the limit.
    excess = {name: _excess(value, limits[name], descriptions[name][1]) for name, value in found.items()}
    if case.truth is not None and max(excess.values()) > 1:
        versus_truth = _structure(case, case.truth)
    for name, (text, side) in descriptions.items():
        if excess[name] > 1:
            least = min(excess[name], _excess(versus_truth[name], limits[name], side))
            status: Status = "fail" if least > FAIL_FACTOR else "review"
            case.add("structure", status, f"{text} {found[name]:.2f}, {side} {limits[name]:g}.", excused=least <= 1)


def background_findings(case: Checked) -> None:
    """Check that the output shows nothing around the body where the input shows nothing: no haze, noise or structure.

    In CT the background of the input is air; other images are compared with their own darkest voxels.
    """
    hu = case.hu
    if looks_like_hu(case.source) != hu:
        return  # CT against images without units
    source, body, truth = case.whole["source"], case.whole["body"], case.whole.get("truth")
    around = background.background_of(source, body, case.spacing, hu)
    limbs = background.limbs_of(source, body, case.spacing) if hu else None
    if around is None and (limbs is None or not limbs.any()):
        return

    def measured(image: np.ndarray) -> background.Background:
        return background.measure(image, source, around, limbs, body, case.spacing, hu)

    found = measured(case.whole["output"])
    usual = measured(source)  # 0 in CT, except for structures that are no air
    case.values |= {"background_level": found.level} | ({"background_noise": found.noise} if hu else {})
    limits = {"level": HAZE_HU, "noise": NOISE_HU, "dense_ml": DENSE_ML, "limb_ml": LIMB_ML} if hu else {"level": HAZE}
    texts = {
        "level": "Around the body the output is up to {:.0f} HU brighter than the air of the input (limit {:g} HU)."
        if hu
        else "Around the body the output has up to {:.0%} of its range, more than the input (limit {:.0%}): a haze.",
        "noise": "Around the body the output varies by {:.0f} HU where the input has air (limit {:g} HU).",
        "dense_ml": "Around the body the output shows {:.1f} ml where the input has air (limit {:g} ml).",
        "limb_ml": f"{{:.1f}} ml of soft tissue apart from the trunk, such as an arm, change by more than "
        f"{background.CHANGED_HU:g} HU (limit {{:g}} ml).",
    }
    true = None
    for name, limit in limits.items():
        value = getattr(found, name)
        excess = max(value - getattr(usual, name), 0.0) / limit
        if excess <= 1:
            continue
        least = excess
        if case.truth is not None and truth is not None:
            true = true or measured(truth)
            least = min(excess, abs(value - getattr(true, name)) / limit)
        status: Status = "fail" if least > FAIL_FACTOR else "review"
        case.add("structure", status, texts[name].format(value, limit), excused=least <= 1)


def truth_findings(case: Checked) -> None:
    """Check that input and truth show one patient; otherwise the truth is not used, because all against it is untrue.

    Skipped for CT against MR, which share too few edges.
    """
    if case.truth is None:
        return
    if case.hu and looks_like_hu(case.output) and not looks_like_hu(case.truth):
        text = (
            "The true image is not in HU, but input and output are. It is not used for the findings; evaluate with the "
            "truth in HU."
        )
        case.add("truth", "review", text, by="truth")
        case.truth = None
        return
    if looks_like_hu(case.source) != looks_like_hu(case.truth):
        return
    images, limit = (case.source, case.truth), SAME_SCAN
    if looks_like_hu(case.source):
        images, limit = (np.clip(case.source, -1000, 0), np.clip(case.truth, -1000, 0)), SAME_CT
    value = structure.edge_correlation(*images, case.body, case.spacing)
    if value < limit:
        text = (
            f"The true image does not show what the input shows: correlation of edges {value:.2f}, below {limit:g}. It "
            "is not used for the other findings."
        )
        case.add("truth", "review", text, by="truth")
        case.truth = None


def _structure(case: Checked, image: np.ndarray) -> dict[str, float]:
    pair = image, case.output
    return {
        "edge_correlation": structure.edge_correlation(
            *pair, case.body, case.spacing, known=(case.edges(image), case.edges(case.output))
        ),
        "gradient_agreement": structure.gradient_agreement(*pair, case.body, case.spacing),
        "mind_distance": structure.mind_distance(*pair, case.body),
    }


def _excess(value: float, limit: float, side: str) -> float:
    value, limit = (1 - value, 1 - limit) if side == "below" else (value, limit)
    return value / limit if limit > 0 else float(value > 0) * 2


def hounsfield_findings(case: Checked) -> None:
    """Check HU offsets of fat, muscle and lung, and the drift of the HU scale; both images are CT in HU."""
    change = _change(case, case.source)
    case.values |= {f"change_{name.replace(' ', '_')}": value for name, (_, value) in change.items()}
    versus_truth = None if case.truth is None else _change(case, case.truth)
    for tissue in ("fat", "muscle", "lung", "soft tissue"):
        if tissue in change:
            _offset(
                case,
                tissue,
                change[tissue][1],
                None if versus_truth is None else versus_truth.get(tissue, (0.0, 0.0))[1],
            )
    drift = hounsfield.scale_drift(change)
    case.values["scale_drift"] = drift
    if abs(drift) > case.limits.scale_drift:
        text = (
            f"The HU scale drifted by {100 * drift:+.1f} % between lung and fat "
            f"(limit {100 * case.limits.scale_drift:g} %)."
        )
        own = drift if versus_truth is None else hounsfield.scale_drift(versus_truth)
        case.add("scale", "review", text, excused=abs(own) <= case.limits.scale_drift)


def _change(case: Checked, image: np.ndarray) -> dict[str, tuple[float, float]]:
    return hounsfield.unenhancing_change(
        image,
        case.output,
        case.body,
        case.spacing,
        labels=case.labels,
        names=case.names,
        smooth=case.smooth_source if image is case.source else None,
    )


def _offset(case: Checked, tissue: str, value: float, off_truth: float | None) -> None:
    limits = case.limits
    low, high = {
        "fat": (-limits.fat_offset, limits.fat_offset),
        "soft tissue": (-MOST_UPTAKE, MOST_UPTAKE if not limits.contrast_removed else limits.max_hu_increase),
    }.get(tissue, (-limits.max_hu_decrease, limits.max_hu_increase))
    excess = max(value / high, value / low)
    if excess > 1:
        least = excess if off_truth is None else min(excess, max(off_truth / high, off_truth / low))
        text = (
            f"HU are offset: {tissue}{HARDLY if tissue != 'soft tissue' else ''} changed by {value:+.1f} HU "
            f"(limits {low:+g} to {high:+g} HU)."
        )
        by = "labels" if tissue == "muscle" else "images"
        case.add("offset", "fail" if least > FAIL_FACTOR else "review", text, by=by, excused=least <= 1)


def left_over_findings(case: Checked) -> None:
    """Check for residual enhancement of soft tissue by HU alone; both images are CT in HU."""
    text = (
        "{total:.0f} ml of soft tissue are still enhanced (limit {limit:g} ml); the largest part, {ml:.0f} ml around "
        "{place}, has {output:.0f} HU (input {source:.0f} HU)."
    )
    find = partial(enhancement.residual_enhancement, smooth=case.smooth_source)
    _volume_finding(case, "enhancement", "residual_enhancement_ml", find, text)


def darkened_findings(case: Checked) -> None:
    """Check for bone that lost density, or contrast medium removed in part, by HU alone; both images are CT in HU."""
    text = (
        "{total:.0f} ml were darkened but stay brighter than soft tissue (limit {limit:g} ml): bone that lost density, "
        "or contrast medium removed in part; the largest region, {ml:.0f} ml around {place}, went from {source:.0f} to "
        "{output:.0f} HU."
    )
    _volume_finding(case, "bone", "darkened_dense_ml", enhancement.darkened_dense, text)


def missing_findings(case: Checked) -> None:
    """Check for parts of the body that the output does not show: parts of one value, and in CT tissue that became air.

    Where contrast medium is removed, also for tissue that became fat.
    """
    masked = "" if case.hu else ", or is masked in the output"
    text = (
        "{total:.1f} ml of the body have one value where the input varies (limit {limit:g} ml): a part that was not "
        f"translated{masked}; the largest, {{ml:.1f}} ml around {{place}}, is {{output:.4g}} throughout."
    )
    worst: Status = "fail" if case.hu else "review"
    _volume_finding(case, "structure", "flat_ml", partial(missing.flat_parts, hu=case.hu), text, worst)
    if case.hu and looks_like_hu(case.source):
        below = missing.LOST_TO_FAT_HU if case.limits.contrast_removed else missing.LOST_TO_AIR_HU
        text = (
            f"{{total:.1f}} ml of soft tissue or bone fell below {below:g} HU (limit {{limit:g}} ml); the largest "
            "region, {ml:.1f} ml around {place}, went from {source:.0f} to {output:.0f} HU."
        )
        find = partial(missing.lost_tissue, below=below)
        _volume_finding(case, "structure", "lost_tissue_ml", find, text)


def lost_in_wall_findings(case: Checked) -> None:
    """Check for ribs that were removed like vessels, by HU and place alone; both images are CT in HU."""
    text = (
        "{total:.1f} ml of thin bright structures in the wall of the trunk became soft tissue (limit {limit:g} ml): "
        "ribs, or vessels of axilla, neck or groin; the largest, {ml:.1f} ml around {place}, went from {source:.0f} to "
        "{output:.0f} HU."
    )
    _volume_finding(case, "bone", "lost_in_wall_ml", trunk_wall.lost_in_wall, text)


def _volume_finding(
    case: Checked,
    kind: str,
    key: str,
    find: Callable[..., list[enhancement.Region]],
    text: str,
    worst: Status = "fail",
) -> None:
    """Record the volume (ml) of regions under ``key``; above the limit of that name it is a finding at the largest.

    Its status is ``worst`` above 4 times the limit.

    What the truth shows too is excused.
    """
    regions = find(case.source, case.output, case.body, case.spacing)
    limit = getattr(case.limits, key)
    case.values[key] = total = sum(region.volume_ml for region in regions)
    if total <= limit:
        return
    beyond = total
    if case.truth is not None:
        beyond -= sum(region.volume_ml for region in find(case.source, case.truth, case.body, case.spacing))
    first = regions[0]
    said = text.format(
        total=total,
        limit=limit,
        ml=first.volume_ml,
        place=case.at(first.place),
        source=first.source,
        output=first.output,
    )
    status: Status = worst if beyond > 4 * limit else "review"
    case.add(kind, status, said, case.ball(first.place, ball_mm(first.volume_ml)), excused=beyond <= limit)


def segmented_findings(
    case: Checked, found: Callable[[str], np.ndarray], names: Mapping[int, str], voxel_ml: float
) -> None:
    """Check the Dice of segmented anatomy between input and output, and match segmented lesions.

    Args:
        found: "source", "output" or "truth" → labels (X, Y, Z) on the volume's own grid.
        names: {label of the segmenter: structure}; lesions are matched, other structures compared by Dice.
        voxel_ml: volume of a voxel.
    """
    source, output = found("source"), found("output")
    lesion_labels = [value for value, name in names.items() if is_lesion(name)]
    dice = {label: d for label, d in label_dice(source, output).items() if label not in lesion_labels}
    case.values |= {f"dice_{names.get(label, f'label_{label}')}": value for label, value in dice.items()}
    limit, versus_truth = case.limits.anatomy_dice, dict(dice)
    if case.truth is not None and min(dice.values(), default=1.0) < limit:
        versus_truth = label_dice(found("truth"), output)
    for label, value in dice.items():
        if value < limit:
            best = max(value, versus_truth.get(label, 0.0))
            name = names.get(label, f"label {label}").replace("_", " ")
            text = f"{name}: the segmenter finds it elsewhere than in the input, Dice {value:.2f} (limit {limit:g})."
            status: Status = "fail" if best < limit / FAIL_FACTOR else "review"
            place = place_of((source == label) | (output == label), case.affine)
            case.add("anatomy", status, text, place, by="segmenter", excused=best >= limit)
    if lesion_labels:
        lesion_findings.detected_findings(
            case, np.isin(source, lesion_labels), np.isin(output, lesion_labels), voxel_ml
        )
