"""Whether stated deviations are right: stated against observed error, and how many voxels an interval covers.

A deviation s is calibrated if among the voxels with s the errors have the root mean square s (Levi et al., Sensors
2022;22:5540). `fitted_scale` corrects deviations that are too small or too large everywhere, on other patients than
those it is used for.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from medgen.evaluation.metrics.metric import Array


@dataclass(frozen=True)
class Row:
    """A bin of voxels with similar deviations: their number, and root mean squares of deviation and error."""

    voxels: int
    stated: float
    observed: float


def calibration_table(errors: Array, deviations: Array, bins: int = 10) -> list[Row]:
    """Stated against observed errors, in bins of equally many voxels, from small to large deviations.

    Args:
        errors, deviations: of the same voxels, any shape, in one unit.
        bins: at most this many.
    """
    error, deviation = np.ravel(errors).astype(float), np.ravel(deviations).astype(float)
    order = np.argsort(deviation, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return [Row(len(p), _rms(deviation[p]), _rms(error[p])) for p in parts if len(p)]


def expected_calibration_error(table: list[Row]) -> float:
    """Mean over the voxels of |observed - stated| of their bins."""
    return float(np.average([abs(row.observed - row.stated) for row in table], weights=[row.voxels for row in table]))


def fitted_scale(errors: Array, deviations: Array, level: float = 0.9) -> float:
    """The factor with which ± z · deviation covers ``level`` of these errors; z of the normal distribution.

    Voxels without deviation cannot be covered and count as not covered. Infinite if there are too many of them.
    """
    error, deviation = np.abs(np.ravel(errors)).astype(float), np.ravel(deviations).astype(float)
    ratios = np.divide(error, deviation, out=np.where(error > 0, np.inf, 0.0), where=deviation > 0)
    return float(np.quantile(ratios, level, method="higher") / interval(level))


def coverage(errors: Array, deviations: Array, level: float = 0.9) -> float:
    """Share of the voxels whose error lies within ± z · deviation."""
    return float(np.mean(np.abs(errors) <= interval(level) * np.asarray(deviations)))


def interval(level: float) -> float:
    """z, so that a normal variable lies within ± z standard deviations with the probability ``level``."""
    return float(stats.norm.ppf((1 + level) / 2))


def _rms(values: Array) -> float:
    return float(np.sqrt(np.square(values).mean()))
