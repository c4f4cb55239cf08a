"""What each check of `safety.check_case` measures, and the sentences that it finds fault with.

Every function here takes a `Checked` case and adds to its ``values`` and ``reasons``. One rule holds for all: where the
truth is given, a finding against the input stands only if it stands against the truth too. What a true pair of images
shows (other HU in MR, a lesion that only one contrast shows, a patient who moved) is no fault of the translation.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

from medgen.data.separable import gaussian
from medgen.evaluation import enhancement, geometry, hounsfield, lesion_findings, structure
from medgen.evaluation.checked import Checked, Place, Status, ball_mm, place_of

SPARSE, NEAR_MM = 0.25, 24.0  # part of its box that a structure fills at least to be marked as a whole; else so much
LOUD = 1.5  # times its limit: what exceeds it by half fails rather than asks for review


def geometry_findings(case: Checked) -> None:
    """Flips, and where there are none shifts."""
    gains = geometry.flip_gains(case.source, case.output, case.body, case.spacing)
    case.values |= {f"flip_gain_{side}": float(gain) for side, gain in zip(geometry.SIDES, gains, strict=True)}
    if case.truth is not None and (gains > case.limits.flip_gain).any():
        gains = np.minimum(gains, geometry.flip_gains(case.truth, case.output, case.body, case.spacing))
    for side, gain in zip(geometry.SIDES, gains, strict=True):
        if gain > case.limits.flip_gain:
            text = (
                f"The output is flipped {side}: its edges agree better with the mirrored input, by {gain:.2f} of "
                f"correlation (limit {case.limits.flip_gain:.2f})."
            )
            case.add("flip", "fail", text)
    if not any(r.fault == "flip" for r in case.reasons):
        _shift(case)


def _shift(case: Checked) -> None:
    moved = geometry.shift(case.source, case.output, case.spacing)
    sides = list(zip(geometry.SIDES, moved, case.spacing, strict=True))
    case.values |= {f"shift_mm_{side}": float(voxels * step) for side, voxels, step in sides}
    off = np.abs(moved) > case.limits.shift_voxels
    if case.truth is not None and off.any():
        off &= np.abs(geometry.shift(case.truth, case.output, case.spacing)) > case.limits.shift_voxels
    for (side, voxels, step), found in zip(sides, off, strict=True):
        if found:
            text = (
                f"The output lies {abs(voxels) * step:.1f} mm ({abs(voxels):.2f} voxels) off the input along "
                f"{side} (limit {case.limits.shift_voxels:g} voxels)."
            )
            case.add("shift", "fail", text)


def structure_findings(case: Checked) -> None:
    """Edges, their directions, and the fine structure."""
    words = {
        "edge_correlation": ("Edges lie elsewhere than in the input: correlation", "below"),
        "gradient_agreement": ("Edges run in other directions than in the input: agreement", "below"),
        "mind_distance": ("The fine structure differs from the input: descriptor distance", "above"),
    }
    found = _structure(case, case.source)
    case.values |= found
    limits = {name: float(getattr(case.limits, name)) for name in words}
    # How far beyond the limit, 1 being the limit itself: of 1 - value where the value should be high.
    excess = {name: _excess(value, limits[name], words[name][1]) for name, value in found.items()}
    if case.truth is not None and max(excess.values()) > 1:
        beside = _structure(case, case.truth)
        excess = {name: min(e, _excess(beside[name], limits[name], words[name][1])) for name, e in excess.items()}
    for name, (text, side) in words.items():
        if excess[name] > 1:
            status: Status = "fail" if excess[name] > LOUD else "review"
            case.add("structure", status, f"{text} {found[name]:.2f}, {side} {limits[name]:g}.")


def _structure(case: Checked, image: np.ndarray) -> dict[str, float]:
    pair = image, case.output
    return {
        "edge_correlation": structure.edge_correlation(*pair, case.body, case.spacing),
        "gradient_agreement": structure.gradient_agreement(*pair, case.body, case.spacing),
        "mind_distance": structure.mind_distance(*pair, case.body),
    }


def _excess(value: float, limit: float, side: str) -> float:
    value, limit = (1 - value, 1 - limit) if side == "below" else (value, limit)
    return value / limit if limit > 0 else float(value > 0) * 2


def hounsfield_findings(case: Checked) -> None:
    """Offset of fat, muscle and lung, and drift of the scale; both images CT in HU."""
    change = _change(case, case.source)
    case.values |= {f"change_{name.replace(' ', '_')}": value for name, (_, value) in change.items()}
    beside = None if case.truth is None else _change(case, case.truth)
    for tissue in ("fat", "muscle", "lung"):
        if tissue in change:
            _offset(case, tissue, change[tissue][1], None if beside is None else beside.get(tissue, (0.0, 0.0))[1])
    drift = hounsfield.scale_drift(change)
    case.values["scale_drift"] = drift
    least = drift if beside is None else min(drift, hounsfield.scale_drift(beside), key=abs)
    if abs(least) > case.limits.scale_drift:
        text = (
            f"The HU scale drifted by {100 * drift:+.1f} % between lung and fat "
            f"(limit {100 * case.limits.scale_drift:g} %)."
        )
        case.add("scale", "review", text)


def _change(case: Checked, image: np.ndarray) -> dict[str, tuple[float, float]]:
    return hounsfield.unenhancing_change(
        image, case.output, case.body, case.spacing, labels=case.labels, names=case.names
    )


def _offset(case: Checked, tissue: str, value: float, off_truth: float | None) -> None:
    limits = case.limits
    fat = tissue == "fat"
    low, high = (-limits.fat_offset, limits.fat_offset) if fat else (-limits.tissue_fall, limits.tissue_rise)
    excess = max(value / high, value / low)
    if off_truth is not None:
        excess = min(excess, max(off_truth / high, off_truth / low))
    if excess > 1:
        text = (
            f"HU are offset: {tissue}, which contrast medium hardly reaches, changed by {value:+.1f} HU "
            f"(limits {low:+g} to {high:+g} HU)."
        )
        case.add("offset", "fail" if excess > LOUD else "review", text)


def enhancement_findings(case: Checked) -> None:
    """What is still enhanced: organ by organ with labels, else regions of soft tissue; both images CT in HU."""
    if case.labels is not None and case.names:
        _organs(case)
        return
    regions = enhancement.left_over(case.source, case.output, case.body, case.spacing)
    total = sum(region.volume_ml for region in regions)
    case.values["left_over_ml"] = total
    if total > case.limits.left_over_ml:
        first = regions[0]
        text = (
            f"{total:.0f} ml of soft tissue are still enhanced (limit {case.limits.left_over_ml:g} ml); the largest "
            f"part, {first.volume_ml:.0f} ml around {case.at(first.place)}, has {first.output:.0f} HU after "
            f"{first.source:.0f} HU."
        )
        status: Status = "fail" if total > 4 * case.limits.left_over_ml else "review"
        case.add("enhancement", status, text, case.ball(first.place, ball_mm(first.volume_ml)))


def _organs(case: Checked) -> None:
    images = [v for v in (case.source, case.output, case.truth) if v is not None]
    organs = enhancement.organ_hu(images, case.labels, case.names)  # type: ignore[arg-type]
    collecting = _collecting(case)
    for n, role in enumerate(("source", "output")):
        found = enhancement.phase({name: hu[n] for name, hu in organs.items()}, collecting[n] if collecting else None)
        case.values[f"phase_{role}"] = found
    for name, hu in organs.items():
        case.values[f"hu_{name}"] = hu[1]
        shown = name.replace("_", " ")
        if case.truth is not None:
            error, limit = hu[1] - hu[2], case.limits.organ_error
            if abs(error) > limit:
                state = (
                    "still enhanced"
                    if 0 < error and hu[0] > hu[2] + limit
                    else "too dark"
                    if error < 0
                    else "too bright"
                )
                text = (
                    f"{shown} is {state}: {hu[1]:.0f} HU after {hu[0]:.0f} HU, {error:+.0f} HU off the truth "
                    f"(limit {limit:g} HU)."
                )
                case.add("enhancement", "fail" if abs(error) > LOUD * limit else "review", text, _of_label(case, name))
            continue
        kind = enhancement.structure_of(name)
        low, high = case.limits.organ_ranges.get(kind or "", (-np.inf, np.inf))
        if not low <= hu[1] <= high:
            state = "still enhanced" if hu[1] > high else "too dark"
            text = (
                f"{shown} is {state}: {hu[1]:.0f} HU after {hu[0]:.0f} HU, outside {low:g} to {high:g} HU "
                "without contrast medium."
            )
            far = max(low - hu[1], hu[1] - high) > 10
            case.add("enhancement", "fail" if far else "review", text, _of_label(case, name))


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


def _collecting(case: Checked) -> list[float] | None:
    for value, name in case.names.items():
        if "collecting" not in name:
            continue
        inside = np.equal(case.labels, value)  # type: ignore[arg-type]
        if inside.sum() >= enhancement.LEAST_VOXELS:
            return [float(np.median(v[inside])) for v in (case.source, case.output)]
    return None


def segmented_findings(
    case: Checked, found: Callable[[str], np.ndarray], names: Mapping[int, str], voxel_ml: float
) -> None:
    """Dice of the anatomy that a segmenter finds in input and output; without lesion masks its lesions too.

    Args:
        found: "source", "output" or "truth" → labels (X, Y, Z) on the volume's own grid.
        names: of the segmenter's labels; lesions by their name are counted, the others compared.
    """
    source, output = found("source"), found("output")
    marks = [value for value, name in names.items() if lesion_findings.is_lesion(name)]
    dice = {label: d for label, d in structure.label_dice(source, output).items() if label not in marks}
    case.values |= {f"dice_{names.get(label, f'label_{label}')}": value for label, value in dice.items()}
    least = case.limits.anatomy_dice
    if case.truth is not None and min(dice.values(), default=1.0) < least:
        beside = structure.label_dice(found("truth"), output)
        dice = {label: max(value, beside.get(label, 0.0)) for label, value in dice.items()}
    for label, value in dice.items():
        if value < least:
            name = names.get(label, f"label {label}").replace("_", " ")
            text = f"{name}: the segmenter finds it elsewhere, Dice {value:.2f} (limit {least:g})."
            status: Status = "fail" if value < least / LOUD else "review"
            case.add("anatomy", status, text, place_of((source == label) | (output == label), case.affine))
    if marks and case.lesions is None:
        lesion_findings.detected_findings(case, np.isin(source, marks), np.isin(output, marks), voxel_ml)
