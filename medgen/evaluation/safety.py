"""The verdict on one translated volume against its input: pass, review or fail, each reason a sentence.

What is measured lives beside this file (`structure`, `geometry`, `hounsfield`, `enhancement`, `lesions`); here are the
limits and the words. docs/explanation/metrics_structure.md says what a pass does not prove.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from medgen.data.body import body_mask, looks_like_hu
from medgen.evaluation import enhancement, geometry, hounsfield, lesions, structure
from medgen.evaluation.thresholds import Thresholds
from medgen.types import InputError

Status = Literal["pass", "review", "fail"]
Spacing = tuple[float, float, float]
RANK: dict[Status, int] = {"pass": 0, "review": 1, "fail": 2}
COARSE_MM = 2.0  # finer grids are averaged to about this: time and memory do not grow with the matrix
LUNG_HU, BRIGHT_HU = -500.0, 135.0  # new structures are looked for in lung and in what is not enhanced vessel or bone
LOUD = 1.5  # times its limit: what exceeds it by half fails rather than asks for review


@dataclass(frozen=True)
class Reason:
    """One finding. ``fault``: flip, shift, structure, offset, scale, enhancement, lesion_lost, lesion_new, anatomy."""

    fault: str
    status: Status
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Verdict:
    """``status``: the worst of the reasons, "pass" without any; ``values``: all that was measured, by name."""

    status: Status
    reasons: tuple[Reason, ...]
    values: Mapping[str, float | str]


@dataclass
class _Case:
    """What the checks share, on one grid; they add to ``values`` and ``reasons``."""

    source: np.ndarray
    output: np.ndarray
    spacing: Spacing
    body: np.ndarray
    truth: np.ndarray | None
    labels: np.ndarray | None
    names: Mapping[int, str]
    lesions: np.ndarray | None
    limits: Thresholds
    hu: bool
    origin: np.ndarray  # mm from the volume's first voxel to this grid's
    values: dict[str, float | str] = field(default_factory=dict)
    reasons: list[Reason] = field(default_factory=list)

    @property
    def unit(self) -> str:
        return " HU" if self.hu else ""

    def at(self, place: tuple[float, float, float]) -> str:
        """A place for the reader, in mm from the first voxel of the volume as it was given."""
        return "({:.0f}, {:.0f}, {:.0f}) mm".format(*(self.origin + place))

    def add(self, fault: str, status: Status, text: str) -> None:
        self.reasons.append(Reason(fault, status, text))


def check_case(
    source: np.ndarray,
    output: np.ndarray,
    spacing: Spacing,
    *,
    truth: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    names: Mapping[int, str] | None = None,
    lesions: np.ndarray | None = None,
    thresholds: Thresholds | None = None,
    segment: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Verdict:
    """Did the translation keep what was there, and remove what it should?

    Args:
        source, output: (X, Y, Z) on one grid in canonical (RAS) order; CT in HU, or MR in any unit: then only
            structure, geometry and lesions are checked.
        spacing: mm.
        truth: (X, Y, Z), the true target image, if there is one.
        labels, names: (X, Y, Z) whole numbers and {value: structure}; with them each organ is held against its range.
        lesions: (X, Y, Z), non-zero in the lesions of the source; with them each one's fate is told.
        thresholds: limits; default `Thresholds()`.
        segment: volume → labels (X, Y, Z), for the Dice of anatomy.

    Raises:
        InputError: arrays that are not 3D or differ in shape, values that are not finite, spacing not above 0.
    """
    _check(source, output, spacing, truth, labels, lesions)
    case = _prepared(source, output, spacing, truth, labels, names or {}, lesions, thresholds or Thresholds())
    _geometry(case)
    _structure(case)
    if case.hu:
        _hounsfield(case)
        if case.limits.contrast_removed:
            _enhancement(case)
    _lesions(case)
    _new_structures(case)
    if segment is not None:
        _anatomy(case, structure.anatomy_dice(source, output, segment))
    reasons = sorted(case.reasons, key=lambda r: -RANK[r.status])
    return Verdict(reasons[0].status if reasons else "pass", tuple(reasons), case.values)


def _prepared(
    source: np.ndarray,
    output: np.ndarray,
    spacing: Spacing,
    truth: np.ndarray | None,
    labels: np.ndarray | None,
    names: Mapping[int, str],
    lesions: np.ndarray | None,
    limits: Thresholds,
) -> _Case:
    factor = [max(1, int(COARSE_MM / s)) for s in spacing]
    coarse = _averaged(source, factor)
    body = body_mask(coarse)
    crop = _around(body)

    def image(v: np.ndarray | None) -> np.ndarray | None:
        return None if v is None else _averaged(v, factor)[crop]

    def whole_numbers(v: np.ndarray | None) -> np.ndarray | None:
        return None if v is None else v[tuple(slice(k // 2, None, k) for k in factor)][crop]

    step = np.multiply(spacing, factor)
    return _Case(
        source=coarse[crop],
        output=_averaged(output, factor)[crop],
        spacing=(float(step[0]), float(step[1]), float(step[2])),
        body=body[crop],
        truth=image(truth),
        labels=whole_numbers(labels),
        names=names,
        lesions=whole_numbers(lesions),
        limits=limits,
        hu=limits.hounsfield and looks_like_hu(source),
        origin=np.array([c.start for c in crop]) * step + (step - spacing) / 2,
    )


def _around(body: np.ndarray, margin: int = 3) -> tuple[slice, ...]:
    """The box of the body with a margin, as far from one side of the volume as from the other: flips stay flips."""
    box = ndimage.find_objects(body.astype(np.uint8))[0]
    cuts = [max(0, min(b.start, n - b.stop) - margin) for b, n in zip(box, body.shape, strict=True)]
    return tuple(slice(cut, n - cut) for cut, n in zip(cuts, body.shape, strict=True))


def _averaged(v: np.ndarray, factor: Sequence[int]) -> np.ndarray:
    """Mean over blocks of ``factor`` voxels; what does not fill a block at the far side is left out."""
    v = v.astype(np.float32)
    v = v[tuple(slice(n // k * k) for n, k in zip(v.shape, factor, strict=True))]
    blocks = [part for n, k in zip(v.shape, factor, strict=True) for part in (n // k, k)]
    return v.reshape(blocks).mean((1, 3, 5))


def _geometry(case: _Case) -> None:
    gains = geometry.flip_gains(case.source, case.output, case.body, case.spacing)
    for side, gain in zip(geometry.SIDES, gains, strict=True):
        case.values[f"flip_gain_{side}"] = float(gain)
        if gain > case.limits.flip_gain:
            text = (
                f"The output is flipped {side}: its edges agree better with the mirrored input, by {gain:.2f} of "
                f"correlation (limit {case.limits.flip_gain:.2f})."
            )
            case.add("flip", "fail", text)
    if any(r.fault == "flip" for r in case.reasons):
        return
    for side, moved, step in zip(
        geometry.SIDES, geometry.shift(case.source, case.output, case.spacing), case.spacing, strict=True
    ):
        case.values[f"shift_mm_{side}"] = float(moved * step)
        if abs(moved) > case.limits.shift_voxels:
            text = (
                f"The output lies {abs(moved) * step:.1f} mm ({abs(moved):.2f} voxels) off the input along "
                f"{side} (limit {case.limits.shift_voxels:g} voxels)."
            )
            case.add("shift", "fail", text)


def _structure(case: _Case) -> None:
    pair, limits = (case.source, case.output), case.limits
    found = {
        "edge_correlation": structure.edge_correlation(*pair, case.body, case.spacing),
        "gradient_agreement": structure.gradient_agreement(*pair, case.body, case.spacing),
        "mind_distance": structure.mind_distance(*pair, case.body),
    }
    case.values |= found
    words = {
        "edge_correlation": ("Edges lie elsewhere than in the input: correlation", "below"),
        "gradient_agreement": ("Edges run in other directions than in the input: agreement", "below"),
        "mind_distance": ("The fine structure differs from the input: descriptor distance", "above"),
    }
    for name, (text, side) in words.items():
        limit, value = getattr(limits, name), found[name]
        if (value < limit) if side == "below" else (value > limit):
            bad = (1 - value) > LOUD * (1 - limit) if side == "below" else value > LOUD * limit
            case.add("structure", "fail" if bad else "review", f"{text} {value:.2f}, {side} {limit:g}.")


def _hounsfield(case: _Case) -> None:
    limits = case.limits
    change = hounsfield.unenhancing_change(
        case.source, case.output, case.body, case.spacing, labels=case.labels, names=case.names
    )
    case.values |= {f"change_{name.replace(' ', '_')}": value for name, (_, value) in change.items()}
    for tissue in ("fat", "muscle", "lung"):
        if tissue not in change:
            continue
        value, low = change[tissue][1], -limits.fat_offset if tissue == "fat" else -limits.tissue_fall
        if not low <= value <= limits.fat_offset:
            text = (
                f"HU are offset: {tissue}, which contrast medium hardly reaches, changed by {value:+.1f} HU "
                f"(limits {low:+g} to {limits.fat_offset:+g} HU)."
            )
            loud = value < LOUD * low or value > LOUD * limits.fat_offset
            case.add("offset", "fail" if loud else "review", text)
    drift = hounsfield.scale_drift(change)
    case.values["scale_drift"] = drift
    if abs(drift) > limits.scale_drift:
        text = (
            f"The HU scale drifted by {100 * drift:+.1f} % between lung and fat (limit {100 * limits.scale_drift:g} %)."
        )
        case.add("scale", "review", text)


def _enhancement(case: _Case) -> None:
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
        case.add("enhancement", "fail" if total > 4 * case.limits.left_over_ml else "review", text)


def _organs(case: _Case) -> None:
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
                text = f"{shown}: {hu[1]:.0f} HU, {error:+.0f} HU off the truth (limit {limit:g} HU)."
                case.add("enhancement", "fail" if abs(error) > LOUD * limit else "review", text)
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
            case.add("enhancement", "fail" if far else "review", text)


def _collecting(case: _Case) -> list[float] | None:
    for value, name in case.names.items():
        if "collecting" not in name:
            continue
        inside = np.equal(case.labels, value)  # type: ignore[arg-type]
        if inside.sum() >= enhancement.LEAST_VOXELS:
            return [float(np.median(v[inside])) for v in (case.source, case.output)]
    return None


def _lesions(case: _Case) -> None:
    if case.lesions is None:
        return
    limits: dict[str, Any] = {"visible_z": case.limits.lesion_visible_z, "kept_z": case.limits.lesion_kept_z}
    if case.hu and case.limits.contrast_removed and case.truth is None:
        limits["uptake"] = case.limits.lesion_uptake
    found = lesions.lesion_conservation(
        case.source, case.output, case.lesions, case.spacing, labels=case.labels, **limits
    )
    if case.truth is not None:  # a lesion that the true image does not show cannot be lost
        true = lesions.lesion_conservation(
            case.source, case.truth, case.lesions, case.spacing, labels=case.labels, **limits
        )
        found = [lesion for lesion, expected in zip(found, true, strict=True) if expected.kept]
    case.values |= {
        "lesions": float(len(found)),
        "lesions_judged": float(sum(lesion.visible for lesion in found)),
        "lesion_sensitivity": lesions.sensitivity(found),
    }
    for lesion in found:
        if lesion.lost:
            text = (
                f"A lesion of {lesion.volume_ml:.1f} ml at {case.at(lesion.place)} is lost: contrast to its host "
                f"{lesion.contrast:+.0f}{case.unit} before, {lesion.contrast_output:+.0f}{case.unit} after, "
                f"{abs(lesion.contrast_output) / lesion.noise_output:.1f} times the noise "
                f"(limit {case.limits.lesion_kept_z:g})."
            )
            case.add("lesion_lost", "fail", text)


def _new_structures(case: _Case) -> None:
    inner = ndimage.binary_erosion(case.body, iterations=2)
    if case.hu:
        smooth = ndimage.gaussian_filter(case.source, [2.5 / s for s in case.spacing])
        masks = [inner & (smooth > LUNG_HU) & ~ndimage.binary_dilation(smooth > BRIGHT_HU), inner & (smooth < LUNG_HU)]
    else:
        masks = [inner]
    blobs = [blob for mask in masks for blob in _blobs(case, case.output, mask)]
    if case.truth is not None and blobs:
        known = [blob.place for mask in masks for blob in _blobs(case, case.truth, mask)]
        blobs = [b for b in blobs if all(np.linalg.norm(np.subtract(b.place, p)) > b.diameter for p in known)]
    case.values["new_structures"] = float(len(blobs))
    for blob in sorted(blobs, key=lambda b: -b.z)[:3]:
        text = (
            f"A structure of about {blob.diameter:.0f} mm at {case.at(blob.place)} is not in the input: contrast "
            f"{blob.contrast:+.0f}{case.unit}, {blob.z:.1f} times the noise "
            f"(limit {case.limits.new_structure_z:g})."
        )
        case.add("lesion_new", "fail" if blob.z > 2 * case.limits.new_structure_z else "review", text)


def _blobs(case: _Case, image: np.ndarray, mask: np.ndarray) -> list[lesions.Blob]:
    least = case.limits.new_structure_contrast if case.hu else 0.0
    z = case.limits.new_structure_z
    return lesions.new_structures(image, case.source, mask, case.spacing, least_z=z, least_contrast=least)


def _anatomy(case: _Case, dice: Mapping[int, float]) -> None:
    for label, value in dice.items():
        name = case.names.get(label, f"label {label}")
        case.values[f"dice_{name}"] = value
        if value < case.limits.anatomy_dice:
            text = f"{name}: the segmenter finds it elsewhere, Dice {value:.2f} (limit {case.limits.anatomy_dice:g})."
            case.add("anatomy", "fail" if value < case.limits.anatomy_dice / LOUD else "review", text)


def _check(source: np.ndarray, output: np.ndarray, spacing: Spacing, *others: Any) -> None:
    if source.ndim != 3:
        raise InputError(f"a volume (X, Y, Z) can be checked, not an array {source.shape}")
    for other in (output, *others):
        if other is not None and other.shape != source.shape:
            raise InputError(f"all of a case must lie on one grid, not {source.shape} and {other.shape}")
    for name, image in (("input", source), ("output", output)):
        if not np.isfinite(image.sum(dtype=np.float64)):
            raise InputError(f"the {name} holds voxels that are NaN or infinite; it cannot be checked")
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise InputError(f"spacing {tuple(spacing)} must be three numbers above 0, in mm")
