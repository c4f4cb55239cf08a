"""Kernel distance: equal to a plain double loop, zero on average for one distribution, above zero for two."""

import numpy as np
import pytest
from refusal import refused

from medgen.evaluation.distribution import grouped
from medgen.evaluation.distribution.kernel import inception_score, kernel_distance, kid

KERNELS = ["gaussian", "polynomial"]
BANDWIDTHS = (0.5, 2.0)


def rows(n, seed, shift=0.0, d=3):
    return np.random.default_rng(seed).normal(shift, 1, (n, d))


def reference(x, y, kernel, a=None, b=None):
    """Gretton 2012, eq. 3, pair by pair; with groups only pairs of different ones."""
    a = range(len(x)) if a is None else a
    b = range(len(y)) if b is None else b
    median = np.median([np.linalg.norm(x[i] - x[j]) for i in range(len(x)) for j in range(i)])

    def k(p, q):
        if kernel == "polynomial":
            return (sum(a * b for a, b in zip(p, q, strict=True)) / len(p) + 1) ** 3
        return sum(np.exp(-(np.linalg.norm(p - q) ** 2) / (2 * (s * median) ** 2)) for s in BANDWIDTHS)

    m, n = len(x), len(y)
    xx = np.mean([k(x[i], x[j]) for i in range(m) for j in range(m) if a[i] != a[j]])
    yy = np.mean([k(y[i], y[j]) for i in range(n) for j in range(n) if b[i] != b[j]])
    return xx + yy - 2 * sum(k(p, q) for p in x for q in y) / (m * n)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("block", [4, 1024])
def test_it_equals_a_double_loop(kernel, block, monkeypatch):
    monkeypatch.setattr(grouped, "BLOCK", block)  # several blocks, the last one smaller
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


def test_the_gaussian_kernel_is_invariant_to_offset_and_scale():
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
    with refused("features-too-few-rows"):
        kernel_distance(x, x[:1], kernel=kernel)
    for bad in (x[:, :2], x[0], x[:0]):
        with refused("features-not-rows"):
            kernel_distance(x, bad, kernel=kernel)
    broken = x.copy()
    broken[1, 1] = np.nan
    with refused("features-not-finite", names="prediction"):
        kernel_distance(x, broken, kernel=kernel)
    with refused("features-not-finite", names="reference"):
        kernel_distance(broken, x, kernel=kernel)


def test_unknown_kernels_and_bandwidths_are_refused():
    with refused("metric-kernel-unknown", names="laplacian"):
        kernel_distance(rows(3, 0), rows(3, 1), kernel="laplacian")
    for bad in ((), (0.0,), (1.0, float("nan"))):
        with refused("metric-bandwidth-range"):
            kernel_distance(rows(3, 0), rows(3, 1), bandwidths=bad)


def patients(seed, sizes, d=3, within=0.3, shift=0.0):
    """Rows of patients that are alike, and whose they are."""
    rng = np.random.default_rng(seed)
    whose = np.repeat(np.arange(len(sizes)), sizes)
    return shift + rng.normal(size=(len(sizes), d))[whose] + within * rng.normal(size=(len(whose), d)), whose


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("block", [4, 1024])
def test_pairs_within_a_volume_do_not_count(kernel, block, monkeypatch):
    monkeypatch.setattr(grouped, "BLOCK", block)
    (x, a), (y, b) = patients(0, [3, 1, 4, 2]), patients(1, [2, 5, 3])
    shuffled = np.random.default_rng(2).permutation(len(x))
    made = kernel_distance(
        x[shuffled], y, groups=(np.array(list("wxyz"))[a][shuffled], b), kernel=kernel, bandwidths=BANDWIDTHS
    )
    assert made == pytest.approx(reference(x, y, kernel, a, b), rel=1e-9)
    # Rows that are the same in each volume tell no more than one of them does.
    one, two = np.repeat(rows(6, 0), 4, axis=0), np.repeat(rows(5, 1), 4, axis=0)
    apart = np.repeat(np.arange(6), 4), np.repeat(np.arange(5), 4)
    assert kid(one, two, groups=apart) == pytest.approx(kid(rows(6, 0), rows(5, 1)), rel=1e-9)
    with refused("features-too-few-volumes"):
        kernel_distance(x, y, groups=(np.zeros(10), b), kernel=kernel)


@pytest.mark.parametrize("measure", [kid, kernel_distance])
def test_two_sets_of_patients_of_one_population_lie_at_zero(measure):
    def value(seed, known):
        (x, a), (y, b) = patients(2 * seed, [16] * 8, d=10), patients(2 * seed + 1, [16] * 8, d=10)
        made = measure(x, y, groups=(a, b) if known else None)
        return made[0] if measure is kid else made

    known, unknown = (np.array([value(seed, k) for seed in range(200)]) for k in (True, False))
    error = known.std() / np.sqrt(len(known))
    assert abs(known.mean()) < 3 * error
    assert unknown.mean() > 10 * error  # with the pairs of one patient they lie far above


def test_kid_is_the_distance_of_all_rows():
    x, y = rows(60, 0), rows(80, 1, 0.5)
    assert kid(x, y)[0] == pytest.approx(reference(x, y, "polynomial"), rel=1e-9)


@pytest.mark.parametrize(
    "m, n, shift, each",
    [(60, 60, 0.0, 1), (60, 60, 0.5, 1), (600, 60, 0.0, 1), (600, 60, 0.5, 1), (12, 12, 0.0, 5), (12, 30, 0.5, 5)],
)
def test_kids_standard_error_is_the_scatter_of_its_draws(m, n, shift, each, monkeypatch):
    """Also of equal distributions, where pairs of rows make up all of the variance, and of sides of unlike sizes."""
    monkeypatch.setattr(grouped, "BLOCK", 256)  # three blocks of the larger side
    draws = 300 if m < 100 else 60
    made = []
    for seed in range(draws):
        (x, a), (y, b) = patients(2 * seed, [each] * m), patients(2 * seed + 1, [each] * n, shift=shift)
        made.append(kid(x, y, groups=(a, b)))
    values, errors = np.array(made).T
    # Mean variance against the variance of the draws, whose own error is about √(2 / draws), 8 % or 18 %.
    assert 0.75 < np.sqrt((errors**2).mean()) / values.std(ddof=1) < 1.3


def test_kid_grouped_by_patient_has_a_larger_standard_error():
    (x, a), (y, b) = patients(0, [5] * 12), patients(1, [5] * 12, shift=0.5)
    assert kid(x, y, groups=(a, b))[1] > 1.5 * kid(x, y)[1]
    value, error = kid(x, y, groups=(a // 4, b // 4))  # three patients tell nothing of others
    assert np.isfinite(value) and np.isnan(error)


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
        with refused("metric-probabilities-invalid"):
            inception_score(bad, splits=1)
    with refused("metric-splits-range"):
        inception_score(p, splits=3)


def test_the_splits_of_an_inception_score_are_not_volumes():
    # 20 volumes of one kind each: dealt in their order, a split holds two kinds, and the score falls to a fifth.
    kinds = np.random.default_rng(0).dirichlet(np.full(50, 0.05), 20)
    rows_of_volumes = np.repeat(kinds, 48, axis=0)
    whole = inception_score(rows_of_volumes, splits=1)[0]
    assert inception_score(rows_of_volumes)[0] == pytest.approx(whole, rel=0.05)


def test_too_few_rows_for_kid_are_refused():
    with refused("features-too-few-rows"):
        kid(rows(10, 0), rows(3, 1))
    with refused("features-groups-mismatch"):
        kid(rows(10, 0), rows(10, 1), groups=(np.arange(9), np.arange(10)))
