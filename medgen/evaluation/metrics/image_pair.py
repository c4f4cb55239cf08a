"""Compute the metrics of one pair of volumes in a mask, the whole volume or every label."""

from collections.abc import Mapping, Sequence

import numpy as np

from medgen.errors import InputError
from medgen.evaluation.metrics.catalogue import pair_metrics
from medgen.evaluation.metrics.challenges import PROFILES
from medgen.evaluation.metrics.metric import Array, Metric, Pair
from medgen.evaluation.metrics.voxelwise import label_means, masked_mean


def measure(
    reference: Array,
    prediction: Array,
    mask: Array | None = None,
    *,
    profile: str,
    data_range: float | None = None,
    spacing: Sequence[float] | None = None,
) -> dict[str, float]:
    """Compute all image metrics of one profile for a pair of volumes (X, Y, Z).

    Args:
        reference, prediction: reference and converted volume on one grid, on the axes of `read_case` (RAS); in HU
            for the synthrad profiles.
        mask: where to measure (non-zero voxels), such as the body or one label; None for the whole volume.
        profile: a key of `PROFILES`.
        data_range: range of possible values; required by ``generic``, fixed in the other profiles.
        spacing: mm, for the gradient error of ``generic`` and for ``restoration``; None omits these.

    Returns:
        {column: value} of the profile's metrics in `medgen.evaluation.metrics.catalogue`, for example ``mae`` or
        ``synthrad2023_mae``. MAE in HU, PSNR in dB.

    Raises:
        InputError: an unknown profile, a missing data range, a data range for a profile that has its own, images
            that cannot be compared, or a mask without any voxel that a challenge's SSIM uses.
    """
    if profile not in PROFILES:
        raise InputError(
            "metric-profile-unknown", f"no metric profile is named {profile!r}; choose one of {', '.join(PROFILES)}"
        )
    if profile == "generic":
        if data_range is None:
            raise InputError(
                "metric-data-range-missing",
                "the profile generic needs data_range, the range of values that such images can have",
            )
        return metrics_in_mask(Pair(reference, prediction, data_range=data_range, spacing=spacing), mask)
    if data_range is not None:
        raise InputError(
            "metric-data-range-unexpected",
            f"the profile {profile} has its own data range; omit data_range or choose generic",
        )
    return metrics_in_mask(Pair(reference, prediction, spacing=spacing), mask, profile=profile)


def metrics_in_mask(
    pair: Pair, mask: Array | None = None, *, profile: str = "generic", place: str | None = None
) -> dict[str, float]:
    """Return {column: value} in a mask (non-zero voxels) or the whole volume, without metrics that cannot be computed.

    Args:
        profile, place: which metrics, see `pair_metrics`.

    Raises:
        InputError: images that cannot be compared, an empty mask, or an invalid data range.
    """
    found = {metric.column: _value(metric, pair, mask) for metric in pair_metrics(profile, place)}
    return {column: value for column, value in found.items() if value is not None}


def metrics_by_label(pair: Pair, labels: Array) -> dict[int, dict[str, float]]:
    """Return {label: generic metrics in its mask} for every label except 0, ascending, in few passes for all labels.

    Raises:
        InputError: labels that are not whole numbers from 0 to 65535, or images that cannot be compared.
    """
    metrics = pair_metrics()
    map_metrics = [metric for metric in metrics if metric.map is not None and metric.by_label is None]
    maps = {
        entry.name: found for entry in map_metrics if entry.map is not None and (found := entry.map(pair)) is not None
    }
    rows = label_means(labels, maps)
    for metric in metrics:
        if metric not in map_metrics:
            for label, value in _values_by_label(metric, pair, labels, rows).items():
                rows[label][metric.name] = value
    return {
        label: {entry.name: row[entry.name] for entry in metrics if entry.name in row} for label, row in rows.items()
    }


def _value(metric: Metric, pair: Pair, mask: Array | None) -> float | None:
    if metric.within is not None:
        return metric.within(pair, mask)
    found = None if metric.map is None else metric.map(pair)
    return None if found is None else masked_mean(found, mask)


def _values_by_label(metric: Metric, pair: Pair, labels: Array, present: Mapping[int, object]) -> Mapping[int, float]:
    """Return the metric of every label: in one call if it has ``metrics_by_label``, else one mask at a time."""
    if metric.by_label is not None:
        return metric.by_label(pair, labels)
    found = {label: _value(metric, pair, np.equal(labels, label)) for label in present}
    return {label: value for label, value in found.items() if value is not None}
