"""Declarations of all metrics, used by tables, summary, reports, console and docs/reference/metrics.md.

Digits follow the unit: tenths of a HU or mm, hundredths of a dB, and enough digits of an index to distinguish results.
To add an image-pair metric, add a `Metric` to `METRICS`; CONTRIBUTING.md has an example.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from medgen.evaluation.metrics import challenges, sharpness, ssim, voxelwise
from medgen.evaluation.metrics.metric import Array, Metric, Pair

PLACES: Mapping[str, str] = {"enhancing_": "in enhancing structures", "body_": "in the body", "mask_": "in the mask"}
ROLES = ("", "source_")  # column prefixes: metrics of the prediction, and the same metrics of the unconverted source


def _absolute_error(pair: Pair) -> Array:
    error: Array = np.abs(pair.prediction - pair.reference)
    return error


def _label_scores(pair: Pair, labels: Array) -> dict[int, dict[str, float]]:
    return voxelwise.label_scores(labels, pair.reference, pair.prediction)


def _label_psnr(pair: Pair, labels: Array) -> dict[int, float]:
    scores = pair.kept(_label_scores, labels)
    return {label: voxelwise.psnr_of(row["rmse"], pair.data_range) for label, row in scores.items()}


def _ssim_maps(pair: Pair) -> Sequence[Array]:
    return ssim.ssim_and_structure_maps(pair.reference, pair.prediction, data_range=pair.data_range)


def _ssim_map(pair: Pair) -> Array:
    return pair.kept(_ssim_maps)[0]


def _ms_ssim_maps(pair: Pair) -> Sequence[Array] | None:
    if min(pair.reference.shape) < ssim.smallest_axis():
        return None
    finest = pair.kept(_ssim_maps)[1]
    return ssim.ms_ssim_maps(pair.reference, pair.prediction, data_range=pair.data_range, finest=finest)


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


def _edge_sharpness(pair: Pair, mask: Array | None) -> float | None:
    voxelwise.check_pair(pair.reference, pair.prediction)
    if pair.spacing is None:
        return None
    return sharpness.edge_sharpness(pair.reference, pair.prediction, pair.spacing, mask)


def _noise(pair: Pair, mask: Array | None, which: int) -> float | None:
    voxelwise.check_pair(pair.reference, pair.prediction)
    if pair.spacing is None:
        return None
    found = sharpness.noise_ratios(pair.reference, pair.prediction, pair.spacing, mask)
    return None if found is None else found[which]


MAE = Metric(
    "mae", "MAE", "*", None, "lower", "mean absolute voxel error against the reference; 0 is perfect",
    places=("", "body_", "enhancing_", "volume_"),
    columns="first",
    map=_absolute_error,
    within=lambda pair, mask: voxelwise.mae(pair.reference, pair.prediction, mask),
)  # fmt: skip
RMSE = Metric(
    "rmse", "RMSE", "*", None, "lower", "root mean squared error, which weighs large errors more; 0 is perfect",
    columns="always",
    within=lambda pair, mask: voxelwise.rmse(pair.reference, pair.prediction, mask),
    by_label=lambda pair, labels: {n: row["rmse"] for n, row in pair.kept(_label_scores, labels).items()},
)  # fmt: skip
PSNR = Metric(
    "psnr", "PSNR", "dB", 2, "higher", "10 log₁₀(data range² / mean squared error); higher is better",
    needs=("reference", "data range"),
    columns="first",
    within=lambda pair, mask: voxelwise.psnr(pair.reference, pair.prediction, data_range=pair.data_range, mask=mask),
    by_label=_label_psnr,
)  # fmt: skip
SSIM = Metric(
    "ssim", "SSIM", "", 4, "higher", "similarity of local mean, contrast and structure; 1 is identical",
    needs=("reference", "data range"),
    columns="first",
    map=_ssim_map,
    within=lambda pair, mask: ssim.mean_ssim(_ssim_map(pair), mask),
)  # fmt: skip
MS_SSIM = Metric(
    "ms_ssim", "MS-SSIM", "", 4, "higher", "SSIM over several resolutions; 1 is identical",
    needs=("reference", "data range", "axes of 16 voxels"),
    within=_ms_ssim,
    by_label=_label_ms_ssim,
)  # fmt: skip
NCC = Metric(
    "ncc", "NCC", "", 4, "higher", "correlation of the images, independent of scale and offset; 1 is a linear relation",
    within=lambda pair, mask: voxelwise.ncc(pair.reference, pair.prediction, mask),
    by_label=lambda pair, labels: {n: row["ncc"] for n, row in pair.kept(_label_scores, labels).items()},
)  # fmt: skip
GRADIENT_ERROR = Metric(
    "gradient_error", "Gradient error", "*/mm", 2, "lower",
    "mean absolute error of the gradient magnitude; detects lost or new edges",
    needs=("reference", "spacing"),
    map=lambda pair: pair.kept(_gradient_error_map),
)  # fmt: skip
_OVERLAP: Sequence[tuple[str, str, str, int, Literal["higher", "lower"] | None, str]] = (
    ("dice", "Dice", "", 3, "higher", "overlap of two segmentations; 0 is none, 1 is identical"),
    ("hd95", "HD95", "mm", 1, "lower", "distance to the other surface that 95 % of surface voxels do not exceed"),
    ("assd", "ASSD", "mm", 2, "lower", "mean distance between the two surfaces"),
    ("surface_dice", "surface Dice", "", 3, "higher", "fraction of the surfaces within the tolerance of each other"),
    ("volume_reference", "reference volume", "ml", 2, None, ""),
    ("volume_prediction", "volume", "ml", 2, None, ""),
    ("volume_error", "volume error", "ml", 2, None, "volume − reference volume; 0 is perfect"),
)
SEGMENTATION = tuple(
    Metric(name, label, unit, digits, better, about, needs=("labels", "prediction labels"), places=())
    for name, label, unit, digits, better, about in _OVERLAP
)
SLICE_JUMP = Metric(
    "slice_jump", "Slice jump", "", 2, "lower",
    "between-slice over within-slice change, relative to the reference scan; 1 is as smooth, above 1 has steps",
    needs=("reference or source",),
    places=("",),
    columns="first",
)  # fmt: skip


def _challenge_metric(metric: Metric, profile: str, **changes: Any) -> Metric:
    """Return the metric with a challenge's definition: for CT, measured in one region."""
    return replace(
        metric,
        profile=profile,
        needs=("reference", "HU"),
        places=("",),
        columns="measured",
        map=None,
        by_label=None,
        **changes,
    )


_DICE, _HD95 = SEGMENTATION[:2]
CHALLENGES = (
    _challenge_metric(MAE, "synthrad2023"),  # not clipped, as in both challenges' code
    _challenge_metric(PSNR, "synthrad2023", within=partial(challenges.clipped_psnr, limits=challenges.SYNTHRAD2023)),
    _challenge_metric(SSIM, "synthrad2023", within=challenges.synthrad2023_ssim),
    _challenge_metric(MAE, "synthrad2025"),
    _challenge_metric(PSNR, "synthrad2025", within=partial(challenges.clipped_psnr, limits=challenges.SYNTHRAD2025)),
    _challenge_metric(MS_SSIM, "synthrad2025", within=challenges.synthrad2025_ms_ssim),
    replace(_DICE, profile="synthrad2025", places=("",)),
    replace(_HD95, profile="synthrad2025", places=("",)),
)
RESTORATION = tuple(
    Metric(
        name, label, "", 2, None, about,
        profile="restoration", needs=("reference", "spacing"), places=("",), within=within,
    )
    for name, label, within, about in (
        ("edge_sharpness", "Edge sharpness", _edge_sharpness,
         "frequency of 50 % MTF across the reference's edges, over the reference's own; 1 is as sharp"),
        ("noise", "Noise", partial(_noise, which=0),
         "standard deviation in the reference's flattest regions, over the reference's own; 1 is as noisy"),
        ("noise_frequency", "Noise frequency", partial(_noise, which=1),
         "mean frequency of the noise power spectrum, over the reference's own; below 1 the noise is coarser"),
    )
)  # fmt: skip
METRICS: Sequence[Metric] = (
    *(MAE, RMSE, PSNR, SSIM, MS_SSIM, NCC, GRADIENT_ERROR),
    *SEGMENTATION,
    SLICE_JUMP,
    *CHALLENGES,
    *RESTORATION,
)


def pair_metrics(profile: str = "generic", place: str | None = None) -> list[Metric]:
    """Return the image-pair metrics of a profile; with ``place`` only those that have a column for it."""
    found = [metric for metric in METRICS if metric.of_pairs and metric.profile == profile]
    return found if place is None else [metric for metric in found if place in metric.places]


def metric(name: str) -> Metric:
    """Return the metric of a column name without place, such as "mae" or "synthrad2023_mae"; KeyError if unknown."""
    return {entry.column: entry for entry in METRICS}[name]


def find(column: str) -> tuple[Metric, str] | None:
    """Return the metric and the place prefix of a column of cases.csv without "source_"; None if unknown."""
    by_column = {
        f"{place}{entry.column}": (entry, place) for entry in METRICS for place in PLACES if entry.profile == "generic"
    }
    return by_column.get(column) or next(((entry, "") for entry in METRICS if entry.column == column), None)


def case_columns() -> tuple[str, ...]:
    """Return the columns that every cases.csv has after the case; other measured columns follow these."""
    main, more = ([entry for entry in pair_metrics() if entry.columns == kind] for kind in ("first", "always"))
    columns = [f"{role}{entry.name}" for group in (main, more) for role in ROLES for entry in group]
    columns += [f"{role}body_{entry.name}" for role in ROLES for entry in (*main, *more) if "body_" in entry.places]
    columns += [
        f"{role}enhancing_{entry.name}" for entry in (*main, *more) if "enhancing_" in entry.places for role in ROLES
    ]
    return (*columns, *(f"{role}{SLICE_JUMP.name}" for role in ROLES))


def region_columns() -> tuple[str, ...]:
    """Return the columns of regions.csv after case and region: means, then metrics in the order of `METRICS`."""
    metrics = [f"{role}{entry.name}" for entry in pair_metrics() if entry.name != MAE.name for role in ROLES]
    means = ("voxels", "mean_prediction", "mean_reference", "mean_source", "mae", "source_mae", "error")
    return (*means, "lowest", "highest", *metrics)  # lowest, highest: see `organ_findings.region_limits`


def segmentation_columns() -> tuple[str, ...]:
    """Return the columns of segmentation.csv after case and label."""
    return tuple(entry.name for entry in METRICS if "prediction labels" in entry.needs and entry.profile == "generic")


def headline() -> tuple[str, ...]:
    """Return the columns of cases.csv on a report's first page, with the most specific place of a metric first."""
    main = [entry for entry in METRICS if entry.columns == "first" and entry.profile == "generic"]
    return tuple(
        f"{place}{entry.name}" for entry in main for place in ("enhancing_", "body_", "") if place in entry.places
    )
