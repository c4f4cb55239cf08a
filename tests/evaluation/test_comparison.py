import numpy as np
import pytest
from scipy import stats

from medgen.evaluation.comparison import compare_systems, correct
from medgen.evaluation.statistics import bootstrap_interval, holm
from medgen.types import InputError


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


def test_missing_and_infinite_cases_are_dropped_and_counted():
    a = {"one": 1.0, "two": np.inf, "three": 3.0, "four": np.nan, "only a": 1.0}
    b = {"one": 2.0, "two": 2.0, "three": 3.0, "four": 4.0, "only b": 1.0, "also b": 1.0}
    row = compare_systems({"a": a, "b": b}, higher_is_better=True)[0]
    assert (row.n, row.dropped) == (2, 5)
    assert (row.wins, row.ties, row.losses) == (0, 1, 1)


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
    with pytest.raises(InputError, match="no patient for the case case3"):
        del patients["case3"]
        compare_systems({"a": a, "b": a}, higher_is_better=True, patients=patients)
