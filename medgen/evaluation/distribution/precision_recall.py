"""Precision, recall, density and coverage: neighbour-based metrics that separate image quality from diversity.

Neighbours are counted per volume: a row's k-th neighbour is its nearest row in the k-th nearest *other volume*. Slices
or patches of one volume lie close together; counted individually, they would fill each other's neighbourhoods, and two
patient samples of one population would seem different. If each row is a volume, these are the published metrics.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medgen.errors import InputError
from medgen.evaluation.distribution.grouped import GroupedRows, grouped, join_columns

Array = NDArray[Any]


class NeighbourScores(NamedTuple):
    """Result of `neighbour_scores`; NaN if a side has too few volumes."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbour_scores(
    reference: Array, prediction: Array, *, groups: tuple[Array, Array] | None = None, narrow: int = 3, wide: int = 5
) -> NeighbourScores:
    """Improved precision and recall (Kynkäänniemi, NeurIPS 2019), density and coverage (Naeem, ICML 2020).

    The manifold of a set is the union of balls around its rows; the radius is the distance to the row's k-th neighbour
    (see the module docstring):

        precision   fraction of predictions in a real ball, k = ``narrow``: are images realistic
        recall      fraction of real rows in a predicted ball, k = ``narrow``: are all kinds of real images generated
        density     mean number of volumes with a real ball around a prediction / k, k = ``wide``: ≥ 0, about 1 for
                    equal distributions; robust to a single real outlier, whose ball is large
        coverage    fraction of real balls that contain a prediction, k = ``wide``: about 1 - 2⁻ᵏ for equal
                    distributions and equal numbers of rows

    Args:
        reference, prediction: rows (m, d) and (n, d), of similar scale.
        groups: volume of each row, (m,) and (n,); None: each row is its own volume.
        narrow, wide: k, at least 1.

    Time grows with (m + n)², memory does not. A score is NaN if a side whose balls it uses has no more than k volumes.
    Raises `InputError` for rows that do not match, NaN and k below 1.
    """
    x, y = _checked(reference, prediction, (narrow, wide))
    a, b = groups if groups is not None else (None, None)
    centre = x.mean(0)  # |x - y|² = x² + y² - 2xy loses fewer digits near the origin
    real, generated = grouped(x - centre, a), grouped(y - centre, b)
    (real_narrow, real_wide), (generated_narrow,) = _radii(real, (narrow, wide)), _radii(generated, (narrow,))
    in_real_manifold, ball_counts = np.zeros(len(y), bool), np.zeros(len(y))
    in_generated_manifold, nearest = np.zeros(len(x), bool), np.full(len(x), np.inf)
    for q in generated.blocks():
        for p in real.blocks():
            squared = squared_distances(q.rows, p.rows)
            in_real_manifold[q.row_slice] |= (squared <= real_narrow[p.row_slice]).any(1)
            in_generated_manifold[p.row_slice] |= (squared <= generated_narrow[q.row_slice, None]).any(0)
            ball_counts[q.row_slice] += join_columns(squared <= real_wide[p.row_slice], p, np.logical_or).sum(1)
            nearest[p.row_slice] = np.minimum(nearest[p.row_slice], squared.min(0))
    enough_real_volumes, enough_generated_volumes = (
        np.array([narrow, wide]) < len(side.sizes) for side in (real, generated)
    )
    return NeighbourScores(
        float(in_real_manifold.mean()) if enough_real_volumes[0] else np.nan,
        float(in_generated_manifold.mean()) if enough_generated_volumes[0] else np.nan,
        float(ball_counts.mean() / wide) if enough_real_volumes[1] else np.nan,
        float((nearest <= real_wide).mean()) if enough_real_volumes[1] else np.nan,
    )


def squared_distances(p: Array, q: Array) -> Array:
    """Return squared Euclidean distances (m, n) of rows (m, d) and (n, d)."""
    squared = (p * p).sum(1)[:, None] + (q * q).sum(1) - 2 * (p @ q.T)
    return np.maximum(squared, 0, out=squared)


def _radii(x: GroupedRows, ks: Sequence[int]) -> Array:
    """Return squared distances (len(ks), n) of each row to the k-th nearest other group; inf if there is none."""
    largest_k = max(ks)
    radii = np.full((len(x.rows), largest_k), np.inf)
    for p in x.blocks():
        near = radii[p.row_slice]
        own_group = np.repeat(np.arange(p.groups.start, p.groups.stop), x.sizes[p.groups])
        for q in x.blocks():
            squared = join_columns(squared_distances(p.rows, q.rows), q, np.minimum)
            if q.groups == p.groups:
                squared[np.arange(len(own_group)), own_group - q.groups.start] = np.inf
            near = np.partition(np.hstack([near, squared]), largest_k - 1, axis=1)[:, :largest_k]
        radii[p.row_slice] = np.sort(near, axis=1)
    return radii.T[[k - 1 for k in ks]]


def _checked(reference: Array, prediction: Array, ks: Sequence[int]) -> tuple[Array, Array]:
    x, y = np.asarray(reference, np.float64), np.asarray(prediction, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1:] != y.shape[1:] or min(*x.shape, *y.shape) < 1:
        raise InputError(
            "features-not-rows", f"features must be rows (n, d) with the same d, not arrays {x.shape} and {y.shape}"
        )
    for name, rows in (("reference", x), ("prediction", y)):
        if not np.isfinite(rows).all():
            raise InputError(
                "features-not-finite", f"the {name} features contain NaN or infinite numbers; compute them again"
            )
    if min(ks) < 1:
        raise InputError("metric-neighbours-range", f"k {min(ks)} must be at least 1")
    return x, y
