"""Every metric, declared once: tables, summary, reports, console and docs/reference/metrics.md read this list.

Digits follow the unit: tenths of a HU or mm, hundredths of a dB, as many of an index as tell two results apart.
To add an image-pair metric, add a `Metric` to `METRICS`; CONTRIBUTING.md has an example.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from medgen.evaluation.metrics import challenges, ssim, voxelwise
from medgen.evaluation.metrics.metric import Array, Metric, Pair

PLACES: Mapping[str, str] = {"enhancing_": "in enhancing structures", "body_": "in the body", "mask_": "in the mask"}
ROLES = ("", "source_")  # of columns: the prediction's, and the same number of the unconverted source


def _absolute_error(pair: Pair) -> Array:
    error: Array = np.abs(pair.prediction - pair.reference)
    return error


def _label_scores(pair: Pair, labels: Array) -> dict[int, dict[str, float]]:
    return voxelwise.label_scores(labels, pair.reference, pair.prediction)


def _label_psnr(pair: Pair, labels: Array) -> dict[int, float]:
    scores = pair.kept(_label_scores, labels)
    return {label: voxelwise.psnr_of(row["rmse"], pair.data_range) for label, row in scores.items()}


def _ssim_map(pair: Pair) -> Array:
    return ssim.ssim_map(pair.reference, pair.prediction, data_range=pair.data_range)


def _ms_ssim_maps(pair: Pair) -> Sequence[Array] | None:
    if min(pair.reference.shape) < ssim.smallest_axis():
        return None
    return ssim.ms_ssim_maps(pair.reference, pair.prediction, data_range=pair.data_range)


def _ms_ssim(pair: Pair, mask: Array | None) -> float | None:
    maps = pair.kept(_ms_ssim_maps)
    return None if maps is None else ssim.mean_ms_ssim(maps, mask)


def _label_ms_ssim(pair: Pair, labels: Array) -> dict[int, float]:
    maps = pair.kept(_ms_ssim_maps)
    return {} if maps is None else ssim.label_ms_ssim(maps, labels)


def _gradient_error_map(pair: Pair) -> Array | None:
    if pair.spacing is None:
        return None
    return voxelwise.gradient_error_map(pair.reference, pair.prediction, spacing=pair.spacing)


MAE = Metric(
    "mae", "MAE", "*", None, "lower", "mean absolute error of a voxel against the truth; 0 is perfect",
    places=("", "body_", "enhancing_", "volume_"),
    columns="first",
    map=_absolute_error,
    within=lambda pair, mask: voxelwise.mae(pair.reference, pair.prediction, mask),
)  # fmt: skip
RMSE = Metric(
    "rmse", "RMSE", "*", None, "lower", "root of the mean squared error: large errors weigh more; 0 is perfect",
    columns="always",
    within=lambda pair, mask: voxelwise.rmse(pair.reference, pair.prediction, mask),
    by_label=lambda pair, labels: {n: row["rmse"] for n, row in pair.kept(_label_scores, labels).items()},
)  # fmt: skip
PSNR = Metric(
    "psnr", "PSNR", "dB", 2, "higher", "10 log₁₀(data range² / mean squared error); higher is better",
    needs=("truth", "data range"),
    columns="first",
    within=lambda pair, mask: voxelwise.psnr(pair.reference, pair.prediction, data_range=pair.data_range, mask=mask),
    by_label=_label_psnr,
)  # fmt: skip
SSIM = Metric(
    "ssim", "SSIM", "", 4, "higher", "likeness of local mean, contrast and pattern in small windows; 1 is equal",
    needs=("truth", "data range"),
    columns="first",
    map=lambda pair: pair.kept(_ssim_map),
    within=lambda pair, mask: ssim.mean_ssim(pair.kept(_ssim_map), mask),
)  # fmt: skip
MS_SSIM = Metric(
    "ms_ssim", "MS-SSIM", "", 4, "higher", "SSIM over several resolutions; 1 is equal",
    needs=("truth", "data range", "axes of 16 voxels"),
    within=_ms_ssim,
    by_label=_label_ms_ssim,
)  # fmt: skip
NCC = Metric(
    "ncc", "NCC", "", 4, "higher", "correlation of the two images, whatever their scale; 1 is equal",
    within=lambda pair, mask: voxelwise.ncc(pair.reference, pair.prediction, mask),
    by_label=lambda pair, labels: {n: row["ncc"] for n, row in pair.kept(_label_scores, labels).items()},
)  # fmt: skip
GRADIENT_ERROR = Metric(
    "gradient_error", "Gradient error", "*/mm", 2, "lower",
    "mean absolute error of the gradient: lost or new edges",
    needs=("truth", "spacing"),
    map=lambda pair: pair.kept(_gradient_error_map),
)  # fmt: skip
_OVERLAP: Sequence[tuple[str, str, str, int, Literal["higher", "lower"] | None, str]] = (
    ("dice", "Dice", "", 3, "higher", "overlap of two segmentations: 0 none, 1 the same"),
    ("hd95", "HD95", "mm", 1, "lower", "distance within which 95 % of the two surfaces lie of each other"),
    ("assd", "ASSD", "mm", 2, "lower", "mean distance of the two surfaces"),
    ("surface_dice", "surface Dice", "", 3, "higher", "part of the surfaces within the tolerance of each other"),
    ("volume_reference", "true volume", "ml", 2, None, ""),
    ("volume_prediction", "volume", "ml", 2, None, ""),
    ("volume_error", "volume error", "ml", 2, "lower", "volume − true volume; 0 is right"),
)
SEGMENTATION = tuple(
    Metric(name, label, unit, digits, better, about, needs=("labels", "prediction labels"), places=())
    for name, label, unit, digits, better, about in _OVERLAP
)
SLICE_JUMP = Metric(
    "slice_jump", "Slice jump", "", 2, "lower",
    "change from slice to slice over that within slices, against the true scan's; 1 is as smooth, more are steps",
    needs=("truth or source",),
    places=("",),
    columns="first",
)  # fmt: skip


def _of_challenge(metric: Metric, profile: str, **given: Any) -> Metric:
    """The same metric by a challenge's definition: of CT, in one place."""
    return replace(
        metric,
        profile=profile,
        needs=("truth", "HU"),
        places=("",),
        columns="measured",
        map=None,
        by_label=None,
        **given,
    )


_DICE, _HD95 = SEGMENTATION[:2]
CHALLENGES = (
    _of_challenge(MAE, "synthrad2023"),  # not clipped, as in both challenges' code
    _of_challenge(PSNR, "synthrad2023", within=partial(challenges.clipped_psnr, limits=challenges.SYNTHRAD2023)),
    _of_challenge(SSIM, "synthrad2023", within=challenges.synthrad2023_ssim),
    _of_challenge(MAE, "synthrad2025"),
    _of_challenge(PSNR, "synthrad2025", within=partial(challenges.clipped_psnr, limits=challenges.SYNTHRAD2025)),
    _of_challenge(MS_SSIM, "synthrad2025", within=challenges.synthrad2025_ms_ssim),
    replace(_DICE, profile="synthrad2025", places=("",)),
    replace(_HD95, profile="synthrad2025", places=("",)),
)
METRICS: Sequence[Metric] = (
    *(MAE, RMSE, PSNR, SSIM, MS_SSIM, NCC, GRADIENT_ERROR),
    *SEGMENTATION,
    SLICE_JUMP,
    *CHALLENGES,
)


def pair_metrics(profile: str = "generic", place: str | None = None) -> list[Metric]:
    """The image-pair metrics of a profile; with ``place`` those with a column there."""
    found = [metric for metric in METRICS if metric.of_pairs and metric.profile == profile]
    return found if place is None else [metric for metric in found if place in metric.places]


def metric(name: str) -> Metric:
    """The metric of this column name without a place, such as "mae" or "synthrad2023_mae"; KeyError without one."""
    return {of.column: of for of in METRICS}[name]


def find(column: str) -> tuple[Metric, str] | None:
    """The metric of a column of cases.csv without "source_", and the place that its name begins with; None: unknown."""
    by_column = {f"{place}{of.column}": (of, place) for of in METRICS for place in PLACES if of.profile == "generic"}
    return by_column.get(column) or next(((of, "") for of in METRICS if of.column == column), None)


def case_columns() -> tuple[str, ...]:
    """Columns that every cases.csv has after the case; what else was measured follows in the order of measuring."""
    main, more = ([of for of in pair_metrics() if of.columns == kind] for kind in ("first", "always"))
    columns = [f"{role}{of.name}" for group in (main, more) for role in ROLES for of in group]
    columns += [f"{role}body_{of.name}" for role in ROLES for of in (*main, *more) if "body_" in of.places]
    columns += [f"{role}enhancing_{of.name}" for of in (*main, *more) if "enhancing_" in of.places for role in ROLES]
    return (*columns, *(f"{role}{SLICE_JUMP.name}" for role in ROLES))


def region_columns() -> tuple[str, ...]:
    """Columns of regions.csv after case and region: means first, then the metrics in the order of `METRICS`."""
    metrics = [f"{role}{of.name}" for of in pair_metrics() if of.name != MAE.name for role in ROLES]
    means = ("voxels", "mean_prediction", "mean_reference", "mean_source", "mae", "source_mae", "error")
    return (*means, "lowest", "highest", *metrics)  # lowest, highest: see `organ_findings.region_limits`


def segmentation_columns() -> tuple[str, ...]:
    """Columns of segmentation.csv after case and label."""
    return tuple(of.name for of in METRICS if "prediction labels" in of.needs and of.profile == "generic")


def headline() -> tuple[str, ...]:
    """Columns of cases.csv on a report's first page, in order: the most specific place of a metric first."""
    main = [of for of in METRICS if of.columns == "first" and of.profile == "generic"]
    return tuple(f"{place}{of.name}" for of in main for place in ("enhancing_", "body_", "") if place in of.places)
