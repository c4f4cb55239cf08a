"""Kernel distance: equal to a plain double loop, zero on average for one distribution, above zero for two."""

import numpy as np
import pytest

from medgen.evaluation import distribution
from medgen.evaluation.distribution import density_coverage, inception_score, kernel_distance, kid, precision_recall
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


def test_kid_agrees_with_the_distance_of_all_rows_and_knows_its_error():
    # 60 draws of one pair of distributions: their scatter is what a single draw's standard error says.
    made = np.array([kid(rows(60, 2 * s), rows(80, 2 * s + 1, 0.5), subsets=30) for s in range(60)])
    whole = kernel_distance(rows(2500, 0), rows(2500, 1, 0.5), kernel="polynomial")
    assert made[:, 0].mean() == pytest.approx(whole, abs=4 * made[:, 0].std() / np.sqrt(60))
    assert 0.7 < made[:, 1].mean() / made[:, 0].std() < 1.6


def test_kid_of_patients_is_less_sure_than_kid_of_rows():
    def draw(seed):
        rng = np.random.default_rng(seed)
        return np.repeat(rng.normal(size=(12, 3)), 5, axis=0) + 0.1 * rng.normal(size=(60, 3))

    patients = np.repeat(np.arange(12), 5)
    made = np.array([kid(draw(2 * s), draw(2 * s + 1), groups=(patients, patients), subsets=30) for s in range(40)])
    rowwise = np.array([kid(draw(2 * s), draw(2 * s + 1), subsets=30)[1] for s in range(40)])
    assert 0.6 < made[:, 1].mean() / made[:, 0].std() < 1.8
    assert rowwise.mean() < 0.6 * made[:, 1].mean()
    few = np.repeat([0, 1, 2], 20)  # too few patients to halve: rows are drawn
    assert kid(draw(0), draw(1), groups=(few, few)) == kid(draw(0), draw(1))


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
    monkeypatch.setattr(distribution, "BLOCK", block)
    x, y = rows(21, 0, shift=100), rows(13, 1, shift=100.8)
    made = (*precision_recall(x, y, k=k), *density_coverage(x, y, k=k))
    assert made == pytest.approx(neighbours(x, y, k))


def test_precision_sees_bad_images_and_recall_lost_kinds():
    x = np.vstack([rows(100, 0), rows(100, 1, shift=20)])
    one_kind = rows(200, 2)
    precision, recall = precision_recall(x, one_kind)
    assert precision > 0.9 and recall < 0.6
    bad = np.vstack([x + 0.01, rows(200, 3, shift=-50)])
    precision, recall = precision_recall(x, bad)
    assert precision < 0.6 and recall > 0.9
    density, coverage = density_coverage(x, one_kind)
    assert 0.8 < density < 1.3 and coverage < 0.6


def test_density_and_coverage_of_one_distribution():
    density, coverage = density_coverage(rows(1500, 0), rows(1500, 1))
    assert density == pytest.approx(1, abs=0.08)
    assert coverage == pytest.approx(1 - 2**-5, abs=0.03)


def test_inception_score_has_closed_forms():
    assert inception_score(np.eye(10).repeat(10, 0)[np.random.default_rng(0).permutation(100)], splits=1) == (
        pytest.approx(10),
        0,
    )
    assert inception_score(np.full((50, 7), 1 / 7)) == (pytest.approx(1), pytest.approx(0))
    p = np.array([[0.9, 0.1], [0.2, 0.8]])
    expected = np.exp(np.mean([(q * np.log(q / p.mean(0))).sum() for q in p]))
    assert inception_score(p, splits=1)[0] == pytest.approx(expected)
    for bad in (p * 2, p[0], -p):
        with pytest.raises(InputError, match="add up to 1"):
            inception_score(bad, splits=1)
    with pytest.raises(InputError, match="splits"):
        inception_score(p, splits=3)


def test_too_few_rows_for_neighbours_or_subsets_are_refused():
    with pytest.raises(InputError, match="k 3"):
        precision_recall(rows(10, 0), rows(3, 1))
    with pytest.raises(InputError, match="4 rows"):
        kid(rows(10, 0), rows(3, 1))
    with pytest.raises(InputError, match="subsets"):
        kid(rows(10, 0), rows(30, 1), subsets=1)
