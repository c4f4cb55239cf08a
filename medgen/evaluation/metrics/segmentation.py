"""Segmentation metrics per label: Dice, HD95, ASSD, surface Dice and volumes.

Pure functions on label volumes (X, Y, Z) of one shape, ``reference`` before ``prediction``: whole numbers from 0
(background) to 65535 in any type. Distances are in mm between the centres of surface voxels, that is voxels of a
label with at least one face neighbour outside the label; outside the volume everything is background. All functions
raise `InputError` for volumes of different shapes or without voxels, and for values that are not labels.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from medgen.data.labels.overlap import dice, overlap_counts
from medgen.errors import InputError

MAX_LABEL = 65535
REACH = 2  # voxels along each axis that are searched directly before a k-d tree is used

Array = NDArray[Any]
Counts = dict[int, tuple[int, int, int]]  # label: number of its voxels in the reference, the prediction and both


def dice_scores(reference: Array, prediction: Array, *, labels: Iterable[int] | None = None) -> dict[int, float]:
    """Return {label: 2 |R ∩ P| / (|R| + |P|)}, ascending; in [0, 1], NaN for a label that is in neither volume.

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
    """Return {label: {name: score}}, ascending.

    S_R and S_P are a label's surface voxels in the two volumes, d is the distance from a voxel of one to the nearest
    voxel of the other:

    - ``dice``: as `dice_scores`;
    - ``hd95``: the larger of the 95th percentiles of d over S_R and over S_P, mm. The key contains the percentile:
      ``hd100`` is the Hausdorff distance (Huttenlocher et al. 1993, doi 10.1109/34.232073);
    - ``assd``: average symmetric surface distance, the mean of d over S_R and S_P together, mm (Heimann et al.
      2009, doi 10.1109/TMI.2009.2013851);
    - ``surface_dice``: the fraction of S_R and S_P together with d ≤ tolerance_mm, in [0, 1] (Nikolov et al. 2021,
      doi 10.2196/26151, but voxels are counted instead of weighted by surface area);
    - ``volume_reference``, ``volume_prediction`` and ``volume_error``, prediction - reference: ml.

    For labels in both volumes they equal MONAI's ``compute_hausdorff_distance(percentile=95)``,
    ``compute_average_surface_distance(symmetric=True)`` and ``compute_surface_dice``. A label in only one volume has
    Dice and surface Dice 0 and distances inf; a label in neither has volumes 0 and NaN for all other scores.

    Args:
        reference, prediction: label volumes (X, Y, Z).
        spacing: voxel size in mm along each axis.
        labels: labels to score, from 1 to 65535, present or not. None: all that occur in either volume.
        tolerance_mm: accepted distance, at least 0; typically the disagreement of human readers.
        percentile: of the Hausdorff distance, above 0 and at most 100.

    Raises:
        InputError: invalid volumes (see the module docstring), or spacing, tolerance, percentile or labels out of
            range.
    """
    _check_settings(spacing, tolerance_mm, percentile)
    reference, prediction = _foreground(*_labels(reference, prediction))
    counts = _counts(reference, prediction, labels)
    reference_surface, prediction_surface = _surface(reference, counts), _surface(prediction, counts)
    missed, added = (
        _distances(reference_surface, prediction_surface, spacing),
        _distances(prediction_surface, reference_surface, spacing),
    )
    millilitres = float(np.prod(spacing)) / 1000
    return {
        label: {
            "dice": dice(*voxels),
            **_surface_scores(
                missed[reference_surface.of(label)], added[prediction_surface.of(label)], tolerance_mm, percentile
            ),
            "volume_reference": voxels[0] * millilitres,
            "volume_prediction": voxels[1] * millilitres,
            "volume_error": (voxels[1] - voxels[0]) * millilitres,
        }
        for label, voxels in counts.items()
    }


def _counts(reference: Array, prediction: Array, labels: Iterable[int] | None) -> Counts:
    """Count the voxels of the selected labels in one pass, slice by slice to limit memory."""
    selected = None if labels is None else sorted(set(labels))
    if selected and not (1 <= selected[0] and selected[-1] <= MAX_LABEL and all(label % 1 == 0 for label in selected)):
        raise InputError(
            "metric-wanted-labels-invalid", f"labels must be whole numbers from 1 to {MAX_LABEL}, not {selected}"
        )
    counts = overlap_counts(reference, prediction, selected[-1] + 1 if selected else 0)
    if selected is None:
        selected = (1 + np.flatnonzero(counts[:2, 1:].any(0))).tolist()
    return {int(label): tuple(counts[:, int(label)].tolist()) for label in selected}


def _surface_scores(missed: Array, added: Array, tolerance_mm: float, percentile: float) -> dict[str, float]:
    """Return the surface scores of one label.

    ``missed``: distances of its reference surface voxels; ``added``: those of its prediction surface voxels.
    """
    name = f"hd{percentile:g}"
    all_distances = np.concatenate([missed, added])
    if not all_distances.size:
        return dict.fromkeys((name, "assd", "surface_dice"), float("nan"))
    if not (missed.size and added.size):
        return {name: float("inf"), "assd": float("inf"), "surface_dice": 0.0}
    # Compare in single precision, so that rounding of k · spacing does not exclude voxels exactly at the tolerance.
    within_tolerance = all_distances.astype(np.float32) <= np.float32(tolerance_mm)
    return {
        name: float(max(np.percentile(missed, percentile), np.percentile(added, percentile))),
        "assd": float(all_distances.mean()),
        "surface_dice": float(within_tolerance.mean()),
    }


class _Surface(NamedTuple):
    """The surface voxels of all labels of a volume."""

    volume: Array  # (X, Y, Z): label on surface voxels, 0 elsewhere
    flat_indices: NDArray[np.intp]  # (n,): indices of surface voxels in the flat volume, ordered by label
    label_of_voxel: Array  # (n,): their labels, ascending

    def of(self, label: int) -> slice:
        """Return the rows of a label."""
        start, stop = (int(np.searchsorted(self.label_of_voxel, label, side)) for side in ("left", "right"))
        return slice(start, stop)


def _surface(labels: Array, selected: Iterable[int]) -> _Surface:
    """Return the surface of the selected labels, in a volume padded with REACH voxels of background."""
    padded = np.pad(labels, REACH)
    edge = np.zeros(padded.shape, bool)
    for axis in range(padded.ndim):
        values, edges = np.moveaxis(padded, axis, 0), np.moveaxis(edge, axis, 0)
        change = values[1:] != values[:-1]
        edges[1:] |= change
        edges[:-1] |= change
    padded *= edge
    flat_indices = np.flatnonzero(padded != 0)
    label_of_voxel = padded.ravel()[flat_indices]
    kept = np.isin(label_of_voxel, list(selected))
    order = np.argsort(label_of_voxel[kept], kind="stable")
    return _Surface(padded, flat_indices[kept][order], label_of_voxel[kept][order])


def _distances(surface: _Surface, other: _Surface, spacing: Sequence[float]) -> NDArray[np.float64]:
    """Return the distance of each surface voxel to the nearest one of ``other`` with its label, in mm; inf if none.

    Most distances are found by checking the neighbours within REACH voxels in order of distance, for all labels at
    once, at a few ns each. A k-d tree takes over 1 µs per voxel and is used only for the rest.
    """
    distances = np.full(len(surface.flat_indices), np.inf)
    remaining, flat_indices, label_of_voxel = np.arange(len(distances)), surface.flat_indices, surface.label_of_voxel
    flat_labels = other.volume.ravel()
    for offset, length in _neighbours(other.volume.shape, spacing):
        missed = flat_labels[flat_indices + offset] != label_of_voxel
        distances[remaining[~missed]] = length
        remaining, flat_indices, label_of_voxel = remaining[missed], flat_indices[missed], label_of_voxel[missed]
    for label in np.unique(label_of_voxel):
        targets = other.flat_indices[other.of(label)]
        if len(targets):
            rows = remaining[label_of_voxel == label]
            # The tree is queried once, so it is built fast and unbalanced.
            tree = cKDTree(_millimetres(targets, other, spacing), 32, balanced_tree=False, compact_nodes=False)
            distances[rows] = tree.query(_millimetres(surface.flat_indices[rows], surface, spacing))[0]
    return distances


def _neighbours(shape: Sequence[int], spacing: Sequence[float]) -> Iterator[tuple[int, float]]:
    """Yield (offset in the flat volume, distance in mm) of all voxels around a voxel, nearest first."""
    steps = np.indices([2 * REACH + 1] * 3).reshape(3, -1).T - REACH
    lengths = np.linalg.norm(steps * np.asarray(spacing), axis=1)
    offsets = steps @ [shape[1] * shape[2], shape[2], 1]
    order = np.argsort(lengths)
    # All voxels nearer than this distance lie within REACH.
    exhaustive = order[lengths[order] < (REACH + 1) * min(spacing)]
    return zip(offsets[exhaustive].tolist(), lengths[exhaustive].tolist(), strict=True)


def _millimetres(flat_indices: Array, surface: _Surface, spacing: Sequence[float]) -> Array:
    return np.column_stack(np.unravel_index(flat_indices, surface.volume.shape)) * np.asarray(spacing)


def _labels(reference: Array, prediction: Array) -> tuple[Array, Array]:
    """Check that both volumes hold labels and can be compared; return them in the smallest unsigned type."""
    if reference.shape != prediction.shape:
        raise InputError(
            "labels-shapes-differ",
            f"label volumes of shapes {reference.shape} and {prediction.shape} cannot be compared",
        )
    if reference.ndim != 3 or reference.size == 0:
        raise InputError(
            "labels-shape-invalid",
            f"label volumes must be (X, Y, Z) with at least one voxel, not of shape {reference.shape}",
        )
    highest = 0
    for name, volume in (("reference", reference), ("prediction", prediction)):
        low, high = volume.min(), volume.max()
        whole = volume.dtype.kind in "bui" or not (volume % 1).any()
        if not (low >= 0 and high <= MAX_LABEL and whole):
            raise InputError(
                "labels-values-invalid",
                f"the {name} must hold labels, whole numbers from 0 to {MAX_LABEL}, not values in [{low:g}, {high:g}]",
            )
        highest = max(highest, int(high))
    kind = np.uint8 if highest < 256 else np.uint16
    return reference.astype(kind, order="C", copy=False), prediction.astype(kind, order="C", copy=False)


def _foreground(reference: Array, prediction: Array) -> tuple[Array, Array]:
    """Crop both volumes to the box that contains all labels of both."""
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
