"""NIfTI-1 and NIfTI-2, by nibabel: reading beside writing."""

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
from medgen.io.formats.nifti_header import settled_header
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

MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # NIfTI spatial unit codes metre and micrometre; all else is taken as mm
MAX_BEFORE_VOXELS = 2**26  # bytes of header and extensions; scanners write some kilobytes
MAX_BEYOND_VOXELS = 2**26  # bytes; more is a gzip bomb
CORRUPT: tuple[Any, ...] = (EOFError, igzip.BadGzipFile, igzip_lib.IsalError)  # Any: isal's stubs err on the last
MAX_DEFLATE_RATIO = 1032  # zlib cannot expand one byte to more (zlib manual, "maximum compression factor")


def read_nifti(path: Path) -> Volume:
    """The volume of a .nii or .nii.gz file (NIfTI-1 or -2, either byte order). Raises InputError."""
    (volume,) = _read(path, lambda header: header)
    return volume


def read_nifti_channels(path: Path) -> list[Volume]:
    """The channels of a (X, Y, Z, C) file, or the one volume of another. Raises InputError."""
    return _read(path, _one_channel)


def _read(path: Path, of_volume: Callable[[Any], Any]) -> list[Volume]:
    """``of_volume``: header of the file → header of each volume in it."""
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
    """The header of (X, Y, Z, C) as that of one channel; others stay as they are."""
    shape = header.get_data_shape()
    if len(shape) == 4:
        header.set_data_shape(shape[:3])
    return header


def nifti_channel_count(path: Path) -> int:
    """Number of volumes in a (X, Y, Z, C) file, from its header; 1 of any other. Raises InputError."""
    with _nifti_errors(path), _opened(path) as stream:
        shape = _header(stream)[0].get_data_shape()
    return max(int(shape[3]), 1) if len(shape) == 4 else 1


def read_nifti_geometry(path: Path) -> Geometry:
    """Grid of a .nii or .nii.gz file from its header. Raises InputError."""
    with _nifti_errors(path), _opened(path) as stream:
        return _nifti_geometry(_header(stream)[0], path)


def write_nifti(path: Path, volume: Volume, description: str = "") -> None:
    """Write .nii or .nii.gz; a header that came from NIfTI is kept to the byte wherever it still holds.

    ``description``, if any, takes the place of its text of 79 characters.
    """
    header = _nifti_header(volume)
    if description:
        header["descrip"] = description.encode("ascii", "replace")[:79]
    slope, inter = slope_inter(header)
    raw = contiguous(stored_values(volume.data, volume.dtype, slope, inter).T).T  # as it is stored
    header.set_data_dtype(raw.dtype.newbyteorder(header.endianness))
    kind = nib.Nifti2Image if header["sizeof_hdr"] == 540 else nib.Nifti1Image
    image = kind(raw.reshape(_stored_shape(header, raw.shape)), None, header)
    # Floats are stored as they are; explicit numbers keep nibabel from inventing a scaling of its own.
    image.header.set_slope_inter(*((slope, inter) if raw.dtype.kind in "iu" else (1.0, 0.0)))
    _write(path, image)


def write_nifti_channels(path: Path, channels: Sequence[Volume]) -> None:
    """Inverse of ``read_nifti_channels``: volumes of one grid as (X, Y, Z, C), in a type that holds them all."""
    raw = np.stack([_unscaled(volume) for volume in channels], axis=-1)
    header = _nifti_header(channels[0])
    header.set_data_shape(raw.shape)
    header.set_data_dtype(raw.dtype.newbyteorder(header.endianness))
    kind = nib.Nifti2Image if header["sizeof_hdr"] == 540 else nib.Nifti1Image
    image = kind(raw, None, header)
    image.header.set_slope_inter(1.0, 0.0)
    _write(path, image)


def _write(path: Path, image: Any) -> None:
    with atomic_write(path) as aside, open(aside, "wb") as file:
        if not has_ending(path, (".gz",)):
            image.to_stream(file)
            return
        # At level 3 files are as small as zlib's at nibabel's level 1, in a fifth of the time; no name and no time in
        # the header, so that the same image is the same file.
        with igzip.IGzipFile("", "wb", 3, file, mtime=0) as stream:
            image.to_stream(stream)


def _unscaled(volume: Volume) -> np.ndarray:
    """The values themselves in the volume's type: channels share a file, each with a slope of its own cannot."""
    fractional = not all(number.is_integer() for number in slope_inter(volume.header))
    return stored_values(volume.data, np.dtype(np.float32) if fractional else volume.dtype)


def _header(stream: Any) -> tuple[Any, list[str]]:
    return settled_header(stream.read(540))


def _voxels(stream: Any, header: Any, path: Path) -> tuple[np.ndarray, list[str]]:
    """The stored values, and remarks on where they lie; the header gets its extensions.

    They begin at vox_offset. Where that is within the header or its extensions, they begin where these end, if the
    file's size says the same.
    """
    needed = int(np.prod(header.get_data_shape(), dtype=object)) * header.get_data_dtype().itemsize
    given, first = float(header["vox_offset"]), header.template_dtype.itemsize + 4
    valid = first <= given < 2**62
    start, beyond, remarks = int(given) if valid else 0, 0, []
    if valid:
        _check_offset(given)
        raw = _bytes_at(stream, start, needed, path)
        beyond = _bytes_left(stream, path)
    size_says = start + beyond if valid else first + _bytes_left(stream, path, needed, first) - needed
    if size_says != start and _extensions_end(stream, header, size_says) == size_says:
        remarks = [f"vox_offset is {given:g}, within its header: its voxels are read from byte {size_says}"]
        start, raw = size_says, _bytes_at(stream, size_says, needed, path)
    elif not valid:
        raise ImageFileError(f"vox_offset is {given:g}, within its header, and its size fits no other place of voxels")
    elif beyond:
        remarks = [f"{beyond} bytes follow its last voxel: vox_offset, dim or datatype may be wrong"]
    elif given != start:
        remarks = [f"vox_offset is {given:g}, no whole number: its voxels are read from byte {start}"]
    header["vox_offset"] = start
    header.extensions, damaged = _extensions(stream, header, start)
    return raw.view(header.get_data_dtype()), [*remarks, *damaged]


def _check_offset(given: float) -> None:
    if given > MAX_BEFORE_VOXELS:
        raise ImageFileError(f"vox_offset is {given:.3g}, where its voxels would begin")


def _bytes_at(stream: Any, start: int, needed: int, path: Path) -> np.ndarray:
    stream.seek(start)
    raw, held = np.empty(needed, np.uint8), 0
    while held < needed and (block := stream.read(min(needed - held, 2**24))):
        raw[held : held + len(block)] = np.frombuffer(block, np.uint8)
        held += len(block)
    if held < needed:
        raise InputError(
            "nifti-ends-too-early",
            f"{path} ends {needed - held} bytes before its last voxel, which dim, datatype and vox_offset {start} "
            "call for: it is truncated or its header is damaged; copy or export it again",
        )
    return raw


def _bytes_left(stream: Any, path: Path, expected: int = 0, start: int | None = None) -> int:
    """Bytes from ``start`` (or where the stream is) to the end, where gzip compares its checksum."""
    if start is not None:
        stream.seek(start)
    left = 0
    while block := stream.read(1 << 20):
        left += len(block)
        if left > expected + MAX_BEYOND_VOXELS:
            raise InputError("nifti-trailing-data", f"{path} goes on and on after its last voxel; export it again")
    return left


def _extensions_end(stream: Any, header: Any, limit: int) -> int:
    """Where the extensions end that lie before ``limit`` (NIfTI-1 standard, "extended header")."""
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
    """Those before the voxels at ``start``, and a remark where they are not all that there is."""
    first, end = header.template_dtype.itemsize + 4, _extensions_end(stream, header, start)
    stream.seek(first)
    swapped = header.endianness != nib.volumeutils.native_code
    found = header.exts_klass.from_fileobj(stream, end - first, swapped) if end > first else header.exts_klass()
    stream.seek(end)
    damaged = start > end and any(stream.read(start - end))
    return found, ["a header extension of damaged length is left out"] if damaged else []


def _nifti_geometry(header: Any, path: Path) -> Geometry:
    shape = checked_shape(header.get_data_shape(), path)
    dtype = header.get_data_dtype()
    if dtype.names or dtype.kind == "c":
        kind = "RGB colour" if dtype.names else "complex"
        raise InputError("nifti-voxel-kind", f"{path} holds {kind} voxels, not one number per voxel; convert it first")
    with np.errstate(all="ignore"):
        affine = checked_affine(header.get_best_affine(), path)
    affine[:3] *= _mm_per_unit(header)
    return Geometry(shape, affine)


def _nifti_header(volume: Volume) -> Any:
    """Header to write: the volume's own, its forms replaced only where the affine is another one."""
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
        header.set_qform(None, 0)  # a quaternion cannot shear: better none than a wrong one
    return header


def _stored_shape(header: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """``shape`` with the trailing axes of length 1 that the header's file had."""
    former = tuple(header.get_data_shape())
    return former if former[:3] == shape and set(former[3:]) <= {1} else shape


def _mm_per_unit(header: Any) -> float:
    return MM_PER_UNIT.get(int(header["xyzt_units"]) % 8, 1.0)


def _check_size(header: Any, path: Path) -> None:
    """Refuse a header that asks for more voxels than the file can hold, before memory is claimed for them."""
    needed = int(np.prod(header.get_data_shape(), dtype=object)) * header.get_data_dtype().itemsize
    size = path.stat().st_size
    if needed > size * (MAX_DEFLATE_RATIO if has_ending(path, (".gz",)) else 1):
        raise InputError(
            "nifti-size-too-small",
            f"{path} has {size} bytes where its header asks for {needed}: it is truncated or its header is "
            "damaged; copy or export it again",
        )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The uncompressed bytes of the file."""
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if zipped != has_ending(path, (".gz",)):
            state = "is gzip-compressed" if zipped else "is not gzip-compressed"
            if not file.read(1):
                raise InputError("nifti-empty", f"{path} is empty; copy or export it again")
            file.seek(0)
            raise ImageFileError(f"it {state}, against its name")
        if not zipped:
            yield file
            return
        with igzip.open(file) as stream:
            yield stream


@contextmanager
def _nifti_errors(path: Path) -> Iterator[None]:
    """What reading raises on bad files, as one sentence; nibabel's own words and log lines are left out."""
    disabled, nibabel_logger.disabled = nibabel_logger.disabled, True
    try:
        yield
    except InputError:
        raise
    except CORRUPT as error:
        raise InputError(
            "nifti-not-decompressible", f"{path} is truncated or corrupt: it cannot be decompressed; copy it again"
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
            "file-unreadable", f"{path} cannot be read ({error.strerror or 'its disk fails'}); copy it again"
        ) from error
    finally:
        nibabel_logger.disabled = disabled
