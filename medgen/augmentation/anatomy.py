"""New anatomy from label maps: smooth invertible deformation of one, and shapes between two.

Labels are never averaged: each is moved as a mask of its own and the largest wins, so no value is invented.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

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
) -> np.ndarray:
    """A label map (X, Y, Z) turned, scaled and bent; the same seed gives the same.

    Args:
        labels: whole numbers; what enters from beyond the edge is the edge's label.
        spacing: mm, so that voxels of unequal sides turn rightly.
        seed: of everything drawn.
        rotate: largest rotation about each axis, degrees.
        scale: largest change of size along each axis, as a fraction.
        elastic: root mean square of the elastic displacement, as a part of the volume's mean side.
        waves: control points of the elastic field along each side; more of them bend finer.

    Returns:
        The same shape and dtype, with no value that the input has not.
    """
    rng = np.random.default_rng(seed)
    turned = affine_displacement(labels.shape, spacing, rng, rotate=rotate, scale=scale)
    bent = elastic_displacement(labels.shape, spacing, rng, strength=elastic, waves=waves)
    return warp(labels, turned + _at(turned, bent) if elastic else turned)


def warp(labels: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """out(p) = labels(p + displacement(p)): each label's mask linearly interpolated, the largest share wins.

    Args:
        labels: (X, Y, Z).
        displacement: (3, X, Y, Z), voxels.
    """
    places = np.indices(labels.shape, np.float32) + displacement
    best, out = np.full(labels.shape, -1.0, np.float32), np.empty_like(labels)
    for value in np.unique(labels):  # one at a time: a whole one-hot array of a CT would not fit
        mask = (labels == value).astype(np.float32)
        share = ndimage.map_coordinates(mask, places, order=1, mode="nearest")
        better = share > best
        out[better], best[better] = value, share[better]
    return out


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


def recombine(a: np.ndarray, b: np.ndarray, weight: float, spacing: tuple[float, ...]) -> np.ndarray:
    """The anatomy between two label maps: shape-based interpolation (Raya & Udupa 1990) of all labels at once.

    φ = (1 - w) φ_a + w φ_b of the signed distances to each label's surface; the deepest label wins. w = 0 gives a,
    w = 1 gives b.

    Args:
        a, b: (X, Y, Z), on one grid.
        weight: w in [0, 1].
        spacing: mm.

    Raises:
        ValueError: shapes that differ; see ``centred``.
    """
    if a.shape != b.shape:
        raise ValueError(f"label maps of {a.shape} and {b.shape} voxels cannot be combined; bring them to one grid")
    best, out = np.full(a.shape, np.inf), np.empty_like(a)
    for value in np.union1d(a, b):
        depth = (1 - weight) * _signed_distance(a == value, spacing) + weight * _signed_distance(b == value, spacing)
        better = depth < best
        out[better], best[better] = value, depth[better]
    return out


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
