"""Kernel distance: equal to a plain double loop, zero on average for one distribution, above zero for two."""

import numpy as np
import pytest

from medgen.evaluation import distribution
from medgen.evaluation.distribution import kernel_distance
from medgen.types import InputError

KERNELS = ["gaussian", "polynomial"]
BANDWIDTHS = (0.5, 2.0)


def rows(n, seed, shift=0.0, d=3):
    return np.random.default_rng(seed).normal(shift, 1, (n, d))


def reference(x, y, kernel):
    """Gretton 2012, eq. 3, pair by pair."""
    median = np.median([np.linalg.norm(x[i] - x[j]) for i in range(len(x)) for j in range(i)])

    def k(p, q):
        if kernel == "polynomial":
            return (sum(a * b for a, b in zip(p, q, strict=True)) / len(p) + 1) ** 3
        return sum(np.exp(-(np.linalg.norm(p - q) ** 2) / (2 * (s * median) ** 2)) for s in BANDWIDTHS)

    m, n = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return xx + yy - 2 * sum(k(p, q) for p in x for q in y) / (m * n)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("block", [4, 1024])
def test_it_equals_a_double_loop(kernel, block, monkeypatch):
    monkeypatch.setattr(distribution, "BLOCK", block)  # several blocks, the last one smaller
    x, y = rows(11, 0, shift=5), rows(17, 1, shift=5.3)
    made = kernel_distance(x, y, kernel=kernel, bandwidths=BANDWIDTHS)
    assert made == pytest.approx(reference(x, y, kernel), rel=1e-9)


def test_the_polynomial_kernel_has_a_closed_form_in_one_dimension():
    # (xy + 1)³ = Σ C(3, k) (xy)^k, so the distance of the populations is Σ C(3, k) (E[x^k] - E[y^k])²
    x, y = rows(2500, 0, d=1), rows(2500, 1, shift=0.5, d=1)
    population = 3 * 0.5**2 + 3 * 0.25**2 + (0.5**3 + 3 * 0.5) ** 2  # E: 0, 1, 0 and m, 1 + m², m³ + 3m
    assert kernel_distance(x, y, kernel="polynomial") == pytest.approx(population, rel=0.2)


def test_the_gaussian_kernel_has_a_closed_form_for_normal_samples():
    # E k(x, y) of N(0, 1) and N(m, 1) under a Gaussian of width w is w / √(w² + 2) · exp(-m² / 2(w² + 2))
    x, y = rows(2500, 0, d=1), rows(2500, 1, shift=1, d=1)
    w2 = (0.5 * 0.67449 * np.sqrt(2)) ** 2  # the median of |x - x'| is 0.67449 √2
    expected = 2 * np.sqrt(w2 / (w2 + 2)) * (1 - np.exp(-1 / (2 * (w2 + 2))))
    assert kernel_distance(x, y, bandwidths=[0.5]) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_distribution_gives_zero_on_average_and_two_do_not(kernel):
    def values(shift):
        return np.array(
            [kernel_distance(rows(25, 2 * s), rows(20, 2 * s + 1, shift), kernel=kernel) for s in range(300)]
        )

    same, other = values(0), values(0.7)
    error = same.std() / np.sqrt(len(same))
    assert abs(same.mean()) < 3 * error  # the biased estimate lies 10 errors above
    assert (same < 0).mean() > 0.3
    assert other.mean() > 20 * error


@pytest.mark.parametrize("kernel", KERNELS)
def test_it_grows_with_the_shift(kernel):
    x = rows(200, 0)
    made = [kernel_distance(x, rows(200, 1, shift), kernel=kernel) for shift in (0, 0.3, 0.6, 1.2)]
    assert made == sorted(made) and made[1] > 2 * abs(made[0])


def test_the_gaussian_kernel_knows_no_origin_or_unit():
    x, y = rows(40, 0), rows(30, 1, 0.5)
    expected = kernel_distance(x, y)
    assert kernel_distance(x * 250 - 1000, y * 250 - 1000) == pytest.approx(expected, rel=1e-9)
    assert kernel_distance(x.astype(np.float32), y) == pytest.approx(expected, rel=1e-4)


def test_identical_rows():
    same = np.ones((5, 2))
    assert kernel_distance(same, same) == pytest.approx(0, abs=1e-12)
    assert kernel_distance(same, same + 100) == pytest.approx(6)  # three kernels, each 1 + 1 - 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_cannot_be_measured_is_refused(kernel):
    x = rows(5, 0)
    with pytest.raises(InputError, match="2 rows"):
        kernel_distance(x, x[:1], kernel=kernel)
    for bad in (x[:, :2], x[0], x[:0]):
        with pytest.raises(InputError, match="features must be rows"):
            kernel_distance(x, bad, kernel=kernel)
    broken = x.copy()
    broken[1, 1] = np.nan
    with pytest.raises(InputError, match="prediction features hold"):
        kernel_distance(x, broken, kernel=kernel)
    with pytest.raises(InputError, match="reference features hold"):
        kernel_distance(broken, x, kernel=kernel)


def test_unknown_kernels_and_bandwidths_are_refused():
    with pytest.raises(InputError, match="laplacian"):
        kernel_distance(rows(3, 0), rows(3, 1), kernel="laplacian")
    for bad in ((), (0.0,), (1.0, float("nan"))):
        with pytest.raises(InputError, match="bandwidths"):
            kernel_distance(rows(3, 0), rows(3, 1), bandwidths=bad)
