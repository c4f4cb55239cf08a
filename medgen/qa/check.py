"""The verdict on one translated volume against its input: pass, review or fail, each reason a sentence.

What is measured lives beside this file (`structure`, `geometry`, `hounsfield`, `enhancement`, `lesions`), the words
in `findings` and `lesion_findings`, the limits in `thresholds`. docs/explanation/metrics_structure.md says what a pass
does not prove.
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
COARSE_MM = 2.0  # finer grids are averaged to about this: time and memory do not grow with the matrix


@dataclass(frozen=True)
class Verdict:
    """``status``: the worst of the reasons, "pass" without any; ``values``: all that was measured, by name.

    ``excused``: what input and output alone would say, and the truth shows too. ``regions``: the lowest and the highest
    mean (HU) that a labelled structure may have.
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
    """Did the translation keep what was there, and remove what it should?

    Args:
        source, output: (X, Y, Z) on one grid in canonical (RAS) order; CT in HU, or MR in any unit: then only
            structure, geometry and lesions are checked.
        spacing: mm.
        truth: (X, Y, Z), the true target image, if there is one: what it shows too is no fault, see `findings`.
        labels, names: (X, Y, Z) whole numbers and {value: structure}; with them each organ is held against its range.
        lesions: (X, Y, Z), non-zero in the lesions of the source; with them each one's fate is told.
        thresholds: limits; default `Thresholds()`, of contrast removal.
        segment: volume → labels (X, Y, Z), for the Dice of anatomy and, without ``lesions``, as their detector.
        segment_names: of its labels; None: ``names``.
        affine: (4, 4), voxels → mm in the scanner (RAS), for places as viewers show them; None: from the first voxel.

    Raises:
        InputError: arrays that are not 3D or differ in shape, values that are not finite, spacing not above 0.
    """
    _check(source, output, spacing, truth, labels, lesions)
    case = _prepared(source, output, spacing, truth, labels, names or {}, lesions, thresholds or Thresholds())
    case.affine = affine
    findings.geometry_findings(case)
    if not any(reason.fault == "flip" for reason in case.reasons):  # all else follows from a flip
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
    findings.structure_findings(case)
    if case.hu:
        findings.hounsfield_findings(case)
        if case.limits.contrast_removed:
            findings.left_over_findings(case)
    lesion_findings.lesion_findings(case)
    new_structure_findings.new_structure_findings(case)


def _organ_findings(
    case: Checked,
    images: Sequence[np.ndarray],
    labels: np.ndarray,
    names: Mapping[int, str],
    spacing: Spacing,
    by: str,
) -> None:
    """On the volume's own grid, as the table of regions."""
    if case.hu and case.limits.contrast_removed:
        organ_findings.organ_findings(case, enhancement.organs(images, labels, names, spacing), by)


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
    crop = _around(body)

    def image(v: np.ndarray | None) -> np.ndarray | None:
        return None if v is None else _averaged(v, factor)[crop]

    def whole_numbers(v: np.ndarray | None) -> np.ndarray | None:
        return None if v is None else _largest_shares(v, factor)[crop]

    step = np.multiply(spacing, factor)
    return Checked(
        source=coarse[crop],
        output=_averaged(output, factor)[crop],
        spacing=(float(step[0]), float(step[1]), float(step[2])),
        body=body[crop],
        truth=image(truth),
        labels=whole_numbers(labels),
        names=names,
        lesions=whole_numbers(lesions),
        limits=limits,
        hu=limits.hounsfield and looks_like_hu(source) and _hu_expected(output, truth, limits),
        origin=np.array([c.start for c in crop]) * step + (step - spacing) / 2,
    )


def _hu_expected(output: np.ndarray, truth: np.ndarray | None, limits: Thresholds) -> bool:
    """Whether the output of a CT should be CT: by the truth; without it, where limits say so, or as it seems to be."""
    if truth is not None:
        return looks_like_hu(truth)
    return limits.contrast_removed or looks_like_hu(output)


def _around(body: np.ndarray, margin: int = 3) -> tuple[slice, ...]:
    """The box of the body with a margin, as far from one side of the volume as from the other: flips stay flips."""
    box = ndimage.find_objects(body.astype(np.uint8))[0]
    cuts = [max(0, min(b.start, n - b.stop) - margin) for b, n in zip(box, body.shape, strict=True)]
    return tuple(slice(cut, n - cut) for cut, n in zip(cuts, body.shape, strict=True))


def coarse_factor(spacing: Sequence[float], shape: Sequence[int]) -> list[int]:
    """How many voxels along each axis are averaged to one of the grid that is checked."""
    return [max(1, min(round(COARSE_MM / s), n)) for s, n in zip(spacing, shape, strict=True)]


def _averaged(v: np.ndarray, factor: Sequence[int]) -> np.ndarray:
    """Mean over blocks of ``factor`` voxels; what does not fill a block at the far side is left out."""
    v = v.astype(np.float32)
    v = v[tuple(slice(n // k * k) for n, k in zip(v.shape, factor, strict=True))]
    blocks = [part for n, k in zip(v.shape, factor, strict=True) for part in (n // k, k)]
    return v.reshape(blocks).mean((1, 3, 5))


def _largest_shares(v: np.ndarray, factor: Sequence[int]) -> np.ndarray:
    """Labels at the middles of the blocks of ``_averaged``, so that they lie on the averaged images."""
    if max(factor) == 1:
        return v
    step = np.asarray(factor, float)
    shape = [n // k for n, k in zip(v.shape, factor, strict=True)]
    return labels_at(v, along_axes((step - 1) / 2, step, shape), shape)


def _check(source: np.ndarray, output: np.ndarray, spacing: Spacing, *others: Any) -> None:
    if source.ndim != 3:
        raise InputError("qa-array-shape", f"a volume (X, Y, Z) can be checked, not an array {source.shape}")
    for other in (output, *others):
        if other is not None and other.shape != source.shape:
            raise InputError(
                "pair-shapes-differ", f"all of a case must lie on one grid, not {source.shape} and {other.shape}"
            )
    for name, image in (("input", source), ("output", output)):
        if not np.isfinite(image.sum(dtype=np.float64)):
            raise InputError(
                "volume-not-finite", f"the {name} holds voxels that are NaN or infinite; it cannot be checked"
            )
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise InputError("volume-spacing-invalid", f"spacing {tuple(spacing)} must be three numbers above 0, in mm")
