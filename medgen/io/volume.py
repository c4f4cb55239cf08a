"""One 3D volume at the edge of the program: array, affine, and what must survive a round trip.

Intensities keep the unit of the file (HU for CT); lengths are mm; world axes are RAS+
(+x right, +y anterior, +z superior), whatever the file format uses itself.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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

from medgen.io.claim import check_ours, wrote
from medgen.types import InputError

NIFTI_ENDINGS = (".nii.gz", ".nii")
ITK_ENDINGS = (".mha", ".mhd", ".nrrd", ".nhdr")
ENDINGS = NIFTI_ENDINGS + ITK_ENDINGS
PAIR_ENDINGS = (".hdr", ".img", ".hdr.gz", ".img.gz")  # of NIfTI and Analyze, not read
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


def read_volume(path: str | Path, *, series: str | None = None) -> Volume:
    """Read NIfTI, NRRD, MHA/MHD, a DICOM series folder, or the series that one DICOM file belongs to.

    ``series`` chooses among several DICOM series: UID, 1-based number in ``list_series``, or part of the
    description. Raises InputError for everything that is not one finite 3D volume with a usable affine.
    """
    # The formats build Volume and Geometry from this module, so they are imported on use.
    from medgen.io import dicom, itk, nifti

    path = existing(path)
    if path.is_dir():
        _check_folder(path, series)
        return dicom.read_series(path, series=series)
    if has_ending(path, NIFTI_ENDINGS):
        return nifti.read_nifti(path)
    if has_ending(path, ITK_ENDINGS):
        return itk.read_itk(path)
    return dicom.read_series(path.parent, series=series or _uid_of(path))


def read_channels(path: str | Path) -> list[Volume]:
    """The channels of a 4D NIfTI (X, Y, Z, C), or the one volume of anything else. Errors as ``read_volume``."""
    from medgen.io import nifti

    path = existing(path)
    stacked = path.is_file() and has_ending(path, NIFTI_ENDINGS)
    return nifti.read_nifti_channels(path) if stacked else [read_volume(path)]


def channel_count(path: str | Path) -> int:
    """How many volumes ``read_channels`` gives, from the header alone. Errors as ``read_volume``."""
    from medgen.io import nifti

    path = existing(path)
    return nifti.nifti_channel_count(path) if has_ending(path, NIFTI_ENDINGS) else 1


def read_geometry(path: str | Path, *, series: str | None = None) -> Geometry:
    """Grid of a volume from its header alone: no voxel is read or decompressed. Errors as ``read_volume``."""
    from medgen.io import dicom, itk, nifti

    path = existing(path)
    if path.is_dir():
        _check_folder(path, series)
        return dicom.read_series_geometry(path, series=series)
    if has_ending(path, NIFTI_ENDINGS):
        return nifti.read_nifti_geometry(path)
    if has_ending(path, ITK_ENDINGS):
        return itk.read_itk_geometry(path)
    return dicom.read_series_geometry(path.parent, series=series or _uid_of(path))


def write_volume(path: str | Path, volume: Volume, *, description: str = "") -> None:
    """Write by extension, under a temporary name first; parent folders are made.

    The stored type of ``volume`` is kept: integers are rounded, a range too small is widened to the smallest
    integer type that holds the values (never wrapped or clipped), and a NIfTI slope and intercept stay.
    ``description``: what a NIfTI header's text is to say, see ``nifti.write_nifti``.
    Raises InputError for an unknown extension, an unwritable place, or values that are not finite.
    """
    from medgen.io import itk, nifti

    path = Path(path)
    if not np.isfinite(volume.data.sum(dtype=np.float64)):
        raise InputError(f"{path} is not written: the volume to write holds NaN or infinite values")
    if has_ending(path, NIFTI_ENDINGS):
        nifti.write_nifti(path, volume, description)
    elif has_ending(path, ITK_ENDINGS):
        itk.write_itk(path, volume)
    else:
        raise InputError(f"{path}: unknown extension to write; use one of {' '.join(ENDINGS)}")


def write_channels(path: str | Path, channels: Sequence[Volume]) -> None:
    """Write volumes of one grid into one NIfTI (X, Y, Z, C); one alone as ``write_volume`` does, errors likewise."""
    from medgen.io import nifti

    path = Path(path)
    if len(channels) == 1:
        return write_volume(path, channels[0])
    if not has_ending(path, NIFTI_ENDINGS):
        raise InputError(f"{path}: several channels go into one file as NIfTI only; use {' or '.join(NIFTI_ENDINGS)}")
    for volume in channels:
        if not np.isfinite(volume.data.sum(dtype=np.float64)):
            raise InputError(f"{path} is not written: the volume to write holds NaN or infinite values")
    nifti.write_nifti_channels(path, channels)


def find_volumes(folder: str | Path, *, beside_dicom: bool = False) -> list[Path]:
    """Volumes directly in ``folder``, sorted by name (hidden files left out); empty where there are none.

    A link to a file that is gone is among them, and what is no regular file or may not be looked at: reading it tells,
    where leaving it out would lose a case in silence. Raises InputError for a folder that cannot be listed, and where
    a DICOM scan lies beside the volumes, unless ``beside_dicom``.
    """
    from medgen.io.mixed import mixed, scan_in

    folder = existing(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is a file where a folder of volumes is expected; name its folder")
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error.strerror}); check its permissions") from error
    found = [p for p in entries if has_ending(p, ENDINGS) and not p.name.startswith(".") and not _is_folder(p)]
    if found and not beside_dicom and (image := scan_in(folder)):
        series = f"a DICOM series ({image.name})"
        raise InputError(f"{mixed(folder, found, series)}; name the volume's file, or move one of the two elsewhere")
    return found


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # in a folder that can be listed and not entered
        return False


def case_name(path: str | Path) -> str:
    """``CASE`` of ``.../CASE.nii.gz``; a name without a known ending (a DICOM folder) stays whole."""
    name = Path(path).name
    for ending in (*ENDINGS, ".dcm"):
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return name


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


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``; moved onto it when the block ends well, removed when it does not.

    Raises InputError where it cannot be written, or would replace what medgen did not write, see ``claim``.
    """
    path = Path(path)
    aside = path.with_name(f".part-{path.name}")  # one name, so that what a kill leaves is written over
    check_ours(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        wrote(path, aside)
        os.replace(aside, path)
    except (OSError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path} cannot be written ({reason}); choose another place") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def existing(path: str | Path) -> Path:
    """``path`` as a Path; InputError where there is no file or folder: nothing, a link to nothing, a pipe, a device."""
    from medgen.io.dicom_header import dangling

    path = Path(path)
    try:
        mode = path.stat().st_mode
    except ValueError as error:
        raise InputError(f"{path} has a null character in its name; check the path") from error
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        if missing and path.is_symlink():
            raise InputError(dangling(path)) from error
        reason = "does not exist" if missing else f"cannot be read ({error.strerror})"
        raise InputError(f"{path} {reason}; check the path") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path} is neither a regular file nor a folder; give one")
    return path


def has_ending(path: Path, endings: Sequence[str]) -> bool:
    return path.name.lower().endswith(tuple(endings))


def checked_shape(shape: Sequence[int], path: Path) -> tuple[int, int, int]:
    """(X, Y, Z) of a stored grid, trailing axes of length 1 left out; refused unless it is one 3D volume."""
    shape = tuple(int(n) for n in shape)
    size = " x ".join(map(str, shape))
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if any(n < 1 for n in shape):
        raise InputError(f"{path} has no voxels ({size}): a dimension has size zero; export the volume again")
    if len(shape) < 3:
        raise InputError(f"{path} is {len(shape)}D ({size}), not one 3D volume; stack its slices")
    if len(shape) == 4 and shape[2] == 1:
        raise InputError(f"{path} is 4D ({size}), with one slice at each time; if the last axis is slices, make it 3D")
    if len(shape) > 3:
        raise InputError(f"{path} is {len(shape)}D ({size}), not one 3D volume; split it first")
    if int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise InputError(f"{path} claims {size} voxels, more than any scan has; its header is damaged")
    return shape[0], shape[1], shape[2]


def checked_affine(affine: np.ndarray, path: Path) -> np.ndarray:
    """(4, 4) float64; refused unless finite and invertible."""
    affine = np.array(affine, np.float64)
    if not np.isfinite(affine).all():
        raise InputError(f"{path} has an affine with NaN or infinite entries; repair its header")
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(lengths).all() or np.abs(affine[:3]).max() > MAX_MM:
        raise InputError(f"{path} has voxels or an origin of more than {MAX_MM:g} mm; repair its header")
    if not lengths.all() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-6:
        raise InputError(f"{path} has a singular affine (an axis without extent); repair its header")
    return affine


def checked_finite(data: np.ndarray, path: Path) -> np.ndarray:
    """``data`` itself; refused where it holds NaN or infinite values."""
    if not np.isfinite(data.sum(dtype=np.float64)):  # float64 cannot overflow here; NaN and inf do survive
        bad = int(data.size - np.isfinite(data).sum())
        raise InputError(f"{path} holds {bad} NaN or infinite voxels; replace them with a number first")
    return data


def _check_folder(folder: Path, series: str | None) -> None:
    """Refuse a folder that holds volumes, where a DICOM series is to be read and none is chosen."""
    from medgen.io.mixed import some

    if series is None and (volumes := find_volumes(folder)):
        raise InputError(f"{folder} is a folder of volumes ({some(volumes)}); name one of its files")


def _uid_of(path: Path) -> str:
    from medgen.io import dicom

    if has_ending(path, PAIR_ENDINGS):
        raise InputError(f"{path} is half of an .hdr/.img pair, which is not read; convert the pair to .nii.gz")
    uid = dicom.series_uid(path)
    if uid is None:
        known = " ".join(ENDINGS)
        raise InputError(f"{path} is not a volume medgen reads; use {known} or a DICOM series")
    return uid
