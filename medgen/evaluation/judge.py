"""Pass, review or fail for the volumes of one case, as ``cases.csv`` and the section ``structure`` hold it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from medgen.data.body import looks_like_hu
from medgen.evaluation.lesion_findings import is_lesion
from medgen.evaluation.named_segmenter import NamedSegmenter, named_segmenter
from medgen.evaluation.safety import check_case
from medgen.evaluation.thresholds import Thresholds, load_thresholds
from medgen.io.volume import Volume

# What the arrays of an odd volume (a single slice, a body of three voxels) or another's network can end in.
UNDOABLE = (ValueError, ArithmeticError, RuntimeError, IndexError, MemoryError, OSError)


@dataclass(frozen=True)
class Checks:
    """How cases are checked: the limits, and a segmenter of their anatomy and lesions if there is one."""

    thresholds: Thresholds = field(default_factory=load_thresholds)
    segmenter: NamedSegmenter | None = None

    @property
    def identity(self) -> str:
        """The same for the same limits and segmenter."""
        by = None if self.segmenter is None else [self.segmenter.text, self.segmenter.sha256]
        return hashlib.sha256(json.dumps([self.thresholds.model_dump(), by], sort_keys=True).encode()).hexdigest()


def named_checks(limits: str, segmenter: str | None = None, device: str = "cpu") -> Checks:
    """Checks as the command line names them, see `load_thresholds` and `named_segmenter`."""
    return Checks(load_thresholds(limits), None if segmenter is None else named_segmenter(segmenter, device=device))


def judge(volumes: Mapping[str, Volume], names: Mapping[int, str], checks: Checks) -> tuple[dict[str, Any], list[str]]:
    """What `check_case` says of a case: {"status", "reasons", "findings", "values"}, and warnings.

    ``reasons`` are sentences; ``findings`` {"fault", "status", "text", "place"} say the same with the place of each,
    {"low", "high"}: the corners of its box in mm in the scanner (RAS), or None.

    A check that could not be done asks for review with its reason: nobody may take it for a pass.

    Args:
        volumes: by role, in RAS order on one grid: source, prediction, and of reference, labels and lesions those
            there are. Lesions are their mask, else the labels whose name says so, else what the segmenter finds.
        names: {label: structure}.
    """
    source, prediction, truth = volumes["source"], volumes["prediction"], volumes.get("reference")
    labels = np.rint(volumes["labels"].data).astype(np.int32) if "labels" in volumes else None
    segmenter, warnings = checks.segmenter, []
    if truth is None and looks_like_hu(source.data) and not looks_like_hu(prediction.data):
        warnings.append("the source is CT in HU and the prediction is not, so its HU could not be checked")
    try:
        verdict = check_case(
            source.data,
            prediction.data,
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
    except UNDOABLE as error:
        text = f"The structure check could not be done: {str(error) or type(error).__name__}"
        return {"status": "review", "reasons": [text], "values": {}}, [*warnings, text]
    found = {"status": verdict.status, "reasons": [*map(str, verdict.reasons)], "values": dict(verdict.values)}
    return found | {"findings": [asdict(reason) for reason in verdict.reasons]}, warnings


def _lesions(volumes: Mapping[str, Volume], labels: np.ndarray | None, names: Mapping[int, str]) -> np.ndarray | None:
    if "lesions" in volumes:
        return volumes["lesions"].data > 0
    marked = [value for value, name in names.items() if is_lesion(name)]
    return np.isin(labels, marked) if labels is not None and marked else None
