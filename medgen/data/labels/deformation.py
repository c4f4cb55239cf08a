"""Create new anatomy from label maps, by smooth invertible deformation or by shape-based interpolation.

Labels are never averaged: the label with the largest weight or the deepest signed distance is chosen, so that no new
values occur. The connected components of structures are preserved.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medgen.data.labels.resampling import labels_at
from medgen.data.labels.topology import Cost, Objects, objects_between, objects_of, repair_topology

FRACTIONS = (1.0, 0.5, 0.25)  # fractions of a displacement, tried until no structure is fragmented
SQUARINGS = 6  # the velocity is integrated in 2⁶ steps, which are small enough to avoid folding


def deform(
    labels: np.ndarray,
    spacing: tuple[float, ...],
    seed: int,
    *,
    rotate: float = 12.0,
    scale: float = 0.12,
    elastic: float = 0.05,
    waves: int = 4,
    keep: Sequence[float] | None = None,
) -> np.ndarray:
    """Deform a label map by random rotation, scaling and an elastic displacement; deterministic for a seed.

    Structures keep their connected components and cavities, see ``topology``. If that fails, the displacement is
    reduced to a half, then to a quarter.

    Args:
        labels: (X, Y, Z), integers; regions from outside the volume get the label at the edge.
        spacing: mm; needed for correct rotation of anisotropic voxels.
        seed: random seed.
        rotate: largest rotation about each axis, degrees.
        scale: largest relative change of size along each axis.
        elastic: root mean square of the elastic displacement, as a fraction of the volume's mean side length.
        waves: control points of the elastic field along each axis; more points give finer deformation.
        keep: values whose components are preserved; None: all except 0.

    Returns:
        Label map with the same shape and dtype, and only values of the input.
    """
    rng = np.random.default_rng(seed)
    turned = affine_displacement(labels.shape, spacing, rng, rotate=rotate, scale=scale)
    bent = elastic_displacement(labels.shape, spacing, rng, strength=elastic, waves=waves)
    displacement = turned + _at(turned, bent) if elastic else turned
    objects = objects_of(labels, [v for v in np.unique(labels) if v] if keep is None else keep)
    return _least_fragmented(_moved(objects, part * displacement) for part in FRACTIONS)


def _moved(objects: Objects, displacement: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the label map after a displacement, and the number of detached fragments of its structures."""
    numbers = objects.numbers
    result, fragments = repair_topology(warp(numbers, displacement), objects, _missing_weight(numbers, displacement))
    return objects.value[result], fragments


def warp(labels: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Compute out(p) = labels(p + displacement(p)) with label interpolation, see ``data.labels.resampling``.

    Args:
        labels: (X, Y, Z).
        displacement: (3, X, Y, Z), voxels.
    """
    return labels_at(labels, lambda rows: _places(displacement, (rows, slice(None), slice(None))), labels.shape)


def _places(displacement: np.ndarray, box: tuple[slice, ...]) -> list[np.ndarray]:
    axes = np.ix_(*(np.arange(n)[b] for b, n in zip(box, displacement.shape[1:], strict=True)))
    return [d[box] + axis for d, axis in zip(displacement, axes, strict=True)]


def _missing_weight(labels: np.ndarray, displacement: np.ndarray) -> Cost:
    """Return a cost function: 1 minus the interpolated weight of the moved label in each voxel, 0 to 1."""

    extents = ndimage.find_objects(labels + 1)

    def cost(label: int, box: tuple[slice, ...]) -> np.ndarray:
        places, extent = _places(displacement, box), extents[label]
        sides = zip(places, extent, strict=True)
        near = np.logical_and.reduce([(p > e.start - 1) & (p < e.stop) for p, e in sides])
        # Positions outside the volume get the edge label, so they may belong to an object at the edge.
        near |= np.logical_or.reduce([(p < 0) | (p > n - 1) for p, n in zip(places, labels.shape, strict=True)])
        lacking = np.ones(near.shape, np.float32)
        inside = [p[near] for p in places]
        lacking[near] -= ndimage.map_coordinates((labels == label).astype(np.float32), inside, order=1, mode="nearest")
        return lacking

    return cost


def affine_displacement(
    shape: tuple[int, ...], spacing: tuple[float, ...], rng: np.random.Generator, *, rotate: float, scale: float
) -> np.ndarray:
    """Draw a rotation about and a scaling along each axis, around the volume centre: (3, X, Y, Z), voxels."""
    turn = Rotation.from_euler("xyz", rng.uniform(-rotate, rotate, 3), degrees=True).as_matrix()
    matrix = turn @ np.diag(rng.uniform(1 - scale, 1 + scale, 3))
    mm = np.asarray(spacing, float)
    matrix = matrix * mm / mm[:, None]  # voxels → mm → transformed mm → voxels
    centred = np.indices(shape).reshape(3, -1) - (np.asarray(shape)[:, None] - 1) / 2
    return ((matrix - np.eye(3)) @ centred).reshape(3, *shape).astype(np.float32)


def elastic_displacement(
    shape: tuple[int, ...], spacing: tuple[float, ...], rng: np.random.Generator, *, strength: float, waves: int
) -> np.ndarray:
    """Draw a smooth velocity field and integrate it by scaling and squaring (Arsigny 2006): (3, X, Y, Z), voxels.

    ``strength``: root mean square of the velocity as a fraction of the mean side length in mm.
    """
    mm = np.asarray(spacing, float)
    drawn = rng.normal(size=(3, *(waves,) * 3))
    zoomed = [ndimage.zoom(v, np.asarray(shape) / waves, order=3, mode="nearest", grid_mode=True) for v in drawn]
    velocity = np.stack(zoomed)
    size = strength * float(np.mean(np.asarray(shape) * mm))
    velocity *= size / np.sqrt((velocity**2).sum(0).mean())
    flow = (velocity / mm[:, None, None, None] / 2**SQUARINGS).astype(np.float32)
    for _ in range(SQUARINGS):
        flow = flow + _at(flow, flow)
    return flow


def _at(displacement: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Compute field(p + displacement(p)), to compose two displacements."""
    places = np.indices(field.shape[1:], np.float32) + displacement
    return np.stack([ndimage.map_coordinates(f, places, order=1, mode="nearest") for f in field])


def recombine(
    a: np.ndarray, b: np.ndarray, weight: float, spacing: tuple[float, ...], *, keep: Sequence[float] | None = None
) -> np.ndarray:
    """Interpolate between two label maps by shape (Raya & Udupa 1990), for all labels at once.

    φ = (1 - w) φ_a + w φ_b for the signed distance φ to the surface of each label; the label with the smallest φ is
    chosen. w = 0 gives a, w = 1 gives b. A structure has at most as many connected components as in the map where it
    has more, see ``topology``. If that fails, w is reduced to a half, then to a quarter.

    Args:
        a, b: label maps (X, Y, Z) on one grid.
        weight: w in [0, 1].
        spacing: mm.
        keep: values whose components are preserved; None: all except 0.

    Returns:
        Label map with the shape and dtype of ``a``.

    Raises:
        ValueError: shapes differ; see ``centred``.
    """
    if a.shape != b.shape:
        raise ValueError(f"label maps of shapes {a.shape} and {b.shape} cannot be combined; resample them to one grid")
    values = np.union1d(a, b)
    kept = [v for v in values if v] if keep is None else keep
    return _least_fragmented(_between(a, b, part * weight, spacing, values, kept) for part in FRACTIONS)


def _between(
    a: np.ndarray, b: np.ndarray, weight: float, spacing: tuple[float, ...], values: np.ndarray, keep: Sequence[float]
) -> tuple[np.ndarray, int]:
    """Return the interpolated map, and the number of detached fragments of its structures."""
    best, numbers = np.full(a.shape, np.inf), np.zeros(a.shape, np.int32)

    def depth(value: float) -> np.ndarray:
        return (1 - weight) * _signed_distance(a == value, spacing) + weight * _signed_distance(b == value, spacing)

    for number, value in enumerate(values):
        found = depth(value)
        better = found < best
        numbers[better], best[better] = number, found[better]

    def cost(number: int, box: tuple[slice, ...]) -> np.ndarray:
        outside = np.maximum(depth(values[number])[box], 0)
        return outside / (outside + min(spacing))

    result, fragments = repair_topology(numbers, objects_between(a, b, numbers, values, keep), cost)
    return values[result].astype(a.dtype), fragments


def _least_fragmented(attempts: Iterable[tuple[np.ndarray, int]]) -> np.ndarray:
    """Return the first label map without fragments, else the one with the fewest; evaluates lazily."""
    best: tuple[np.ndarray, int] | None = None
    for result, fragments in attempts:
        if best is None or fragments < best[1]:
            best = result, fragments
        if not fragments:
            break
    assert best is not None
    return best[0]


def centred(labels: np.ndarray, inside: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Crop or edge-pad ``labels`` to the shape of ``like``, so that the centres of mass of two masks coincide.

    Args:
        labels: (X, Y, Z).
        inside: mask of the structures in ``labels``, bool.
        like: mask of the structures in the other map, bool. For an empty mask the volume centre is used.
    """
    middle, target_middle = (
        [float(n) for n in ndimage.center_of_mass(v)] if v.any() else [(n - 1) / 2 for n in v.shape]
        for v in (inside, like)
    )
    places = [
        np.clip(np.arange(n) + round(m - w), 0, length - 1)
        for n, m, w, length in zip(like.shape, middle, target_middle, labels.shape, strict=True)
    ]
    return labels[np.ix_(*places)]


def _signed_distance(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Return the distance to the mask's surface in mm, negative inside; the volume diagonal if the mask is empty."""
    diagonal = float(np.linalg.norm(np.asarray(mask.shape) * np.asarray(spacing)))
    if not mask.any():
        return np.full(mask.shape, diagonal)
    if mask.all():
        return np.full(mask.shape, -diagonal)
    return ndimage.distance_transform_edt(~mask, spacing) - ndimage.distance_transform_edt(mask, spacing)
