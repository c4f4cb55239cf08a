"""Fréchet distance of two sets of feature rows as Gaussians, from rows or from statistics gathered batch by batch.

A set is kept as its mean and a factor F of its covariance, Σ = FᵀF, with no more rows than features or twice that.
The trace of the distance is then a nuclear norm, Tr (Σ_r Σ_g)^½ = ‖F_r F_gᵀ‖_*: the squares of the singular values of
F_r F_gᵀ are the eigenvalues of Σ_r Σ_g that are not 0. So n rows cost an n × n matrix, no root of a d × d one is
taken, and singular covariances (fewer rows than features) need no ε on the diagonal.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, qr

from medgen.errors import InputError

CONSTANT = 1e-10  # of the mean, or of 1: a deviation below is rounding

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and covariance of ``count`` feature rows of length d, float64.

    mean (d,); factor (r, d) with covariance = factorᵀ factor (divided by count - 1), r at most ``count`` rows.
    """

    mean: Array
    factor: Array
    count: int

    @property
    def covariance(self) -> Array:
        """(d, d), as ``numpy.cov(rows, rowvar=False)``."""
        return self.factor.T @ self.factor

    @property
    def deviation(self) -> Array:
        """Standard deviation of every feature (d,), divided by count - 1."""
        return np.sqrt((self.factor**2).sum(0))

    def standardised(self, reference: "Statistics") -> "Statistics":
        """Those of the rows with each feature less the reference's mean, over its standard deviation.

        A feature that is constant in the reference is divided by 1.
        """
        divisor = divisors(reference.mean, reference.deviation)
        return Statistics((self.mean - reference.mean) / divisor, self.factor / divisor, self.count)


def divisors(mean: Array, deviation: Array) -> Array:
    """What features (d,) are divided by to have one scale: their deviation, or 1 for those that are constant.

    The mean of equal numbers such as 0.1 differs from them in the last digit, so a constant feature's deviation is not
    0 but rounding, and divided by that it would be all there is of a distance.
    """
    return np.where(deviation > CONSTANT * np.maximum(1, np.abs(mean)), deviation, 1)


class RunningStatistics:
    """`Statistics` of rows that come batch by batch; memory is that of 2 d rows, whatever their number.

    Batches are joined by Chan, Golub and LeVeque's update (Am. Stat. 1983;37:242): the scatter of a union is the sum
    of the scatters and n m / (n + m) · δδᵀ, δ the difference of the means. A sum of scatters is a stack of factors,
    so a batch adds its centred rows and one row for δ; a stack of over 2 d rows is replaced by the R of its QR
    decomposition, which has the same RᵀR and loses no digits to squaring.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: Array = np.zeros(0)
        self._stack: Array = np.zeros((0, 0))

    def add(self, rows: Array) -> None:
        """Add rows (n, d); n may be 0. InputError for another d, or values that are not finite."""
        rows = feature_rows(rows, "these")
        n, d = rows.shape
        if n == 0:
            return
        if self.count == 0:
            self._mean, self._stack = np.zeros(d), np.zeros((0, d))
        if d != len(self._mean):
            raise InputError(
                "features-count-differs", f"these rows have {d} features, those before them {len(self._mean)}"
            )
        mean = rows.mean(0)
        between = np.sqrt(self.count * n / (self.count + n)) * (mean - self._mean)
        self._mean = self._mean + (mean - self._mean) * (n / (self.count + n))
        self.count += n
        self._stack = _compressed(np.vstack([self._stack, rows - mean, between]))

    def statistics(self) -> Statistics:
        """What was gathered so far; InputError for fewer than 2 rows."""
        if self.count < 2:
            raise InputError(
                "features-too-few-rows",
                f"a covariance needs at least 2 feature rows, not {self.count}: give more volumes",
            )
        return Statistics(self._mean, self._stack / np.sqrt(self.count - 1), self.count)


def statistics_of(rows: Array) -> Statistics:
    """`Statistics` of feature rows (n, d), n ≥ 2."""
    running = RunningStatistics()
    running.add(rows)
    return running.statistics()


def frechet_distance(reference: Array | Statistics, prediction: Array | Statistics) -> float:
    """‖μ_r - μ_g‖² + Tr(Σ_r + Σ_g - 2 (Σ_r Σ_g)^½), in the square of the features' unit.

    Dowson & Landau, J. Multivar. Anal. 1982;12:450; as a score of generators Heusel et al., NeurIPS 2017. It is the
    squared 2-Wasserstein distance of the two Gaussians. Only with the standard Inception weights is it called FID.

    Args:
        reference, prediction: rows (n, d), n ≥ 2, or their `Statistics`.

    Returns:
        At least 0, up to rounding (about 1e-8 of the largest variance a row, where the sets are alike). It is
        biased upwards by about 1 / n, much so below d rows (see `few_rows_warning`); with n equal on both sides
        values can be ranked, but `distribution.kid` alone is unbiased.

    Raises `InputError` for shapes that do not fit and numbers that are not finite.
    """
    r, g = _statistics(reference, "reference"), _statistics(prediction, "prediction")
    if len(r.mean) != len(g.mean):
        raise InputError(
            "features-count-differs", f"the reference has {len(r.mean)} features a row, the prediction {len(g.mean)}"
        )
    between = float(((r.mean - g.mean) ** 2).sum())
    within = float((r.factor**2).sum() + (g.factor**2).sum())
    return between + within - 2 * _nuclear_norm(r.factor, g.factor)


def few_rows_warning(rows: tuple[int, int], features: int, *, volumes: tuple[int, int] | None = None) -> str | None:
    """A sentence when a side has no more rows than features, or rows of no more volumes; else None.

    ``rows`` and ``volumes`` of the reference and of the prediction. With so few rows the covariance is singular; rows
    of so few volumes, each like the others of its volume, come near to that.
    """
    fewest = [(min(counts), what) for counts, what in ((rows, "rows"), (volumes, "volumes")) if counts is not None]
    few = next((f"{count} {what}" for count, what in fewest if count <= features), None)
    if few is None:
        return None
    return (
        f"{few} for {features} features: this Fréchet distance is biased upwards and may only be compared with one of "
        f"as many {few.split()[1]}; the kernel distance (KID) beside it is unbiased"
    )


def feature_rows(rows: Array, which: str) -> Array:
    """Rows (n, d) as float64; InputError where they are not rows, or not finite."""
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or rows.shape[1] < 1:
        raise InputError("features-not-rows", f"{which} features must be rows (n, d), not an array {rows.shape}")
    if not np.isfinite(rows.sum()) and not np.isfinite(rows).all():
        raise InputError("features-not-finite", f"the {which} features hold numbers that are NaN or infinite")
    return rows


def _statistics(given: Array | Statistics, which: str) -> Statistics:
    if isinstance(given, Statistics):
        return given
    rows = feature_rows(given, which)
    if len(rows) < 2:
        raise InputError(
            "features-too-few-rows", f"a Fréchet distance needs 2 rows on each side; the {which} has {len(rows)}"
        )
    mean = rows.mean(0)
    return Statistics(mean, _compressed((rows - mean) / np.sqrt(len(rows) - 1)), len(rows))


def _compressed(stack: Array) -> Array:
    """A factor of at most 2 d rows with the same factorᵀ factor."""
    rows, features = stack.shape
    return qr(stack, mode="r", check_finite=False)[0][:features] if rows > 2 * features else stack


def _nuclear_norm(a: Array, b: Array) -> float:
    """Sum of the singular values of a bᵀ, as roots of the eigenvalues of the smaller product with itself.

    Half the time of the singular values themselves; what is lost are those below 1e-8 of the largest.
    """
    a, b = sorted((a, b), key=len)
    product = a @ b.T
    squares = eigh(product @ product.T, eigvals_only=True, driver="evd", overwrite_a=True, check_finite=False)
    return float(np.sqrt(np.maximum(squares, 0)).sum())
