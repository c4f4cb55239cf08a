"""Neighbour counts: equal to their papers' formulas row by row, and the same however many rows a volume gives."""

import numpy as np
import pytest
from refusal import refused

from medgen.evaluation.distribution import grouped
from medgen.evaluation.distribution.precision_recall import neighbour_scores


def rows(n, seed, shift=0.0, d=3):
    return np.random.default_rng(seed).normal(shift, 1, (n, d))


def neighbours(x, y, k):
    """Precision, recall, density, coverage row by row, as their papers have them."""

    def radius(rows, i):
        return sorted(np.linalg.norm(rows[i] - rows[j]) for j in range(len(rows)) if j != i)[k - 1]

    def inside(point, rows):
        return [np.linalg.norm(point - rows[i]) <= radius(rows, i) for i in range(len(rows))]

    real_balls = np.array([inside(point, x) for point in y])
    made_balls = np.array([inside(point, y) for point in x])
    precision, recall = real_balls.any(1).mean(), made_balls.any(1).mean()
    return precision, recall, real_balls.sum(1).mean() / k, real_balls.any(0).mean()


@pytest.mark.parametrize("block", [4, 1024])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_neighbour_counts_equal_the_direct_formula(k, block, monkeypatch):
    monkeypatch.setattr(grouped, "BLOCK", block)
    x, y = rows(21, 0, shift=100), rows(13, 1, shift=100.8)
    assert neighbour_scores(x, y, narrow=k, wide=k) == pytest.approx(neighbours(x, y, k))


def test_precision_falls_with_bad_images_and_recall_with_lost_modes():
    x = np.vstack([rows(100, 0), rows(100, 1, shift=20)])
    one_kind = rows(200, 2)
    precision, recall, density, coverage = neighbour_scores(x, one_kind)
    assert precision > 0.9 and recall < 0.6
    bad = np.vstack([x + 0.01, rows(200, 3, shift=-50)])
    precision, recall, *_ = neighbour_scores(x, bad)
    assert precision < 0.6 and recall > 0.9
    assert 0.8 < density < 1.3 and coverage < 0.6


def test_density_and_coverage_of_one_distribution():
    _, _, density, coverage = neighbour_scores(rows(1500, 0), rows(1500, 1))
    assert density == pytest.approx(1, abs=0.08)
    assert coverage == pytest.approx(1 - 2**-5, abs=0.03)


@pytest.mark.parametrize("block", [4, 1024])
def test_rows_that_repeat_in_a_volume_change_nothing(block, monkeypatch):
    monkeypatch.setattr(grouped, "BLOCK", block)
    x, y = rows(14, 0), rows(11, 1, 0.5)
    often, seldom = np.repeat(np.arange(14), 5), np.repeat(np.arange(11), 3)
    order = np.random.default_rng(2).permutation(len(often))
    made = neighbour_scores(x[often][order], y[seldom], groups=(often[order], seldom))
    assert made == pytest.approx(neighbour_scores(x, y))
    assert neighbour_scores(x[often], y[seldom]).precision == 0  # what is lost where rows count one by one


def test_two_sets_of_patients_of_one_population_are_alike():
    """16 rows of each of 30 patients, alike within, score as one row of each would, and density 1."""

    def draw(seed, each):
        rng = np.random.default_rng(seed)
        whose = np.repeat(np.arange(30), each)
        return rng.normal(size=(30, 5))[whose] + 0.3 * rng.normal(size=(len(whose), 5)), whose

    def mean(each, known=True):
        sets = [(draw(2 * seed, each), draw(2 * seed + 1, each)) for seed in range(20)]
        return np.mean([neighbour_scores(x, y, groups=(a, b) if known else None) for (x, a), (y, b) in sets], axis=0)

    single, many, unknown = mean(1), mean(16), mean(16, known=False)
    np.testing.assert_allclose(many, single, atol=0.1)
    assert many[2] == pytest.approx(1, abs=0.1) and many[3] > 0.9
    assert (unknown[[0, 1, 3]] < many[[0, 1, 3]] - 0.4).all()


def test_few_rows_give_no_value_and_invalid_rows_are_refused():
    scores = neighbour_scores(rows(10, 0), rows(5, 1))
    assert np.isfinite(scores).all()  # density and coverage have balls about real rows only
    scores = neighbour_scores(rows(5, 0), rows(3, 1))
    assert np.isfinite(scores.precision) and np.isnan([scores.recall, scores.density, scores.coverage]).all()
    with refused("metric-neighbours-range"):
        neighbour_scores(rows(10, 0), rows(5, 1), narrow=0)
    with refused("features-not-rows"):
        neighbour_scores(rows(10, 0), rows(5, 1, d=2))
    with refused("features-not-finite", names="prediction"):
        neighbour_scores(rows(10, 0), rows(5, 1) * np.nan)
