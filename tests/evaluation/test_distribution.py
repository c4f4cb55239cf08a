import numpy as np
import pytest

from medgen.evaluation.distribution import BANDWIDTHS, kernel_distance, place_features


def written_out(a, b):
    """Gretton's eq. 3, pair by pair."""
    a, b = a / b.std(0), b / b.std(0)
    apart = [np.sum((b[i] - b[j]) ** 2) for i in range(len(b)) for j in range(i)]
    median = np.median(apart)

    def k(x, y):
        return np.mean([np.exp(-np.sum((x - y) ** 2) / (2 * h**2 * median)) for h in BANDWIDTHS])

    def within(s):
        return np.mean([k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j])

    return within(a) + within(b) - 2 * np.mean([k(x, y) for x in a for y in b])


def test_equals_the_double_sum():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(12, 3)), rng.normal(1, 2, size=(17, 3))
    assert kernel_distance(a, b) == pytest.approx(written_out(a, b), rel=1e-9)


def test_is_zero_in_the_mean_under_one_distribution():
    rng = np.random.default_rng(1)
    values = [kernel_distance(rng.normal(size=(40, 2)), rng.normal(size=(40, 2))) for _ in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    assert min(values) < 0 < max(values)


def test_grows_with_the_shift_and_ignores_units():
    rng = np.random.default_rng(2)
    b = rng.normal(size=(100, 2))
    distances = [kernel_distance(rng.normal(shift, 1, size=(100, 2)), b) for shift in (0, 0.5, 1, 2)]
    assert distances == sorted(distances)
    a = rng.normal(1, 1, size=(50, 2))
    assert kernel_distance(a * [1, 1000], b * [1, 1000]) == pytest.approx(kernel_distance(a, b))


def test_constant_feature_stays_finite():
    a = np.zeros((5, 2))
    assert np.isfinite(kernel_distance(a, a.copy()))


def test_features_of_a_ramp():
    x = np.broadcast_to(np.arange(40.0)[:, None, None], (40, 30, 20)).copy()
    mask = np.zeros(x.shape, bool)
    mask[12:28, 10:20, 8:12] = True
    found = place_features(x, mask, (1.5, 1.5, 1.5), count=50)
    assert found.shape == (50, 9)
    place = 12 + found[:, 6] * 15
    np.testing.assert_allclose(found[:, 0], place, atol=1e-3)
    # the standard deviation of a unit ramp under a Gaussian window is its σ in voxels
    np.testing.assert_allclose(found[:, 3:5], np.broadcast_to([1, 2], (50, 2)), rtol=0.02)
    assert (found[:, 6:] >= 0).all() and (found[:, 6:] <= 1).all()
    np.testing.assert_array_equal(found, place_features(x, mask, (1.5, 1.5, 1.5), count=50))
