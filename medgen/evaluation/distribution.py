"""Likeness of two sets of feature rows: do converted images look like real ones, when no pair says so?

The Fréchet distance is in ``frechet``; here are the kernel distances, the neighbour counts that part quality from
variety, and the Inception Score. All work in blocks: time grows with the square of the rows, memory does not.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medgen.types import InputError

BLOCK = 1024  # rows of a kernel matrix held at once: 8 MiB a matrix, whatever the number of rows
MEDIAN_ROWS = 2000  # rows whose distances give the median; more would not change its second digit

SUBSET_ROWS = 1000  # of a KID subset, as its paper has it

Array = NDArray[Any]
KernelName = Literal["gaussian", "polynomial"]


def kernel_distance(
    reference: Array,
    prediction: Array,
    *,
    kernel: KernelName = "gaussian",
    bandwidths: Sequence[float] = (0.25, 0.5, 1.0),
) -> float:
    """Unbiased squared maximum mean discrepancy of two samples, in the unit of the kernel (none).

        Σ_{i≠j} k(x_i, x_j) / m(m - 1) + Σ_{i≠j} k(y_i, y_j) / n(n - 1) - 2 Σ_{ij} k(x_i, y_j) / mn

    Gretton et al., JMLR 2012;13:723, eq. 3. Its mean is 0 where both samples come from one distribution, so a
    value may be below 0; it is not divided or rooted, which would lose that.

    Args:
        reference: real feature rows (m, d), m ≥ 2, any numbers of about one scale (see ``patch_features``).
        prediction: feature rows (n, d), n ≥ 2, of converted images.
        kernel: "gaussian": Σ_s exp(-|x - y|² / 2(s·M)²), M the median distance of reference rows, so that
            predictions measured against one reference share a kernel; "polynomial": (x·y / d + 1)³ of the kernel
            inception distance (Bińkowski et al., ICLR 2018). The Gaussian ones saturate: rows wholly apart count
            the same however far; the polynomial one lets a few far rows (metal, bone) decide.
        bandwidths: the s of the Gaussian kernels.

    Rows are taken as independent. Several of one patient are not: they are alike, so that two sets of patients
    of one population lie a little above 0 (by about 1 / patients of that likeness) and scatter between draws of
    patients far more than the number of rows suggests. Judge a value beside that of real against real.
    Time grows with (m + n)², memory does not. Raises `InputError` for other shapes, NaN and bandwidths not above 0.
    """
    x, y = np.asarray(reference, np.float64), np.asarray(prediction, np.float64)
    _check(x, y, kernel, bandwidths)
    if kernel == "polynomial":
        k: Callable[[Array, Array], Array] = _polynomial
    else:
        centre = x.mean(0)  # |x - y|² = x² + y² - 2xy cancels fewer digits near the origin
        x, y = x - centre, y - centre
        widths = np.array(bandwidths, np.float64) * _median_distance(x)

        def k(p: Array, q: Array) -> Array:
            squared = _squared_distances(p, q)
            return sum((np.exp(squared / (-2 * w * w)) for w in widths), np.zeros_like(squared))

    return _unbiased(x, y, k)


def kid(
    reference: Array,
    prediction: Array,
    *,
    groups: tuple[Array, Array] | None = None,
    subsets: int = 100,
    seed: int = 0,
) -> tuple[float, float]:
    """Kernel inception distance and its standard error: the mean of `kernel_distance` over random subsets.

    Bińkowski et al., ICLR 2018: kernel (x·y / d + 1)³, subsets of up to 1000 rows drawn without repeat, here no more
    than half of the smaller side. The error is the delete-d jackknife's (Shao & Wu, Ann. Stat. 1989;17:1176): the
    deviation between subsets times √(s / (n - s)) for s of n kept; thus of the draw of the data, and not only of
    the subsets, whose mean could be had as exactly as one likes.

    Args:
        reference, prediction: rows (m, d) and (n, d), at least 4 on each side.
        groups: volume or patient of each row, (m,) and (n,) of any values. Rows of one patient are alike; with
            groups half the patients of each side are drawn whole, so that the error is that of the draw of
            patients. At least 4 groups on each side, else rows are drawn.
        subsets: how many; time grows with subsets · s².
        seed: of the draws.

    Returns:
        (value, standard error); the value's mean is 0 for one distribution, so that it may be below 0.
    """
    x, y = np.asarray(reference, np.float64), np.asarray(prediction, np.float64)
    _check(x, y, "polynomial", (1.0,))
    if min(len(x), len(y)) < 4:
        raise InputError(f"KID needs 4 rows on each side, not {len(x)} and {len(y)}")
    if subsets < 2:
        raise InputError(f"subsets {subsets} must be at least 2")
    by_group = groups is not None and all(len(np.unique(g)) >= 4 for g in groups)
    units = groups if groups is not None and by_group else (np.arange(len(x)), np.arange(len(y)))
    inverse = [np.unique(unit, return_inverse=True)[1] for unit in units]
    counts = [int(i.max()) + 1 for i in inverse]
    keep = min(counts) // 2 if by_group else min(SUBSET_ROWS, min(counts) // 2)

    rng = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        kept = [np.isin(np.arange(count), rng.choice(count, keep, replace=False)) for count in counts]
        values.append(_unbiased(x[kept[0][inverse[0]]], y[kept[1][inverse[1]]], _polynomial))
    factor = np.sqrt(keep / (min(counts) - keep))
    return float(np.mean(values)), float(np.std(values, ddof=1) * factor)


def precision_recall(reference: Array, prediction: Array, *, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall: share of predictions on the real manifold, and of reals on the predicted one.

    Kynkäänniemi et al., NeurIPS 2019, eq. 1 and 2: a set's manifold is the union of balls about its rows, each as far
    as the row's k-th neighbour in the set. Precision: is every image like a real one; recall: is every kind of real
    image made. Both in [0, 1]. One far real row has a wide ball, which many predictions fall into: see
    `density_coverage`. Raises `InputError` as `kernel_distance` does, or for k not below the rows of a side.
    """
    x, y = _neighbour_rows(reference, prediction, k)
    return float((_balls_around(y, x, k) > 0).mean()), float((_balls_around(x, y, k) > 0).mean())


def density_coverage(reference: Array, prediction: Array, *, k: int = 5) -> tuple[float, float]:
    """Density: real balls around a prediction / k, on average; coverage: share of real balls with one in them.

    Naeem et al., ICML 2020, eq. 4 and 5; balls as in `precision_recall`, of real rows alone, so that a far prediction
    makes none. Density ≥ 0 and about 1 for one distribution; coverage in [0, 1], about 1 - 2⁻ᵏ there when both sides
    have as many rows. Raises as `precision_recall`.
    """
    x, y = _neighbour_rows(reference, prediction, k)
    radii = _neighbour_distance(x, k)
    nearest = _nearest_distance(x, y)
    return float(_balls_around(y, x, k).mean() / k), float((nearest <= radii).mean())


def inception_score(probabilities: Array, *, splits: int = 10) -> tuple[float, float]:
    """exp(mean KL(p(class | image) ‖ p(class))), mean and standard deviation over consecutive splits.

    Salimans et al., NeurIPS 2016. From 1 to the number of classes, higher is better; it never looks at a real
    image, and its classes are those of photographs: of medical images it says little.

    Args:
        probabilities: (n, classes), each row a softmax.
        splits: parts of the n images, no more than n.
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or not len(p) or not np.isfinite(p).all() or p.min() < 0 or np.abs(p.sum(1) - 1).max() > 1e-3:
        raise InputError(f"probabilities {p.shape} must be rows of numbers that add up to 1")
    if not 1 <= splits <= len(p):
        raise InputError(f"splits {splits} must lie between 1 and the number of images, {len(p)}")
    scores = []
    for part in np.array_split(p, splits):
        ratio = np.log(np.maximum(part, 1e-300)) - np.log(np.maximum(part.mean(0), 1e-300))
        scores.append(np.exp((part * ratio).sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def _unbiased(x: Array, y: Array, k: Callable[[Array, Array], Array]) -> float:
    within = _mean_between_others(x, k) + _mean_between_others(y, k)
    return within - 2 * _sum(x, y, k) / (len(x) * len(y))


def _polynomial(p: Array, q: Array) -> Array:
    return (p @ q.T / p.shape[1] + 1) ** 3


def _squared_distances(p: Array, q: Array) -> Array:
    squared = (p * p).sum(1)[:, None] + (q * q).sum(1) - 2 * (p @ q.T)
    return np.maximum(squared, 0, out=squared)


def _median_distance(x: Array) -> float:
    """Median distance of different rows, of an even choice of them; 1 where all are the same."""
    chosen = x[:: -(-len(x) // MEDIAN_ROWS)]
    squared = _squared_distances(chosen, chosen)[np.triu_indices(len(chosen), 1)]
    squared = squared[squared > 0]
    return float(np.sqrt(np.median(squared))) if squared.size else 1.0


def _neighbour_rows(reference: Array, prediction: Array, k: int) -> tuple[Array, Array]:
    x, y = np.asarray(reference, np.float64), np.asarray(prediction, np.float64)
    _check(x, y, "polynomial", (1.0,))
    if not 1 <= k < min(len(x), len(y)):
        raise InputError(f"k {k} must be at least 1 and below the rows of each side, {len(x)} and {len(y)}")
    centre = x.mean(0)
    return x - centre, y - centre


def _neighbour_distance(x: Array, k: int) -> Array:
    """Squared distance (n,) of each row to its k-th neighbour in the set, itself not counted."""
    radii = []
    for start in range(0, len(x), BLOCK):
        rows = x[start : start + BLOCK]
        near = np.full((len(rows), k), np.inf)
        for first in range(0, len(x), BLOCK):
            squared = _squared_distances(rows, x[first : first + BLOCK])
            if first == start:
                np.fill_diagonal(squared, np.inf)
            near = np.partition(np.hstack([near, squared]), k - 1, axis=1)[:, :k]
        radii.append(near[:, k - 1])
    return np.concatenate(radii)


def _nearest_distance(x: Array, y: Array) -> Array:
    """Squared distance (n,) of each row of x to the nearest of y."""
    near = [np.min([_squared_distances(rows, part).min(1) for part in _blocks(y)], axis=0) for rows in _blocks(x)]
    return np.concatenate(near)


def _balls_around(y: Array, x: Array, k: int) -> Array:
    """For each row of y (n,), how many balls of x it lies in."""
    radii = _neighbour_distance(x, k)
    counts = [
        sum((_squared_distances(rows, part) <= r).sum(1) for part, r in zip(_blocks(x), _blocks(radii), strict=True))
        for rows in _blocks(y)
    ]
    return np.concatenate(counts)


def _mean_between_others(x: Array, k: Callable[[Array, Array], Array]) -> float:
    """Mean of k(x_i, x_j) over i ≠ j."""
    own = sum(float(np.trace(k(rows, rows))) for rows in _blocks(x))
    return (_sum(x, x, k) - own) / (len(x) * (len(x) - 1))


def _sum(x: Array, y: Array, k: Callable[[Array, Array], Array]) -> float:
    return sum(float(k(rows, columns).sum()) for rows in _blocks(x) for columns in _blocks(y))


def _blocks(x: Array) -> Iterator[Array]:
    return (x[start : start + BLOCK] for start in range(0, len(x), BLOCK))


def _check(x: Array, y: Array, kernel: str, bandwidths: Sequence[float]) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1:] != y.shape[1:] or min(*x.shape, *y.shape) < 1:
        raise InputError(f"features must be rows (n, d) of one length d, not arrays {x.shape} and {y.shape}")
    if min(len(x), len(y)) < 2:
        raise InputError(f"a kernel distance needs 2 rows on each side, not {len(x)} and {len(y)}")
    for name, rows in (("reference", x), ("prediction", y)):
        if not np.isfinite(rows).all():
            raise InputError(f"the {name} features hold numbers that are NaN or infinite")
    if kernel not in ("gaussian", "polynomial"):
        raise InputError(f"kernel {kernel!r} is unknown; choose gaussian or polynomial")
    if not len(bandwidths) or not all(np.isfinite(s) and s > 0 for s in bandwidths):
        raise InputError(f"bandwidths {tuple(bandwidths)} must be numbers above 0")
