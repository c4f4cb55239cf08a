"""Fréchet distance: the closed form of known Gaussians, scipy's matrix square root, and rows that come in batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused
from scipy.linalg import sqrtm

from medgen.evaluation.distribution.frechet import RunningStatistics, few_rows_warning, frechet_distance, statistics_of


def rows(n, seed, d=6, shift=0.0, mix=True):
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(n, d)) + shift
    return made @ rng.normal(size=(d, d)) if mix else made


def with_moments(n, mean, covariance, seed=0):
    """n rows whose sample mean and covariance are exactly these."""
    made = rows(n, seed, d=len(mean), mix=False)
    made -= made.mean(0)
    made = made @ np.linalg.inv(np.linalg.cholesky(np.cov(made, rowvar=False))).T
    return made @ np.linalg.cholesky(covariance).T + mean


def by_scipy(x, y):
    """The formula as pytorch-fid has it."""
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(a @ b).real
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * np.trace(root)


@given(st.integers(2, 8), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_commuting_gaussians_have_a_closed_form(d, seed):
    # Σ_r and Σ_g with the same axes: ‖μ_r - μ_g‖² + Σ (σ_r - σ_g)²
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    sr, sg, mr, mg = rng.uniform(0.1, 3, d), rng.uniform(0.1, 3, d), rng.normal(size=d), rng.normal(size=d)
    x = with_moments(d + 5, mr, axes * sr**2 @ axes.T, seed)
    y = with_moments(d + 9, mg, axes * sg**2 @ axes.T, seed + 1)
    expected = ((mr - mg) ** 2).sum() + ((sr - sg) ** 2).sum()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("m, n, d", [(40, 30, 6), (300, 12, 6), (500, 400, 20)])
def test_it_equals_the_matrix_square_root_where_that_is_stable(m, n, d):
    x, y = rows(m, 0, d), rows(n, 1, d, shift=0.3)
    assert frechet_distance(x, y) == pytest.approx(by_scipy(x, y), rel=1e-7)


def test_fewer_rows_than_features():
    # Through a random isometry into 50 dimensions nothing changes; scipy's root of the singular product is not needed.
    x, y = rows(9, 0, 4), rows(11, 1, 4, shift=1)
    isometry = np.linalg.qr(rows(50, 2, 50))[0][:4]
    assert frechet_distance(x @ isometry, y @ isometry) == pytest.approx(by_scipy(x, y), rel=1e-6)


@given(st.integers(1, 12), st.integers(0, 30), st.integers(0, 30), st.floats(0, 9), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_more_rows_than_features_equal_the_singular_values(d, more, most, decades, seed):
    # Also where the covariances are nearly singular, and the Cholesky factor cannot be used.
    scale = 10.0 ** -np.linspace(0, decades, d)
    x, y = (rows(d + 2 + n, seed + k, d) * scale @ rows(d, seed + 2, d) for k, n in enumerate((more, most)))
    a, b = ((v - v.mean(0)) / np.sqrt(len(v) - 1) for v in (x, y))
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    total = (a**2).sum() + (b**2).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + total - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected, abs=3e-8 * d * total)


def test_a_rotated_gaussian_against_its_mirror_image_is_as_accurate_as_by_eigenvalues():
    # Variances from 1 to 1e-12 along the same axes, in opposite order: the closed form is Σ (σ_r - σ_g)².
    d = 8
    axes, sd = np.linalg.qr(rows(d, 0, d))[0], 10.0 ** -np.linspace(0, 6, d)
    white = rows(4 * d, 1, d, mix=False)
    white = np.linalg.qr(white - white.mean(0))[0] * np.sqrt(4 * d - 1)
    x, y = white * sd @ axes.T, white * sd[::-1] @ axes.T
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(a)
    half = vectors * np.sqrt(values.clip(0))
    root = np.sqrt(np.linalg.eigvalsh(half.T @ b @ half).clip(0)).sum()
    exact = ((sd - sd[::-1]) ** 2).sum()
    by_eigenvalues = np.trace(a) + np.trace(b) - 2 * root
    assert abs(frechet_distance(x, y) - exact) <= max(abs(by_eigenvalues - exact), 1e-9 * exact)


def test_one_feature_is_the_difference_of_two_normal_laws():
    x, y = rows(50, 0, 1), rows(60, 1, 1, shift=2)
    expected = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
    assert frechet_distance(x, y) == pytest.approx(expected)


def test_a_set_against_itself_and_either_way_round():
    x, y = rows(30, 0, 100), rows(40, 1, 100)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-5 * statistics_of(x).deviation.max() ** 2)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-9)
    assert frechet_distance(x + 5, x) == pytest.approx(25 * 100, rel=1e-6)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_batches_give_the_statistics_of_all_rows(sizes, seed):
    x = rows(sum(sizes) + 2, seed, 5) + 1000  # far from the origin, where squared sums lose digits
    running = RunningStatistics()
    start = 0
    for size in [*sizes, 2]:
        running.add(x[start : start + size])
        start += size
    made = running.statistics()
    assert made.count == len(x)
    np.testing.assert_allclose(made.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(made.covariance, np.cov(x, rowvar=False), rtol=1e-8, atol=1e-10)
    assert frechet_distance(made, x) == pytest.approx(0, abs=1e-6 * np.trace(made.covariance))


def test_memory_does_not_grow_with_the_rows():
    running = RunningStatistics()
    for seed in range(100):
        running.add(rows(7, seed, 5))
        assert len(running.statistics().factor) <= 10


def test_standardised_statistics_are_those_of_standardised_rows():
    x, y = rows(30, 0, 5), rows(20, 1, 5)
    x[:, 2] = 7  # constant in the reference: divided by 1
    deviation = np.where(x.std(0, ddof=1) > 0, x.std(0, ddof=1), 1)
    made = statistics_of(y).standardised(statistics_of(x))
    expected = (y - x.mean(0)) / deviation
    np.testing.assert_allclose(made.mean, expected.mean(0), atol=1e-12)
    np.testing.assert_allclose(made.covariance, np.cov(expected, rowvar=False), atol=1e-12)


@pytest.mark.parametrize("constant", [0.1, 1 / 3, 1e6 / 3, 0.0])
def test_a_constant_feature_is_not_divided_by_its_rounding(constant):
    x, y = rows(160, 0, 5), rows(160, 1, 5)
    x[:, 2] = y[:, 2] = constant
    without = np.delete(np.arange(5), 2)
    sets = []
    for made in (x, y):
        running = RunningStatistics()
        for batch in np.array_split(made, 7):
            running.add(batch)
        sets.append(running.statistics())
    deviation = x.std(0, ddof=1)[without]
    expected = frechet_distance(x[:, without] / deviation, y[:, without] / deviation)
    made = [s.standardised(sets[0]) for s in sets]
    assert frechet_distance(*made) == pytest.approx(expected, rel=1e-6)
    y[0, 2] += 1e-3
    assert frechet_distance(made[0], statistics_of(y).standardised(sets[0])) == pytest.approx(expected, rel=1e-3)


def test_the_bias_of_few_rows_is_named():
    assert "10 rows for 20 features" in few_rows_warning((10, 500), 20) and "KID" in few_rows_warning((10, 500), 20)
    assert few_rows_warning((21, 500), 20) is None
    assert "8 volumes for 20 features" in few_rows_warning((128, 500), 20, volumes=(8, 500))
    assert few_rows_warning((128, 500), 20, volumes=(21, 50)) is None
    # And is true: two draws of one distribution lie the further apart the fewer they are.
    made = [frechet_distance(rows(n, 0, 20, mix=False), rows(n, 1, 20, mix=False)) for n in (10, 40, 400)]
    assert made[0] > made[1] > made[2]


def test_what_cannot_be_measured_is_refused():
    x = rows(5, 0)
    with refused("features-too-few-rows"):
        frechet_distance(x, x[:1])
    with refused("features-count-differs"):
        frechet_distance(x, x[:, :3])
    with refused("features-not-rows", names="prediction"):
        frechet_distance(x, x[0])
    with refused("features-not-finite", names="reference"):
        frechet_distance(np.full((5, 6), np.nan), x)
    running = RunningStatistics()
    running.add(x)
    with refused("features-count-differs"):
        running.add(x[:, :2])
    with refused("features-too-few-rows"):
        RunningStatistics().statistics()
