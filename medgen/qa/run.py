"""Verdict on the volumes of one case, in the form of ``cases.csv`` and of the section ``structure`` of the summary.

`medgen translate` and `medgen evaluate` both call `judge` with the same limits, so that the same scan and result get
the same verdict. Findings that only the conversion can make are passed as ``known``, see `medgen.qa.carried`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from medgen.data.body_mask import looks_like_hu
from medgen.io.volume import Volume
from medgen.qa.case import Reason
from medgen.qa.check import COARSE_MM, RANK, Verdict, check_case, coarse_factor
from medgen.qa.limits import AUTO, Thresholds, load_thresholds
from medgen.segmentation.load import NamedSegmenter, named_segmenter
from medgen.terminology import is_lesion

# Errors that a degenerate volume (a single slice, a body of three voxels) or an external network can raise.
CHECK_ERRORS = (ValueError, ArithmeticError, RuntimeError, IndexError, MemoryError, OSError)


@dataclass(frozen=True)
class Checks:
    """Settings of the checks.

    Attributes:
        thresholds: the limits.
        segmenter: finds anatomy and lesions; None for checks without one.
        auto: `medgen evaluate` uses the limits recorded by the conversion, if there are any.
    """

    thresholds: Thresholds = field(default_factory=load_thresholds)
    segmenter: NamedSegmenter | None = None
    auto: bool = False

    @property
    def identity(self) -> str:
        """SHA-256 of limits and segmenter."""
        by = None if self.segmenter is None else [self.segmenter.text, self.segmenter.sha256]
        return hashlib.sha256(json.dumps([self.thresholds.model_dump(), by], sort_keys=True).encode()).hexdigest()


def named_checks(limits: str, segmenter: str | None = None, device: str = "cpu") -> Checks:
    """Checks from names of the command line; see `load_thresholds` (or "auto") and `named_segmenter`."""
    thresholds = load_thresholds() if limits == AUTO else load_thresholds(limits)
    found = None if segmenter is None else named_segmenter(segmenter, device=device)
    return Checks(thresholds, found, limits == AUTO)


def judge(
    volumes: Mapping[str, Volume], names: Mapping[int, str], checks: Checks, known: Sequence[Reason] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Check a case with `check_case`; return the verdict and warnings.

    A check that cannot be run asks for review and gives the reason, so that it is not mistaken for a pass.

    Args:
        volumes: {role: volume} in RAS order on one grid: source, prediction, and optionally reference, labels and
            lesions. Without a mask of lesions, labels named as lesions are used, else those that the segmenter finds.
        names: {label: structure}.
        checks: limits and segmenter.
        known: earlier findings, on the input or by a segmenter.

    Returns:
        (verdict, warnings). The verdict has these keys:

        - "status": pass, review or fail;
        - "reasons": sentences;
        - "values": {name: measured value};
        - "findings": the reasons as mappings with the fields of `case.Reason`; "place" is {"low", "high"}, the corners
          of a box in mm in scanner coordinates (RAS), or None;
        - "excused": sentences on findings that the truth shows too;
        - "regions": {structure: [lowest, highest accepted mean HU]}.
    """
    source, prediction, truth = volumes["source"], volumes["prediction"], volumes.get("reference")
    notes = []
    try:
        verdict = _checked(volumes, names, checks)
        without_hu = truth is None and "scale_drift" not in verdict.values
        if without_hu and looks_like_hu(source.data) and not looks_like_hu(prediction.data):
            text = "The source is CT in HU but the prediction is not, so its HU could not be checked."
            notes.append(Reason("unchecked", "pass", text))
        found, values, excused, regions = verdict.reasons, dict(verdict.values), verdict.excused, verdict.regions
    except CHECK_ERRORS as error:
        cause = _too_thin(source) or str(error) or type(error).__name__
        text = f"The structure check could not be done: {cause}"
        notes.append(Reason("unchecked", "review", text))
        found, values, excused, regions = (), {}, (), {}
    reasons = sorted([*found, *known, *notes], key=lambda reason: -RANK[reason.status])
    return {
        "status": reasons[0].status if reasons else "pass",
        "reasons": [*map(str, reasons)],
        "values": values,
        "findings": [asdict(reason) for reason in reasons],
        "excused": [*map(str, excused)],
        "regions": {name: list(limits) for name, limits in regions.items()},
    }, [*map(str, notes)]


def _too_thin(source: Volume) -> str:
    """Why a volume has no edges to compare; "" if it has edges."""
    shape = source.data.shape
    if min(shape) < 2:
        return "the volume is one voxel thick along an axis"
    coarse = [n // k for n, k in zip(shape, coarse_factor(source.spacing, shape), strict=True)]
    return (
        f"the volume is one voxel thick along an axis of the checked grid ({COARSE_MM:g} mm)" if min(coarse) < 2 else ""
    )


def _checked(volumes: Mapping[str, Volume], names: Mapping[int, str], checks: Checks) -> Verdict:
    source, truth, segmenter = volumes["source"], volumes.get("reference"), checks.segmenter
    labels = np.rint(volumes["labels"].data).astype(np.int32) if "labels" in volumes else None
    return check_case(
        source.data,
        volumes["prediction"].data,
        source.spacing,
        truth=None if truth is None else truth.data,
        labels=labels,
        names=names,
        lesions=_lesions(volumes, labels, names),
        thresholds=checks.thresholds,
        affine=source.affine,
        segment=None if segmenter is None else lambda image: segmenter.segment(source.replaced(image)),
        segment_names=(segmenter.names or None) if segmenter else None,
    )


def _lesions(volumes: Mapping[str, Volume], labels: np.ndarray | None, names: Mapping[int, str]) -> np.ndarray | None:
    if "lesions" in volumes:
        data = volumes["lesions"].data  # whole numbers, or one value
        return np.where(data >= 0.5, np.rint(data), data > 0).astype(np.int32)
    marked = [value for value, name in names.items() if is_lesion(name)]
    return np.where(np.isin(labels, marked), labels, 0) if labels is not None and marked else None
