"""Measure one case: fidelity to the reference, slice continuity, means per region, segmentations and structure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medgen.data.body_mask import body_mask, foreground_mask, looks_like_hu
from medgen.data.cohort.content import content_hash
from medgen.data.labels.resampling import check_mask
from medgen.errors import InputError
from medgen.evaluation.folders import check_header_names, read_case
from medgen.evaluation.metrics import voxelwise as fidelity
from medgen.evaluation.metrics.catalogue import SLICE_JUMP, pair_metrics
from medgen.evaluation.metrics.challenges import ANY_UNIT, organ_scores
from medgen.evaluation.metrics.image_pair import metrics_by_label, metrics_in_mask
from medgen.evaluation.metrics.metric import Pair
from medgen.evaluation.metrics.segmentation import segmentation_scores
from medgen.evaluation.metrics.slice_continuity import relative_slice_jump
from medgen.evaluation.summary import CaseResult
from medgen.evaluation.summary_file import file_hashes
from medgen.io.volume import Volume
from medgen.qa.case import Reason
from medgen.qa.run import Checks, judge
from medgen.terminology import is_enhancing

HU_RANGE = 4095.0


class NeedsRange(InputError):
    """The images are not in HU, so the user has to give the data range."""


class NotHu(InputError):
    """The images are not in HU, but the requested profile is defined for CT in HU."""


@dataclass(frozen=True)
class Measures:
    """What is measured in every case.

    Attributes:
        data_range: of PSNR and SSIM; None: that of HU.
        names: {label value: structure}.
        profile: one of `medgen.evaluation.metrics.challenges.PROFILES`, measured in addition to the generic one.
        tolerance_mm: of the surface Dice.
        checks: structure check of every case that has a source; None: no verdict.
        known: {case: findings of its conversion}.
    """

    data_range: float | None
    names: Mapping[int, str]
    profile: str = "generic"
    tolerance_mm: float = 2.0
    checks: Checks | None = None
    known: Mapping[str, Sequence[Reason]] = field(default_factory=dict)


def measure_case(case: str, files: Mapping[str, Path], measures: Measures) -> CaseResult:
    """Read and measure one case.

    Args:
        case: its name.
        files: {role: file}: prediction, and any of reference, source, labels, mask, prediction_labels and lesions.
        measures: what to measure.

    Raises:
        InputError: the case cannot be measured; the message gives the reason.
    """
    check_header_names(files, measures.names)
    volumes = read_case(files)
    for role in ("mask", "lesions"):
        if role in volumes:
            check_mask(volumes[role].data, files[role])
    leading = "reference" if "reference" in volumes else "prediction"
    hu = looks_like_hu(volumes[leading].data)
    if measures.data_range is None and not hu and "reference" in volumes:
        raise NeedsRange(
            "metric-data-range-missing",
            f"{files['reference']} is not in HU (no value at or below -200): PSNR and SSIM need --data-range, the "
            "range of values that such images can have",
        )
    if measures.profile not in ANY_UNIT and "reference" in volumes and not hu:
        raise NotHu(
            "metric-not-hu",
            f"{files['reference']} is not in HU (no value at or below -200), and the profile {measures.profile} is "
            "defined for CT in HU; omit --profile",
        )
    warnings = [text for volume in volumes.values() for text in volume.warnings]
    if hu and not looks_like_hu(volumes["prediction"].data):
        warnings.append("the prediction has no air (-200 HU or below), the reference has; check that it is in HU")
    if not hu and leading == "reference" and looks_like_hu(volumes["prediction"].data):
        warnings.append(
            "the prediction seems to be in HU (air at -200 or below), the reference is not; check that both have the "
            "same unit"
        )
    for role in ("reference", "source"):
        if role in volumes and np.array_equal(volumes[role].data, volumes["prediction"].data):
            warnings.append(
                f"the prediction equals the {role} in every voxel; check that {files['prediction']} is the output"
            )
    if {"reference", "source"} <= volumes.keys() and np.array_equal(volumes["reference"].data, volumes["source"].data):
        warnings.append(f"the reference equals the source in every voxel; check that {files['reference']} is the truth")
    masks = {"mask": volumes["mask"].data > 0} if "mask" in volumes else {}
    if "mask" in masks and len(np.unique(volumes["mask"].data[masks["mask"]])) > 1:
        warnings.append("the mask has more than one value above 0; every voxel above 0 counts as inside")
    if "mask" in masks and not masks["mask"].any():
        raise InputError(
            "mask-empty", f"the mask {files['mask']} is empty, so nothing can be measured; correct or remove it"
        )
    if hu:
        masks["body"] = body_mask(volumes[leading].data)
    elif "mask" not in masks:
        masks["foreground"] = foreground_mask(volumes[leading].data)
    segmentation = _segmentation(volumes, measures, files)
    metrics = _smoothness(volumes, masks)
    try:
        regions = _regions(volumes, masks, measures.names)
    except InputError as error:  # after the checks above, only the values of the label map can be invalid
        raise InputError("labels-values-invalid", f"{files.get('labels', case)}: {error}") from error
    if "reference" in volumes:
        metrics |= _fidelity(volumes, masks, measures, regions)
        metrics |= organ_scores(segmentation, profile=measures.profile)
    unnamed = sorted(name for name in regions if name.startswith("label_") and name not in measures.names.values())
    if unnamed and measures.names:
        warnings.append(f"{', '.join(unnamed)} have no name in labels.json and are not part of the structure check")
    structure = None
    if measures.checks is not None and "source" in volumes:
        structure, check_warnings = judge(volumes, measures.names, measures.checks, measures.known.get(case, ()))
        warnings += check_warnings
        for name, (lowest, highest) in structure["regions"].items():
            regions[name] |= {"lowest": lowest, "highest": highest}
    named = [{"region": name, **row} for name, row in regions.items()]
    images = [
        image_hash
        for role in ("source", "reference")
        if role in volumes and (image_hash := content_hash(volumes[role].data))
    ]
    made = content_hash(volumes["prediction"].data) or ""
    return CaseResult(
        case,
        files,
        metrics,
        named,
        warnings,
        hu,
        segmentation,
        structure,
        images=images,
        prediction_image=made,
        hashes=file_hashes(files),
    )


def _fidelity(
    volumes: Mapping[str, Volume],
    masks: Mapping[str, np.ndarray],
    measures: Measures,
    regions: Mapping[str, dict[str, float]],
) -> dict[str, float]:
    """Return the columns of ``cases.csv`` that need the reference; add those of regions to ``regions``.

    Columns of the source begin with ``source_``.
    """
    reference_volume = volumes["reference"]
    enhancing_values = [value for value, name in measures.names.items() if is_enhancing(name)]
    enhancing = np.isin(volumes["labels"].data, enhancing_values) if "labels" in volumes and enhancing_values else None
    metrics: dict[str, float] = {}
    for role, prefix in (("prediction", ""), ("source", "source_")):
        if role not in volumes:
            continue
        image = volumes[role].data
        pair = Pair(
            reference_volume.data, image, data_range=measures.data_range or HU_RANGE, spacing=reference_volume.spacing
        )
        found = {name: metrics_in_mask(pair, mask) for name, mask in masks.items()}
        inside = next((found[name] for name in ("mask", "foreground") if name in masks), None)
        places = {"": metrics_in_mask(pair) if inside is None else inside}
        places |= {"body_": found["body"]} if "body" in masks else {}
        places |= {"volume_": metrics_in_mask(pair, place="volume_")} if "foreground" in masks else {}
        if enhancing is not None and enhancing.any():
            places["enhancing_"] = metrics_in_mask(pair, enhancing, place="enhancing_")
        for place, row in places.items():
            columns = [pair_metric.name for pair_metric in pair_metrics(place=place) if pair_metric.name in row]
            metrics |= {f"{prefix}{place}{name}": row[name] for name in columns}
        if measures.profile != "generic":
            within = next((masks[name] for name in ("mask", "body", "foreground") if name in masks), None)
            profile_scores = metrics_in_mask(pair, within, profile=measures.profile)
            metrics |= {f"{prefix}{name}": value for name, value in profile_scores.items()}
        if "labels" in volumes:
            found |= _by_name(metrics_by_label(pair, volumes["labels"].data), measures.names)
        for name, row in found.items():
            regions[name].update({f"{prefix}{metric}": value for metric, value in row.items()})
    return metrics


def _segmentation(volumes: Mapping[str, Volume], measures: Measures, files: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Return one row per label of the reference or of the prediction segmentation; empty unless both are given."""
    if "labels" not in volumes or "prediction_labels" not in volumes:
        return []
    reference_volume, found = volumes["labels"], volumes["prediction_labels"]
    try:
        scores = segmentation_scores(
            reference_volume.data, found.data, reference_volume.spacing, tolerance_mm=measures.tolerance_mm
        )
    except InputError as error:
        raise InputError(
            "labels-comparison-failed", f"{files['labels']} and {files['prediction_labels']}: {error}"
        ) from error
    return [{"label": measures.names.get(value, f"label_{value}"), **row} for value, row in scores.items()]


def _smoothness(volumes: Mapping[str, Volume], masks: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return slice jumps relative to the reference, or to the source if there is no reference."""
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
    """Return {region: row of ``regions.csv``} of one case: mask and body first, then every label that has voxels."""
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
