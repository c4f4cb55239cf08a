"""Every number of one case: fidelity to the truth, slice-to-slice smoothness, and means per region."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medgen.data.body_mask import body_mask, foreground_mask, looks_like_hu
from medgen.data.cohort.content import content_hash
from medgen.errors import InputError
from medgen.evaluation.folders import read_case
from medgen.evaluation.metrics import voxelwise as fidelity
from medgen.evaluation.metrics.catalogue import SLICE_JUMP, pair_metrics
from medgen.evaluation.metrics.challenges import organ_scores
from medgen.evaluation.metrics.image_pair import by_label, within
from medgen.evaluation.metrics.metric import Pair
from medgen.evaluation.metrics.segmentation import segmentation_scores
from medgen.evaluation.metrics.slice_continuity import relative_slice_jump
from medgen.evaluation.summary import CaseResult
from medgen.io.volume import Volume
from medgen.qa.case import Reason
from medgen.qa.run import Checks, judge
from medgen.terminology import is_enhancing

HU_RANGE = 4095.0


class NeedsRange(InputError):
    """The images are not in HU, so the user has to give the data range."""


class NotHu(InputError):
    """The images are not in HU, and what was asked for is of CT in HU."""


@dataclass(frozen=True)
class Measures:
    """What is measured in every case.

    ``data_range`` of PSNR and SSIM (None: that of HU), ``names`` of the labels, ``profile``: one of
    `medgen.evaluation.metrics.challenges` whose numbers come beside the generic ones, ``tolerance_mm`` of the surface
    Dice, ``checks`` of every case that has a source (None: no verdict); ``known``: of each case, findings of its
    conversion.
    """

    data_range: float | None
    names: Mapping[int, str]
    profile: str = "generic"
    tolerance_mm: float = 2.0
    checks: Checks | None = None
    known: Mapping[str, Sequence[Reason]] = field(default_factory=dict)


def measure_case(case: str, files: Mapping[str, Path], measures: Measures) -> CaseResult:
    """Read and measure one case.

    ``files`` by role: prediction, and of reference, source, labels, mask and lesions those there are. Raises
    `InputError` that says why the case cannot be measured.
    """
    volumes = read_case(files)
    leading = "reference" if "reference" in volumes else "prediction"
    hu = looks_like_hu(volumes[leading].data)
    if measures.data_range is None and not hu and "reference" in volumes:
        raise NeedsRange(
            "metric-data-range-missing",
            f"{files['reference']} is not in HU (no value at or below -200): PSNR and SSIM need --data-range, the span "
            "of values that such images can take",
        )
    if measures.profile != "generic" and "reference" in volumes and not hu:
        raise NotHu(
            "metric-not-hu",
            f"{files['reference']} is not in HU (no value at or below -200), and the profile {measures.profile} is of "
            "CT in HU: leave --profile out",
        )
    warnings = [text for volume in volumes.values() for text in volume.warnings]
    if hu and not looks_like_hu(volumes["prediction"].data):
        warnings.append("the prediction has no air at or below -200 HU although the reference has: is it in HU?")
    for role in ("reference", "source"):
        if role in volumes and np.array_equal(volumes[role].data, volumes["prediction"].data):
            warnings.append(
                f"the prediction is the {role} itself, voxel by voxel: is {files['prediction']} the output?"
            )
    masks = {"mask": volumes["mask"].data > 0} if "mask" in volumes else {}
    if "mask" in masks and len(np.unique(volumes["mask"].data[masks["mask"]])) > 1:
        warnings.append("the mask holds more than one value above 0; every voxel above 0 counts as inside")
    if "mask" in masks and not masks["mask"].any():
        raise InputError("mask-empty", f"the mask {files['mask']} is empty: there is no voxel to measure in")
    if hu:
        masks["body"] = body_mask(volumes[leading].data)
    elif "mask" not in masks:
        masks["foreground"] = foreground_mask(volumes[leading].data)
    segmentation = _segmentation(volumes, measures, files)
    metrics = _smoothness(volumes, masks)
    try:
        regions = _regions(volumes, masks, measures.names)
    except InputError as error:  # all that can be wrong by now is what the label file holds
        raise InputError("labels-values-invalid", f"{files.get('labels', case)}: {error}") from error
    if "reference" in volumes:
        metrics |= _fidelity(volumes, masks, measures, regions)
        metrics |= organ_scores(segmentation, profile=measures.profile)
    unnamed = sorted(name for name in regions if name.startswith("label_") and name not in measures.names.values())
    if unnamed and measures.names:
        warnings.append(f"{', '.join(unnamed)} have no name in labels.json, so the verdict does not judge them")
    structure = None
    if measures.checks is not None and "source" in volumes:
        structure, more = judge(volumes, measures.names, measures.checks, measures.known.get(case, ()))
        warnings += more
        for name, (lowest, highest) in structure["regions"].items():
            regions[name] |= {"lowest": lowest, "highest": highest}
    named = [{"region": name, **row} for name, row in regions.items()]
    images = [h for role in ("source", "reference") if role in volumes and (h := content_hash(volumes[role].data))]
    return CaseResult(case, files, metrics, named, warnings, hu, segmentation, structure, images=images)


def _fidelity(
    volumes: Mapping[str, Volume],
    masks: Mapping[str, np.ndarray],
    measures: Measures,
    regions: Mapping[str, dict[str, float]],
) -> dict[str, float]:
    """Columns of ``cases.csv`` that need the truth, the source's under ``source_``; those of regions go into these."""
    truth = volumes["reference"]
    wanted = [value for value, name in measures.names.items() if is_enhancing(name)]
    enhancing = np.isin(volumes["labels"].data, wanted) if "labels" in volumes and wanted else None
    metrics: dict[str, float] = {}
    for role, prefix in (("prediction", ""), ("source", "source_")):
        if role not in volumes:
            continue
        image = volumes[role].data
        pair = Pair(truth.data, image, data_range=measures.data_range or HU_RANGE, spacing=truth.spacing)
        found = {name: within(pair, mask) for name, mask in masks.items()}
        inside = next((found[name] for name in ("mask", "foreground") if name in masks), None)
        places = {"": within(pair) if inside is None else inside}
        places |= {"body_": found["body"]} if "body" in masks else {}
        places |= {"volume_": within(pair, place="volume_")} if "foreground" in masks else {}
        if enhancing is not None and enhancing.any():
            places["enhancing_"] = within(pair, enhancing, place="enhancing_")
        for place, row in places.items():
            columns = [of.name for of in pair_metrics(place=place) if of.name in row]
            metrics |= {f"{prefix}{place}{name}": row[name] for name in columns}
        if measures.profile != "generic":
            theirs = within(pair, masks.get("mask", masks.get("body")), profile=measures.profile)
            metrics |= {f"{prefix}{name}": value for name, value in theirs.items()}
        if "labels" in volumes:
            found |= _by_name(by_label(pair, volumes["labels"].data), measures.names)
        for name, row in found.items():
            regions[name].update({f"{prefix}{metric}": value for metric, value in row.items()})
    return metrics


def _segmentation(volumes: Mapping[str, Volume], measures: Measures, files: Mapping[str, Path]) -> list[dict[str, Any]]:
    """A row for every label of the reference or of the segmentation of the prediction, where both are given."""
    if "labels" not in volumes or "prediction_labels" not in volumes:
        return []
    truth, found = volumes["labels"], volumes["prediction_labels"]
    try:
        scores = segmentation_scores(truth.data, found.data, truth.spacing, tolerance_mm=measures.tolerance_mm)
    except InputError as error:
        raise InputError(
            "labels-comparison-failed", f"{files['labels']} and {files['prediction_labels']}: {error}"
        ) from error
    return [{"label": measures.names.get(value, f"label_{value}"), **row} for value, row in scores.items()]


def _smoothness(volumes: Mapping[str, Volume], masks: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Slice jumps beside the truth's, or beside the source's where there is no truth."""
    mask = next((masks[name] for name in ("body", "mask", "foreground") if name in masks), None)
    real = volumes.get("reference") or volumes.get("source")
    roles = [role for role in ("prediction", "source") if role in volumes and volumes[role] is not real]
    if real is None:
        return {}
    prefixes = {"prediction": "", "source": "source_"}
    return {f"{prefixes[r]}{SLICE_JUMP.name}": relative_slice_jump(volumes[r].data, real.data, mask) for r in roles}


def _regions(
    volumes: Mapping[str, Volume], masks: Mapping[str, np.ndarray], names: Mapping[int, str]
) -> dict[str, dict[str, float]]:
    """The rows of ``regions.csv`` for one case, by region: mask and body first, then every label that has voxels."""
    images = {f"mean_{role}": volumes[role].data for role in ("prediction", "reference", "source") if role in volumes}
    rows = {name: fidelity.label_means(mask.view(np.uint8), images)[1] for name, mask in masks.items()}
    if "labels" in volumes:
        rows |= _by_name(fidelity.label_means(volumes["labels"].data, images), names)
    for row in rows.values():
        if "mean_reference" in row:
            row["error"] = row["mean_prediction"] - row["mean_reference"]
    return rows


def _by_name(rows: Mapping[int, dict[str, float]], names: Mapping[int, str]) -> dict[str, dict[str, float]]:
    return {names.get(value, f"label_{value}"): row for value, row in rows.items()}
