import numpy as np
import pytest
from refusal import refused
from scipy import stats

from medgen.evaluation.paired_tests import compare_systems, correct
from medgen.evaluation.statistics import bootstrap_interval, holm


def _systems(n=12, seed=0):
    rng = np.random.default_rng(seed)
    hard = rng.normal(50, 15, n)
    shifts = {"cut": 0.0, "pix2pix": -6.0, "source": 20.0}
    return {name: {f"case{i}": hard[i] + s + rng.normal(0, 4) for i in range(n)} for name, s in shifts.items()}


def test_every_pair_is_compared_over_its_cases():
    systems = _systems()
    rows = compare_systems(systems, higher_is_better=False, metric="mae")
    assert [(row.a, row.b) for row in rows] == [("cut", "pix2pix"), ("cut", "source"), ("pix2pix", "source")]
    a, b = (np.array(list(systems[name].values())) for name in ("cut", "pix2pix"))
    first = rows[0]
    assert first.p == pytest.approx(stats.wilcoxon(a, b, method="exact").pvalue)
    assert first.difference == bootstrap_interval(a - b)
    assert (first.wins, first.ties, first.losses) == ((a < b).sum(), 0, (a > b).sum())
    assert (first.n, first.patients, first.dropped, first.metric) == (12, 12, 0, "mae")
    assert first.smallest_p == 2.0**-11
    assert [row.p_holm for row in rows] == holm([row.p for row in rows])


def test_wins_follow_the_direction_and_effects_do_not():
    systems = _systems()
    low, high = (compare_systems(systems, higher_is_better=better)[1] for better in (False, True))
    assert (low.wins, low.losses) == (high.losses, high.wins) == (12, 0)
    assert low.rank_biserial == high.rank_biserial == -1
    assert low.difference.high < 0 and low.cohens_dz < 0


def test_correction_goes_over_all_metrics_reported():
    rows = compare_systems(_systems(), higher_is_better=False) + compare_systems(
        _systems(seed=1), higher_is_better=True
    )
    together = correct(rows)
    assert [row.p_holm for row in together] == holm([row.p for row in rows])
    assert all(row.p_holm >= alone.p_holm for row, alone in zip(together, rows, strict=True))


def test_a_system_that_misses_organs_loses():
    rng = np.random.default_rng(0)
    never = {f"case{i}": 5 + 0.3 * rng.normal() for i in range(20)}
    half = {name: np.inf if i < 10 else value - 0.1 for i, (name, value) in enumerate(never.items())}
    row = compare_systems({"half": half, "never": never}, higher_is_better=False, metric="hd95")[0]
    assert (row.n, row.dropped, row.wins, row.losses) == (20, 0, 10, 10)
    assert (row.infinite_a, row.infinite_b, row.difference.n) == (10, 0, 10)
    assert row.rank_biserial == pytest.approx((sum(range(11, 21)) - sum(range(1, 11))) / 210)  # 10 largest ranks for a


def test_missing_cases_are_dropped_and_counted_and_infinite_ones_count():
    a = {"one": 1.0, "two": np.inf, "three": 3.0, "four": np.nan, "only a": 1.0}
    b = {"one": 2.0, "two": 2.0, "three": 3.0, "four": 4.0, "only b": 1.0, "also b": 1.0}
    row = compare_systems({"a": a, "b": b}, higher_is_better=True)[0]
    assert (row.n, row.dropped) == (3, 4)
    assert (row.wins, row.ties, row.losses) == (1, 1, 1)
    assert row.difference.value == -0.5  # of the two that are finite
    both = compare_systems({"a": {"one": np.inf}, "b": {"one": np.inf}}, higher_is_better=True)[0]
    assert (both.ties, both.p, both.infinite_a, both.infinite_b) == (1, 1, 1, 1)


def test_misses_of_one_patient_add_up():
    systems = {
        "a": {"p1": np.inf, "p2": 1.0, "q1": np.inf, "q2": 5.0},
        "b": {"p1": 1.0, "p2": np.inf, "q1": 1.0, "q2": 6.0},
    }
    patients = {"p1": "p", "p2": "p", "q1": "q", "q2": "q"}
    row = compare_systems(systems, higher_is_better=False, patients=patients)[0]
    assert (row.patients, row.wins, row.losses) == (2, 2, 2)
    assert row.rank_biserial == 1  # p: one miss each, even; q: a missed


def test_equal_or_disjoint_systems_have_defined_rows():
    a = {"one": 1.0, "two": 2.0}
    same = compare_systems({"a": a, "b": dict(a)}, higher_is_better=True)[0]
    assert (same.p, same.p_holm, same.ties, same.rank_biserial, same.cohens_dz) == (1, 1, 2, 0, 0)
    assert (same.difference.low, same.difference.value, same.difference.high) == (0, 0, 0)
    apart = compare_systems({"a": a, "b": {"three": 1.0}}, higher_is_better=True)[0]
    assert (apart.n, apart.p, apart.dropped) == (0, 1, 3) and np.isnan(apart.difference.value)
    assert compare_systems({"a": a}, higher_is_better=True) == []


def test_a_patient_with_many_cases_is_one_pair():
    cases = [f"case{i}" for i in range(12)]
    patients = {case: f"patient{i // 4}" for i, case in enumerate(cases)}
    a = {case: 1.0 + i / 100 for i, case in enumerate(cases)}
    row = compare_systems({"a": a, "b": dict.fromkeys(cases, 0.0)}, higher_is_better=True, patients=patients)[0]
    assert (row.n, row.patients, row.wins) == (12, 3, 12)
    assert row.p == row.smallest_p == 0.25  # twelve independent pairs would have given 0.0005
    assert row.difference == bootstrap_interval(list(a.values()), patients=list(patients.values()))
    with refused("evaluation-patient-missing", names="case3"):
        del patients["case3"]
        compare_systems({"a": a, "b": a}, higher_is_better=True, patients=patients)


def test_rounding_errors_decide_no_tie_and_no_zero():
    """Differences of 0.7 mm are one difference, and a mean of +0.1 and -0.1 is 0, whatever float64 makes of them."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        whole = rng.integers(0, 9, (2, 10))
        exact, rounded = (
            compare_systems(
                {name: {str(n): value for n, value in enumerate(row)} for name, row in zip("ab", table, strict=True)},
                higher_is_better=False,
            )[0]
            for table in (whole.astype(float), whole * 0.7)
        )
        assert (exact.p, exact.rank_biserial) == (rounded.p, rounded.rank_biserial)
    cases = [f"{patient}{scan}" for patient in range(6) for scan in "xy"]
    moved = {case: 30.7 + (0.1 if case.endswith("x") else -0.1) for case in cases}
    (row,) = compare_systems(
        {"a": moved, "b": dict.fromkeys(cases, 30.7)}, higher_is_better=True, patients={c: c[0] for c in cases}
    )
    assert row.p == 1 and row.rank_biserial == 0
