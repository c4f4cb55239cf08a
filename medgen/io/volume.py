"""One 3D volume at the edge of the program: array, affine, and what must survive a round trip.

Intensities keep the unit of the file (HU for CT); lengths are mm; world axes are RAS+
(+x right, +y anterior, +z superior), whatever the file format uses itself.
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

GRID_TOLERANCE = 0.01  # of the smallest voxel side: files of two programs differ by rounding, not by more
MAX_VOXELS = 2**33  # 32 GiB as float32; a larger grid is a broken header, not a scan
MAX_MM = 1e6  # a kilometre
INTEGERS = tuple(np.dtype(t) for t in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"))
OFF_TIES = np.array([[1, -2.1e-3, 1.3e-3, 0], [2.1e-3, 1, -1.7e-3, 0], [-1.3e-3, 1.7e-3, 1, 0], [0, 0, 0, 1]])
CANONICAL = np.array([[0, 1], [1, 1], [2, 1]])  # nibabel's orientation array of RAS+


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where a grid lies: ``shape`` (X, Y, Z) and ``affine`` (4, 4) float64, voxel index -> RAS+ mm."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along each array axis, mm."""
        x, y, z = voxel_sizes(self.affine)
        return float(x), float(y), float(z)

    def describe(self) -> str:
        """One line for messages: shape, spacing, orientation, origin and direction."""
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

    data    (X, Y, Z) float32, in the file's unit (HU for CT), stored scaling already applied; float64 files
            and integers beyond 2**24 are rounded to float32 (relative error at most 6e-8)
    affine  (4, 4) float64, voxel index -> RAS+ mm
    dtype   the type the file stores (native byte order); the writer keeps it where the values allow
    header  nibabel header of a NIfTI input (with its slope and intercept), else None
    path    the file or DICOM folder it came from, else None
    frames  of a DICOM input, the file and the frame in it (from 0) of each slice along the third axis, else None
    headers_sha256  of a DICOM input, a hash of those slices' headers, which tells later whether its files changed
    warnings  what its file says in two ways, or not at all, and how it was read: one sentence each
    notes   what was read otherwise than its file has it, by less than matters: one sentence each
    padding of a DICOM input, the (lowest, highest) value that fills what was not scanned: arrays that broadcast to
            ``data``, as each slice has its own rescale; NaN in slices that name none, None where no slice does
    unit    of a DICOM input what its values are by the standard (HU), "" where nothing says it; None: not asked
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
            raise ValueError(f"a volume is 3D with a 4 x 4 affine, not {data.shape} with {affine.shape}")
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "dtype", np.dtype(self.dtype))

    @property
    def geometry(self) -> Geometry:
        x, y, z = self.data.shape
        return Geometry((x, y, z), self.affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm along each array axis."""
        return self.geometry.spacing

    def replaced(self, data: np.ndarray, dtype: Any = None) -> "Volume":
        """New values on the same grid; stored type and header stay, unless another ``dtype`` is given."""
        if data.shape != self.data.shape:
            raise ValueError(f"new data of shape {data.shape} does not fit the grid {self.data.shape}")
        return replace(self, data=data, dtype=self.dtype if dtype is None else np.dtype(dtype))


def same_geometry(a: Geometry, b: Geometry, tolerance: float = 1e-3) -> bool:
    """Equal shapes, and the corners of the two volumes nowhere more than ``tolerance`` mm apart."""
    if tuple(a.shape) != tuple(b.shape):
        return False
    corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in a.shape))], np.float64)
    apart = np.linalg.norm(corners @ (a.affine - b.affine).T, axis=1)
    return bool(apart.max() <= tolerance)


def to_canonical(volume: Volume) -> Volume:
    """The same volume with axes flipped and permuted to the closest RAS+; no resampling, nothing is lost."""
    view = canonical_view(volume)
    return replace(view, data=contiguous(view.data))


def canonical_view(volume: Volume) -> Volume:
    """``to_canonical`` without a copy, for who looks at few voxels: its data are strided, and the input's own."""
    axes = orientation(volume.affine)
    affine = volume.affine @ inv_ornt_aff(axes, volume.data.shape)
    padding = volume.padding and (
        apply_orientation(volume.padding[0], axes),
        apply_orientation(volume.padding[1], axes),
    )
    return replace(volume, data=apply_orientation(volume.data, axes), affine=affine, padding=padding)


def from_canonical(data: np.ndarray, like: Volume) -> np.ndarray:
    """Exact inverse of ``to_canonical``: an array in RAS+ order back on the axes of ``like``."""
    back = ornt_transform(CANONICAL, orientation(like.affine))
    return contiguous(apply_orientation(data, back))


def orientation(affine: np.ndarray) -> np.ndarray:
    """nibabel's ``io_orientation`` of a grid turned by 0.2 degrees: at 45 degrees, where two axes are as near,
    rounding does not choose between them, so that files of one grid get the same axes."""
    return io_orientation(OFF_TIES @ affine)


def contiguous(data: np.ndarray) -> np.ndarray:
    """``np.ascontiguousarray`` of a volume; one that is transposed goes block by block, in a fourth of the time."""
    if abs(data.strides[2]) == data.itemsize:
        return np.ascontiguousarray(data)
    copied = np.empty(data.shape, data.dtype)
    for k in range(0, data.shape[2], 16):
        copied[..., k : k + 16] = data[..., k : k + 16]
    return copied


def slope_inter(header: Any) -> tuple[float, float]:
    """Slope and intercept of a nibabel header or None; (1, 0) where it has none."""
    if header is None:
        return 1.0, 0.0
    slope, inter = header.get_slope_inter()
    return (1.0 if slope is None else float(slope)), (0.0 if inter is None else float(inter))


def scaled_values(raw: np.ndarray, slope: float, inter: float) -> np.ndarray:
    """raw * slope + inter as float32, computed in float64 one slice at a time to bound memory."""
    with np.errstate(over="ignore"):  # an overflow becomes inf, and that is refused
        if (slope, inter) == (1.0, 0.0):
            return raw.astype(np.float32)
        data = np.empty(raw.shape, np.float32)
        for k in range(raw.shape[2]):
            data[..., k] = raw[..., k].astype(np.float64) * slope + inter
        return data


def stored_values(data: np.ndarray, dtype: np.dtype, slope: float = 1.0, inter: float = 0.0) -> np.ndarray:
    """What a file of type ``dtype`` stores for finite ``data``: (data - inter) / slope, rounded for integers.

    Integers that do not fit ``dtype`` widen to the smallest integer type that is no narrower and holds them,
    else to float32. Floats are stored unscaled; float16 becomes float32, bool becomes uint8.
    """
    if dtype == np.bool_:
        dtype = np.dtype(np.uint8)
    if dtype.kind not in "iu":
        return data.astype(np.float32 if dtype.itemsize < 4 else dtype)
    raw = data.astype(np.float32 if (slope, inter) == (1.0, 0.0) else np.float64)
    if (slope, inter) != (1.0, 0.0):  # in place: of a large scan each copy counts
        np.divide(np.subtract(raw, inter, out=raw), slope, out=raw)
    np.rint(raw, out=raw)
    low, high = int(raw.min()), int(raw.max())
    for kind in (dtype, *(t for t in INTEGERS if t.itemsize >= dtype.itemsize)):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return raw.astype(kind)
    return data.astype(np.float32)


def checked_shape(shape: Sequence[int], path: Path) -> tuple[int, int, int]:
    """(X, Y, Z) of a stored grid, trailing axes of length 1 left out; refused unless it is one 3D volume."""
    shape = tuple(int(n) for n in shape)
    size = " x ".join(map(str, shape))
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if any(n < 1 for n in shape):
        raise InputError(
            "volume-zero-dimension",
            f"{path} has no voxels ({size}): a dimension has size zero; export the volume again",
        )
    if len(shape) < 3:
        raise InputError(
            "volume-too-few-axes", f"{path} is {len(shape)}D ({size}), not one 3D volume; stack its slices"
        )
    if len(shape) == 4 and shape[2] == 1:
        raise InputError(
            "volume-slice-series",
            f"{path} is 4D ({size}), with one slice at each time; if the last axis is slices, make it 3D",
        )
    if len(shape) > 3:
        raise InputError("volume-too-many-axes", f"{path} is {len(shape)}D ({size}), not one 3D volume; split it first")
    if int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise InputError(
            "volume-implausible-size", f"{path} claims {size} voxels, more than any scan has; its header is damaged"
        )
    return shape[0], shape[1], shape[2]


def checked_affine(affine: np.ndarray, path: Path) -> np.ndarray:
    """(4, 4) float64; refused unless finite and invertible."""
    affine = np.array(affine, np.float64)
    if not np.isfinite(affine).all():
        raise InputError(
            "volume-affine-not-finite", f"{path} has an affine with NaN or infinite entries; repair its header"
        )
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(lengths).all() or np.abs(affine[:3]).max() > MAX_MM:
        raise InputError(
            "volume-affine-implausible", f"{path} has voxels or an origin of more than {MAX_MM:g} mm; repair its header"
        )
    if not lengths.all() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-6:
        raise InputError(
            "volume-affine-singular", f"{path} has a singular affine (an axis without extent); repair its header"
        )
    return affine


def checked_finite(data: np.ndarray, path: Path) -> np.ndarray:
    """``data`` itself; refused where it holds NaN or infinite values."""
    if not np.isfinite(data.sum(dtype=np.float64)):  # float64 cannot overflow here; NaN and inf do survive
        bad = int(data.size - np.isfinite(data).sum())
        raise InputError(
            "volume-not-finite", f"{path} holds {bad} NaN or infinite voxels; replace them with a number first"
        )
    return data
