"""A 3D volume as read from or written to a file: array, affine, and metadata that a round trip must keep.

Intensities keep the unit of the file (HU for CT); lengths are mm; world axes are RAS+
(+x right, +y anterior, +z superior), regardless of the convention of the file format.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import (
    aff2axcodes,
    apply_orientation,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

from medgen.errors import InputError

GRID_TOLERANCE = 0.01  # fraction of the smallest voxel side: allows for rounding differences between programs
MAX_VOXELS = 2**33  # 32 GiB as float32; a larger grid indicates a damaged header
MAX_MM = 1e6  # 1 km
INTEGERS = tuple(np.dtype(t) for t in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"))
# Rotation by about 0.2 degrees, see ``orientation``.
OFF_TIES = np.array([[1, -2.1e-3, 1.3e-3, 0], [2.1e-3, 1, -1.7e-3, 0], [-1.3e-3, 1.7e-3, 1, 0], [0, 0, 0, 1]])
CANONICAL = np.array([[0, 1], [1, 1], [2, 1]])  # nibabel's orientation array of RAS+


@dataclass(frozen=True, eq=False)
class Geometry:
    """Voxel grid: ``shape`` (X, Y, Z) and ``affine`` (4, 4) float64, voxel index -> RAS+ mm."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along each array axis, mm."""
        x, y, z = voxel_sizes(self.affine)
        return float(x), float(y), float(z)

    def describe(self) -> str:
        """Return one line for messages: shape, spacing, orientation, origin and direction."""
        size = " x ".join(map(str, self.shape))
        spacing = " x ".join(f"{s:.6g}" for s in self.spacing)
        codes = "".join(code or "?" for code in aff2axcodes(self.affine))
        origin = ", ".join(f"{o:.6g}" for o in self.affine[:3, 3])
        columns = (self.affine[:3, :3] / self.spacing).T
        axes = " ".join("(" + ", ".join(f"{value:.4g}" for value in column) + ")" for column in columns)
        return f"{size} voxels of {spacing} mm, {codes}, origin ({origin}) mm, axes {axes}"


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image.

    data    (X, Y, Z) float32, in the file's unit (HU for CT), with the stored scaling applied; float64 files
            and integers beyond 2**24 are rounded to float32 (relative error at most 6e-8)
    affine  (4, 4) float64, voxel index -> RAS+ mm
    dtype   data type in the file (native byte order); the writer keeps it if the values fit
    header  nibabel header of a NIfTI input (with its slope and intercept), else None
    path    source file or DICOM folder, else None
    frames  DICOM only: file and frame number (from 0) of each slice along the third axis, else None
    headers_sha256  DICOM only: hash of the headers of these slices, to detect changed files later
    warnings  one sentence for each ambiguous, contradictory or missing field, with the interpretation used
    notes   one sentence for each negligible deviation from the file's content
    padding DICOM only: (lowest, highest) padding value outside the scanned region; arrays that broadcast to ``data``,
            because each slice has its own rescale; NaN in slices without padding, None if no slice has any
    unit    DICOM only: unit of the values according to the standard (HU), "" if unspecified; None: not determined
    """

    data: np.ndarray
    affine: np.ndarray
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.float32))
    header: Any = None
    path: Path | None = None
    frames: tuple[tuple[Path, int], ...] | None = None
    headers_sha256: str | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unit: str | None = None
    padding: tuple[np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        data, affine = np.asarray(self.data, np.float32), np.array(self.affine, np.float64)
        if data.ndim != 3 or affine.shape != (4, 4):
            raise ValueError(f"a volume needs 3D data and a 4 x 4 affine, not {data.shape} and {affine.shape}")
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "dtype", np.dtype(self.dtype))

    @property
    def geometry(self) -> Geometry:
        x, y, z = self.data.shape
        return Geometry((x, y, z), self.affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along each array axis, mm."""
        return self.geometry.spacing

    def replaced(self, data: np.ndarray, dtype: Any = None) -> "Volume":
        """Return a copy with new values on the same grid; the stored type is kept unless ``dtype`` is given."""
        if data.shape != self.data.shape:
            raise ValueError(f"the new data have the shape {data.shape}, but the grid has {self.data.shape}")
        return replace(self, data=data, dtype=self.dtype if dtype is None else np.dtype(dtype))


def same_geometry(a: Geometry, b: Geometry, tolerance: float = 1e-3) -> bool:
    """Return whether shapes are equal and corresponding volume corners differ by at most ``tolerance`` mm."""
    if tuple(a.shape) != tuple(b.shape):
        return False
    corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in a.shape))], np.float64)
    distances = np.linalg.norm(corners @ (a.affine - b.affine).T, axis=1)
    return bool(distances.max() <= tolerance)


def to_canonical(volume: Volume) -> Volume:
    """Flip and permute the axes to the closest RAS+ orientation; lossless, without resampling."""
    view = canonical_view(volume)
    return replace(view, data=contiguous(view.data))


def canonical_view(volume: Volume) -> Volume:
    """Like ``to_canonical``, but the data are a strided view of the input; faster if few voxels are read."""
    axes = orientation(volume.affine)
    affine = volume.affine @ inv_ornt_aff(axes, volume.data.shape)
    padding = volume.padding and (
        apply_orientation(volume.padding[0], axes),
        apply_orientation(volume.padding[1], axes),
    )
    return replace(volume, data=apply_orientation(volume.data, axes), affine=affine, padding=padding)


def from_canonical(data: np.ndarray, like: Volume, *, overwrite: bool = False) -> np.ndarray:
    """Exact inverse of ``to_canonical``: reorder an array from RAS+ to the axes of ``like``.

    ``overwrite``: where axes are only flipped, as in most scans, flip them in ``data``, to save as much memory.
    """
    back = ornt_transform(CANONICAL, orientation(like.affine))
    if not overwrite or not np.array_equal(back[:, 0], CANONICAL[:, 0]):
        return contiguous(apply_orientation(data, back))
    n, flipped = len(data), back[:, 1] < 0
    for k in range(n // 2 if flipped[0] else 0):
        data[k], data[n - 1 - k] = data[n - 1 - k].copy(), data[k].copy()
    if flipped[1:].any():
        for row in data:
            row[...] = np.flip(row, tuple(np.flatnonzero(flipped[1:]).tolist())).copy()
    return contiguous(data)


def reordered_like(volume: Volume, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Data and affine of a canonical volume with its axes in the order and the directions of another grid's."""
    back = ornt_transform(CANONICAL, orientation(affine))
    data = contiguous(apply_orientation(volume.data, back))
    return data, volume.affine @ inv_ornt_aff(back, volume.data.shape)


def orientation(affine: np.ndarray) -> np.ndarray:
    """Return nibabel's ``io_orientation`` of the grid, rotated by about 0.2 degrees.

    For a grid at 45 degrees two axes are equally close. The rotation prevents rounding from choosing between them, so
    that all files on one grid get the same axes.
    """
    return io_orientation(OFF_TIES @ affine)


def contiguous(data: np.ndarray) -> np.ndarray:
    """Like ``np.ascontiguousarray``, but transposed volumes are copied in blocks, which takes a quarter of the time."""
    if abs(data.strides[2]) == data.itemsize:
        return np.ascontiguousarray(data)
    copied = np.empty(data.shape, data.dtype)
    for k in range(0, data.shape[2], 16):
        copied[..., k : k + 16] = data[..., k : k + 16]
    return copied


def slope_inter(header: Any) -> tuple[float, float]:
    """Return slope and intercept of a nibabel header; (1, 0) if the header is None or has no scaling."""
    if header is None:
        return 1.0, 0.0
    slope, inter = header.get_slope_inter()
    return (1.0 if slope is None else float(slope)), (0.0 if inter is None else float(inter))


def scaled_values(raw: np.ndarray, slope: float, inter: float) -> np.ndarray:
    """Return raw * slope + inter as float32, computed in float64 slice by slice to limit memory."""
    with np.errstate(over="ignore"):  # overflow gives inf, which ``checked_finite`` rejects
        if (slope, inter) == (1.0, 0.0):
            return raw.astype(np.float32)
        data = np.empty(raw.shape, np.float32)
        for k in range(raw.shape[2]):
            data[..., k] = raw[..., k].astype(np.float64) * slope + inter
        return data


def stored_values(data: np.ndarray, dtype: np.dtype, slope: float = 1.0, inter: float = 0.0) -> np.ndarray:
    """Convert finite ``data`` to the values stored in a file: (data - inter) / slope, rounded for integer types.

    If values exceed the range of ``dtype``, the smallest integer type that holds them and is not narrower is used, else
    float32. Floats are stored unscaled; float16 becomes float32, bool becomes uint8.
    """
    if dtype == np.bool_:
        dtype = np.dtype(np.uint8)
    if dtype.kind not in "iu":
        return data.astype(np.float32 if dtype.itemsize < 4 else dtype)
    scaled = (slope, inter) != (1.0, 0.0)

    def rounded(part: np.ndarray) -> np.ndarray:
        return np.rint((part.astype(np.float64) - inter) / slope if scaled else part)

    ends = [int(rounded(end)) for end in (data.min(), data.max())]  # rounding and scaling keep the order
    for kind in (dtype, *(t for t in INTEGERS if t.itemsize >= dtype.itemsize)):
        if np.iinfo(kind).min <= min(ends) and max(ends) <= np.iinfo(kind).max:
            raw, axis = np.empty_like(data, kind), int(np.argmax(np.abs(data.strides)))
            slices, stored = np.moveaxis(data, axis, 0), np.moveaxis(raw, axis, 0)
            for k in range(len(slices)):  # one after the other, to save memory for large scans
                stored[k] = rounded(slices[k])
            return raw
    return data.astype(np.float32)


def checked_shape(shape: Sequence[int], path: Path) -> tuple[int, int, int]:
    """Return (X, Y, Z) of a stored grid without trailing axes of length 1. Raises InputError if it is no 3D volume."""
    shape = tuple(int(n) for n in shape)
    size = " x ".join(map(str, shape))
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if any(n < 1 for n in shape):
        raise InputError(
            "volume-zero-dimension",
            f"{path} has no voxels ({size}), because a dimension is zero; export the volume again",
        )
    if len(shape) < 3:
        raise InputError("volume-too-few-axes", f"{path} is {len(shape)}D ({size}), not a 3D volume; stack its slices")
    if len(shape) == 4 and shape[2] == 1:
        raise InputError(
            "volume-slice-series",
            f"{path} is 4D ({size}) with a single slice; if the last axis holds the slices, convert it to 3D",
        )
    if len(shape) > 3:
        raise InputError("volume-too-many-axes", f"{path} is {len(shape)}D ({size}), not a 3D volume; split it first")
    if int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise InputError(
            "volume-implausible-size",
            f"{path} has a header with {size} voxels, more than any scan; it is damaged; export it again",
        )
    return shape[0], shape[1], shape[2]


def checked_affine(affine: np.ndarray, path: Path) -> np.ndarray:
    """Return the affine as (4, 4) float64. Raises InputError unless it is finite, plausible and invertible."""
    affine = np.array(affine, np.float64)
    if not np.isfinite(affine).all():
        raise InputError(
            "volume-affine-not-finite", f"{path} has an affine with NaN or infinite entries; repair its header"
        )
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(lengths).all() or np.abs(affine[:3]).max() > MAX_MM:
        raise InputError(
            "volume-affine-implausible", f"{path} has a voxel size or origin above {MAX_MM:g} mm; repair its header"
        )
    if not lengths.all() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-6:
        raise InputError("volume-affine-singular", f"{path} has a singular affine; repair its header")
    return affine


def all_finite(data: np.ndarray) -> bool:
    """Whether no value is NaN or infinite: their sum tells, because NaN and infinite values propagate.

    The sum is taken in float32 first, in a fifth of the time; in float64, finite float32 values cannot overflow.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(data.sum()) or np.isfinite(data.sum(dtype=np.float64)))


def checked_finite(data: np.ndarray, path: Path) -> np.ndarray:
    """Return ``data``. Raises InputError if it contains NaN or infinite values."""
    if not all_finite(data):
        bad = int(data.size - np.isfinite(data).sum())
        raise InputError(
            "volume-not-finite", f"{path} has {bad} NaN or infinite voxels; replace them with finite values first"
        )
    return data
