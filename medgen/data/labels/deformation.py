"""New anatomy from label maps: smooth invertible deformation of one, and shapes between two.

Labels are never averaged: the largest share or the deepest wins, so no value is invented; and their parts are kept.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medgen.data.labels.resampling import labels_at
from medgen.data.labels.topology import Cost, Objects, objects_between, objects_of, repaired

PARTS = (1.0, 0.5, 0.25)  # of a displacement, tried until no part of a structure comes loose
SQUARINGS = 6  # the velocity is followed in 2⁶ steps, short enough that space does not fold


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
    """A label map (X, Y, Z) turned, scaled and bent; the same seed gives the same.

    Structures keep their connected parts and cavities, see ``topology``. Where that is not possible, the change is
    made smaller: to half, then a quarter.

    Args:
        labels: whole numbers; what enters from beyond the edge is the edge's label.
        spacing: mm, so that voxels of unequal sides turn rightly.
        seed: of everything drawn.
        rotate: largest rotation about each axis, degrees.
        scale: largest change of size along each axis, as a fraction.
        elastic: root mean square of the elastic displacement, as a part of the volume's mean side.
        waves: control points of the elastic field along each side; more of them bend finer.
        keep: values whose parts are kept; None: all but 0.

    Returns:
        The same shape and dtype, with no value that the input has not.
    """
    rng = np.random.default_rng(seed)
    turned = affine_displacement(labels.shape, spacing, rng, rotate=rotate, scale=scale)
    bent = elastic_displacement(labels.shape, spacing, rng, strength=elastic, waves=waves)
    displacement = turned + _at(turned, bent) if elastic else turned
    objects = objects_of(labels, [v for v in np.unique(labels) if v] if keep is None else keep)
    return _least_loose(_moved(objects, part * displacement) for part in PARTS)


def _moved(objects: Objects, displacement: np.ndarray) -> tuple[np.ndarray, int]:
    """The label map after a displacement, and how many parts of its structures are loose."""
    numbers = objects.numbers
    made, loose = repaired(warp(numbers, displacement), objects, _share_lacking(numbers, displacement))
    return objects.value[made], loose


def warp(labels: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """out(p) = labels(p + displacement(p)), the largest share wins, see ``data.labels.resampling``.

    Args:
        labels: (X, Y, Z).
        displacement: (3, X, Y, Z), voxels.
    """
    return labels_at(labels, lambda rows: _places(displacement, (rows, slice(None), slice(None))), labels.shape)


def _places(displacement: np.ndarray, box: tuple[slice, ...]) -> list[np.ndarray]:
    axes = np.ix_(*(np.arange(n)[b] for b, n in zip(box, displacement.shape[1:], strict=True)))
    return [d[box] + axis for d, axis in zip(displacement, axes, strict=True)]


def _share_lacking(labels: np.ndarray, displacement: np.ndarray) -> Cost:
    """What a moved label lacks of the whole of each voxel, 0 to 1."""

    extents = ndimage.find_objects(labels + 1)

    def cost(label: int, box: tuple[slice, ...]) -> np.ndarray:
        places, extent = _places(displacement, box), extents[label]
        sides = zip(places, extent, strict=True)
        near = np.logical_and.reduce([(p > e.start - 1) & (p < e.stop) for p, e in sides])
        # Edges go on beyond the volume: what lies there is near the object where that touches the edge.
        near |= np.logical_or.reduce([(p < 0) | (p > n - 1) for p, n in zip(places, labels.shape, strict=True)])
        lacking = np.ones(near.shape, np.float32)
        inside = [p[near] for p in places]
        lacking[near] -= ndimage.map_coordinates((labels == label).astype(np.float32), inside, order=1, mode="nearest")
        return lacking

    return cost


def affine_displacement(
    shape: tuple[int, ...], spacing: tuple[float, ...], rng: np.random.Generator, *, rotate: float, scale: float
) -> np.ndarray:
    """(3, X, Y, Z) voxels: rotation about each axis and scaling along each, drawn, about the volume's centre."""
    turn = Rotation.from_euler("xyz", rng.uniform(-rotate, rotate, 3), degrees=True).as_matrix()
    matrix = turn @ np.diag(rng.uniform(1 - scale, 1 + scale, 3))
    mm = np.asarray(spacing, float)
    matrix = matrix * mm / mm[:, None]  # voxels → mm → moved → voxels
    centred = np.indices(shape).reshape(3, -1) - (np.asarray(shape)[:, None] - 1) / 2
    return ((matrix - np.eye(3)) @ centred).reshape(3, *shape).astype(np.float32)


def elastic_displacement(
    shape: tuple[int, ...], spacing: tuple[float, ...], rng: np.random.Generator, *, strength: float, waves: int
) -> np.ndarray:
    """(3, X, Y, Z) voxels: a smooth random velocity, followed for unit time by squaring (Arsigny 2006).

    ``strength``: root mean square of the velocity as a part of the mean side in mm.
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
    """field(p + displacement(p)): what a second displacement adds where the first has led."""
    places = np.indices(field.shape[1:], np.float32) + displacement
    return np.stack([ndimage.map_coordinates(f, places, order=1, mode="nearest") for f in field])


def recombine(
    a: np.ndarray, b: np.ndarray, weight: float, spacing: tuple[float, ...], *, keep: Sequence[float] | None = None
) -> np.ndarray:
    """The anatomy between two label maps: shape-based interpolation (Raya & Udupa 1990) of all labels at once.

    φ = (1 - w) φ_a + w φ_b of the signed distances to each label's surface; the deepest label wins. w = 0 gives a,
    w = 1 gives b. A structure has no more connected parts than in one of the maps, see ``topology``. Where that is not
    possible, w is made smaller: a half, then a quarter.

    Args:
        a, b: (X, Y, Z), on one grid.
        weight: w in [0, 1].
        spacing: mm.
        keep: values whose parts are kept; None: all but 0.

    Raises:
        ValueError: shapes that differ; see ``centred``.
    """
    if a.shape != b.shape:
        raise ValueError(f"label maps of {a.shape} and {b.shape} voxels cannot be combined; bring them to one grid")
    values = np.union1d(a, b)
    kept = [v for v in values if v] if keep is None else keep
    return _least_loose(_between(a, b, part * weight, spacing, values, kept) for part in PARTS)


def _between(
    a: np.ndarray, b: np.ndarray, weight: float, spacing: tuple[float, ...], values: np.ndarray, keep: Sequence[float]
) -> tuple[np.ndarray, int]:
    """The map between two, and how many parts of its structures are loose."""
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

    made, loose = repaired(numbers, objects_between(a, b, numbers, values, keep), cost)
    return values[made].astype(a.dtype), loose


def _least_loose(attempts: Iterable[tuple[np.ndarray, int]]) -> np.ndarray:
    """The first label map without loose parts, or that with the fewest; later ones are made only if needed."""
    best: tuple[np.ndarray, int] | None = None
    for made, loose in attempts:
        if best is None or loose < best[1]:
            best = made, loose
        if not loose:
            break
    assert best is not None
    return best[0]


def centred(labels: np.ndarray, inside: np.ndarray, like: np.ndarray) -> np.ndarray:
    """``labels`` cut or padded by its edges to the shape of ``like``, so that the middles of two masks meet.

    Args:
        labels: (X, Y, Z).
        inside: bool, its structures; like: bool, those of the other map. An empty mask's middle is the volume's.
    """
    middle, wanted = (
        [float(n) for n in ndimage.center_of_mass(v)] if v.any() else [(n - 1) / 2 for n in v.shape]
        for v in (inside, like)
    )
    places = [
        np.clip(np.arange(n) + round(m - w), 0, had - 1)
        for n, m, w, had in zip(like.shape, middle, wanted, labels.shape, strict=True)
    ]
    return labels[np.ix_(*places)]


def _signed_distance(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """mm to the mask's surface, negative inside; the volume's diagonal everywhere where the mask is empty."""
    diagonal = float(np.linalg.norm(np.asarray(mask.shape) * np.asarray(spacing)))
    if not mask.any():
        return np.full(mask.shape, diagonal)
    if mask.all():
        return np.full(mask.shape, -diagonal)
    return ndimage.distance_transform_edt(~mask, spacing) - ndimage.distance_transform_edt(mask, spacing)
