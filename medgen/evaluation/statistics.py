"""Statistics of per-case values: confidence intervals, paired tests, effect sizes, limits of agreement.

Pure functions. Patients, not cases, are the independent units: if a patient has several cases, give ``patients`` (one
name per case); otherwise intervals are too narrow and p-values too small. NaN means that a metric could not be
measured: such values, or pairs with such a value, are dropped and counted in the result's ``dropped``. Infinity is a
valid result, the worst (distance to a missed organ) or the best (PSNR of identical images): it is used wherever ranks
are used, in the signed-rank test, its effect size and the median. Means use the finite values only.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from medgen.errors import InputError

RESAMPLES = 9999
SAME = 1e-10  # share of the largest value below which a difference is a rounding error
EXACT_PAIRS = 50
BATCH = 1_000_000  # values held in memory by one batch of resamples

Array = NDArray[np.float64]
Statistic = Callable[..., Any]  # (values, axis=-1) → one number per row, such as numpy's mean and median


@dataclass(frozen=True)
class Interval:
    """A statistic of ``n`` values of ``patients`` patients with its interval ``low`` to ``high``; NaN if undefined."""

    value: float
    low: float
    high: float
    n: int
    patients: int
    dropped: int = 0


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon signed-rank test of ``n`` differences, ``zeros`` of them 0; ``smallest_p``: the lowest possible p."""

    p: float
    smallest_p: float
    n: int
    zeros: int
    dropped: int = 0


@dataclass(frozen=True)
class BlandAltman:
    """Bias and limits of agreement with intervals, and ``sd`` of a single difference, in the unit of the values."""

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
    """Return a statistic with its bootstrap confidence interval; whole patients are resampled with replacement.

    Bias-corrected and accelerated (BCa; Efron 1987, doi 10.1080/01621459.1987.10478410) with the acceleration from the
    jackknife over patients, because errors in HU are skewed and percentile intervals are then biased. With one case
    per patient it equals ``scipy.stats.bootstrap(method="BCa")``. If BCa is undefined (every resample on one side of
    the statistic), the percentile interval is returned.

    Args:
        values: one number per case.
        patients: the patient of every case; None: each case is its own patient.
        statistic: of an array along ``axis``, such as ``np.mean`` or ``np.median``, over cases, not patients.
        confidence: in (0, 1).
        infinite: True uses infinite values (for a median), and the ends can be infinite; False drops them (for a mean).
        resamples: number of resamples; with 9999 the ends vary by about 1 % of the width between seeds.
        seed: of the resampling.

    Returns:
        An `Interval`. ``low`` and ``high`` are NaN for a single patient, which shows no variation. Without any
        usable value, ``value`` is NaN too.
    """
    _check_confidence(confidence)
    data, _, patient_ids, dropped = (known_pairs if infinite else finite_pairs)(values, values, patients)
    groups = by_patient(data, patient_ids)
    if not len(data):
        return Interval(np.nan, np.nan, np.nan, 0, 0, dropped)
    value = float(statistic(data, axis=-1))
    if len(groups) < 2:
        return Interval(value, np.nan, np.nan, len(data), len(groups), dropped)
    draws = _resampled(groups, statistic, resamples, seed)
    leave_one_out = [np.concatenate(groups[:i] + groups[i + 1 :]) for i in range(len(groups))]
    jackknife = np.array([statistic(rest, axis=-1) for rest in leave_one_out])
    # No number can be interpolated between a finite and an infinite resample.
    method: Any = "linear" if np.isfinite(draws).all() else "inverted_cdf"
    low, high = np.quantile(draws, _bca_levels(draws, value, jackknife, confidence), method=method)
    return Interval(value, float(low), float(high), len(data), len(groups), dropped)


def wilcoxon(a: ArrayLike, b: ArrayLike) -> SignedRank:
    """Two-sided signed-rank test of paired values, one pair per patient (Wilcoxon 1945, doi 10.2307/3001968).

    Equals ``scipy.stats.wilcoxon`` after dropping differences of 0, except for up to 50 differences with tied ranks:
    this function always uses the exact distribution over all signs, while scipy uses the normal approximation, whose
    p can be below the possible minimum for few pairs. An infinite difference has the largest rank. If all differences
    are 0, or there are none, p = 1. The lowest p of n differences is 2^(1 - n): five pairs or fewer cannot reach 0.05.
    """
    x, y, _, dropped = known_pairs(a, b)
    difference = settled(differences(x, y), x, y)
    nonzero = difference[difference != 0]
    zeros = len(difference) - len(nonzero)
    if not len(nonzero):
        return SignedRank(1.0, 1.0, len(difference), zeros, dropped)
    exact = len(nonzero) <= EXACT_PAIRS
    p = _exact_p(nonzero) if exact else _asymptotic_p(nonzero)
    return SignedRank(float(p), float(2.0 ** (1 - len(nonzero))), len(difference), zeros, dropped)


def holm(p_values: ArrayLike) -> list[float]:
    """Holm-corrected p-values (Holm 1979, jstor 4615733): max over j ≤ i of (m - j + 1) p_(j), at most 1."""
    p = np.asarray(p_values, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise InputError("statistics-p-value-range", f"p-values must lie in [0, 1], not {p.tolist()}")
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return [float(value) for value in corrected]


def bland_altman(
    reference: ArrayLike, prediction: ArrayLike, *, patients: Sequence[Hashable] | None = None, confidence: float = 0.95
) -> BlandAltman:
    """Agreement of two measurements: bias of prediction - reference and limits bias ± 1.96 sd, with intervals.

    Bland & Altman 1999 (doi 10.1177/096228029900800204): 95 % of single differences are expected between the
    limits, if they are normally distributed and do not grow with the value. Intervals use Student's t with
    patients - 1 degrees of freedom; the standard error of a limit is √(var(bias) + 1.96² var(sd)), with one case per
    patient sd √(1/n + 1.96² / (2 (n - 1))).

    With several cases per patient (section 5.3 of the paper, with a varying true value) sd² is the sum of the
    components between and within patients from a one-way analysis of variance, and their sampling errors enter
    var(bias) and var(sd); ``sd`` then exceeds the plain standard deviation.

    Returns:
        A `BlandAltman`. Interval ends and ``sd`` are NaN for a single patient; all values are NaN without a finite
        pair.
    """
    _check_confidence(confidence)
    x, y, patient_ids, dropped = finite_pairs(reference, prediction, patients)
    difference = y - x
    groups = by_patient(difference, patient_ids)
    n, k = len(difference), len(groups)
    bias = float(difference.mean()) if n else np.nan
    sd, error_bias, error_sd = _spread(groups) if k > 1 else (np.nan,) * 3
    t_quantile = float(stats.t.ppf((1 + confidence) / 2, k - 1)) if k > 1 else np.nan

    def interval(value: float, error: float) -> Interval:
        return Interval(value, value - t_quantile * error, value + t_quantile * error, n, k, dropped)

    error_limit = float(np.hypot(error_bias, 1.96 * error_sd))
    lower, upper = (interval(bias + sign * 1.96 * sd, error_limit) for sign in (-1, 1))
    return BlandAltman(interval(bias, error_bias), lower, upper, sd, n, k, dropped)


def by_patient(values: Array, patient_ids: list[Hashable]) -> list[Array]:
    """Group the values by patient, in the order of each patient's first case."""
    index = {patient_id: i for i, patient_id in enumerate(dict.fromkeys(patient_ids))}
    patient_index = np.array([index[patient_id] for patient_id in patient_ids], np.intp)
    order = np.argsort(patient_index, kind="stable")
    return np.split(values[order], np.cumsum(np.bincount(patient_index, minlength=1))[:-1]) if len(values) else []


def finite_pairs(
    a: ArrayLike, b: ArrayLike, patients: Sequence[Hashable] | None = None
) -> tuple[Array, Array, list[Hashable], int]:
    """Return the finite pairs, their patients, and the number of other pairs."""
    return _pairs(a, b, patients, np.isfinite)


def known_pairs(
    a: ArrayLike, b: ArrayLike, patients: Sequence[Hashable] | None = None
) -> tuple[Array, Array, list[Hashable], int]:
    """Return the pairs without NaN (infinite values are kept), their patients, and the number of pairs with NaN."""
    return _pairs(a, b, patients, lambda values: ~np.isnan(values))


def differences(x: Array, y: Array) -> Array:
    """Return x - y, and 0 where both are the same infinity."""
    return np.subtract(x, y, out=np.zeros_like(x), where=x != y)


def settled(difference: Array, *values: Array) -> Array:
    """Return differences without the rounding errors of subtraction and mean, which would decide ties and zeros.

    They are rounded to `SAME` times the largest of the ``values`` from which they were computed.
    """
    largest = max((float(np.abs(v[np.isfinite(v)]).max(initial=0)) for v in values), default=0.0)
    return np.round(difference / (SAME * largest)) * (SAME * largest) if largest else difference


def mean_difference(values: Array) -> float:
    """Return the mean of one patient's differences.

    Infinite differences decide by majority of their signs; if the signs balance, the mean is of the finite ones.
    """
    infinite = np.isinf(values)
    net_sign = np.sign(values[infinite]).sum()
    if net_sign:
        return float(np.copysign(np.inf, net_sign))
    return float(values[~infinite].mean()) if not infinite.all() else 0.0


def _pairs(
    a: ArrayLike, b: ArrayLike, patients: Sequence[Hashable] | None, is_valid: Callable[[Array], NDArray[np.bool_]]
) -> tuple[Array, Array, list[Hashable], int]:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(
            "statistics-lengths-differ",
            f"paired values must be two lists of the same length, not of shapes {x.shape} and {y.shape}",
        )
    if patients is not None and len(patients) != len(x):
        raise InputError(
            "statistics-patient-count-differs",
            f"{len(patients)} patients were given for {len(x)} values; name one for every value",
        )
    patient_ids: list[Hashable] = list(range(len(x))) if patients is None else list(patients)
    keep = is_valid(x) & is_valid(y)
    return (
        x[keep],
        y[keep],
        [patient_id for patient_id, kept in zip(patient_ids, keep, strict=True) if kept],
        int((~keep).sum()),
    )


def _resampled(groups: list[Array], statistic: Statistic, resamples: int, seed: int) -> Array:
    """Return the statistic of ``resamples`` resamples of whole patients."""
    k, rng = len(groups), np.random.default_rng(seed)
    sizes = np.array([len(group) for group in groups])
    values = np.concatenate(groups)
    batch = max(1, BATCH // len(values))
    draws: list[Any] = []
    while len(draws) < resamples:
        patient_draws = rng.integers(0, k, (min(batch, resamples - len(draws)), k))
        if (sizes == sizes[0]).all():
            draws.extend(statistic(np.stack(groups)[patient_draws].reshape(len(patient_draws), -1), axis=-1))
        elif statistic in (np.mean, np.median):
            # The number of times each value was drawn is sufficient; the resampled array is not needed.
            repeats = np.apply_along_axis(np.bincount, 1, patient_draws, minlength=k).repeat(sizes, axis=1)
            draws.extend((_weighted_mean if statistic is np.mean else _weighted_median)(values, repeats))
        else:
            draws.extend(statistic(np.concatenate([groups[i] for i in draw]), axis=-1) for draw in patient_draws)
    return np.asarray(draws, np.float64)


def _weighted_mean(values: Array, repeats: NDArray[Any]) -> Array:
    """Return means (b,) of values (n,) that occur ``repeats`` (b, n) times."""
    return np.asarray(repeats @ values / repeats.sum(1))


def _weighted_median(values: Array, repeats: NDArray[Any]) -> Array:
    order = np.argsort(values)
    below = np.cumsum(repeats[:, order], axis=1)
    count = below[:, -1:]
    middle = [values[order][(below > middle_rank).argmax(1)] for middle_rank in ((count - 1) // 2, count // 2)]
    return np.asarray(np.mean(middle, axis=0))


def _exact_p(difference: Array) -> float:
    """Return the two-sided exact p of the sum of positive ranks; tied differences get their mean rank."""
    ranks = np.rint(2 * stats.rankdata(np.abs(difference))).astype(
        int
    )  # doubled, because mean ranks can be half-integers
    counts = np.ones(1)  # number of sign patterns for every rank sum; exact in double precision up to 2^53
    for rank in ranks:
        counts = np.pad(counts, (0, rank)) + np.pad(counts, (rank, 0))
    positive = int(ranks[difference > 0].sum())
    tail = min(positive, int(ranks.sum()) - positive)
    return float(min(1.0, 2 * counts[: tail + 1].sum() / counts.sum()))


def _asymptotic_p(difference: Array) -> float:
    """Return the normal-approximation p, computed on signed ranks so that differences may be infinite."""
    ranks = np.sign(difference) * stats.rankdata(np.abs(difference))
    return float(stats.wilcoxon(ranks, method="asymptotic").pvalue)


def _bca_levels(draws: Array, value: float, jackknife: Array, confidence: float) -> Array:
    """Return the two quantile levels of the resamples that bound the interval (Efron 1987, eq. 4.8)."""
    z = stats.norm.ppf([(1 - confidence) / 2, (1 + confidence) / 2])
    below = ((draws < value).mean() + (draws <= value).mean()) / 2
    if not np.isfinite(jackknife).all():
        return np.asarray(stats.norm.cdf(z))
    spread = jackknife.mean() - jackknife
    if not 0 < below < 1 or not spread.any():
        return np.asarray(stats.norm.cdf(z))
    spread = spread / np.abs(spread).max()  # acceleration is scale-free; powers of tiny values would underflow to 0
    squares = (spread**2).sum()
    bias, acceleration = stats.norm.ppf(below), (spread**3).sum() / (6 * squares**1.5)
    return np.asarray(stats.norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z))))


def _spread(groups: list[Array]) -> tuple[float, float, float]:
    """Return the standard deviation of a single difference, and the standard errors of the bias and of that deviation.

    Computed from the mean squares between and within patients; with one case per patient: sd, sd / √n and
    sd / √(2 (n - 1)).
    """
    sizes = np.array([len(group) for group in groups])
    n, k = sizes.sum(), len(groups)
    means = np.array([group.mean() for group in groups])
    overall = (sizes * means).sum() / n
    cases_per_patient = (n - (sizes**2).sum() / n) / (k - 1)  # effective number of cases per patient; 1 if each has one
    mean_square = float((sizes * (means - overall) ** 2).sum() / (k - 1))
    within = float(sum(((g - m) ** 2).sum() for g, m in zip(groups, means, strict=True)) / (n - k)) if n > k else 0.0
    between = max((mean_square - within) / cases_per_patient, 0.0)
    variance = between + within
    error_bias = np.sqrt(between * (sizes**2).sum() / n**2 + within / n)
    spread_of_squares = 2 * (mean_square / cases_per_patient) ** 2 / (k - 1)
    if n > k:
        spread_of_squares += 2 * ((1 - 1 / cases_per_patient) * within) ** 2 / (n - k)
    error_sd = np.sqrt(spread_of_squares / (4 * variance)) if variance > 0 else 0.0
    return float(np.sqrt(variance)), float(error_bias), float(error_sd)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError(
            "statistics-confidence-range", f"confidence must be between 0 and 1, such as 0.95, not {confidence}"
        )
