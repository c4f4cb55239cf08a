"""Parse MetaImage headers (.mha, .mhd). Fields that affect values or positions are applied or raise an error.

ITK ignores some of these fields (intensity functions, units) and silently misreads others (HeaderSize if the data
follow the header, a missing compressed size, lists with too few files).
"""

import os
from pathlib import Path

import numpy as np

from medgen.errors import InputError
from medgen.io.formats.stored import Stored, data_file_paths, expand_pattern, mm_per_unit, numbers, whole_numbers

TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
SYNONYMS = {
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "Position": "Offset",
    "Origin": "Offset",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
BOOLEAN = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
# Letter of AnatomicalOrientation (the side where an axis starts) -> LPS axis and sign.
FROM = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "I": (2, 1), "S": (2, -1)}


def read_meta(path: Path) -> Stored:
    """Parse a .mha or .mhd header. Raises InputError."""
    fields, names, end = _fields(path)
    _check_complete(fields, path)
    n = int(fields["NDims"])
    shape = tuple(whole_numbers(fields["DimSize"], path, "DimSize"))
    if len(shape) != n or n < 1:
        raise InputError(
            "meta-dimensions-disagree",
            f"{path}: NDims = {n} does not match DimSize = {fields['DimSize'][:80]}; correct its header",
        )
    affine, remarks = _affine(fields, n, path)
    compressed = _flag(fields, "CompressedData", False, path)
    start, skip = _start(fields, names, end, compressed, path), 0
    slope, inter = _intensities(fields, path)
    local = names == ["LOCAL"]
    if not local and any("%" in name for name in names):
        names = expand_pattern(names[0], path, shape[-1])
    if not names:
        raise InputError("meta-data-list-empty", f"{path} has an empty list of data files; correct its header")
    files = (path,) if local else data_file_paths(path, names)
    dtype = _dtype(fields, path)
    encoding = "gzip" if compressed else "raw"
    return Stored(path, shape, affine, dtype, files, start, encoding, skip, slope, inter, tuple(remarks))


def data_names(path: Path) -> list[str]:
    """Return the names of the data files that the header lists; empty if the voxels follow the header."""
    fields, names, _ = _fields(path)
    if names and "%" in names[0]:
        return expand_pattern(names[0], path, whole_numbers(fields.get("DimSize", "0"), path, "DimSize")[-1])
    return [] if names == ["LOCAL"] else names


def _fields(path: Path) -> tuple[dict[str, str], list[str], int]:
    """Return the fields (synonyms replaced), the names in ElementDataFile, and the offset where the header ends."""
    fields: dict[str, str] = {}
    with open(path, "rb") as file:
        while "ElementDataFile" not in fields and b"=" in (line := file.readline(2**16)):
            key, value = (os.fsdecode(part).strip() for part in line.split(b"=", 1))
            name = SYNONYMS.get(key, key)
            if not _same(fields.setdefault(name, value), value) and name != "Comment":
                raise InputError(
                    "meta-key-twice",
                    f"{path} has {key} twice, as {value[:40]} and {fields[name][:40]}; correct its header",
                )
        end = file.tell()
        names = [name for name in (fields.get("ElementDataFile", ""),) if name]
        if names and names[0].split()[:1] == ["LIST"]:
            names = [name for line in file.read(2**22).splitlines() if (name := os.fsdecode(line).strip())]
    return fields, names, end


def _same(a: str, b: str) -> bool:
    """Return whether two texts are equal; numbers are compared by value (0 and 0.0)."""
    try:
        return a == b or [float(token) for token in a.split()] == [float(token) for token in b.split()]
    except ValueError:
        return False


def _check_complete(fields: dict[str, str], path: Path) -> None:
    if not {"NDims", "DimSize", "ElementType", "ElementDataFile"} <= fields.keys() or not fields["ElementDataFile"]:
        raise InputError(
            "meta-header-incomplete",
            f"{path} is not a readable MetaImage file (NDims, DimSize, ElementType or ElementDataFile is "
            "missing); export it again",
        )
    if not fields["NDims"].isdecimal() or len(fields["NDims"]) > 2:
        raise InputError(
            "meta-dimension-count",
            f"{path}: NDims = {fields['NDims'][:80]} is not a number of axes; correct its header",
        )


def _flag(fields: dict[str, str], key: str, default: bool, path: Path) -> bool:
    value = fields.get(key)
    if value is not None and value.lower() not in BOOLEAN:
        raise InputError(
            "meta-boolean-invalid", f"{path}: {key} = {value[:40]} is neither True nor False; correct its header"
        )
    return default if value is None else BOOLEAN[value.lower()]


def _dtype(fields: dict[str, str], path: Path) -> np.dtype:
    kind = fields["ElementType"]
    channels = fields.get("ElementNumberOfChannels", "1")
    if channels != "1":
        raise InputError(
            "meta-vector-voxels",
            f"{path} has vector voxels (ElementNumberOfChannels = {channels[:20]}), not one value per voxel; "
            "convert it first",
        )
    if kind not in TYPES:
        raise InputError(
            "meta-element-type",
            f"{path}: ElementType = {kind[:40]} is not supported; convert the file to another type, such as MET_SHORT",
        )
    dtype = np.dtype(TYPES[kind])
    bits = fields.get("ElementNBits", str(8 * dtype.itemsize))
    if bits != str(8 * dtype.itemsize):
        raise InputError(
            "meta-element-bits", f"{path}: ElementNBits = {bits[:20]} does not match {kind}; correct its header"
        )
    if fields.get("ObjectType", "Image").lower() != "image":
        raise InputError(
            "meta-object-type", f"{path}: ObjectType = {fields['ObjectType'][:40]} is not an image; give an image file"
        )
    if not _flag(fields, "BinaryData", True, path):
        raise InputError(
            "meta-text-voxels",
            f"{path} stores voxels as text (BinaryData = False), which is not supported; convert it first",
        )
    big = _flag(fields, "BinaryDataByteOrderMSB", False, path)
    return dtype.newbyteorder(">" if big else "<")


def _start(fields: dict[str, str], names: list[str], end: int, compressed: bool, path: Path) -> int | None:
    """Return the offset of the voxels in each file; None: the voxels are at the end of the file."""
    (size, *_) = whole_numbers(fields.get("HeaderSize", "0"), path, "HeaderSize")
    local = names == ["LOCAL"]
    if size < -1 or (size != 0 and compressed) or (size > 0 and local) or (compressed and len(names) > 1):
        raise InputError(
            "meta-header-size",
            f"{path} has HeaderSize = {size}, but "
            + (
                "compressed data must be in one file, with HeaderSize = 0"
                if compressed
                else "it must be 0 or -1 for data in the same file, and -1 or more for data in other files"
            )
            + "; correct its header",
        )
    if size == -1:
        return None
    return end if local else size


def _intensities(fields: dict[str, str], path: Path) -> tuple[float, float]:
    slope, inter = (
        float(numbers(fields.get(key, default), 1, path, key)[0])
        for key, default in (
            ("ElementToIntensityFunctionSlope", "1"),
            ("ElementToIntensityFunctionOffset", "0"),
        )
    )
    if slope == 0:
        raise InputError(
            "meta-slope-zero",
            f"{path}: ElementToIntensityFunctionSlope = 0 would set all voxels to one value; correct its header",
        )
    return slope, inter


def _affine(fields: dict[str, str], n: int, path: Path) -> tuple[np.ndarray, list[str]]:
    """Return the affine (4, 4) of the first three axes, voxel index -> LPS mm, and remarks for the user."""
    identity = " ".join(str(int(i == j)) for i in range(n) for j in range(n))
    rows = numbers(fields.get("TransformMatrix", identity), n * n, path, "TransformMatrix").reshape(n, n)
    sizes = fields.get("ElementSpacing", fields.get("ElementSize", " ".join("1" * n)))
    spacing = numbers(sizes, n, path, "ElementSpacing")
    origin = numbers(fields.get("Offset", " ".join("0" * n)), n, path, "Offset")
    unit = mm_per_unit(fields.get("DistanceUnits", ""), path, "DistanceUnits")
    for key in ("CenterOfRotation", "ImagePosition"):
        if key in fields and numbers(fields[key], None, path, key).any() and not np.array_equal(rows, np.eye(n)):
            raise InputError(
                "meta-key-unsupported",
                f"{path}: {key} = {fields[key][:80]} is not supported if TransformMatrix is not the identity; "
                "set it to 0 and adapt Offset",
            )
    if "ImagePosition" in fields and numbers(fields["ImagePosition"], None, path, "ImagePosition").any():
        raise InputError(
            "meta-image-position",
            f"{path}: ImagePosition = {fields['ImagePosition'][:80]} is not supported; "
            "give the position in Offset instead",
        )
    remarks = []
    if not {"ElementSpacing", "ElementSize"} & fields.keys():
        remarks.append("ElementSpacing is missing; 1 mm is assumed")
    if (spacing < 0).any():
        remarks.append(f"ElementSpacing is negative ({sizes[:80]}); the axis is reversed, as in ITK")
    lengths = np.linalg.norm(rows, axis=1)
    if not np.allclose(lengths, 1, atol=1e-3):
        factors = " x ".join(f"{length:.4g}" for length in lengths)
        remarks.append(f"TransformMatrix also scales voxels by {factors}; both it and ElementSpacing are applied")
    remarks += _orientation_remark(fields, rows, path)
    size = min(n, 3)
    affine = np.eye(4)
    affine[:size, :size] = (rows.T * spacing)[:size, :size] * unit
    affine[:size, 3] = origin[:size] * unit
    return affine, remarks


def _orientation_remark(fields: dict[str, str], rows: np.ndarray, path: Path) -> list[str]:
    """Compare AnatomicalOrientation, which names the side where each axis starts, with TransformMatrix."""
    named = fields.get("AnatomicalOrientation", "").upper()
    if len(named) != 3 or not set(named) <= FROM.keys() or len(rows) < 3:
        return []
    agree = all(rows[axis, FROM[letter][0]] * FROM[letter][1] > 0 for axis, letter in enumerate(named))
    if agree:
        return []
    if "TransformMatrix" not in fields:
        raise InputError(
            "meta-orientation-without-matrix",
            f"{path} has AnatomicalOrientation = {named} but no TransformMatrix, which is required; add the matrix",
        )
    return [f"AnatomicalOrientation = {named} contradicts TransformMatrix; TransformMatrix is used"]
