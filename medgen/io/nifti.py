"""NIfTI-1 and NIfTI-2, by nibabel: reading beside writing."""

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from isal import igzip, igzip_lib
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.imageglobals import logger as nibabel_logger
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from medgen.io.volume import (
    Geometry,
    Volume,
    brief,
    checked_affine,
    checked_finite,
    checked_shape,
    contiguous,
    has_ending,
    scaled_values,
    slope_inter,
    stored_values,
    written_aside,
)
from medgen.types import InputError

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
        image = _nifti_image(stream)
        header = of_volume(image.header.copy())
        geometry = _nifti_geometry(header, path)
        _check_size(image.header, path)
        raw = image.dataobj.get_unscaled()
        beyond = 0
        while block := stream.read(1 << 20):  # to the end, where gzip compares its checksum
            beyond += len(block)
            if beyond > MAX_BEYOND_VOXELS:
                raise InputError(f"{path} goes on and on after its last voxel; export it again")
    slope, inter = float(image.dataobj.slope), float(image.dataobj.inter)
    if (slope, inter) != (1.0, 0.0):
        header.set_slope_inter(slope, inter)  # nibabel blanks them on load
    dtype = header.get_data_dtype().newbyteorder("=")
    stack = raw.reshape((*geometry.shape, -1), order="F")
    channels = [checked_finite(scaled_values(stack[..., c], slope, inter), path) for c in range(stack.shape[3])]
    return [Volume(data, geometry.affine, dtype, header, path) for data in channels]


def _one_channel(header: Any) -> Any:
    """The header of (X, Y, Z, C) as that of one channel; others stay as they are."""
    shape = header.get_data_shape()
    if len(shape) == 4:
        header.set_data_shape(shape[:3])
    return header


def nifti_channel_count(path: Path) -> int:
    """Number of volumes in a (X, Y, Z, C) file, from its header; 1 of any other. Raises InputError."""
    with _nifti_errors(path), _opened(path) as stream:
        shape = _nifti_image(stream).header.get_data_shape()
    return max(int(shape[3]), 1) if len(shape) == 4 else 1


def read_nifti_geometry(path: Path) -> Geometry:
    """Grid of a .nii or .nii.gz file from its header. Raises InputError."""
    with _nifti_errors(path), _opened(path) as stream:
        return _nifti_geometry(_nifti_image(stream).header, path)


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
    with written_aside(path) as aside, open(aside, "wb") as file:
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


def _nifti_image(stream: Any) -> Any:
    start = stream.read(544)
    _check_start(stream, start)
    stream.seek(0)
    if start[344:347] == b"ni1" or start[4:7] == b"ni2":
        raise ImageFileError("it is the header of an .hdr/.img pair, without voxels")
    version2 = 540 in (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big"))
    kind = nib.Nifti2Image if version2 else nib.Nifti1Image
    return kind.from_file_map({"image": FileHolder(fileobj=stream)}, mmap=False)


def _check_start(stream: Any, start: bytes) -> None:
    """Refuse extensions that would make nibabel read without bound (NIfTI-1 standard, "extended header")."""
    order: Literal["little", "big"] = "little" if start[:4] in (b"\x5c\x01\0\0", b"\x1c\x02\0\0") else "big"
    version2 = int.from_bytes(start[:4], order) == 540
    if len(start) < (544 if version2 else 352):
        return  # nibabel says so
    sign = "<" if order == "little" else ">"
    voxels = struct.unpack_from(sign + ("q" if version2 else "f"), start, 168 if version2 else 108)[0]
    if not voxels <= MAX_BEFORE_VOXELS:
        raise ImageFileError(f"its voxels would begin {voxels:.3g} bytes after its start")
    at = 544 if version2 else 352
    extended = start[at - 4] != 0
    while extended and at + 16 <= voxels:
        stream.seek(at)
        size = int.from_bytes(stream.read(4), order, signed=True)
        if not 8 <= size <= MAX_BEFORE_VOXELS:
            raise ImageFileError(f"one of its header extensions has a length of {size} bytes")
        at += size


def _nifti_geometry(header: Any, path: Path) -> Geometry:
    shape = checked_shape(header.get_data_shape(), path)
    dtype = header.get_data_dtype()
    if dtype.names or dtype.kind == "c":
        kind = "RGB colour" if dtype.names else "complex"
        raise InputError(f"{path} holds {kind} voxels, not one number per voxel; convert it first")
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
            f"{path} has {size} bytes where its header asks for {needed}: it is truncated or its header is "
            "damaged; copy or export it again"
        )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The uncompressed bytes of the file."""
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if zipped != has_ending(path, (".gz",)):
            state = "is gzip-compressed" if zipped else "is not gzip-compressed"
            raise ImageFileError(f"it {state}, against its name")
        if not zipped:
            yield file
            return
        with igzip.open(file) as stream:
            yield stream


@contextmanager
def _nifti_errors(path: Path) -> Iterator[None]:
    """What nibabel and igzip raise on bad files, as one sentence; nibabel's own log lines are silenced."""
    disabled, nibabel_logger.disabled = nibabel_logger.disabled, True
    try:
        yield
    except InputError:
        raise
    except CORRUPT as error:
        raise InputError(f"{path} is truncated or corrupt ({brief(error)}); copy it again") from error
    except (ImageFileError, HeaderDataError, WrapStructError, KeyError, ValueError) as error:
        raise InputError(f"{path} is not a readable NIfTI file ({brief(error)}); export it anew") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({brief(error)}); copy it again") from error
    finally:
        nibabel_logger.disabled = disabled
