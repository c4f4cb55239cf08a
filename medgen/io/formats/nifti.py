"""Read and write NIfTI-1 and NIfTI-2 files with nibabel."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from isal import igzip, igzip_lib
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import logger as nibabel_logger
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from medgen.errors import InputError
from medgen.io.atomic import atomic_write
from medgen.io.formats.nifti_header import repaired_header
from medgen.io.paths import has_ending
from medgen.io.volume import (
    Geometry,
    Volume,
    checked_affine,
    checked_finite,
    checked_shape,
    contiguous,
    scaled_values,
    slope_inter,
    stored_values,
)

MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # NIfTI spatial unit codes metre and micrometre; all others count as mm
LONGEST_MM = 50_000.0  # no scan is 50 m long, but one of 50 mm whose header gives metres would be
MAX_BEFORE_VOXELS = 2**26  # bytes of header and extensions; typical are some kilobytes
READ_AT_ONCE = 2**20  # bytes; they are decompressed into their place while they are in the processor's cache
MAX_BEYOND_VOXELS = 2**26  # bytes; more trailing data indicates a gzip bomb
# Any, because isal's type stubs are wrong for the last one.
CORRUPT: tuple[Any, ...] = (EOFError, igzip.BadGzipFile, igzip_lib.IsalError)
MAX_DEFLATE_RATIO = 1032  # zlib cannot expand one byte to more (zlib manual, "maximum compression factor")


def read_nifti(path: Path) -> Volume:
    """Read a .nii or .nii.gz file (NIfTI-1 or -2, either byte order). Raises InputError."""
    (volume,) = _read(path, lambda header: header)
    return volume


def read_nifti_channels(path: Path) -> list[Volume]:
    """Read the channels of an (X, Y, Z, C) file, or the one volume of another file. Raises InputError."""
    return _read(path, _one_channel)


def _read(path: Path, of_volume: Callable[[Any], Any]) -> list[Volume]:
    """Read all volumes of a file; ``of_volume`` converts the file header to the header of each volume."""
    with _nifti_errors(path), _opened(path) as stream:
        header, remarks = _header(stream)
        one = of_volume(header.copy())
        geometry = _nifti_geometry(one, path)
        _check_size(header, path)
        raw, more = _voxels(stream, header, path)
    dtype = header.get_data_dtype().newbyteorder("=")
    stack = raw.reshape((*geometry.shape, -1), order="F")
    slope, inter = slope_inter(header)
    channels = [checked_finite(scaled_values(stack[..., c], slope, inter), path) for c in range(stack.shape[3])]
    one["vox_offset"], one.extensions = header["vox_offset"], header.extensions
    warnings = tuple(f"{path.name}: {remark}" for remark in (*remarks, *more))
    return [Volume(data, geometry.affine, dtype, one, path, warnings=warnings) for data in channels]


def _one_channel(header: Any) -> Any:
    """Reduce the header of a file with channels to one channel; return other headers unchanged."""
    if _has_channels(header.get_data_shape()):
        header.set_data_shape(header.get_data_shape()[:3])
    return header


def _has_channels(shape: Sequence[int]) -> bool:
    """Whether a shape is (X, Y, Z, C), or (X, Y, Z, 1, C) as ITK writes vectors."""
    return len(shape) == 4 or (len(shape) == 5 and shape[3] == 1)


def nifti_channel_count(path: Path) -> int:
    """Return the number of volumes in a file with channels from its header; 1 for other files. Raises InputError."""
    with _nifti_errors(path), _opened(path) as stream:
        shape = _header(stream)[0].get_data_shape()
    return max(int(shape[-1]), 1) if _has_channels(shape) else 1


def read_nifti_geometry(path: Path) -> Geometry:
    """Read the grid of a .nii or .nii.gz file from its header. Raises InputError."""
    with _nifti_errors(path), _opened(path) as stream:
        return _nifti_geometry(_header(stream)[0], path)


def write_nifti(path: Path, volume: Volume, description: str = "") -> None:
    """Write a .nii or .nii.gz file; a header read from NIfTI is kept byte for byte, except for fields that changed.

    ``description``: replaces the description in the header unless empty; truncated to 79 characters.
    """
    header = _nifti_header(volume)
    if description:
        header["descrip"] = description.encode("ascii", "replace")[:79]
    slope, inter = slope_inter(header)
    raw = contiguous(stored_values(volume.data, volume.dtype, slope, inter).T).T  # memory order of the file
    header.set_data_dtype(raw.dtype.newbyteorder(header.endianness))
    kind = nib.Nifti2Image if header["sizeof_hdr"] == 540 else nib.Nifti1Image
    image = kind(raw.reshape(_stored_shape(header, raw.shape)), None, header)
    # Floats are stored unscaled; explicit values prevent nibabel from computing its own scaling.
    image.header.set_slope_inter(*((slope, inter) if raw.dtype.kind in "iu" else (1.0, 0.0)))
    _write(path, image)


def write_nifti_channels(path: Path, channels: Sequence[Volume]) -> None:
    """Write volumes on one grid as (X, Y, Z, C) in a data type that holds all; inverse of ``read_nifti_channels``."""
    raw = np.stack([_unscaled(volume) for volume in channels], axis=-1)
    header = _nifti_header(channels[0])
    header.set_data_shape(raw.shape)
    header.set_data_dtype(raw.dtype.newbyteorder(header.endianness))
    kind = nib.Nifti2Image if header["sizeof_hdr"] == 540 else nib.Nifti1Image
    image = kind(raw, None, header)
    image.header.set_slope_inter(1.0, 0.0)
    _write(path, image)


def _write(path: Path, image: Any) -> None:
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        if not has_ending(path, (".gz",)):
            image.to_stream(file)
            return
        # Level 3 gives the file size of zlib level 1 (nibabel's default) in a fifth of the time. The gzip header has no
        # name and time, so that equal images give equal files.
        with igzip.IGzipFile("", "wb", 3, file, mtime=0) as stream:
            image.to_stream(stream)


def _unscaled(volume: Volume) -> np.ndarray:
    """Return the unscaled values in the volume's type, because channels in one file cannot have different slopes."""
    fractional = not all(number.is_integer() for number in slope_inter(volume.header))
    return stored_values(volume.data, np.dtype(np.float32) if fractional else volume.dtype)


def _header(stream: Any) -> tuple[Any, list[str]]:
    return repaired_header(stream.read(540))


def _voxels(stream: Any, header: Any, path: Path) -> tuple[np.ndarray, list[str]]:
    """Read the stored values; return them and remarks on their offset. Sets vox_offset and extensions in ``header``.

    The values begin at vox_offset. If that lies within the header or its extensions, they begin at the end of these,
    provided that the file size confirms it.
    """
    needed = int(np.prod(header.get_data_shape(), dtype=object)) * header.get_data_dtype().itemsize
    stated_offset, first = float(header["vox_offset"]), header.template_dtype.itemsize + 4
    valid = first <= stated_offset < 2**62
    start, beyond, remarks = int(stated_offset) if valid else 0, 0, []
    if valid:
        _check_offset(stated_offset)
        raw = _bytes_at(stream, start, needed, path)
        beyond = _bytes_left(stream, path)
    offset_by_size = start + beyond if valid else first + _bytes_left(stream, path, needed, first) - needed
    if offset_by_size != start and _extensions_end(stream, header, offset_by_size) == offset_by_size:
        remarks = [
            f"vox_offset is {stated_offset:g}, which is within the header; voxels are read from byte {offset_by_size}"
        ]
        start, raw = offset_by_size, _bytes_at(stream, offset_by_size, needed, path)
    elif not valid:
        raise ImageFileError(
            f"vox_offset is {stated_offset:g}, which is within the header, and the file size gives no valid offset"
        )
    elif beyond:
        remarks = [f"{beyond} bytes follow the last voxel; vox_offset, dim or datatype may be wrong"]
    elif stated_offset != start:
        remarks = [f"vox_offset is {stated_offset:g}, not a whole number; voxels are read from byte {start}"]
    header["vox_offset"] = start
    header.extensions, damaged = _extensions(stream, header, start)
    return raw.view(header.get_data_dtype()), [*remarks, *damaged]


def _check_offset(stated_offset: float) -> None:
    if stated_offset > MAX_BEFORE_VOXELS:
        raise ImageFileError(f"vox_offset is {stated_offset:.3g}, which is too large")


def _bytes_at(stream: Any, start: int, needed: int, path: Path) -> np.ndarray:
    stream.seek(start)
    raw, filled = np.empty(needed, np.uint8), 0
    while filled < needed and (count := stream.readinto(raw[filled : filled + READ_AT_ONCE])):
        filled += count
    if filled < needed:
        raise InputError(
            "nifti-ends-too-early",
            f"{path} is {needed - filled} bytes shorter than dim, datatype and vox_offset = {start} in its header "
            "require; it is truncated or its header is damaged; copy or export it again",
        )
    return raw


def _bytes_left(stream: Any, path: Path, expected: int = 0, start: int | None = None) -> int:
    """Count the bytes from ``start`` (or the current position) to the end, where gzip verifies its checksum."""
    if start is not None:
        stream.seek(start)
    left = 0
    while block := stream.read(1 << 20):
        left += len(block)
        if left > expected + MAX_BEYOND_VOXELS:
            raise InputError(
                "nifti-trailing-data", f"{path} has far too much data after its last voxel; export it again"
            )
    return left


def _extensions_end(stream: Any, header: Any, limit: int) -> int:
    """Return the end offset of the extensions before ``limit`` (NIfTI-1 standard, "extended header")."""
    at = header.template_dtype.itemsize
    order: Literal["little", "big"] = "little" if header.endianness == "<" else "big"
    stream.seek(at)
    extended = stream.read(4)[:1] not in (b"", b"\0")
    at += 4
    while extended and at + 16 <= limit:
        stream.seek(at)
        size = int.from_bytes(stream.read(4), order, signed=True)
        if size < 8 or at + size > limit:
            break
        at += size
    return at


def _extensions(stream: Any, header: Any, start: int) -> tuple[Any, list[str]]:
    """Read the header extensions before the voxels at ``start``; add a remark if bytes remain unread."""
    first, end = header.template_dtype.itemsize + 4, _extensions_end(stream, header, start)
    stream.seek(first)
    swapped = header.endianness != nib.volumeutils.native_code
    found = header.exts_klass.from_fileobj(stream, end - first, swapped) if end > first else header.exts_klass()
    stream.seek(end)
    damaged = start > end and any(stream.read(start - end))
    return found, ["a header extension with an invalid length is dropped"] if damaged else []


def _nifti_geometry(header: Any, path: Path) -> Geometry:
    shape = checked_shape(header.get_data_shape(), path)
    dtype = header.get_data_dtype()
    if dtype.names or dtype.kind == "c":
        kind = "RGB colour" if dtype.names else "complex"
        raise InputError("nifti-voxel-kind", f"{path} has {kind} voxels, not one value per voxel; convert it first")
    with np.errstate(all="ignore"):
        affine = checked_affine(header.get_best_affine(), path)
    affine[:3] *= _mm_per_unit(header)
    longest = float((np.linalg.norm(affine[:3, :3], axis=0) * shape).max())
    if _mm_per_unit(header) > 1 and longest > LONGEST_MM:
        raise InputError(
            "nifti-unit-metre",
            f"{path} is {longest / 1000:.4g} m long, because its header gives lengths in metres (xyzt_units 1); if "
            "they are in millimetres, set xyzt_units to 2 (nibabel: image.header.set_xyzt_units('mm'))",
        )
    return Geometry(shape, affine)


def _nifti_header(volume: Volume) -> Any:
    """Return the header to write: the volume's own; sform and qform are replaced only if the affine has changed."""
    if volume.header is not None:
        header = volume.header.copy()
    else:
        header = nib.Nifti2Header() if max(volume.data.shape) > 32767 else nib.Nifti1Header()
        header.set_xyzt_units("mm")
    header.set_data_shape(_stored_shape(header, volume.data.shape))
    scale = _mm_per_unit(header)
    current = header.get_best_affine()
    current[:3] *= scale
    if volume.header is not None and np.array_equal(current, volume.affine):
        return header
    affine = volume.affine.copy()
    affine[:3] /= scale
    header.set_sform(affine, int(header["sform_code"]) or 1)  # 1: scanner coordinates
    header.set_qform(affine, int(header["qform_code"]) or 1)
    extent = np.array([*volume.data.shape, 1])
    if np.abs((header.get_qform() - affine) @ extent).max() > 1e-2:
        header.set_qform(None, 0)  # a quaternion cannot represent shear, so omit it
    return header


def _stored_shape(header: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return ``shape`` with the trailing axes of length 1 of the original file."""
    former = tuple(header.get_data_shape())
    return former if former[:3] == shape and set(former[3:]) <= {1} else shape


def _mm_per_unit(header: Any) -> float:
    return MM_PER_UNIT.get(int(header["xyzt_units"]) % 8, 1.0)


def _check_size(header: Any, path: Path) -> None:
    """Raise InputError before allocating memory if the file is too small for the voxels in its header."""
    needed = int(np.prod(header.get_data_shape(), dtype=object)) * header.get_data_dtype().itemsize
    size = path.stat().st_size
    if needed > size * (MAX_DEFLATE_RATIO if has_ending(path, (".gz",)) else 1):
        raise InputError(
            "nifti-size-too-small",
            f"{path} has {size} bytes, but its header requires {needed}; it is truncated or its header is damaged; "
            "copy or export it again",
        )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open the file as a stream of uncompressed bytes."""
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if zipped != has_ending(path, (".gz",)):
            state = "does not end in .gz but it is" if zipped else "ends in .gz but it is not"
            if not file.read(1):
                raise InputError("nifti-empty", f"{path} is empty; copy or export it again")
            file.seek(0)
            raise ImageFileError(f"its name {state} gzip-compressed")
        if not zipped:
            yield file
            return
        with igzip.open(file) as stream:
            yield stream


@contextmanager
def _nifti_errors(path: Path) -> Iterator[None]:
    """Convert errors on damaged files to InputError, and silence nibabel's log."""
    thread = threading.get_ident()

    def of_others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    nibabel_logger.addFilter(of_others)
    try:
        yield
    except InputError:
        raise
    except CORRUPT as error:
        raise InputError(
            "nifti-not-decompressible",
            f"{path} cannot be decompressed, because it is truncated or corrupt; copy it again",
        ) from error
    except ImageFileError as error:
        raise InputError(
            "nifti-unreadable", f"{path} is not a readable NIfTI file ({error}); export it again"
        ) from error
    except (HeaderDataError, WrapStructError, KeyError, ValueError) as error:
        raise InputError(
            "nifti-header-damaged", f"{path} is not a readable NIfTI file (its header is damaged); export it again"
        ) from error
    except OSError as error:
        raise InputError(
            "file-unreadable", f"{path} cannot be read ({error.strerror or 'input/output error'}); copy it again"
        ) from error
    finally:
        nibabel_logger.removeFilter(of_others)
