"""Volumes with a text header (MetaImage, NRRD): parsed header, data files and voxel data."""

import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from medgen.errors import InputError

MAX_BEYOND_VOXELS = 2**26  # bytes; more trailing data indicates a gzip bomb
MAX_FILES = 2**16  # data files of one volume
PATTERN = re.compile(r"[^%]*%0?\d?\dd[^%]*|[^%]*%d[^%]*")  # a %d with a width of at most two digits
MM = {"": 1.0, "?": 1.0, "???": 1.0} | {
    name: factor
    for names, factor in (
        ("mm millimeter millimetre millimeters millimetres", 1.0),
        ("cm centimeter centimetre centimeters centimetres", 10.0),
        ("m meter metre meters metres", 1000.0),
        ("um \u00b5m \u03bcm micron microns micrometer micrometre micrometers micrometres", 0.001),
        ("nm nanometer nanometre nanometers nanometres", 1e-6),
        ("in inch inches", 25.4),
    )
    for name in names.split()
}


@dataclass(frozen=True)
class Stored:
    """Storage of the voxels of a volume.

    path     header file
    shape    array shape, first axis fastest; trailing axes of length 1 may follow the third
    affine   (4, 4) voxel index -> LPS mm
    dtype    data type with byte order
    files    data files, each with an equal share of the voxels, in order
    start    offset of the voxels in each file, bytes; None: they are at the end of the file
    encoding raw, gzip (also zlib), ascii or hex
    skip     bytes of the decoded stream before the voxels
    slope, inter  value = stored * slope + inter
    remarks  contradictory or missing fields, and the interpretation used
    """

    path: Path
    shape: tuple[int, ...]
    affine: np.ndarray
    dtype: np.dtype
    files: tuple[Path, ...]
    start: int | None
    encoding: str = "raw"
    skip: int = 0
    slope: float = 1.0
    inter: float = 0.0
    remarks: tuple[str, ...] = ()

    def voxels(self) -> tuple[np.ndarray, list[str]]:
        """Read the stored values in file order; return them and a remark if bytes follow them. Raises InputError."""
        needed = int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize
        share, rest = divmod(needed, len(self.files))
        if rest:
            raise InputError(
                "header-data-file-count",
                f"{self.path} has {len(self.files)} data files, which cannot be of equal size; correct the list",
            )
        held = [self._piece(file, share) for file in self.files]
        raw = held[0][0] if len(held) == 1 else np.concatenate([piece for piece, _ in held])
        left = sum(beyond for _, beyond in held)
        return raw.view(self.dtype), [f"{left} bytes follow the last voxel; the header may be wrong"] if left else []

    def _piece(self, file: Path, needed: int) -> tuple[np.ndarray, int]:
        """Return the voxel bytes of one file, and the number of bytes after them."""
        size = file.stat().st_size
        if self.encoding == "raw":
            start = size - needed if self.start is None else self.start + self.skip
            if not 0 <= start <= size - needed:
                raise self._truncated()
            return np.fromfile(file, np.uint8, needed, offset=start), size - needed - start
        with open(file, "rb") as stream:
            stream.seek(self.start or 0)
            if self.encoding == "gzip":
                return self._inflated(stream, needed, size)
            return self._written(stream.read(), needed)

    def _inflated(self, stream: IO[bytes], needed: int, size: int) -> tuple[np.ndarray, int]:
        """Decompress a zlib or gzip stream (one or more members) to its end, where the checksum is verified."""
        if needed > size * 1032:  # maximum compression ratio of zlib
            raise self._truncated()
        raw, held, inflate = np.empty(needed, np.uint8), -self.skip, zlib.decompressobj(wbits=47)
        try:
            while held <= needed + MAX_BEYOND_VOXELS:
                block = inflate.unconsumed_tail or stream.read(1 << 16)
                decoded = np.frombuffer(inflate.decompress(block, 1 << 20), np.uint8)
                inside = decoded[max(-held, 0) : max(needed - held, 0)]
                raw[max(held, 0) : max(held, 0) + len(inside)] = inside
                held += len(decoded)
                if inflate.eof and inflate.unused_data[:2] == b"\x1f\x8b":
                    rest, inflate = inflate.unused_data, zlib.decompressobj(wbits=47)
                    stream.seek(-len(rest), 1)
                elif inflate.eof or (not block and not len(decoded)):
                    break
        except zlib.error:
            raise self._truncated() from None
        if held < needed or not inflate.eof:
            raise self._truncated()
        return raw, held - needed

    def _written(self, text: bytes, needed: int) -> tuple[np.ndarray, int]:
        """Decode voxels stored as decimal numbers or hexadecimal digits; also return the number of bytes after them."""
        try:
            if self.encoding == "hex":
                raw = np.frombuffer(bytes.fromhex(text.decode("ascii")), np.uint8)
            else:
                raw = np.array(text.split(), self.dtype).view(np.uint8)
        except (ValueError, OverflowError):
            raise self._truncated() from None
        if len(raw) < needed:
            raise self._truncated()
        return raw[:needed], len(raw) - needed

    def _truncated(self) -> InputError:
        its = f"one of its {len(self.files)} data files" if len(self.files) > 1 else "the voxel data"
        return InputError(
            "volume-truncated",
            f"{self.path}: {its} is truncated or corrupt, or the header states too many voxels; copy or export it "
            "again",
        )


def numbers(text: str, count: int | None, path: Path, field: str) -> np.ndarray:
    """Parse the finite numbers of a field. Raises InputError if there are not ``count`` of them (None: any number)."""
    try:
        found = np.array([float(part) for part in text.split()], np.float64)
    except ValueError:
        found = np.empty(0)
    if not found.size or (count is not None and found.size != count) or not np.isfinite(found).all():
        expected = "numbers" if count is None else f"{count} number{'s' * (count != 1)}"
        raise InputError(
            "header-field-invalid", f"{path}: {field} = {text[:80]}, but it must be {expected}; correct its header"
        )
    return found


def whole_numbers(text: str, path: Path, field: str) -> list[int]:
    """Parse the integers of a field. Raises InputError."""
    found = text.split()
    if not found or not all(re.fullmatch(r"[+-]?\d{1,18}", part, re.ASCII) for part in found):
        raise InputError(
            "header-not-whole-numbers",
            f"{path}: {field} = {text[:80]}, but it must be whole numbers; correct its header",
        )
    return [int(part) for part in found]


def mm_per_unit(unit: str, path: Path, field: str) -> float:
    """Return the length of a unit in mm; an unspecified unit is mm. Raises InputError."""
    if unit.lower() not in MM:
        raise InputError("header-unit-unknown", f"{path}: {field} is {unit[:40]}, an unknown unit; convert it to mm")
    return MM[unit.lower()]


def expand_pattern(text: str, path: Path, count: int) -> list[str]:
    """Expand a file name pattern such as ``s%03d.raw 1 90 1``; without a range, the numbers are 1 to ``count``."""
    pattern, *rest = text.split()
    low, high, step, *_ = [*whole_numbers(" ".join(rest), path, "its data files"), 1][:4] if rest else (1, count, 1)
    steps = range(low, high + (1 if step > 0 else -1), step) if step else range(0)
    if not PATTERN.fullmatch(pattern) or not 0 < len(steps) <= MAX_FILES:
        raise InputError("header-data-pattern", f"{path}: the data file pattern {text[:80]} is invalid; correct it")
    return [pattern % number for number in steps]


def data_file_paths(path: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """Return the paths of the data files that a header names; links are followed.

    Only regular files in the header's folder are accepted, so that a header cannot read arbitrary files or block on a
    pipe. Raises InputError.
    """
    found = []
    # If the header is a link, data may be in its own folder or that of its target.
    folders = {path.parent.resolve(), path.resolve().parent}
    for name in names:
        file = path.parent / name
        if "\\" in name and not os.path.lexists(file):  # path written on Windows
            file = path.parent / name.replace("\\", "/")
        try:
            inside = bool(name) and file.resolve().parent in folders
            is_present = file.is_file()
        except (OSError, ValueError, RuntimeError):
            inside, is_present = True, False
        if not inside:
            link = " through a link" if file.parent.resolve() in folders else ""
            raise InputError(
                "header-data-elsewhere",
                f"{path} names the data file {name[:200]} in another folder{link}; put it beside the header",
            )
        if not is_present:
            what = "is not a regular file" if file.exists() else "does not exist"
            raise InputError(
                "header-data-missing", f"{path} names the data file {name[:200]}, which {what}; provide the file"
            )
        found.append(file)
    return tuple(found)
