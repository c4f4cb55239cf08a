"""New shapes for lesions: real masks turned, stretched and bent, or ellipsoids roughened by noise.

The ellipsoids follow SyntheticTumors (Hu et al., CVPR 2023: ellipsoids under elastic deformation), but of an exact
volume: the size distribution is that of the real lesions. In a scan of one slice shapes stay in its plane.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medgen.augmentation.lesions.library import Lesion

REDRAWN = 10  # times that a shape beyond the range of real sizes is drawn anew; voxels larger than it have no other
ROOM_MM = 6.0  # beyond the mask on every side of a shape


@dataclass(frozen=True, eq=False)
class Shape:
    """A lesion's mask (X, Y, Z) on a grid of ``spacing`` mm: one connected part, with room around it.

    Where it was made from a real lesion: that ``lesion``, and ``places`` (3, X, Y, Z), the place in the lesion's
    crop (voxels) that came to each voxel.
    """

    mask: np.ndarray
    lesion: Lesion | None = None
    places: np.ndarray | None = None


Flat = tuple[bool, bool, bool]
DrawShape = Callable[[Sequence[Lesion], Sequence[float], np.random.Generator], Shape]


def draw_diameter(lesions: Sequence[Lesion], rng: np.random.Generator) -> float:
    """mm: that of one of the lesions, changed a little, and within their range."""
    known = [lesion.diameter_mm for lesion in lesions]
    return float(np.clip(rng.choice(known) * np.exp(rng.normal(0, 0.1)), min(known), max(known)))


def draw_real(lesions: Sequence[Lesion], spacing: Sequence[float], rng: np.random.Generator) -> Shape:
    """A changed mask of one of the lesions, no smaller than the least and no larger than the largest of them."""
    sizes = [lesion.volume_ml for lesion in lesions]
    for _ in range(REDRAWN):
        shape = library_shape(lesions[int(rng.integers(len(lesions)))], spacing, rng)
        if min(sizes) <= shape.mask.sum() * np.prod(spacing) / 1000 <= max(sizes):
            break
    return shape


def draw_ellipsoid(lesions: Sequence[Lesion], spacing: Sequence[float], rng: np.random.Generator) -> Shape:
    """An ellipsoid of about the size of one of the lesions; an ellipse where they lie in one slice."""
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
    """The mask of a real lesion under a random affine and elastic change.

    Args:
        lesion: where it comes from.
        spacing: mm of the new grid.
        rotate: largest angle about each axis, degrees.
        scale: largest change of size, as a fraction; half of it again for each axis by itself.
        bend: standard deviation of the elastic displacement, as a part of the diameter.
    """
    flat = _flat(lesion)
    size = np.exp(rng.uniform(-1, 1) * np.log1p(scale) + rng.uniform(-0.5, 0.5, 3) * np.log1p(scale))
    matrix = _turn(rotate, flat, rng) @ np.diag(rng.choice([-1.0, 1.0], 3) / size)
    points = _grid(1.2 * np.abs(np.linalg.inv(matrix)) @ (np.array(lesion.mask.shape) * lesion.spacing), spacing, flat)
    bent = _waves(points.shape[1:], spacing, lesion.diameter_mm, rng) * bend * lesion.diameter_mm
    points = points + np.where(np.reshape(flat, (3, 1, 1, 1)), 0, bent)
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
    """A noisy ellipsoid of the volume of a ball of ``diameter_mm``, to within a voxel.

    Args:
        rough: standard deviation of the noise on its surface, as a part of the radius.
        flat: axes along which the scan is one voxel; the ellipsoid is then a slice, of the same volume.
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
    turned = np.einsum("ij,jxyz->ixyz", _turn(180, flat, rng), points)
    field = np.sqrt(((turned / axes[:, None, None, None]) ** 2).sum(0))
    field += rough * _waves(field.shape, spacing, diameter_mm, rng)[0]
    return Shape(_of_size(field, count))


def one_part(mask: np.ndarray) -> np.ndarray:
    """Its largest connected part (6 neighbours), holes filled."""
    parts, count = ndimage.label(mask)
    return ndimage.binary_fill_holes(parts == np.bincount(parts.ravel())[1:].argmax() + 1) if count else mask


def cut(values: np.ndarray, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """(..., X, Y, Z) → the part of ``size`` from ``start`` on; beyond the ends their values are repeated."""
    ends = zip(start, size, values.shape[-3:], strict=True)
    index: Any = (..., *np.ix_(*(np.clip(np.arange(a, a + n), 0, m - 1) for a, n, m in ends)))
    return values[index]


def _of_size(field: np.ndarray, count: int) -> np.ndarray:
    """The connected part around the least value of ``field`` that has ``count`` voxels, or hardly more."""
    ordered = np.sort(field.ravel())
    low, high = count, len(ordered)  # of the voxels under the threshold some lie apart or fill holes: bisect
    while low < high:
        middle = (low + high) // 2
        if one_part(field <= ordered[middle - 1]).sum() < count:
            low = middle + 1
        else:
            high = middle
    return one_part(field <= ordered[low - 1])


def _flat(lesion: Lesion) -> Flat:
    """The axes along which its scan has one voxel: a crop has host on both sides of a lesion where there is any."""
    x, y, z = (n == 1 for n in lesion.mask.shape)
    return x, y, z


def _turn(degrees: float, flat: Flat, rng: np.random.Generator) -> np.ndarray:
    """A random rotation, up to ``degrees`` about each axis; within the slice where there is but one."""
    angles = rng.uniform(-degrees, degrees, 3)
    if any(flat):
        angles = np.where(flat, angles, 0)
    return Rotation.from_euler("xyz", angles, degrees=True).as_matrix()


def _grid(size_mm: np.ndarray, spacing: Sequence[float], flat: Flat) -> np.ndarray:
    """(3, X, Y, Z): mm from the centre of a grid of at least ``size_mm``, one voxel along ``flat`` axes."""
    axes = []
    for size, step, thin in zip(size_mm, spacing, flat, strict=True):
        n = 0 if thin else int(np.ceil(size / step / 2))
        axes.append(np.arange(-n, n + 1) * step)
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _waves(shape: Sequence[int], spacing: Sequence[float], diameter: float, rng: np.random.Generator) -> np.ndarray:
    """(3, X, Y, Z): three smooth random fields of standard deviation 1, their waves about as long as the lesion."""
    sigma = [max(diameter / 4 / s, 0.5) for s in spacing]
    fields = np.stack([ndimage.gaussian_filter(rng.normal(size=shape[-3:]), sigma, mode="wrap") for _ in range(3)])
    return fields / np.maximum(fields.std((1, 2, 3), keepdims=True), 1e-9)
