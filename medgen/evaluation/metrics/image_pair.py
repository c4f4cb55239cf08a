"""The metrics of one pair of volumes, in a mask, the whole volume or every label."""

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
    """All image metrics of one profile of a pair of volumes (X, Y, Z), under names that carry the profile.

    Args:
        reference, prediction: the truth and the converted volume on one grid, along the axes of `read_case` (RAS); HU
            for the synthrad profiles.
        mask: where to measure (non-zero voxels), such as the body or one label; None for the whole volume.
        profile: a key of `PROFILES`.
        data_range: span of values the modality can take; ``generic`` needs it, the others bring theirs.
        spacing: mm, for the gradient error of ``generic``, which is left out where None.

    Returns:
        The metrics of the profile that are declared in `medgen.evaluation.metrics.catalogue`, by their column:
        ``mae``, or ``synthrad2023_mae``. MAE in HU, PSNR in dB.

    Raises:
        InputError: an unknown profile, a data range that is missing or not the profile's to choose, images that
            cannot be compared, or a mask that has no voxel left where a challenge's SSIM looks.
    """
    if profile not in PROFILES:
        raise InputError(
            "metric-profile-unknown", f"no metric profile is named {profile!r}: choose one of {', '.join(PROFILES)}"
        )
    if profile == "generic":
        if data_range is None:
            raise InputError(
                "metric-data-range-missing",
                "the profile generic needs data_range, the span of values that such images can take",
            )
        return within(Pair(reference, prediction, data_range=data_range, spacing=spacing), mask)
    if data_range is not None:
        raise InputError(
            "metric-data-range-unexpected",
            f"the profile {profile} has its own data range: leave data_range out, or choose generic",
        )
    return within(Pair(reference, prediction), mask, profile=profile)


def within(
    pair: Pair, mask: Array | None = None, *, profile: str = "generic", place: str | None = None
) -> dict[str, float]:
    """{column: value} in a mask (non-zero voxels count) or the whole volume; what cannot be computed is left out.

    Args:
        profile, place: which metrics, see `pair_metrics`.

    Raises:
        InputError: images that cannot be compared, an empty mask, a data range that is none.
    """
    found = {metric.column: _value(metric, pair, mask) for metric in pair_metrics(profile, place)}
    return {column: value for column, value in found.items() if value is not None}


def by_label(pair: Pair, labels: Array) -> dict[int, dict[str, float]]:
    """{label: the generic metrics in its mask} for every label but 0, ascending; few passes, however many labels.

    Raises:
        InputError: labels that are no whole numbers from 0 to 65535, or images that cannot be compared.
    """
    metrics = pair_metrics()
    of_maps = [metric for metric in metrics if metric.map is not None and metric.by_label is None]
    maps = {of.name: found for of in of_maps if of.map is not None and (found := of.map(pair)) is not None}
    rows = label_means(labels, maps)
    for metric in metrics:
        if metric not in of_maps:
            for label, value in _values(metric, pair, labels, rows).items():
                rows[label][metric.name] = value
    return {label: {of.name: row[of.name] for of in metrics if of.name in row} for label, row in rows.items()}


def _value(metric: Metric, pair: Pair, mask: Array | None) -> float | None:
    if metric.within is not None:
        return metric.within(pair, mask)
    found = None if metric.map is None else metric.map(pair)
    return None if found is None else masked_mean(found, mask)


def _values(metric: Metric, pair: Pair, labels: Array, present: Mapping[int, object]) -> Mapping[int, float]:
    """The metric of every label: in one call, or mask by mask where its declaration knows no faster way."""
    if metric.by_label is not None:
        return metric.by_label(pair, labels)
    found = {label: _value(metric, pair, np.equal(labels, label)) for label in present}
    return {label: value for label, value in found.items() if value is not None}
