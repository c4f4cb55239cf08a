"""How well a segmentation agrees with a reference: Dice, HD95, ASSD, surface Dice and volumes, label by label.

Pure functions on label volumes (X, Y, Z) of one shape, ``reference`` before ``prediction``: whole numbers from 0
(background) to 65535 in any type. Distances are in mm between the centres of surface voxels, that is voxels of a
label with a face neighbour that is not of it; outside the volume nothing is. All raise `InputError` for volumes of
other shapes or without voxels and for values that are no labels.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from medgen.data.labels.overlap import dice, overlap_counts
from medgen.errors import InputError

HIGHEST = 65535  # label
REACH = 2  # voxels along each axis that are looked at one by one before a tree is asked

Array = NDArray[Any]
Counts = dict[int, tuple[int, int, int]]  # label: its voxels in the reference, the prediction and both


def dice_scores(reference: Array, prediction: Array, *, labels: Iterable[int] | None = None) -> dict[int, float]:
    """{label: 2 |R ∩ P| / (|R| + |P|)}, ascending; in [0, 1], NaN for a label that is in neither volume.

    Dice, Ecology 1945;26:297. Equals ``monai.metrics.compute_dice`` for labels in the reference and SimpleITK's
    ``LabelOverlapMeasures``. ``labels``: as in `segmentation_scores`.
    """
    reference, prediction = _labels(reference, prediction)
    return {label: dice(*voxels) for label, voxels in _counts(reference, prediction, labels).items()}


def segmentation_scores(
    reference: Array,
    prediction: Array,
    spacing: Sequence[float],
    *,
    labels: Iterable[int] | None = None,
    tolerance_mm: float = 2.0,
    percentile: float = 95.0,
) -> dict[int, dict[str, float]]:
    """{label: {name: score}}, ascending.

    S_R and S_P are a label's surface voxels in the two volumes, d the distance of one to the nearest of the other set:

    - ``dice``: as `dice_scores`;
    - ``hd95``: the larger of the 95th percentiles of d over S_R and over S_P, mm. The key carries the percentile:
      ``hd100`` is the Hausdorff distance (Huttenlocher et al. 1993, doi 10.1109/34.232073);
    - ``assd``: average symmetric surface distance, the mean of d over S_R and S_P together, mm (Heimann et al.
      2009, doi 10.1109/TMI.2009.2013851);
    - ``surface_dice``: the share of S_R and S_P together with d ≤ tolerance_mm, in [0, 1] (Nikolov et al. 2021, doi
      10.2196/26151, counting voxels where they weigh them by area);
    - ``volume_reference``, ``volume_prediction`` and ``volume_error``, prediction - reference: ml.

    They equal MONAI's ``compute_hausdorff_distance(percentile=95)``, ``compute_average_surface_distance(symmetric=
    True)`` and ``compute_surface_dice`` for labels in both volumes. A label in one only has Dice and surface
    Dice 0 and distances inf; one in neither has volumes 0 and all else NaN, as there is nothing to agree on.

    Args:
        reference, prediction: label volumes (X, Y, Z).
        spacing: voxel size in mm along each axis.
        labels: those wanted, from 1 to 65535, whether they occur or not. None: all that occur in either volume.
        tolerance_mm: deviation that counts as none, at least 0; as far as human readers differ.
        percentile: of the Hausdorff distance, above 0 and at most 100.

    Raises:
        InputError: as the head of this file says; spacing, tolerance, percentile or labels out of their ranges.
    """
    _check_settings(spacing, tolerance_mm, percentile)
    reference, prediction = _foreground(*_labels(reference, prediction))
    counts = _counts(reference, prediction, labels)
    true, found = _surface(reference, counts), _surface(prediction, counts)
    missed, added = _distances(true, found, spacing), _distances(found, true, spacing)
    millilitres = float(np.prod(spacing)) / 1000
    return {
        label: {
            "dice": dice(*voxels),
            **_surface_scores(missed[true.of(label)], added[found.of(label)], tolerance_mm, percentile),
            "volume_reference": voxels[0] * millilitres,
            "volume_prediction": voxels[1] * millilitres,
            "volume_error": (voxels[1] - voxels[0]) * millilitres,
        }
        for label, voxels in counts.items()
    }


def _counts(reference: Array, prediction: Array, labels: Iterable[int] | None) -> Counts:
    """Counts of the wanted labels, in one pass for all, slice by slice: nothing large is held beside the volumes."""
    wanted = None if labels is None else sorted(set(labels))
    if wanted and not (1 <= wanted[0] and wanted[-1] <= HIGHEST and all(label % 1 == 0 for label in wanted)):
        raise InputError(
            "metric-wanted-labels-invalid", f"wanted labels must be whole numbers from 1 to {HIGHEST}, not {wanted}"
        )
    counts = overlap_counts(reference, prediction, wanted[-1] + 1 if wanted else 0)
    if wanted is None:
        wanted = (1 + np.flatnonzero(counts[:2, 1:].any(0))).tolist()
    return {int(label): tuple(counts[:, int(label)].tolist()) for label in wanted}


def _surface_scores(missed: Array, added: Array, tolerance_mm: float, percentile: float) -> dict[str, float]:
    """The scores of one label from the distances of its reference's and its prediction's surface voxels."""
    name = f"hd{percentile:g}"
    together = np.concatenate([missed, added])
    if not together.size:
        return dict.fromkeys((name, "assd", "surface_dice"), float("nan"))
    if not (missed.size and added.size):
        return {name: float("inf"), "assd": float("inf"), "surface_dice": 0.0}
    # In single precision, or the rounding of k · spacing would decide whether k voxels lie within the tolerance.
    near = together.astype(np.float32) <= np.float32(tolerance_mm)
    return {
        name: float(max(np.percentile(missed, percentile), np.percentile(added, percentile))),
        "assd": float(together.mean()),
        "surface_dice": float(near.mean()),
    }


class _Surface(NamedTuple):
    """The surface voxels of a volume, all labels together."""

    volume: Array  # (X, Y, Z): the label on surface voxels, 0 elsewhere
    places: NDArray[np.intp]  # (n,): their indices in the flat volume, ordered by label
    owners: Array  # (n,): their labels, ascending

    def of(self, label: int) -> slice:
        """Rows of a label."""
        start, stop = (int(np.searchsorted(self.owners, label, side)) for side in ("left", "right"))
        return slice(start, stop)


def _surface(labels: Array, wanted: Iterable[int]) -> _Surface:
    """Surface of the wanted labels of a volume, around which REACH voxels of background are put."""
    padded = np.pad(labels, REACH)
    edge = np.zeros(padded.shape, bool)
    for axis in range(padded.ndim):
        values, edges = np.moveaxis(padded, axis, 0), np.moveaxis(edge, axis, 0)
        change = values[1:] != values[:-1]
        edges[1:] |= change
        edges[:-1] |= change
    padded *= edge
    places = np.flatnonzero(padded != 0)
    owners = padded.ravel()[places]
    kept = np.isin(owners, list(wanted))
    order = np.argsort(owners[kept], kind="stable")
    return _Surface(padded, places[kept][order], owners[kept][order])


def _distances(surface: _Surface, other: _Surface, spacing: Sequence[float]) -> NDArray[np.float64]:
    """Distance of each voxel of a surface to the nearest one of the other with its label, mm; inf where none is.

    Most are found within a few voxels, by looking at all neighbours of all labels there in order of distance, at
    a few ns each; a tree takes above 1 µs a voxel and is asked for the rest.
    """
    distances = np.full(len(surface.places), np.inf)
    left, places, owners = np.arange(len(distances)), surface.places, surface.owners
    around = other.volume.ravel()
    for offset, length in _neighbours(other.volume.shape, spacing):
        missed = around[places + offset] != owners
        distances[left[~missed]] = length
        left, places, owners = left[missed], places[missed], owners[missed]
    for label in np.unique(owners):
        targets = other.places[other.of(label)]
        if len(targets):
            rows = left[owners == label]
            # A tree for one question: quickly built, not balanced.
            tree = cKDTree(_millimetres(targets, other, spacing), 32, balanced_tree=False, compact_nodes=False)
            distances[rows] = tree.query(_millimetres(surface.places[rows], surface, spacing))[0]
    return distances


def _neighbours(shape: Sequence[int], spacing: Sequence[float]) -> Iterator[tuple[int, float]]:
    """(offset in the flat volume, distance in mm) of the voxels about one, nearest first and none left out."""
    steps = np.indices([2 * REACH + 1] * 3).reshape(3, -1).T - REACH
    lengths = np.linalg.norm(steps * np.asarray(spacing), axis=1)
    offsets = steps @ [shape[1] * shape[2], shape[2], 1]
    order = np.argsort(lengths)
    # Beyond REACH lies nothing nearer than this:
    complete = order[lengths[order] < (REACH + 1) * min(spacing)]
    return zip(offsets[complete].tolist(), lengths[complete].tolist(), strict=True)


def _millimetres(places: Array, surface: _Surface, spacing: Sequence[float]) -> Array:
    return np.column_stack(np.unravel_index(places, surface.volume.shape)) * np.asarray(spacing)


def _labels(reference: Array, prediction: Array) -> tuple[Array, Array]:
    """Both volumes in the smallest unsigned type, after a check that they hold labels and can be compared."""
    if reference.shape != prediction.shape:
        raise InputError(
            "labels-shapes-differ",
            f"label volumes of shapes {reference.shape} and {prediction.shape} cannot be compared",
        )
    if reference.ndim != 3 or reference.size == 0:
        raise InputError(
            "labels-shape-invalid", f"label volumes must be (X, Y, Z) and hold voxels, not of shape {reference.shape}"
        )
    highest = 0
    for name, volume in (("reference", reference), ("prediction", prediction)):
        low, high = volume.min(), volume.max()
        whole = volume.dtype.kind in "bui" or not (volume % 1).any()
        if not (low >= 0 and high <= HIGHEST and whole):
            raise InputError(
                "labels-values-invalid",
                f"the {name} must hold labels, whole numbers from 0 to {HIGHEST}, not values in [{low:g}, {high:g}]",
            )
        highest = max(highest, int(high))
    kind = np.uint8 if highest < 256 else np.uint16
    return reference.astype(kind, order="C", copy=False), prediction.astype(kind, order="C", copy=False)


def _foreground(reference: Array, prediction: Array) -> tuple[Array, Array]:
    """Both volumes cropped to the box that holds every label of either."""
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        occupied = np.flatnonzero((reference | prediction).any(others))
        span = slice(occupied[0], occupied[-1] + 1) if len(occupied) else slice(0)
        box = tuple(span if a == axis else slice(None) for a in range(3))
        reference, prediction = reference[box], prediction[box]
    return reference, prediction


def _check_settings(spacing: Sequence[float], tolerance_mm: float, percentile: float) -> None:
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise InputError("volume-spacing-invalid", f"spacing {tuple(spacing)} must be three numbers above 0, in mm")
    if not (np.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise InputError("metric-tolerance-range", f"tolerance_mm {tolerance_mm} must be a number of mm, at least 0")
    if not 0 < percentile <= 100:
        raise InputError("metric-percentile-range", f"percentile {percentile} must be above 0 and at most 100")
