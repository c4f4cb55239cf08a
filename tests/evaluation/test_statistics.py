import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused
from scipy import stats

from medgen.evaluation import statistics
from medgen.evaluation.paired_tests import cohens_dz, rank_biserial
from medgen.evaluation.statistics import bland_altman, bootstrap_interval, holm, wilcoxon


def _skewed(n=25, seed=0):
    return np.random.default_rng(seed).lognormal(3, 0.7, n)


@pytest.mark.parametrize("statistic", [np.mean, np.median])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_interval_of_independent_cases_equals_scipy(statistic, confidence, monkeypatch):
    monkeypatch.setattr(statistics, "BATCH", 2000)
    values = _skewed()
    options = {"n_resamples": 999, "confidence_level": confidence, "rng": np.random.default_rng(4)}
    expected = stats.bootstrap((values,), statistic, method="BCa", **options).confidence_interval
    interval = bootstrap_interval(values, statistic=statistic, confidence=confidence, resamples=999, seed=4)
    assert interval.value == statistic(values)
    assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-9)
    assert (interval.n, interval.patients, interval.dropped) == (25, 25, 0)


def test_confidence_interval_of_a_mean_has_nominal_coverage():
    """Skewed values of 30 patients: 95 % intervals, 300 trials, whose own standard error is 1.4 %."""
    truth = np.exp(3 + 0.7**2 / 2)
    trials = [bootstrap_interval(_skewed(30, seed), resamples=499, seed=seed) for seed in range(300)]
    hits = np.mean([t.low <= truth <= t.high for t in trials])
    assert 0.88 < hits < 0.97  # a mean of 30 lognormals is known to be covered a little too seldom


def test_several_cases_per_patient_widen_the_interval_to_the_variation_between_patients():
    """Four nearly equal cases per patient add no information to one case of each of 20 patients."""
    covered, naive, rng = [], [], np.random.default_rng(0)
    for seed in range(150):
        patients = np.repeat(np.arange(20), 4)
        values = rng.normal(0, 1, 20)[patients] + rng.normal(0, 0.1, 80)
        for kept, owners in ((covered, patients.tolist()), (naive, None)):
            interval = bootstrap_interval(values, patients=owners, resamples=299, seed=seed)
            kept.append(interval.low <= 0 <= interval.high)
    assert np.mean(covered) > 0.88
    assert np.mean(naive) < 0.8


def test_patients_of_different_sizes_are_resampled_whole():
    values, patients = [1.0, 1.0, 1.0, 5.0], ["a", "a", "a", "b"]
    interval = bootstrap_interval(values, patients=patients, resamples=2000)
    # of two patients: both a, one of each, both b
    draws = statistics._resampled([np.ones(3), np.array([5.0])], np.mean, 2000, 0)
    assert set(draws) == {1.0, 2.0, 5.0}
    medians = statistics._resampled([np.ones(3), np.array([5.0])], np.median, 200, 0)
    assert set(medians) == {1.0, 5.0}
    assert np.mean(draws == 2.0) == pytest.approx(0.5, abs=0.05)
    assert (interval.value, interval.n, interval.patients) == (2.0, 4, 2)


def test_interval_has_defined_ends():
    assert np.isnan([bootstrap_interval([]).value, bootstrap_interval([np.nan]).low]).all()
    one = bootstrap_interval([3.0, 5.0], patients=["p", "p"])
    assert (one.value, one.patients) == (4.0, 1) and np.isnan([one.low, one.high]).all()
    same = bootstrap_interval([2.0] * 6)
    assert (same.low, same.value, same.high) == (2.0, 2.0, 2.0)
    mixed = bootstrap_interval([1.0, np.inf, 2.0, np.nan, 3.0])
    assert (mixed.value, mixed.n, mixed.dropped) == (2.0, 3, 2)
    missed = bootstrap_interval([1.0, np.inf, 2.0, np.nan, 3.0], statistic=np.median, infinite=True)
    assert (missed.value, missed.n, missed.dropped, missed.high) == (2.5, 4, 1, np.inf)
    assert bootstrap_interval(_skewed()) == bootstrap_interval(_skewed())


def test_bad_lists_are_refused():
    with refused("statistics-patient-count-differs"):
        bootstrap_interval([1.0, 2.0], patients=["p"])
    with refused("statistics-lengths-differ"):
        wilcoxon([1.0, 2.0], [1.0])
    for confidence in (0, 1, 95, np.nan):
        with refused("statistics-confidence-range"):
            bootstrap_interval([1.0, 2.0], confidence=confidence)
        with refused("statistics-confidence-range"):
            bland_altman([1.0, 2.0], [1.0, 3.0], confidence=confidence)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 13, 40, 70])
def test_wilcoxon_equals_scipy_without_ties(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(0.3, 1, n), rng.normal(0, 1, n)
    method = "exact" if n <= 50 else "asymptotic"
    assert wilcoxon(a, b).p == pytest.approx(stats.wilcoxon(a, b, method=method).pvalue, rel=1e-9)
    assert wilcoxon(b, a).p == wilcoxon(a, b).p


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_wilcoxon_with_ties_counts_every_sign(differences):
    d = np.array([v for v in differences if v])
    result = wilcoxon(differences, [0] * len(differences))
    assert (result.n, result.zeros) == (len(differences), len(differences) - len(d))
    if not len(d):
        assert result.p == result.smallest_p == 1
        return
    ranks = stats.rankdata(np.abs(d))
    sums = np.array([ranks[np.array(signs)].sum() for signs in itertools.product([False, True], repeat=len(d))])
    tail = min(ranks[d > 0].sum(), ranks[d < 0].sum())
    assert result.p == pytest.approx(min(1, 2 * np.mean(sums <= tail)))
    assert result.p >= result.smallest_p == 2.0 ** (1 - len(d))


def test_five_pairs_cannot_be_significant_and_six_can():
    assert wilcoxon(range(1, 6), [0] * 5).p == 0.0625
    assert wilcoxon(range(1, 7), [0] * 6).p == 0.03125
    assert wilcoxon([1] * 5, [0] * 5).p == 0.0625  # tied, where a normal approximation says 0.025
    assert wilcoxon([], []).p == 1
    partial = wilcoxon([1, np.nan, 3, np.inf], [0, 0, 0, 0])
    assert (partial.n, partial.dropped) == (3, 1)


@pytest.mark.parametrize("n", [12, 70])
def test_an_infinite_value_is_the_largest_rank(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(0.3, 1, n), rng.normal(0, 1, n)
    large, missed = a.copy(), a.copy()
    large[:3], missed[:3] = [1e6, 1e6 + b[1] - b[0], 1e6 + b[2] - b[0]], np.inf
    large = np.where(large > 1e5, np.round(large - b) + b, large)
    assert wilcoxon(missed, b).p == pytest.approx(wilcoxon(large, b).p, rel=1e-9)
    assert rank_biserial(missed, b) == pytest.approx(rank_biserial(large, b))
    assert wilcoxon(missed, missed).p == 1 and rank_biserial(missed, missed) == 0


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_bootstrap_of_unequal_patients_equals_explicit_resampling(statistic):
    rng = np.random.default_rng(0)
    groups = [rng.normal(size=size).round(1) for size in rng.integers(1, 5, 15)]
    made = statistics._resampled(groups, statistic, 200, 3)
    picks = np.random.default_rng(3).integers(0, 15, (200, 15))
    np.testing.assert_allclose(
        made, [statistic(np.concatenate([groups[i] for i in pick])) for pick in picks], atol=1e-12
    )


def test_holm_is_the_worked_example():
    # m = 4: 4 · 0.01, then 3 · 0.02 = 0.06, then 2 · 0.03 = 0.06, then 0.04 → not below the one before
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []
    with refused("statistics-p-value-range"):
        holm([0.5, np.nan])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.2))
def test_holm_rejects_what_the_stepwise_test_rejects(p_values, level):
    rejected = set()
    for step, i in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[i] * (len(p_values) - step) > level:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(p_values)) if p <= level} == rejected


def test_effect_sizes_are_their_closed_forms():
    a, b = np.array([5.0, 7, 3, 9]), np.array([4.0, 9, 0, 5])  # differences 1, -2, 3, 4 with ranks 1, 2, 3, 4
    assert rank_biserial(a, b) == pytest.approx((1 + 3 + 4 - 2) / 10)
    assert rank_biserial(b, a) == -rank_biserial(a, b)
    assert cohens_dz(a, b) == pytest.approx(stats.ttest_rel(a, b).statistic / np.sqrt(4))
    assert rank_biserial(a, a) == cohens_dz(a, a) == 0
    assert rank_biserial(a + 1, a) == 1 and cohens_dz(a - 1, a) == -np.inf
    assert np.isnan(cohens_dz([1], [2])) and rank_biserial([], []) == 0


def test_bland_altman_is_the_closed_form_with_one_case_a_patient():
    rng = np.random.default_rng(0)
    truth = rng.normal(40, 20, 30)
    measured = truth + rng.normal(5, 8, 30)
    d, t = measured - truth, stats.t.ppf(0.975, 29)
    result = bland_altman(truth, measured)
    sd = d.std(ddof=1)
    assert (result.bias.value, result.sd, result.n) == pytest.approx((d.mean(), sd, 30))
    assert (result.lower.value, result.upper.value) == pytest.approx((d.mean() - 1.96 * sd, d.mean() + 1.96 * sd))
    expected = stats.ttest_1samp(d, 0).confidence_interval()
    assert (result.bias.low, result.bias.high) == pytest.approx(expected)
    half = t * sd * np.sqrt(1 / 30 + 1.96**2 / (2 * 29))  # Bland & Altman 1999, section 2
    assert result.upper.high - result.upper.value == pytest.approx(half)
    assert result.lower.value - result.lower.low == pytest.approx(half)


def test_bland_altman_of_repeated_cases_covers_the_true_limits():
    """Biases of patients with sd 6 and cases within with sd 3: limits 1 ± 1.96 √45, 15 patients of 1 to 5 cases."""
    rng, hits = np.random.default_rng(3), {"bias": 0, "lower": 0, "upper": 0}
    truth = {"bias": 1.0, "lower": 1 - 1.96 * np.sqrt(45), "upper": 1 + 1.96 * np.sqrt(45)}
    for _ in range(400):
        patients = np.repeat(np.arange(15), rng.integers(1, 6, 15))
        error = 1 + rng.normal(0, 6, 15)[patients] + rng.normal(0, 3, len(patients))
        result = bland_altman(np.zeros(len(error)), error, patients=patients.tolist())
        for name, value in truth.items():
            hits[name] += getattr(result, name).low <= value <= getattr(result, name).high
    for name, count in hits.items():
        assert 0.89 < count / 400 < 0.99, (name, count / 400)


def test_components_of_variance_are_the_analysis_of_variance():
    groups = [np.array([1.0, 2, 4]), np.array([6.0, 7, 9]), np.array([2.0, 2, 5])]
    f = stats.f_oneway(*groups).statistic
    within = np.mean([g.var(ddof=1) for g in groups])
    between = (f * within - within) / 3
    sd, error_bias, _ = statistics._spread(groups)
    assert sd == pytest.approx(np.sqrt(between + within))
    assert error_bias == pytest.approx(np.sqrt(between / 3 + within / 9))


def test_bland_altman_has_defined_ends():
    nothing = bland_altman([], [])
    assert np.isnan([nothing.bias.value, nothing.sd, nothing.upper.high]).all() and nothing.n == 0
    one = bland_altman([1.0, 2.0], [2.0, 3.0], patients=["p", "p"])
    assert one.bias.value == 1 and np.isnan([one.sd, one.bias.low, one.lower.value]).all()
    same = bland_altman([1.0, 2, 3], [2.0, 3, 4])
    assert (same.lower.low, same.bias.value, same.upper.high) == (1, 1, 1)
    partial = bland_altman([1.0, np.nan, 3, 4], [2.0, 3, np.inf, 6])
    assert (partial.n, partial.dropped, partial.bias.value) == (2, 2, 1.5)
