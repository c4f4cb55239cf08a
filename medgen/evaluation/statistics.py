"""What per-case numbers allow one to say: intervals, paired tests, effect sizes, limits of agreement.

Pure functions. Patients, not cases, are the independent units: where a patient has several cases, give ``patients``
(one name a case), or intervals come out too narrow and p-values too small. NaN is a metric that could not be measured:
it is dropped, in pairs where values are paired, and counted in the result's ``dropped``. Infinity is an answer, the
worst (the distance to an organ that was missed) or the best (the PSNR of identical images): it counts wherever ranks
do, in the signed-rank test, its effect size and a median. Means have no place for it: they are of the finite values.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from medgen.errors import InputError

RESAMPLES = 9999
EXACT_PAIRS = 50
BATCH = 1_000_000  # values that resamples hold at once

Array = NDArray[np.float64]
Statistic = Callable[..., Any]  # (values, axis=-1) → a number for every row, as numpy's mean and median do


@dataclass(frozen=True)
class Interval:
    """A statistic of ``n`` values of ``patients`` patients, from ``low`` to ``high``; NaN where there is none."""

    value: float
    low: float
    high: float
    n: int
    patients: int
    dropped: int = 0


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test of ``n`` differences, ``zeros`` of them 0; ``smallest_p``: the least it could be."""

    p: float
    smallest_p: float
    n: int
    zeros: int
    dropped: int = 0


@dataclass(frozen=True)
class BlandAltman:
    """Bias and limits of agreement, each with its interval; ``sd`` of a single difference; in the unit given."""

    bias: Interval
    lower: Interval
    upper: Interval
    sd: float
    n: int
    patients: int
    dropped: int = 0


def bootstrap_interval(
    values: ArrayLike,
    *,
    patients: Sequence[Hashable] | None = None,
    statistic: Statistic = np.mean,
    confidence: float = 0.95,
    infinite: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """A statistic with its bootstrap confidence interval, whole patients resampled with replacement.

    Bias-corrected and accelerated (Efron 1987, doi 10.1080/01621459.1987.10478410), acceleration from the jackknife
    over patients: errors in HU are skewed, and plain percentiles then miss on one side. With one case a patient it
    equals ``scipy.stats.bootstrap(method="BCa")``. Where BCa has no answer (every resample on one side of the
    statistic) it is the percentile interval.

    Args:
        values: one number a case.
        patients: the patient of every case; None: each case is its own.
        statistic: of an array along ``axis``, such as ``np.mean`` or ``np.median``, over cases, not patients.
        confidence: in (0, 1).
        infinite: whether infinite values count (of a median) or are dropped (of a mean); ends can then be infinite too.
        resamples: more of them steady the ends; 9999 leave a jitter of about 1 % of the width.

    Returns:
        An `Interval`. From a single patient ``low`` and ``high`` are NaN: nothing was seen to vary. Without a
        finite value, so is ``value``.
    """
    _check_share(confidence)
    data, _, owners, dropped = (known_pairs if infinite else finite_pairs)(values, values, patients)
    groups = by_patient(data, owners)
    if not len(data):
        return Interval(np.nan, np.nan, np.nan, 0, 0, dropped)
    value = float(statistic(data, axis=-1))
    if len(groups) < 2:
        return Interval(value, np.nan, np.nan, len(data), len(groups), dropped)
    draws = _resampled(groups, statistic, resamples, seed)
    leave_one_out = [np.concatenate(groups[:i] + groups[i + 1 :]) for i in range(len(groups))]
    jackknife = np.array([statistic(rest, axis=-1) for rest in leave_one_out])
    # Between a finite and an infinite draw there is no number to interpolate.
    method: Any = "linear" if np.isfinite(draws).all() else "inverted_cdf"
    low, high = np.quantile(draws, _bca_levels(draws, value, jackknife, confidence), method=method)
    return Interval(value, float(low), float(high), len(data), len(groups), dropped)


def wilcoxon(a: ArrayLike, b: ArrayLike) -> SignedRank:
    """Two-sided signed-rank test of paired values, one pair a patient (Wilcoxon 1945, doi 10.2307/3001968).

    ``scipy.stats.wilcoxon`` after dropping differences of 0, and up to 50 differences the exact distribution over
    all signs with tied ranks too, where scipy falls back on the normal one, which for few pairs gives p below what
    is possible. An infinite difference has the largest rank. Differences that are all 0, or none at all, give p = 1.
    The least p that n differences can give is 2^(1 - n): five pairs or fewer cannot reach 0.05, whatever the systems
    are.
    """
    x, y, _, dropped = known_pairs(a, b)
    difference = differences(x, y)
    moved = difference[difference != 0]
    zeros = len(difference) - len(moved)
    if not len(moved):
        return SignedRank(1.0, 1.0, len(difference), zeros, dropped)
    exact = len(moved) <= EXACT_PAIRS
    p = _exact_p(moved) if exact else _asymptotic_p(moved)
    return SignedRank(float(p), float(2.0 ** (1 - len(moved))), len(difference), zeros, dropped)


def holm(p_values: ArrayLike) -> list[float]:
    """p-values corrected for all of them (Holm 1979, jstor 4615733): max over j ≤ i of (m - j + 1) p_(j), at most 1."""
    p = np.asarray(p_values, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise InputError("statistics-p-value-range", f"p-values must lie in [0, 1], not {p.tolist()}")
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return [float(value) for value in corrected]


def rank_biserial(a: ArrayLike, b: ArrayLike) -> float:
    """Matched-pairs rank-biserial correlation, (R+ - R-) / (R+ + R-), in [-1, 1]: Kerby 2014 (10.2466/11.IT.3.1).

    R+ and R-: sums of the ranks of |a - b| where a - b is above and below 0; 1: a larger in every pair. 0 where
    no pair differs. An infinite difference has the largest rank.
    """
    x, y, *_ = known_pairs(a, b)
    difference = differences(x, y)
    difference = difference[difference != 0]
    if not len(difference):
        return 0.0
    ranks = stats.rankdata(np.abs(difference))
    return float((ranks * np.sign(difference)).sum() / ranks.sum())


def cohens_dz(a: ArrayLike, b: ArrayLike) -> float:
    """Mean of a - b over its standard deviation (n - 1): Cohen 1988, section 2.3.5, unbounded.

    Of the pairs that are finite. NaN for fewer than two of them; where all differences are the same, 0 if they are 0
    and infinite if not.
    """
    x, y, *_ = finite_pairs(a, b)
    difference = x - y
    if len(difference) < 2:
        return float("nan")
    if np.ptp(difference) == 0:
        return float(np.copysign(np.inf, difference[0])) if difference[0] else 0.0
    return float(difference.mean() / difference.std(ddof=1))


def bland_altman(
    reference: ArrayLike, prediction: ArrayLike, *, patients: Sequence[Hashable] | None = None, confidence: float = 0.95
) -> BlandAltman:
    """Agreement of two measurements: bias of prediction - reference and limits bias ± 1.96 sd with intervals.

    Bland & Altman 1999 (doi 10.1177/096228029900800204): 95 % of single differences are expected between the
    limits, if they are normal and do not grow with the value. Intervals by Student's t with patients - 1 degrees of
    freedom; the standard error of a limit is √(var(bias) + 1.96² var(sd)), with one case a patient
    sd √(1/n + 1.96² / (2 (n - 1))).

    With several cases a patient (section 5.3 there, the true value varying) sd² is the sum of the components
    between and within patients by one-way analysis of variance, and their sampling errors enter var(bias) and
    var(sd); ``sd`` then exceeds the plain standard deviation.

    Returns:
        Interval ends and ``sd`` are NaN from a single patient, everything without a finite pair.
    """
    _check_share(confidence)
    x, y, owners, dropped = finite_pairs(reference, prediction, patients)
    difference = y - x
    groups = by_patient(difference, owners)
    n, k = len(difference), len(groups)
    bias = float(difference.mean()) if n else np.nan
    sd, error_bias, error_sd = _spread(groups) if k > 1 else (np.nan,) * 3
    reach = float(stats.t.ppf((1 + confidence) / 2, k - 1)) if k > 1 else np.nan

    def interval(value: float, error: float) -> Interval:
        return Interval(value, value - reach * error, value + reach * error, n, k, dropped)

    error_limit = float(np.hypot(error_bias, 1.96 * error_sd))
    lower, upper = (interval(bias + sign * 1.96 * sd, error_limit) for sign in (-1, 1))
    return BlandAltman(interval(bias, error_bias), lower, upper, sd, n, k, dropped)


def by_patient(values: Array, owners: list[Hashable]) -> list[Array]:
    """The values of every patient, patients in the order of their first case."""
    index = {owner: i for i, owner in enumerate(dict.fromkeys(owners))}
    which = np.array([index[owner] for owner in owners], np.intp)
    order = np.argsort(which, kind="stable")
    return np.split(values[order], np.cumsum(np.bincount(which, minlength=1))[:-1]) if len(values) else []


def finite_pairs(
    a: ArrayLike, b: ArrayLike, patients: Sequence[Hashable] | None = None
) -> tuple[Array, Array, list[Hashable], int]:
    """The pairs that are finite, their patients, and how many were not."""
    return _pairs(a, b, patients, np.isfinite)


def known_pairs(
    a: ArrayLike, b: ArrayLike, patients: Sequence[Hashable] | None = None
) -> tuple[Array, Array, list[Hashable], int]:
    """The pairs without NaN, infinite ones among them, their patients, and how many there were with NaN."""
    return _pairs(a, b, patients, lambda values: ~np.isnan(values))


def differences(x: Array, y: Array) -> Array:
    """x - y; 0 where both are the same infinity."""
    return np.subtract(x, y, out=np.zeros_like(x), where=x != y)


def mean_difference(values: Array) -> float:
    """Mean of one patient's differences: infinite as most of the infinite ones are, of the rest where they are even."""
    infinite = np.isinf(values)
    excess = np.sign(values[infinite]).sum()
    if excess:
        return float(np.copysign(np.inf, excess))
    return float(values[~infinite].mean()) if not infinite.all() else 0.0


def _pairs(
    a: ArrayLike, b: ArrayLike, patients: Sequence[Hashable] | None, good: Callable[[Array], NDArray[np.bool_]]
) -> tuple[Array, Array, list[Hashable], int]:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(
            "statistics-lengths-differ",
            f"paired values must be two lists of one length, not of shapes {x.shape} and {y.shape}",
        )
    if patients is not None and len(patients) != len(x):
        raise InputError(
            "statistics-patient-count-differs",
            f"{len(patients)} patients were given for {len(x)} values: name one for every value",
        )
    owners: list[Hashable] = list(range(len(x))) if patients is None else list(patients)
    keep = good(x) & good(y)
    return x[keep], y[keep], [owner for owner, kept in zip(owners, keep, strict=True) if kept], int((~keep).sum())


def _resampled(groups: list[Array], statistic: Statistic, resamples: int, seed: int) -> Array:
    """The statistic of so many resamples of whole patients."""
    k, rng = len(groups), np.random.default_rng(seed)
    sizes = np.array([len(group) for group in groups])
    values = np.concatenate(groups)
    batch = max(1, BATCH // len(values))
    draws: list[Any] = []
    while len(draws) < resamples:
        picks = rng.integers(0, k, (min(batch, resamples - len(draws)), k))
        if (sizes == sizes[0]).all():
            draws.extend(statistic(np.stack(groups)[picks].reshape(len(picks), -1), axis=-1))
        elif statistic in (np.mean, np.median):
            # How often each patient, and so each value, was drawn says all; the resample need not be laid out.
            often = np.apply_along_axis(np.bincount, 1, picks, minlength=k).repeat(sizes, axis=1)
            draws.extend((_weighted_mean if statistic is np.mean else _weighted_median)(values, often))
        else:
            draws.extend(statistic(np.concatenate([groups[i] for i in pick]), axis=-1) for pick in picks)
    return np.asarray(draws, np.float64)


def _weighted_mean(values: Array, often: NDArray[Any]) -> Array:
    """Means (b,) of values (n,) that occur ``often`` (b, n) times."""
    return np.asarray(often @ values / often.sum(1))


def _weighted_median(values: Array, often: NDArray[Any]) -> Array:
    order = np.argsort(values)
    below = np.cumsum(often[:, order], axis=1)
    count = below[:, -1:]
    middle = [values[order][(below > place).argmax(1)] for place in ((count - 1) // 2, count // 2)]
    return np.asarray(np.mean(middle, axis=0))


def _exact_p(difference: Array) -> float:
    """Two-sided p of the sum of positive ranks when every sign is as likely, ties sharing their mean rank."""
    ranks = np.rint(2 * stats.rankdata(np.abs(difference))).astype(int)  # doubled: mean ranks are halves
    ways = np.ones(1)  # of reaching every sum, exact in double precision up to 2^53
    for rank in ranks:
        ways = np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))
    positive = int(ranks[difference > 0].sum())
    tail = min(positive, int(ranks.sum()) - positive)
    return float(min(1.0, 2 * ways[: tail + 1].sum() / ways.sum()))


def _asymptotic_p(difference: Array) -> float:
    """Of ranks, so that infinite differences are only the largest."""
    ranks = np.sign(difference) * stats.rankdata(np.abs(difference))
    return float(stats.wilcoxon(ranks, method="asymptotic").pvalue)


def _bca_levels(draws: Array, value: float, jackknife: Array, confidence: float) -> Array:
    """The two quantiles of the resamples that bound the interval (Efron 1987, eq. 4.8)."""
    z = stats.norm.ppf([(1 - confidence) / 2, (1 + confidence) / 2])
    below = ((draws < value).mean() + (draws <= value).mean()) / 2
    if not np.isfinite(jackknife).all():
        return np.asarray(stats.norm.cdf(z))
    spread = jackknife.mean() - jackknife
    if not 0 < below < 1 or not spread.any():
        return np.asarray(stats.norm.cdf(z))
    spread = spread / np.abs(spread).max()  # the acceleration has no unit; powers of tiny values would be 0
    squares = (spread**2).sum()
    bias, acceleration = stats.norm.ppf(below), (spread**3).sum() / (6 * squares**1.5)
    return np.asarray(stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z))))


def _spread(groups: list[Array]) -> tuple[float, float, float]:
    """Standard deviation of a single difference, and the standard errors of the bias and of that deviation.

    From the mean squares between and within patients; for one case each, sd, sd / √n and sd / √(2 (n - 1)).
    """
    sizes = np.array([len(group) for group in groups])
    n, k = sizes.sum(), len(groups)
    means = np.array([group.mean() for group in groups])
    overall = (sizes * means).sum() / n
    each = (n - (sizes**2).sum() / n) / (k - 1)  # cases a patient, 1 where each has one
    mean_square = float((sizes * (means - overall) ** 2).sum() / (k - 1))
    within = float(sum(((g - m) ** 2).sum() for g, m in zip(groups, means, strict=True)) / (n - k)) if n > k else 0.0
    between = max((mean_square - within) / each, 0.0)
    variance = between + within
    error_bias = np.sqrt(between * (sizes**2).sum() / n**2 + within / n)
    spread_of_squares = 2 * (mean_square / each) ** 2 / (k - 1)
    if n > k:
        spread_of_squares += 2 * ((1 - 1 / each) * within) ** 2 / (n - k)
    error_sd = np.sqrt(spread_of_squares / (4 * variance)) if variance > 0 else 0.0
    return float(np.sqrt(variance)), float(error_bias), float(error_sd)


def _check_share(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError(
            "statistics-confidence-range", f"confidence must lie between 0 and 1, such as 0.95, not {confidence}"
        )
