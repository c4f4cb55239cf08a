"""Means by region over the cases, and what part of the way from source to truth a conversion went."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medgen.evaluation.metrics.catalogue import region_columns

WAY = ("source", "reference", "prediction")
LEAST_CHANGE = 15.0  # HU between source and truth; two scans of one patient differ by less without any contrast medium
LEAST_SHARE = 0.004  # of the data range, where there are no HU: about as much

Row = Mapping[str, Any]  # of regions.csv


def least_change(hu: bool, data_range: float) -> float:
    """What source and truth must differ by, in the unit of the images, for a part of that way to mean something."""
    return LEAST_CHANGE if hu else LEAST_SHARE * data_range


def mean_regions(rows: Sequence[Row], least: float) -> list[dict[str, Any]]:
    """One row a region: the unweighted mean over its cases of every one of `region_columns`.

    Beside them ``cases`` (how many have the region), ``abs_error`` (mean over the cases of
    |mean_prediction - mean_reference|) and ``fraction``, see `fraction_of_way`.
    """
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["region"], []).append(row)
    return [_region(name, mine, least) for name, mine in grouped.items()]


def correction_fraction(rows: Sequence[Row], least: float) -> float | None:
    """(source - prediction) / (source - reference) of the means of the cases that have all three.

    1: the mean is right; above: it went too far; below 0: the wrong way. None where source and truth differ by no
    more than ``least`` or by less than two standard errors over the cases: a ratio to what may be 0 can be any number
    (Fieller 1954).
    """
    whole = [[row[f"mean_{role}"] for role in WAY] for row in rows if all(f"mean_{role}" in row for role in WAY)]
    whole = [means for means in whole if all(map(math.isfinite, means))]
    ways = [source - truth for source, truth, _ in whole]
    if not ways:
        return None
    way, error = statistics.fmean(ways), statistics.stdev(ways) / math.sqrt(len(ways)) if len(ways) > 1 else 0.0
    if abs(way) <= max(least, 2 * error):
        return None
    return statistics.fmean(source - converted for source, _, converted in whole) / way


def _region(name: str, rows: Sequence[Row], least: float) -> dict[str, Any]:
    mean = {column: _mean([row[column] for row in rows if column in row]) for column in region_columns()}
    abs_error = _mean([abs(row["error"]) for row in rows if "error" in row])
    fraction = correction_fraction(rows, least)
    return {"region": name, "cases": len(rows), **mean, "abs_error": abs_error, "fraction": fraction}


def _mean(values: Sequence[float]) -> float | None:
    with np.errstate(invalid="ignore"):  # of infinite values of both signs: NaN, where fmean raises
        return float(np.mean(values)) if values else None
