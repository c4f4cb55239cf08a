"""Shapes of new lesions: real masks under affine and elastic deformation, or ellipsoids with a noisy surface.

The ellipsoids follow SyntheticTumors (Hu et al., CVPR 2023: ellipsoids under elastic deformation), but have an exact
volume, so that sizes are distributed as those of real lesions. In a single-slice scan, shapes stay within the slice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medgen.augmentation.lesions.library import Lesion

REDRAWN = 10  # maximum draws to get a shape within the range of real sizes; impossible with very large voxels
ROOM_MM = 6.0  # margin around the mask of a shape


@dataclass(frozen=True, eq=False)
class Shape:
    """A lesion's mask, (X, Y, Z) bool: one connected part with a margin around it.

    If it was made from a real lesion, ``lesion`` is that lesion and ``places`` (3, X, Y, Z) are the voxel coordinates
    in its crop that correspond to each voxel.
    """

    mask: np.ndarray
    lesion: Lesion | None = None
    places: np.ndarray | None = None


Flat = tuple[bool, bool, bool]
DrawShape = Callable[[Sequence[Lesion], Sequence[float], np.random.Generator], Shape]


def draw_diameter(lesions: Sequence[Lesion], rng: np.random.Generator) -> float:
    """Draw a diameter in mm: that of a random lesion with a small random change, within the range of all lesions."""
    known = [lesion.diameter_mm for lesion in lesions]
    return float(np.clip(rng.choice(known) * np.exp(rng.normal(0, 0.1)), min(known), max(known)))


def draw_real(lesions: Sequence[Lesion], spacing: Sequence[float], rng: np.random.Generator) -> Shape:
    """Draw a deformed mask of one of the lesions, with a volume within their range if possible."""
    sizes = [lesion.volume_ml for lesion in lesions]
    for _ in range(REDRAWN):
        shape = library_shape(lesions[int(rng.integers(len(lesions)))], spacing, rng)
        if min(sizes) <= shape.mask.sum() * np.prod(spacing) / 1000 <= max(sizes):
            break
    return shape


def draw_ellipsoid(lesions: Sequence[Lesion], spacing: Sequence[float], rng: np.random.Generator) -> Shape:
    """Draw an ellipsoid of about the size of one of the lesions; an ellipse if their scans have one slice."""
    return ellipsoid_shape(draw_diameter(lesions, rng), spacing, rng, flat=_flat(lesions[0]))


def library_shape(
    lesion: Lesion,
    spacing: Sequence[float],
    rng: np.random.Generator,
    *,
    rotate: float = 30.0,
    scale: float = 0.15,
    bend: float = 0.07,
) -> Shape:
    """Return the mask of a real lesion after a random affine and elastic deformation.

    Args:
        lesion: the real lesion.
        spacing: voxel spacing of the new grid in mm.
        rotate: maximum rotation about each axis, in degrees.
        scale: maximum change of size, as a fraction; each axis changes by up to half of it in addition.
        bend: standard deviation of the elastic displacement, as a fraction of the diameter.
    """
    flat = _flat(lesion)
    size = np.exp(rng.uniform(-1, 1) * np.log1p(scale) + rng.uniform(-0.5, 0.5, 3) * np.log1p(scale))
    matrix = _rotation(rotate, flat, rng) @ np.diag(rng.choice([-1.0, 1.0], 3) / size)
    points = _grid(1.2 * np.abs(np.linalg.inv(matrix)) @ (np.array(lesion.mask.shape) * lesion.spacing), spacing, flat)
    displacement = _smooth_noise(points.shape[1:], spacing, lesion.diameter_mm, rng) * bend * lesion.diameter_mm
    points = points + np.where(np.reshape(flat, (3, 1, 1, 1)), 0, displacement)
    centre = np.argwhere(lesion.mask).mean(0)
    places = np.einsum("ij,jxyz->ixyz", matrix, points) / np.reshape(lesion.spacing, (3, 1, 1, 1))
    places += centre[:, None, None, None]
    inside = ndimage.map_coordinates(lesion.mask.astype(np.float32), places, order=1)
    mask = one_part(inside > 0.5) if (inside > 0.5).any() else inside == inside.max()
    room = [0 if thin else int(np.ceil(ROOM_MM / s)) for s, thin in zip(spacing, flat, strict=True)]
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    start = [b.start - r for b, r in zip(box, room, strict=True)]
    size = [b.stop - b.start + 2 * r for b, r in zip(box, room, strict=True)]
    return Shape(cut(mask, start, size), lesion, cut(places, start, size))


def ellipsoid_shape(
    diameter_mm: float,
    spacing: Sequence[float],
    rng: np.random.Generator,
    *,
    rough: float = 0.15,
    flat: Flat = (False, False, False),
) -> Shape:
    """Return an ellipsoid with a noisy surface and the volume of a sphere of ``diameter_mm``, to within a voxel.

    Args:
        rough: standard deviation of the surface noise, as a fraction of the radius.
        flat: axes along which the scan has one voxel; the shape is then an ellipse in the slice, of the same volume.
    """
    volume = np.pi / 6 * diameter_mm**3
    count = max(1, round(volume / float(np.prod(spacing))))
    axes = np.exp(rng.normal(0, 0.2, 3))
    if any(flat):
        thick = float(np.prod([s for s, thin in zip(spacing, flat, strict=True) if thin]))
        axes *= np.sqrt(volume / thick / np.pi / np.prod(axes[~np.array(flat)]))
    else:
        axes *= diameter_mm / 2 / np.prod(axes) ** (1 / 3)
    points = _grid(np.full(3, 2.0 * (axes.max() * (1 + 2 * rough) + ROOM_MM)), spacing, flat)
    rotated = np.einsum("ij,jxyz->ixyz", _rotation(180, flat, rng), points)
    field = np.sqrt(((rotated / axes[:, None, None, None]) ** 2).sum(0))
    field += rough * _smooth_noise(field.shape, spacing, diameter_mm, rng)[0]
    return Shape(_of_size(field, count))


def one_part(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected part of the mask (6 neighbours) with its holes filled."""
    parts, count = ndimage.label(mask)
    return ndimage.binary_fill_holes(parts == np.bincount(parts.ravel())[1:].argmax() + 1) if count else mask


def cut(values: np.ndarray, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """Crop (..., X, Y, Z) to ``size`` voxels starting at ``start``; outside the array, edge values are repeated."""
    ends = zip(start, size, values.shape[-3:], strict=True)
    index: Any = (..., *np.ix_(*(np.clip(np.arange(a, a + n), 0, m - 1) for a, n, m in ends)))
    return values[index]


def _of_size(field: np.ndarray, count: int) -> np.ndarray:
    """Return the connected part around the minimum of ``field`` with ``count`` voxels, or slightly more."""
    ordered = np.sort(field.ravel())
    low, high = count, len(ordered)  # bisect: some voxels below the threshold are in other parts, others fill holes
    while low < high:
        middle = (low + high) // 2
        if one_part(field <= ordered[middle - 1]).sum() < count:
            low = middle + 1
        else:
            high = middle
    return one_part(field <= ordered[low - 1])


def _flat(lesion: Lesion) -> Flat:
    """Return the axes along which the lesion's scan has one voxel; on other axes its crop includes some host."""
    x, y, z = (n == 1 for n in lesion.mask.shape)
    return x, y, z


def _rotation(degrees: float, flat: Flat, rng: np.random.Generator) -> np.ndarray:
    """Return a random rotation of up to ``degrees`` about each axis; in a single-slice scan only within the slice."""
    angles = rng.uniform(-degrees, degrees, 3)
    if any(flat):
        angles = np.where(flat, angles, 0)
    return Rotation.from_euler("xyz", angles, degrees=True).as_matrix()


def _grid(size_mm: np.ndarray, spacing: Sequence[float], flat: Flat) -> np.ndarray:
    """Return coordinates in mm from the centre of a grid, (3, X, Y, Z).

    The grid covers at least ``size_mm`` and has one voxel along ``flat`` axes.
    """
    axes = []
    for size, step, thin in zip(size_mm, spacing, flat, strict=True):
        n = 0 if thin else int(np.ceil(size / step / 2))
        axes.append(np.arange(-n, n + 1) * step)
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _smooth_noise(
    shape: Sequence[int], spacing: Sequence[float], diameter: float, rng: np.random.Generator
) -> np.ndarray:
    """Return three smooth random fields, (3, X, Y, Z), with standard deviation 1 and a wavelength of ~``diameter``."""
    sigma = [max(diameter / 4 / s, 0.5) for s in spacing]
    fields = np.stack([ndimage.gaussian_filter(rng.normal(size=shape[-3:]), sigma, mode="wrap") for _ in range(3)])
    return fields / np.maximum(fields.std((1, 2, 3), keepdims=True), 1e-9)
