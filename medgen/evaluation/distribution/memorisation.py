"""Test whether a generator copies training images, by nearest-neighbour distances to the training set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

from medgen.errors import InputError
from medgen.evaluation.distribution.precision_recall import squared_distances
from medgen.evaluation.features.extractor import checked_volume
from medgen.evaluation.features.slices import windowed
from medgen.evaluation.statistics import holm

MIN_TRAINING = 4  # minimum number of training volumes
SAME_PATIENT = 0.1  # of the median distance of two training volumes; closer volumes count as scans of one patient
IDENTICAL = 1e-6  # of the same median; closer volumes count as identical, regardless of real distances
PERMUTATIONS, EARLY_STOP = (
    9999,
    60,
)  # maximum number of draws; number of draws as low as the observed one at which sampling stops
MAX_DISTANCES = 4e9  # maximum number of distances evaluated by the permutation test
MAX_COPY_DISTANCE = 0.5  # of the median real distance; a tail fitted to few real distances is not reliable above it
SIDE = 16  # grid points per axis of a descriptor: enough for the shape of organs, too few for noise
REACH = 2.0  # standard deviations of the body's voxel positions (half the side of a box is √3 of them)

Array = NDArray[Any]


@dataclass(frozen=True)
class Pair:
    """A synthetic volume and its nearest training volume.

    Attributes:
        synthetic, training: names of the two volumes.
        distance: in the unit of the rows.
        p_value: probability that a new real volume lies this close to a training volume.
        copy: the p-value is significant among all synthetic volumes (Holm) and the distance is at most half the
            median real distance, or the two volumes are identical.
    """

    synthetic: str
    training: str
    distance: float
    p_value: float
    copy: bool


@dataclass(frozen=True)
class Memorisation:
    """Result of ``memorisation_test``.

    Attributes:
        pairs: every synthetic volume with its nearest training volume, closest pair first, for visual review.
        p_value: of the test that the synthetic set lies closer to the training set than real images do.
        real: sorted nearest-neighbour distances of real images.
        memorised: the p-value of the set is significant, or at least one pair is a copy.
        held_out: number of held-out volumes used for ``real``; 0: ``real`` is computed among training volumes.
        dropped: number of held-out volumes excluded because they repeat training volumes.
        repeated: (excluded training volume, the training volume that it repeats).
    """

    pairs: tuple[Pair, ...]
    p_value: float
    real: tuple[float, ...]
    memorised: bool
    held_out: int = 0
    dropped: int = 0
    repeated: tuple[tuple[str, str], ...] = ()

    @property
    def copies(self) -> tuple[Pair, ...]:
        """The pairs that are flagged as copies."""
        return tuple(pair for pair in self.pairs if pair.copy)


def memorisation_test(
    training: Array,
    synthetic: Array,
    *,
    held_out: Array | None = None,
    training_names: Sequence[str] | None = None,
    synthetic_names: Sequence[str] | None = None,
    alpha: float = 0.05,
) -> Memorisation:
    """Test whether synthetic images lie closer to training images than other real images do.

    Two tests are made, each at level ``alpha`` / 2.

    The set: one-sided Mann-Whitney U test that nearest-training distances of synthetic volumes are smaller than those
    of real volumes (similar to Meehan et al., "A Non-Parametric Test to Detect Data-Copying", AISTATS 2020, without
    its cells). Without held-out volumes, distances between training volumes are not independent; the distribution of U
    then comes from random subsets of the pooled volumes instead of the training set.

    Each volume: its log distance is compared with a normal distribution of the real log distances, t = (log d - mean) /
    (sd √(1 + 1/n)) with n - 1 degrees of freedom, Holm-corrected. The distance must also be at most half the median
    real distance, because the true tail is unknown. This detects one copy among many new images, also with few real
    images. A volume identical to a training volume is always a copy.

    Training volumes that repeat another one (closer than a tenth of the median distance: a duplicate scan, or two scans
    of a patient) are excluded, because they make real distances small and hide copies. Held-out volumes that repeat a
    training volume in this sense are excluded too, because the model was trained on the same scan or patient.

    Args:
        training: rows (m, d), one per training volume (``volume_descriptor``), m ≥ 4 without repeats.
        synthetic: rows (s, d) of generated volumes.
        held_out: rows (h, d) of real volumes not used in training, the best baseline. None, or fewer than 3 that do
            not repeat training volumes: the distance of each training volume to its nearest other one is used.
        training_names, synthetic_names: names for the pairs; default: their indices.
        alpha: approximate probability of a false alarm.

    Raises `InputError` for rows that do not match, too few rows, or training images that are all the same.
    """
    t, s = np.asarray(training, np.float64), np.asarray(synthetic, np.float64)
    h = np.zeros((0, *t.shape[1:])) if held_out is None else np.asarray(held_out, np.float64)
    _check(t, s, h)
    names = list(training_names or map(str, range(len(t))))
    synthetic_labels = list(synthetic_names or map(str, range(len(s))))
    median_distance = _median_distance(t)
    distinct, repeated = _distinct(t, SAME_PATIENT * median_distance)
    distinct_rows = t[distinct]
    if len(distinct_rows) < MIN_TRAINING:
        raise InputError(
            "metric-too-few-training-volumes",
            f"the memorisation test needs at least {MIN_TRAINING} different training volumes, not "
            f"{len(distinct_rows)}; add some",
        )
    unseen = h[_nearest(h, t)[1] > SAME_PATIENT * median_distance] if len(h) else h
    has_held_out = len(unseen) >= 3
    real = (
        _nearest(unseen, distinct_rows)[1]
        if has_held_out
        else _nearest(distinct_rows, distinct_rows, skip_self=True)[1]
    )
    neighbour_index, distances = _nearest(s, t)
    p_set = (
        float(stats.mannwhitneyu(distances, real, alternative="less").pvalue)
        if has_held_out
        else _permutation_p(distinct_rows, s)
    )
    p_values = _tail(distances, real)
    copies = (np.array(holm(p_values)) <= alpha / 2) & (distances <= MAX_COPY_DISTANCE * np.median(real)) | (
        distances <= IDENTICAL * median_distance
    )
    pairs = [
        Pair(synthetic_labels[i], names[neighbour_index[i]], float(distances[i]), float(p_values[i]), bool(copies[i]))
        for i in np.argsort(distances, kind="stable")
    ]
    return Memorisation(
        tuple(pairs),
        p_set,
        tuple(np.sort(real).tolist()),
        memorised=p_set <= alpha / 2 or bool(copies.any()),
        held_out=len(unseen) if has_held_out else 0,
        dropped=len(h) - len(unseen),
        repeated=tuple((names[i], names[j]) for i, j in repeated),
    )


def volume_descriptor(volume: Array, spacing: Sequence[float], *, mask: Array | None = None, side: int = SIDE) -> Array:
    """Return a descriptor row (side³,) of a volume: smoothed values on a grid around the body's centre, mean 0, norm 1.

    It is insensitive to noise, brightness and shifts by a few voxels, so that such copies are detected. Intensities
    are windowed by the percentiles in the body; values outside the body are 0. The grid extends two standard deviations
    of the body's voxel positions to each side of their mean along each axis, because a bounding box can change with a
    single voxel. The volume is first smoothed with a Gaussian of half the grid step. The distance of two rows is
    √(2 - 2 r), where r is their correlation: 0 for a copy, √2 for uncorrelated volumes.
    """
    volume, inside = checked_volume(volume, spacing, mask)
    grey = np.where(inside, windowed(volume, inside, None), 0)
    centre, spread = np.array([_moments(inside, axis) for axis in range(3)]).T
    reach = np.maximum(REACH * spread, 0.5)
    step = 2 * reach / (side - 1)
    smooth = ndimage.gaussian_filter(grey, step / 2, mode="constant")
    lines = [np.linspace(c - r, c + r, side) for c, r in zip(centre, reach, strict=True)]
    row = ndimage.map_coordinates(smooth, np.meshgrid(*lines, indexing="ij"), np.float64, order=1, mode="grid-constant")
    row = row.ravel() - row.mean()
    return row / max(float(np.linalg.norm(row)), 1e-12)


def _moments(inside: Array, axis: int) -> tuple[float, float]:
    """Return mean and standard deviation of the mask's indices along an axis, from counts per slice to save memory."""
    counts = np.count_nonzero(inside, axis=tuple(a for a in range(3) if a != axis))
    index = np.arange(len(counts))
    mean = np.average(index, weights=counts)
    return float(mean), float(np.sqrt(np.average((index - mean) ** 2, weights=counts)))


def _median_distance(t: Array) -> float:
    """Return the median distance between training volumes that are not identical."""
    squared = squared_distances(t, t)[np.triu_indices(len(t), 1)]
    apart = squared[squared > 1e-12 * squared.max()]
    return float(np.sqrt(np.median(apart)))


def _distinct(t: Array, minimum: float) -> tuple[list[int], list[tuple[int, int]]]:
    """Return indices of rows farther than ``minimum`` from earlier ones, and (index, earlier index) of the others."""
    distinct: list[int] = []
    repeated = []
    for i, row in enumerate(t):
        distances = np.sqrt(((t[distinct] - row) ** 2).sum(1))
        if distinct and distances.min() <= minimum:
            repeated.append((i, distinct[int(distances.argmin())]))
        else:
            distinct.append(i)
    return distinct, repeated


def _permutation_p(t: Array, s: Array, seed: int = 0) -> float:
    """Return the permutation p-value of U, with random subsets of ``len(t)`` volumes as the training set.

    It is exact for any sizes. Sampling stops early once the result is clear (Besag & Clifford, Biometrika
    1991;78:301).
    """
    pool = np.vstack([t, s]) - t.mean(0)
    squared = squared_distances(pool, pool)
    np.fill_diagonal(squared, np.inf)
    rng = np.random.default_rng(seed)

    def u_statistic(chosen: Array) -> float:
        nearest_squared = squared[:, chosen].min(1)
        real = np.sort(nearest_squared[chosen])
        synthetic_distances = np.delete(nearest_squared, chosen)
        return float(
            (
                np.searchsorted(real, synthetic_distances, "left") + np.searchsorted(real, synthetic_distances, "right")
            ).sum()
        )

    draws = int(np.clip(MAX_DISTANCES / (len(pool) * len(t)), 199, PERMUTATIONS))
    observed = u_statistic(np.arange(len(t)))
    as_low = 0
    for draw in range(1, draws + 1):
        as_low += u_statistic(rng.permutation(len(pool))[: len(t)]) <= observed
        if as_low == EARLY_STOP:
            return EARLY_STOP / draw
    return (1 + as_low) / (1 + draws)


def _nearest(rows: Array, others: Array, *, skip_self: bool = False) -> tuple[NDArray[np.int64], Array]:
    """Return index and Euclidean distance of the nearest of ``others`` for each row."""
    neighbour_index, distances = [], []
    for row_index, row in enumerate(rows):
        squared = ((others - row) ** 2).sum(1)
        if skip_self:
            squared[row_index] = np.inf
        neighbour_index.append(int(squared.argmin()))
        distances.append(float(np.sqrt(squared.min())))
    return np.array(neighbour_index), np.array(distances)


def _tail(distances: Array, real: Array) -> Array:
    """Return P(new real distance ≤ d) for each distance d, from a normal distribution fitted to real log distances."""
    floor = 1e-12 * max(float(real.max()), 1e-300)
    logs = np.log(np.maximum(real, floor))
    spread = max(float(logs.std(ddof=1)), 1e-6) * np.sqrt(1 + 1 / len(logs))
    return stats.t.cdf((np.log(np.maximum(distances, floor)) - logs.mean()) / spread, df=len(logs) - 1)


def _check(t: Array, s: Array, h: Array) -> None:
    for name, rows, minimum in (("training", t, MIN_TRAINING), ("synthetic", s, 1), ("held-out", h, 0)):
        if rows.ndim != 2 or rows.shape[1:] != t.shape[1:]:
            raise InputError(
                "features-not-rows",
                f"{name} rows {rows.shape} must be (n, d) with the same d as the training rows {t.shape}",
            )
        if len(rows) < minimum:
            raise InputError(
                "features-too-few-volumes",
                f"the memorisation test needs at least {minimum} {name} volumes, not {len(rows)}; add some",
            )
        if not np.isfinite(rows).all():
            raise InputError(
                "features-not-finite", f"the {name} rows contain NaN or infinite numbers; compute them again"
            )
    if not np.ptp(t, axis=0).any():
        raise InputError(
            "features-all-same",
            "the training volumes are all the same, so there is no distance to compare with; give different ones",
        )
