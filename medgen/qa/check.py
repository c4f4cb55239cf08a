"""Check one translated volume against its input: pass, review or fail, with reasons.

`medgen.qa.measures` holds the measurements, `findings`, `organ_findings`, `lesion_findings` and
`new_structure_findings` turn them into findings, and `limits` holds the limits. docs/explanation/metrics_structure.md
says what a pass does not prove.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from scipy import ndimage

from medgen.data.body_mask import body_mask, looks_like_hu
from medgen.data.labels.resampling import along_axes, labels_at
from medgen.errors import InputError
from medgen.qa import findings, lesion_findings, new_structure_findings, organ_findings
from medgen.qa.case import Checked, Reason, Spacing, Status
from medgen.qa.limits import Thresholds
from medgen.qa.measures import enhancement

RANK: dict[Status, int] = {"pass": 0, "review": 1, "fail": 2}
COARSE_MM = 2.0  # finer grids are averaged to about this voxel size, which limits time and memory


@dataclass(frozen=True)
class Verdict:
    """Result of the checks of one case.

    Attributes:
        status: the worst status of the reasons; "pass" without any.
        reasons: findings, worst first.
        values: {name: measured value}.
        excused: findings against the input that the truth shows too.
        regions: {labelled structure: lowest and highest accepted mean HU}.
    """

    status: Status
    reasons: tuple[Reason, ...]
    values: Mapping[str, float | str]
    excused: tuple[Reason, ...] = ()
    regions: Mapping[str, tuple[float, float]] = field(default_factory=dict)


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
    segment_names: Mapping[int, str] | None = None,
    affine: np.ndarray | None = None,
) -> Verdict:
    """Check whether a translation preserves the structure of its input and removes what it should.

    Args:
        source, output: (X, Y, Z) on one grid in canonical (RAS) order; CT in HU, or MR in any unit. MR is checked for
            structure, geometry and lesions only.
        spacing: mm.
        truth: (X, Y, Z), the true target image, if there is one; see `findings`.
        labels: (X, Y, Z) whole numbers, structures of the source, whose HU are compared with their ranges.
        names: {label: structure}.
        lesions: (X, Y, Z), non-zero in the lesions of the source, each of which is checked.
        thresholds: limits; default `Thresholds()`, for contrast removal.
        segment: volume → labels (X, Y, Z), for the Dice of anatomy and, without ``lesions``, for lesion detection.
        segment_names: names of the segmenter's labels; None: ``names``.
        affine: (4, 4), voxels → mm in scanner coordinates (RAS), used for the positions of findings; None: positions
            are relative to the first voxel.

    Raises:
        InputError: arrays are not 3D or differ in shape, values are not finite, or spacing is not above 0.
    """
    _check(source, output, spacing, truth, labels, lesions)
    case = _prepared(source, output, spacing, truth, labels, names or {}, lesions, thresholds or Thresholds())
    case.affine = affine
    findings.truth_findings(case)
    truth = None if case.truth is None else truth  # the one on the volume's own grid
    findings.geometry_findings(case)
    if not any(reason.fault == "flip" for reason in case.reasons):  # a flip causes all other findings
        images = [image for image in (source, output, truth) if image is not None]
        _content_findings(case)
        if labels is not None and case.names:
            _organ_findings(case, images, labels, case.names, spacing, "labels")
        if segment is not None:
            by_role = {"source": source, "output": output, **({} if truth is None else {"truth": truth})}
            found = cache(lambda role: segment(by_role[role]))
            known = case.names if segment_names is None else segment_names
            _organ_findings(case, images, found("source"), known, spacing, "segmenter")
            findings.segmented_findings(case, found, known, float(np.prod(spacing)) / 1000)
    reasons = sorted(case.reasons, key=lambda r: -RANK[r.status])
    status = reasons[0].status if reasons else "pass"
    return Verdict(status, tuple(reasons), case.values, tuple(case.excused), case.regions)


def _content_findings(case: Checked) -> None:
    checks = [findings.structure_findings, findings.background_findings, findings.missing_findings]
    if case.hu:
        checks.append(findings.hounsfield_findings)
        if case.limits.contrast_removed:
            checks += [findings.left_over_findings, findings.darkened_findings, findings.lost_in_wall_findings]
    checks += [lesion_findings.lesion_findings, new_structure_findings.new_structure_findings]
    case.find(checks)  # the last takes longest and starts first


def _organ_findings(
    case: Checked,
    images: Sequence[np.ndarray],
    labels: np.ndarray,
    names: Mapping[int, str],
    spacing: Spacing,
    by: str,
) -> None:
    """Measured on the volume's own grid, as in the table of regions."""
    if case.hu and case.limits.contrast_removed:
        organ_findings.organ_findings(case, enhancement.measure_organs(images, labels, names, spacing), by)


def _prepared(
    source: np.ndarray,
    output: np.ndarray,
    spacing: Spacing,
    truth: np.ndarray | None,
    labels: np.ndarray | None,
    names: Mapping[int, str],
    lesions: np.ndarray | None,
    limits: Thresholds,
) -> Checked:
    factor = coarse_factor(spacing, source.shape)
    coarse = _averaged(source, factor)
    body = body_mask(coarse)
    crop = _body_crop(body)

    whole = {"source": coarse, "output": _averaged(output, factor), "body": body}
    if truth is not None:
        whole["truth"] = _averaged(truth, factor)

    def whole_numbers(v: np.ndarray | None) -> np.ndarray | None:
        return None if v is None else _block_labels(v, factor)[crop]

    step = np.multiply(spacing, factor)
    return Checked(
        source=np.ascontiguousarray(coarse[crop]),
        output=np.ascontiguousarray(whole["output"][crop]),
        spacing=(float(step[0]), float(step[1]), float(step[2])),
        body=np.ascontiguousarray(body[crop]),
        truth=np.ascontiguousarray(whole["truth"][crop]) if truth is not None else None,
        labels=whole_numbers(labels),
        names=names,
        lesions=whole_numbers(lesions),
        limits=limits,
        hu=limits.hounsfield and looks_like_hu(source) and _hu_expected(output, truth, limits),
        origin=np.array([c.start for c in crop]) * step + (step - spacing) / 2,
        whole=whole,
    )


def _hu_expected(output: np.ndarray, truth: np.ndarray | None, limits: Thresholds) -> bool:
    """Whether the output of a CT should be in HU: decided by the truth, else by the limits or its own values.

    A truth in another unit than an output in HU does not count, see `findings.truth_findings`.
    """
    if truth is not None and (looks_like_hu(truth) or not looks_like_hu(output)):
        return looks_like_hu(truth)
    return limits.contrast_removed or looks_like_hu(output)


def _body_crop(body: np.ndarray, margin: int = 3) -> tuple[slice, ...]:
    """Bounding box of the body with a margin, symmetric in the volume so that a flip of the volume flips the crop."""
    box = ndimage.find_objects(body.astype(np.uint8))[0]
    cuts = [max(0, min(b.start, n - b.stop) - margin) for b, n in zip(box, body.shape, strict=True)]
    return tuple(slice(cut, n - cut) for cut, n in zip(cuts, body.shape, strict=True))


def coarse_factor(spacing: Sequence[float], shape: Sequence[int]) -> list[int]:
    """Number of voxels along each axis that are averaged to one voxel of the checked grid."""
    return [max(1, min(round(COARSE_MM / s), n)) for s, n in zip(spacing, shape, strict=True)]


def _averaged(v: np.ndarray, factor: Sequence[int]) -> np.ndarray:
    """Mean over blocks of ``factor`` voxels; an incomplete block at the far side is dropped."""
    shape = [n // k for n, k in zip(v.shape, factor, strict=True)]
    if max(factor) == 1:
        return v.astype(np.float32, copy=False)
    made = np.empty(shape, np.float32)
    v = v[:, : shape[1] * factor[1], : shape[2] * factor[2]]
    for n in range(shape[0]):  # a slab at a time stays in the CPU cache
        block = v[n * factor[0] : (n + 1) * factor[0]].sum(0, dtype=np.float32)
        block = sum(block[k :: factor[1]] for k in range(factor[1]))
        made[n] = sum(block[:, k :: factor[2]] for k in range(factor[2]))
    made /= np.float32(np.prod(factor))
    return made


def _block_labels(v: np.ndarray, factor: Sequence[int]) -> np.ndarray:
    """Labels at the centres of the blocks of ``_averaged``, aligned with the averaged images."""
    if max(factor) == 1:
        return v
    step = np.asarray(factor, float)
    shape = [n // k for n, k in zip(v.shape, factor, strict=True)]
    return labels_at(v, along_axes((step - 1) / 2, step, shape), shape)


def _check(source: np.ndarray, output: np.ndarray, spacing: Spacing, *others: Any) -> None:
    if source.ndim != 3:
        raise InputError("qa-array-shape", f"checks need a volume (X, Y, Z), not an array of shape {source.shape}")
    for other in (output, *others):
        if other is not None and other.shape != source.shape:
            raise InputError(
                "pair-shapes-differ",
                f"all volumes of a case must be on one grid, but have the shapes {source.shape} and {other.shape}",
            )
    for name, image in (("input", source), ("output", output)):
        if not (np.isfinite(image.sum()) or np.isfinite(image.sum(dtype=np.float64))):  # the first is faster
            raise InputError(
                "volume-not-finite", f"the {name} has NaN or infinite voxels; replace them with finite values first"
            )
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise InputError("volume-spacing-invalid", f"spacing {tuple(spacing)} must be three numbers above 0, in mm")
