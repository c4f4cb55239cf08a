"""Means per region over the cases, and the fraction of the source-to-reference change that a conversion made."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medgen.evaluation.metrics.catalogue import region_columns

ROLES = ("source", "reference", "prediction")
LEAST_CHANGE = 15.0  # HU between source and reference; two scans of one patient without contrast medium differ by less
LEAST_SHARE = 0.004  # of the data range, for images not in HU; about the same as 15 HU

Row = Mapping[str, Any]  # of regions.csv


def least_change(hu: bool, data_range: float) -> float:
    """Return the source-to-reference change, in image units, above which the corrected fraction is meaningful."""
    return LEAST_CHANGE if hu else LEAST_SHARE * data_range


def mean_regions(rows: Sequence[Row], minimum: float) -> list[dict[str, Any]]:
    """Return one row per region with the unweighted mean over its cases of each of `region_columns`.

    Each row also has ``cases`` (number of cases with the region), ``abs_error`` (mean over the cases of
    |mean_prediction - mean_reference|) and ``fraction``, see `correction_fraction`.
    """
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["region"], []).append(row)
    return [_region_means(name, region_rows, minimum) for name, region_rows in grouped.items()]


def correction_fraction(rows: Sequence[Row], minimum: float) -> float | None:
    """Return (source - prediction) / (source - reference) of the means over the cases that have all three.

    1: the mean is right; above 1: overcorrected; below 0: changed in the wrong direction. None if source and
    reference differ by no more than ``minimum`` or two standard errors over the cases: a ratio whose denominator may
    be 0 can take any value (Fieller 1954).
    """
    complete = [[row[f"mean_{role}"] for role in ROLES] for row in rows if all(f"mean_{role}" in row for role in ROLES)]
    complete = [means for means in complete if all(map(math.isfinite, means))]
    changes = [source - reference for source, reference, _ in complete]
    if not changes:
        return None
    mean_change, error = (
        statistics.fmean(changes),
        statistics.stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else 0.0,
    )
    if abs(mean_change) <= max(minimum, 2 * error):
        return None
    return statistics.fmean(source - converted for source, _, converted in complete) / mean_change


def _region_means(name: str, rows: Sequence[Row], minimum: float) -> dict[str, Any]:
    mean = {column: _mean([row[column] for row in rows if column in row]) for column in region_columns()}
    abs_error = _mean([abs(row["error"]) for row in rows if "error" in row])
    fraction = correction_fraction(rows, minimum)
    return {"region": name, "cases": len(rows), **mean, "abs_error": abs_error, "fraction": fraction}


def _mean(values: Sequence[float]) -> float | None:
    with np.errstate(invalid="ignore"):  # gives NaN for infinite values of both signs, where fmean raises
        return float(np.mean(values)) if values else None
