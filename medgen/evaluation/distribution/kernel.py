"""Kernel distances between two sets of feature rows, and the Inception Score; no paired images are needed.

The Fréchet distance is in ``frechet``, the neighbour-based scores are in ``precision_recall``. All functions work in
blocks: time grows with the square of the number of rows, memory does not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medgen.errors import InputError
from medgen.evaluation.distribution.grouped import GroupedRows, grouped, join_columns, join_rows
from medgen.evaluation.distribution.precision_recall import squared_distances

MEDIAN_ROWS = 2000  # rows used for the median distance; more would not change its second digit

Array = NDArray[Any]
Kernel = Callable[[Array, Array], Array]
KernelName = Literal["gaussian", "polynomial"]


def kernel_distance(
    reference: Array,
    prediction: Array,
    *,
    groups: tuple[Array, Array] | None = None,
    kernel: KernelName = "gaussian",
    bandwidths: Sequence[float] = (0.25, 0.5, 1.0),
) -> float:
    """Unbiased squared maximum mean discrepancy (MMD) of two samples, without unit.

        Σ_{i≠j} k(x_i, x_j) / m(m - 1) + Σ_{i≠j} k(y_i, y_j) / n(n - 1) - 2 Σ_{ij} k(x_i, y_j) / mn

    Gretton et al., JMLR 2012;13:723, eq. 3. Its expectation is 0 if both samples come from one distribution, so a
    value can be below 0. No square root is taken, because it would remove this property.

    Args:
        reference: real feature rows (m, d), m ≥ 2, with features of similar scale (see ``patch_features``).
        prediction: feature rows (n, d), n ≥ 2, of converted images.
        groups: volume or patient of each row, (m,) and (n,) of any values; None: each row is its own group. Rows of
            one patient are similar, so pairs within a group are excluded (i ≠ j becomes "of different groups", and
            the divisors are the numbers of such pairs). Otherwise two patient samples of one population would have an
            expectation above 0.
        kernel: "gaussian": Σ_s exp(-|x - y|² / 2(s·M)²), where M is the median distance of reference rows, so that
            predictions compared with one reference share a kernel; "polynomial": (x·y / d + 1)³ of the kernel
            inception distance (Bińkowski et al., ICLR 2018). Gaussian kernels saturate: all distant rows count the
            same. With the polynomial kernel a few outlying rows (metal, bone) can dominate.
        bandwidths: the s of the Gaussian kernels.

    Time grows with (m + n)², memory does not. Raises `InputError` for shapes that do not match, NaN, bandwidths not
    above 0, and a side with only one group.
    """
    x, y = _sides(reference, prediction, groups, kernel, bandwidths)
    if kernel == "polynomial":
        k: Kernel = _polynomial
    else:
        centre = x.rows.mean(0)  # |x - y|² = x² + y² - 2xy loses fewer digits near the origin
        x, y = (GroupedRows(side.rows - centre, side.sizes) for side in (x, y))
        widths = np.array(bandwidths, np.float64) * _median_distance(x.rows)

        def k(p: Array, q: Array) -> Array:
            squared = squared_distances(p, q)
            return sum((np.exp(squared / (-2 * w * w)) for w in widths), np.zeros_like(squared))

    return float(_estimate(x, y, *(_group_sums(p, q, k).first.sum() for p, q in ((x, x), (y, y), (x, y)))))


def kid(reference: Array, prediction: Array, *, groups: tuple[Array, Array] | None = None) -> tuple[float, float]:
    """Return the kernel inception distance (KID) of all rows, and its standard error.

    `kernel_distance` with the kernel (x·y / d + 1)³ of Bińkowski et al., ICLR 2018. The paper averages it over random
    subsets of 1000 rows to save time; the expectation of that mean is the value over all rows, which is computed here.

    The standard error of sampling the groups is computed in closed form, by a jackknife that leaves out one group of
    one side at a time. The variance of a two-sample U-statistic is V1 + V2 (V1 linear in the groups, V2 of their pairs,
    the doubly centred kernel). The jackknife estimates V1 + 2 V2 (Efron & Stein, Ann. Stat. 1981;9:586), so V2 is
    subtracted once. For two samples of one distribution only V2 is left.

    Args:
        reference, prediction: rows (m, d) and (n, d), at least 4 on each side.
        groups: volume or patient of each row, (m,) and (n,) of any values; None: each row is its own group.

    Returns:
        (value, standard error). The expectation of the value is 0 for equal distributions, so it can be below 0. The
        error is NaN for fewer than 4 groups on a side, which are too few for an estimate.

    Time grows with (m + n)², memory does not. Raises the same errors as `kernel_distance`.
    """
    x, y = _sides(reference, prediction, groups, "polynomial", (1.0,))
    if min(len(x.rows), len(y.rows)) < 4:
        raise InputError(
            "features-too-few-rows",
            f"KID needs at least 4 rows on each side, not {len(x.rows)} and {len(y.rows)}; add images",
        )
    sums = _group_sums(x, x, _polynomial), _group_sums(y, y, _polynomial), _group_sums(x, y, _polynomial)
    value = float(_estimate(x, y, *(s.first.sum() for s in sums)))
    if min(len(x.sizes), len(y.sizes)) < 4:
        return value, float("nan")
    return value, float(np.sqrt(_variance(x, y, *sums)))


def inception_score(probabilities: Array, *, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Return the Inception Score exp(mean KL(p(class | image) ‖ p(class))): mean and standard deviation over splits.

    Salimans et al., NeurIPS 2016. From 1 to the number of classes; higher is better. It does not use real images and
    its classes are those of photographs, so it has little meaning for medical images.

    Args:
        probabilities: (n, classes), each row a softmax.
        splits: number of random splits of the n images, at most n.
        seed: of the random order. In the original order a split could hold the images of one volume only, and the
            score would underestimate the diversity of the generator.
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or not len(p) or not np.isfinite(p).all() or p.min() < 0 or np.abs(p.sum(1) - 1).max() > 1e-3:
        raise InputError(
            "metric-probabilities-invalid", f"probabilities {p.shape} must be rows of numbers that add up to 1"
        )
    if not 1 <= splits <= len(p):
        raise InputError(
            "metric-splits-range", f"splits {splits} must lie between 1 and the number of images, {len(p)}"
        )
    scores = []
    for part in np.array_split(np.random.default_rng(seed).permutation(p), splits):
        ratio = np.log(np.maximum(part, 1e-300)) - np.log(np.maximum(part.mean(0), 1e-300))
        scores.append(np.exp((part * ratio).sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums of a kernel over pairs of groups, per group of the first side and per group of the second side.

    ``mean_first``, ``mean_second``, ``squares``: sums and sum of squares of the *mean* kernel of each pair of groups.
    """

    first: Array
    second: Array
    mean_first: Array
    mean_second: Array
    squares: float


def _group_sums(p: GroupedRows, q: GroupedRows, k: Kernel) -> _Sums:
    """Sum the kernel over pairs of groups.

    If a side is compared with itself (``p is q``), pairs within a group are excluded, because rows of one volume are
    similar.
    """
    first, mean_first = np.zeros((2, len(p.sizes)))
    second, mean_second = np.zeros((2, len(q.sizes)))
    squares = 0.0
    for a in p.blocks():
        for b in q.blocks():
            sums = join_rows(join_columns(k(a.rows, b.rows), b, np.add), a, np.add)
            if p is q and a.groups == b.groups:
                np.fill_diagonal(sums, 0)
            first[a.groups] += sums.sum(1)
            second[b.groups] += sums.sum(0)
            means = sums / np.outer(p.sizes[a.groups], q.sizes[b.groups])
            mean_first[a.groups] += means.sum(1)
            mean_second[b.groups] += means.sum(0)
            squares += float(np.vdot(means, means))
    return _Sums(first, second, mean_first, mean_second, squares)


def _estimate(
    x: GroupedRows, y: GroupedRows, xx: Any, yy: Any, xy: Any, left_out_x: Any = 0, left_out_y: Any = 0
) -> Any:
    """Return the distance from kernel sums; ``left_out_x``, ``left_out_y``: number of rows left out of a side."""
    m, n = len(x.rows) - left_out_x, len(y.rows) - left_out_y
    pairs = [
        size**2 - (side.sizes**2).sum() + left_out**2
        for side, size, left_out in ((x, m, left_out_x), (y, n, left_out_y))
    ]
    return xx / pairs[0] + yy / pairs[1] - 2 * xy / (m * n)


def _variance(x: GroupedRows, y: GroupedRows, xx: _Sums, yy: _Sums, xy: _Sums) -> float:
    """Return the variance of the distance, see `kid`; requires at least 4 groups on each side."""
    total = [s.first.sum() for s in (xx, yy, xy)]
    without_x = _estimate(x, y, total[0] - 2 * xx.first, total[1], total[2] - xy.first, left_out_x=x.sizes)
    without_y = _estimate(x, y, total[0], total[1] - 2 * yy.first, total[2] - xy.second, left_out_y=y.sizes)
    jackknife = sum((len(v) - 1) / len(v) * ((v - v.mean()) ** 2).sum() for v in (without_x, without_y))
    g, h = len(x.sizes), len(y.sizes)
    between = (
        xy.squares - (xy.mean_first**2).sum() / h - (xy.mean_second**2).sum() / g + xy.mean_first.sum() ** 2 / (g * h)
    ) / ((g - 1) * (h - 1))
    of_pairs = 2 * _within(xx, g) / (g * (g - 1)) + 2 * _within(yy, h) / (h * (h - 1)) + 4 * between / (g * h)
    return float(max(jackknife - of_pairs, of_pairs, 0.0))


def _within(s: _Sums, g: int) -> float:
    """Return the mean square of the U-centred kernel between different groups (Székely & Rizzo 2014, eq. 2.3)."""
    rows = s.mean_first
    return (s.squares - 2 / (g - 2) * (rows**2).sum() + rows.sum() ** 2 / ((g - 1) * (g - 2))) / (g * (g - 3))


def _polynomial(p: Array, q: Array) -> Array:
    return (p @ q.T / p.shape[1] + 1) ** 3


def _median_distance(x: Array) -> float:
    """Return the median distance of distinct rows, from an evenly spaced subset; 1 if all rows are equal."""
    sampled = x[:: -(-len(x) // MEDIAN_ROWS)]
    squared = squared_distances(sampled, sampled)[np.triu_indices(len(sampled), 1)]
    squared = squared[squared > 0]
    return float(np.sqrt(np.median(squared))) if squared.size else 1.0


def _sides(
    reference: Array,
    prediction: Array,
    groups: tuple[Array, Array] | None,
    kernel: str,
    bandwidths: Sequence[float],
) -> tuple[GroupedRows, GroupedRows]:
    x, y = np.asarray(reference, np.float64), np.asarray(prediction, np.float64)
    _check(x, y, kernel, bandwidths)
    a, b = (grouped(rows, row_groups) for rows, row_groups in zip((x, y), groups or (None, None), strict=True))
    if min(len(a.sizes), len(b.sizes)) < 2:
        raise InputError(
            "features-too-few-volumes",
            f"a kernel distance needs at least 2 volumes on each side, not {len(a.sizes)} and {len(b.sizes)}, because "
            "pairs of rows of one volume are excluded; add volumes",
        )
    return a, b


def _check(x: Array, y: Array, kernel: str, bandwidths: Sequence[float]) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1:] != y.shape[1:] or min(*x.shape, *y.shape) < 1:
        raise InputError(
            "features-not-rows", f"features must be rows (n, d) with the same d, not arrays {x.shape} and {y.shape}"
        )
    if min(len(x), len(y)) < 2:
        raise InputError(
            "features-too-few-rows",
            f"a kernel distance needs at least 2 rows on each side, not {len(x)} and {len(y)}; add volumes",
        )
    for name, rows in (("reference", x), ("prediction", y)):
        if not np.isfinite(rows).all():
            raise InputError(
                "features-not-finite", f"the {name} features contain NaN or infinite numbers; compute them again"
            )
    if kernel not in ("gaussian", "polynomial"):
        raise InputError("metric-kernel-unknown", f"kernel {kernel!r} is unknown; choose gaussian or polynomial")
    if not len(bandwidths) or not all(np.isfinite(s) and s > 0 for s in bandwidths):
        raise InputError("metric-bandwidth-range", f"bandwidths {tuple(bandwidths)} must be numbers above 0")
