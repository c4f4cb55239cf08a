"""Distance of two sets of feature rows: do converted images look like real ones, when no pair says so?"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medgen.types import InputError

BLOCK = 1024  # rows of a kernel matrix held at once: 8 MiB a matrix, whatever the number of rows
MEDIAN_ROWS = 2000  # rows whose distances give the median; more would not change its second digit

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
