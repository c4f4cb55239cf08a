"""Whether a generator returns its training images: nearest training neighbours against those of real images."""

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

LEAST = 4  # training volumes
SAME = 0.1  # of the median distance of two training volumes: below, both are taken for scans of one patient
EXACT = 1e-6  # of the same: below, one volume is the other, whatever real distances are
PERMUTATIONS, CLEAR = 9999, 60  # draws at most; as low as the observed one, after which they end
WORK = 4e9  # distances that permutations look at, at most
NEAR = 0.5  # of the median real distance; a tail fitted to a few real distances is not believed beyond that
SIDE = 16  # places a side of a descriptor: enough for the form of organs, too few for noise
REACH = 2.0  # standard deviations of the body's voxels; a box's half side is √3 of them

Array = NDArray[Any]


@dataclass(frozen=True)
class Pair:
    """A synthetic volume and the training volume nearest to it.

    distance   in the unit of the rows
    p_value    how likely a new real volume would lie this near to one of the training set
    copy       whether that is significant among all the synthetic volumes (Holm), and half the usual distance; or
               whether the two are the same
    """

    synthetic: str
    training: str
    distance: float
    p_value: float
    copy: bool


@dataclass(frozen=True)
class Memorisation:
    """What ``memorisation_test`` found.

    pairs      every synthetic volume with its neighbour, nearest first: the pictures to look at
    p_value    of the whole set lying nearer to the training set than real images do
    real       nearest distances of real images, sorted
    memorised  the whole set's p-value or a single copy is significant
    held_out   how many held-out volumes ``real`` is of; 0: it is of training volumes among each other
    dropped    how many held-out volumes were left out because they are in the training set
    repeated   (training volume left out, the one that it repeats)
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
        """The pairs that are flagged one by one."""
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
    """Do synthetic images lie nearer to training images than other real ones do?

    Two tests, each at ``alpha`` / 2. Of the set: one-sided Mann-Whitney U of nearest-training distances, synthetic
    below real (in the manner of Meehan et al., "A Non-Parametric Test to Detect Data-Copying", AISTATS 2020, without
    its cells). Without held-out volumes the distances of training volumes to each other are not independent, so U's law
    is that of random parts of the pooled volumes in place of the training set. Of each volume: its log distance against
    the real ones' as a normal law, t = (log d - mean) / (sd √(1 + 1/n)) with n - 1 degrees of freedom, corrected by
    Holm, and no farther than half the median real distance, for the true tail is not known; so that one copy among many
    new images is found, with few real images too. A volume that is a training volume is a copy without a test.

    A training volume that repeats another (nearer than a tenth of the median distance of two: a scan twice, or two
    scans of a patient) is left out: it makes real distances seem small, and copies usual. So is a held-out volume that
    lies that near to a training one, for training saw it.

    Args:
        training: rows (m, d), one a training volume (``volume_descriptor``), m ≥ 4 without repeats.
        synthetic: rows (s, d) of generated volumes.
        held_out: rows (h, d) of real volumes that were not trained on: the cleanest reference. None, or fewer than 3
            that training never saw: each training volume's distance to the nearest other.
        training_names, synthetic_names: for the pairs; default their numbers.
        alpha: chance of a false alarm, about.

    Raises `InputError` for rows that do not fit, too few of them, or training images that are all the same.
    """
    t, s = np.asarray(training, np.float64), np.asarray(synthetic, np.float64)
    h = np.zeros((0, *t.shape[1:])) if held_out is None else np.asarray(held_out, np.float64)
    _check(t, s, h)
    names = list(training_names or map(str, range(len(t))))
    to_names = list(synthetic_names or map(str, range(len(s))))
    unit = _median_distance(t)
    kept, repeated = _distinct(t, SAME * unit)
    of_kept = t[kept]
    if len(of_kept) < LEAST:
        raise InputError(
            "metric-too-few-training-volumes",
            f"the memorisation test needs {LEAST} training volumes that differ, not {len(of_kept)}",
        )
    new = h[_nearest(h, t)[1] > SAME * unit] if len(h) else h
    enough = len(new) >= 3
    real = _nearest(new, of_kept)[1] if enough else _nearest(of_kept, of_kept, skip_self=True)[1]
    places, distances = _nearest(s, t)
    p_set = (
        float(stats.mannwhitneyu(distances, real, alternative="less").pvalue) if enough else _permutation_p(of_kept, s)
    )
    p_each = _tail(distances, real)
    copies = (np.array(holm(p_each)) <= alpha / 2) & (distances <= NEAR * np.median(real)) | (distances <= EXACT * unit)
    pairs = [
        Pair(to_names[i], names[places[i]], float(distances[i]), float(p_each[i]), bool(copies[i]))
        for i in np.argsort(distances, kind="stable")
    ]
    return Memorisation(
        tuple(pairs),
        p_set,
        tuple(np.sort(real).tolist()),
        memorised=p_set <= alpha / 2 or bool(copies.any()),
        held_out=len(new) if enough else 0,
        dropped=len(h) - len(new),
        repeated=tuple((names[i], names[j]) for i, j in repeated),
    )


def volume_descriptor(volume: Array, spacing: Sequence[float], *, mask: Array | None = None, side: int = SIDE) -> Array:
    """A volume's form as a row (side³,): side³ smoothed values about the body's centre, mean 0 and length 1.

    A copy is a copy also with noise, another brightness or a few voxels' shift. The window is the body's percentiles
    (values outside the body are 0). The grid reaches two standard deviations of the body's voxels to each side of their
    mean, along each axis: a bounding box would jump with a single voxel. A Gaussian of half the grid's step comes
    first. The distance of two rows is √(2 - 2 r), r their correlation: 0 for a copy, √2 for nothing in common.
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
    """Mean and standard deviation of the mask's indices along an axis; from counts, for indices fill the memory."""
    counts = np.count_nonzero(inside, axis=tuple(a for a in range(3) if a != axis))
    index = np.arange(len(counts))
    mean = np.average(index, weights=counts)
    return float(mean), float(np.sqrt(np.average((index - mean) ** 2, weights=counts)))


def _median_distance(t: Array) -> float:
    """Of two training volumes that are not the same."""
    squared = squared_distances(t, t)[np.triu_indices(len(t), 1)]
    apart = squared[squared > 1e-12 * squared.max()]
    return float(np.sqrt(np.median(apart)))


def _distinct(t: Array, least: float) -> tuple[list[int], list[tuple[int, int]]]:
    """Places of rows farther than ``least`` from those before them, and (place, the one before) of the others."""
    kept: list[int] = []
    repeated = []
    for i, row in enumerate(t):
        distances = np.sqrt(((t[kept] - row) ** 2).sum(1))
        if kept and distances.min() <= least:
            repeated.append((i, kept[int(distances.argmin())]))
        else:
            kept.append(i)
    return kept, repeated


def _permutation_p(t: Array, s: Array, seed: int = 0) -> float:
    """P(U as low) where any ``len(t)`` of all the volumes may have been the training set: exact, whatever the sizes.

    Draws end early once the answer is clear (Besag & Clifford, Biometrika 1991;78:301).
    """
    pool = np.vstack([t, s]) - t.mean(0)
    squared = squared_distances(pool, pool)
    np.fill_diagonal(squared, np.inf)
    rng = np.random.default_rng(seed)

    def u(chosen: Array) -> float:
        near = squared[:, chosen].min(1)
        real = np.sort(near[chosen])
        made = np.delete(near, chosen)
        return float((np.searchsorted(real, made, "left") + np.searchsorted(real, made, "right")).sum())

    draws = int(np.clip(WORK / (len(pool) * len(t)), 199, PERMUTATIONS))
    observed = u(np.arange(len(t)))
    lower = 0
    for draw in range(1, draws + 1):
        lower += u(rng.permutation(len(pool))[: len(t)]) <= observed
        if lower == CLEAR:
            return CLEAR / draw
    return (1 + lower) / (1 + draws)


def _nearest(rows: Array, others: Array, *, skip_self: bool = False) -> tuple[NDArray[np.int64], Array]:
    """Place and Euclidean distance of each row's nearest among the others."""
    places, distances = [], []
    for number, row in enumerate(rows):
        squared = ((others - row) ** 2).sum(1)
        if skip_self:
            squared[number] = np.inf
        places.append(int(squared.argmin()))
        distances.append(float(np.sqrt(squared.min())))
    return np.array(places), np.array(distances)


def _tail(distances: Array, real: Array) -> Array:
    """P(a new real distance ≤ each) of a normal law fitted to the logarithms of the real ones."""
    floor = 1e-12 * max(float(real.max()), 1e-300)
    logs = np.log(np.maximum(real, floor))
    spread = max(float(logs.std(ddof=1)), 1e-6) * np.sqrt(1 + 1 / len(logs))
    return stats.t.cdf((np.log(np.maximum(distances, floor)) - logs.mean()) / spread, df=len(logs) - 1)


def _check(t: Array, s: Array, h: Array) -> None:
    for name, rows, least in (("training", t, LEAST), ("synthetic", s, 1), ("held-out", h, 0)):
        if rows.ndim != 2 or rows.shape[1:] != t.shape[1:]:
            raise InputError(
                "features-not-rows",
                f"{name} rows {rows.shape} must be (n, d) with the d of the training rows {t.shape}",
            )
        if len(rows) < least:
            raise InputError(
                "features-too-few-volumes", f"the memorisation test needs {least} {name} volumes, not {len(rows)}"
            )
        if not np.isfinite(rows).all():
            raise InputError("features-not-finite", f"the {name} rows hold numbers that are NaN or infinite")
    if not np.ptp(t, axis=0).any():
        raise InputError(
            "features-all-same", "the training volumes are all the same: there is no distance to compare with"
        )
