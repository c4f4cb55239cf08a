"""Neighbour counts of two sets of feature rows, which part quality from variety: precision, recall, density, coverage.

Neighbours are counted by volume: a row's k-th neighbour is its nearest row in the k-th nearest *other volume*. Slices
or patches of one volume lie close together; counted one by one they would fill each other's neighbourhoods, and two
sets of patients of one population would seem apart. Where each row is a volume these are the published numbers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medgen.errors import InputError
from medgen.evaluation.distribution.grouped import GroupedRows, grouped, join_columns

Array = NDArray[Any]


class NeighbourScores(NamedTuple):
    """See `neighbour_scores`; NaN where a side has too few volumes."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbour_scores(
    reference: Array, prediction: Array, *, groups: tuple[Array, Array] | None = None, narrow: int = 3, wide: int = 5
) -> NeighbourScores:
    """Improved precision and recall (Kynkäänniemi, NeurIPS 2019), density and coverage (Naeem, ICML 2020).

    A set's manifold is the union of balls about its rows, each as far as the row's k-th neighbour (see above):

        precision   share of predictions in a real ball, k = ``narrow``: is every image like a real one
        recall      share of reals in a predicted ball, k = ``narrow``: is every kind of real image made
        density     volumes with a real ball about a prediction / k, on average, k = ``wide``: ≥ 0, about 1 for one
                    distribution; one far real row, whose ball is wide, cannot decide it
        coverage    share of real balls with a prediction in them, k = ``wide``: about 1 - 2⁻ᵏ for one distribution
                    and as many rows on both sides

    Args:
        reference, prediction: rows (m, d) and (n, d), of about one scale.
        groups: volume of each row, (m,) and (n,); None: each row is its own.
        narrow, wide: k, at least 1.

    Each pair of rows is met once; time grows with (m + n)², memory does not. A number is NaN where a side whose balls
    it needs has no more volumes than k. Raises `InputError` for rows that do not fit, NaN and k below 1.
    """
    x, y = _checked(reference, prediction, (narrow, wide))
    a, b = groups if groups is not None else (None, None)
    centre = x.mean(0)  # |x - y|² = x² + y² - 2xy cancels fewer digits near the origin
    real, made = grouped(x - centre, a), grouped(y - centre, b)
    (real_narrow, real_wide), (made_narrow,) = _radii(real, (narrow, wide)), _radii(made, (narrow,))
    like_real, balls = np.zeros(len(y), bool), np.zeros(len(y))
    like_made, nearest = np.zeros(len(x), bool), np.full(len(x), np.inf)
    for q in made.blocks():
        for p in real.blocks():
            squared = squared_distances(q.rows, p.rows)
            like_real[q.places] |= (squared <= real_narrow[p.places]).any(1)
            like_made[p.places] |= (squared <= made_narrow[q.places, None]).any(0)
            balls[q.places] += join_columns(squared <= real_wide[p.places], p, np.logical_or).sum(1)
            nearest[p.places] = np.minimum(nearest[p.places], squared.min(0))
    enough_real, enough_made = (np.array([narrow, wide]) < len(side.sizes) for side in (real, made))
    return NeighbourScores(
        float(like_real.mean()) if enough_real[0] else np.nan,
        float(like_made.mean()) if enough_made[0] else np.nan,
        float(balls.mean() / wide) if enough_real[1] else np.nan,
        float((nearest <= real_wide).mean()) if enough_real[1] else np.nan,
    )


def squared_distances(p: Array, q: Array) -> Array:
    """(m, n) of rows (m, d) and (n, d)."""
    squared = (p * p).sum(1)[:, None] + (q * q).sum(1) - 2 * (p @ q.T)
    return np.maximum(squared, 0, out=squared)


def _radii(x: GroupedRows, ks: Sequence[int]) -> Array:
    """Squared distance (len(ks), n) of each row to its nearest in the k-th nearest other group; inf: there is none."""
    most = max(ks)
    radii = np.full((len(x.rows), most), np.inf)
    for p in x.blocks():
        near = radii[p.places]
        own = np.repeat(np.arange(p.groups.start, p.groups.stop), x.sizes[p.groups])
        for q in x.blocks():
            squared = join_columns(squared_distances(p.rows, q.rows), q, np.minimum)
            if q.groups == p.groups:
                squared[np.arange(len(own)), own - q.groups.start] = np.inf
            near = np.partition(np.hstack([near, squared]), most - 1, axis=1)[:, :most]
        radii[p.places] = np.sort(near, axis=1)
    return radii.T[[k - 1 for k in ks]]


def _checked(reference: Array, prediction: Array, ks: Sequence[int]) -> tuple[Array, Array]:
    x, y = np.asarray(reference, np.float64), np.asarray(prediction, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1:] != y.shape[1:] or min(*x.shape, *y.shape) < 1:
        raise InputError(
            "features-not-rows", f"features must be rows (n, d) of one length d, not arrays {x.shape} and {y.shape}"
        )
    for name, rows in (("reference", x), ("prediction", y)):
        if not np.isfinite(rows).all():
            raise InputError("features-not-finite", f"the {name} features hold numbers that are NaN or infinite")
    if min(ks) < 1:
        raise InputError("metric-neighbours-range", f"k {min(ks)} must be at least 1")
    return x, y
