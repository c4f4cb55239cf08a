"""NRRD, MHA and MHD, by SimpleITK: reading beside writing, LPS outside, RAS inside."""

import math
import os
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import IO, Any

import numpy as np
import SimpleITK as sitk

from medgen.io.volume import (
    Geometry,
    Volume,
    brief,
    checked_affine,
    checked_finite,
    checked_shape,
    has_ending,
    scaled_values,
    slope_inter,
    stored_values,
    written_aside,
)
from medgen.types import InputError

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
META_ENDINGS = (".mha", ".mhd")
MAX_BEYOND_VOXELS = 2**26  # bytes; a stream that goes on for longer is a gzip bomb
MAX_RATIO = 2000  # of voxels' bytes to the file's, where the encoding does not tell


def read_itk(path: Path) -> Volume:
    """The volume of a .mha, .mhd, .nrrd or .nhdr file. Raises InputError."""
    reader, geometry = _itk_header(path)
    needed = math.prod(geometry.shape) * sitk.Image([1, 1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
    (_check_meta_voxels if has_ending(path, META_ENDINGS) else _check_nrrd_voxels)(path, needed)
    with _itk_errors(path, "cannot be read"):
        raw = sitk.GetArrayFromImage(reader.Execute())
    raw = raw.reshape(geometry.shape[::-1]).transpose()
    data = scaled_values(raw, 1.0, 0.0)
    return Volume(checked_finite(data, path), geometry.affine, raw.dtype, None, path)


def read_itk_geometry(path: Path) -> Geometry:
    """Grid of a .mha, .mhd, .nrrd or .nhdr file from its header. Raises InputError."""
    return _itk_header(path)[1]


def write_itk(path: Path, volume: Volume) -> None:
    """Write .mha, .mhd, .nrrd or .nhdr, compressed; .mhd and .nhdr get their data file beside them."""
    slope, inter = slope_inter(volume.header)
    fractional = not (slope.is_integer() and inter.is_integer())  # there is no slope to keep in these formats
    raw = stored_values(volume.data, np.dtype(np.float32) if fractional else volume.dtype)
    image = to_itk(raw, volume.affine)
    with written_aside(path) as aside:
        # In a folder of its own under the final name: .mhd and .nhdr carry the name of their data file.
        with tempfile.TemporaryDirectory(prefix=".medgen-", dir=path.parent) as folder:
            with _itk_errors(path, "cannot be written", "choose another place"):
                sitk.WriteImage(image, str(Path(folder, path.name)), useCompression=True)
            os.replace(Path(folder, path.name), aside)
            for data_file in Path(folder).iterdir():
                os.replace(data_file, path.parent / data_file.name)


def data_files(path: Path) -> list[Path]:
    """The files beside a .mhd or .nhdr header that hold its voxels, as far as they are there; none of other files.

    One file, a list, or a pattern of one a slice; in the header's own folder, where alone they are read. Never raises.
    """
    if not has_ending(path, (".mhd", ".nhdr")):
        return []
    try:
        with open(path, "rb") as file:
            text = file.read(2**20).decode("latin-1")
        named = re.search(r"^(?:ElementDataFile[ \t]*=|data ?file:)(.*)$", text, re.MULTILINE | re.IGNORECASE)
        name = named[1].strip() if named else ""
        if named and name.startswith("LIST"):
            found = [path.parent / line.strip() for line in text[named.end() :].splitlines()]
        elif "%" in name:
            found = sorted(path.parent.glob(re.sub(r"%[-+ 0-9.]*[a-zA-Z]", "*", escape(name.split()[0]))))
        else:
            found = [path.parent / name]
        return [file for file in found if file.parent == path.parent and file.is_file()]
    except (OSError, ValueError, NotImplementedError):
        return []


def to_itk(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """(X, Y, Z) array with a voxel -> RAS mm affine as a SimpleITK image (LPS)."""
    lps = LPS_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def itk_affine(image: Any) -> np.ndarray:
    """Voxel -> RAS mm affine of a SimpleITK image or of a reader that has read the header."""
    n = image.GetDimension()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (n, n))[:3, :3] * np.asarray(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    return LPS_RAS @ affine


def _itk_header(path: Path) -> tuple[sitk.ImageFileReader, Geometry]:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    meta = has_ending(path, META_ENDINGS)
    reader.SetImageIO("MetaImageIO" if meta else "NrrdImageIO")
    if meta:
        _meta_fields(path)
    with _itk_errors(path, "cannot be read"):
        reader.ReadImageInformation()
    shape = checked_shape(reader.GetSize(), path)
    pixel = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if reader.GetNumberOfComponents() != 1 or "complex" in pixel:
        raise InputError(f"{path} holds {pixel} voxels, not one number per voxel; convert it first")
    return reader, Geometry(shape, checked_affine(itk_affine(reader), path))


def _meta_fields(path: Path) -> tuple[dict[str, str], int]:
    """Fields of a MetaImage header, and where it ends. ITK would print its complaint to the terminal."""
    fields: dict[str, str] = {}
    with _itk_errors(path, "cannot be read"), open(path, "rb") as file:
        while "ElementDataFile" not in fields and b"=" in (line := file.readline(4096)):
            key, value = line.decode("latin-1").split("=", 1)
            fields[key.strip()] = value.strip()
        end = file.tell()
    needed = {"NDims", "DimSize", "ElementType", "ElementDataFile"} <= fields.keys()
    if not needed or not fields["NDims"].isdecimal() or len(fields["DimSize"].split()) != int(fields["NDims"][:9]):
        raise InputError(f"{path} is not a readable MetaImage file (no complete header); export it anew")
    return fields, end


def _check_meta_voxels(path: Path, needed: int) -> None:
    """Refuse truncated or corrupt voxels of a .mha or .mhd file, and data outside its folder."""
    fields, offset = _meta_fields(path)
    name = fields["ElementDataFile"]
    zipped = fields.get("CompressedData", "False").lower() == "true"
    if name == "LOCAL":
        _check_voxel_bytes(path, path, offset, needed, zipped)
    elif name.startswith("LIST") or "%" in name:  # one file per slice: ITK checks their sizes
        _check_beside(path, _lines(path, offset) if name.startswith("LIST") else [name])
    else:
        _check_beside(path, [name])
        _check_voxel_bytes(path, path.parent / name, 0, needed, zipped)


def _check_nrrd_voxels(path: Path, needed: int) -> None:
    """Refuse truncated or corrupt voxels of a .nrrd or .nhdr file, and data outside its folder."""
    fields: dict[str, str] = {}
    with _itk_errors(path, "cannot be read"), open(path, "rb") as file:
        while line := file.readline(4096).strip():  # an empty line ends the header
            key, _, value = line.decode("latin-1").partition(":")
            fields[key.strip().lower().replace(" ", "")] = value.strip()
            if value.strip().startswith("LIST"):
                _check_beside(path, _lines(path, file.tell()))
        offset = file.tell()
    name, encoding = fields.get("datafile", ""), fields.get("encoding", "raw").lower()
    if name.startswith("LIST") or "%" in name:
        return _check_beside(path, [] if name.startswith("LIST") else name.split()[:1])
    if name:
        _check_beside(path, [name])
    plain = "lineskip" not in fields and "byteskip" not in fields
    zipped = encoding in ("gzip", "gz")
    if plain and (zipped or encoding == "raw"):
        _check_voxel_bytes(path, path.parent / name if name else path, 0 if name else offset, needed, zipped)
    elif needed > path.stat().st_size * MAX_RATIO and not name:
        raise InputError(f"{path} claims more voxels than its size can hold; copy or export it again")


def _lines(path: Path, offset: int) -> list[str]:
    with open(path, "rb") as file:
        file.seek(offset)
        return [line.decode("latin-1").strip() for line in file.read(2**20).splitlines()]


def _check_beside(path: Path, names: list[str]) -> None:
    """A header may name data files in its own folder only: it must not make a volume of any file of this machine."""
    for name in names:
        if "/" in name or "\\" in name:
            raise InputError(f"{path} names a data file {name[:200]} in another folder; put it beside its header")


def _check_voxel_bytes(path: Path, data_path: Path, offset: int, needed: int, zipped: bool) -> None:
    """Refuse fewer than ``needed`` bytes, or a stream that does not inflate to its checksum.

    Without this ITK fills the rest of a damaged compressed volume with garbage and says nothing.
    """
    if not data_path.is_file():
        raise InputError(f"{path} names a data file {data_path.name} that does not exist; put it there")
    with _itk_errors(path, "cannot be read"), open(data_path, "rb") as file:
        held = data_path.stat().st_size - offset
        if zipped:
            file.seek(offset)
            held = _inflated(file, needed + MAX_BEYOND_VOXELS)
    if held < needed:
        raise InputError(f"{path} is truncated or its voxels are corrupt; copy or export it again")


def _inflated(file: IO[bytes], most: int) -> int:
    """Bytes that a zlib or gzip stream inflates to, with little memory; -1 where it is broken or above ``most``."""
    inflate, held = zlib.decompressobj(wbits=47), 0  # 47: zlib or gzip, told apart by the header
    try:
        while not inflate.eof and held <= most:
            block = inflate.unconsumed_tail or file.read(1 << 16)
            made = inflate.decompress(block, 1 << 20)  # without a bound 64 KiB may become 64 MiB
            if not block and not made:
                break
            held += len(made)
    except zlib.error:
        return -1
    return held if inflate.eof and held <= most else -1


@contextmanager
def _itk_errors(path: Path, what: str, remedy: str = "check or export it again") -> Iterator[None]:
    """SimpleITK's RuntimeError as one sentence; its warnings on the terminal are silenced."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise InputError(f"{path} {what} ({brief(error)}); {remedy}") from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
