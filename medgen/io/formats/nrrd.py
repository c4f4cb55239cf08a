"""Parse NRRD headers (.nrrd, .nhdr). Fields that affect values or positions are applied or raise an error.

ITK ignores some of these fields (units, old min and max, axis bounds). Format: https://teem.sourceforge.net/nrrd/format.html
"""

import os
import re
from pathlib import Path

import numpy as np

from medgen.errors import InputError
from medgen.io.formats.stored import Stored, data_file_paths, expand_pattern, mm_per_unit, numbers, whole_numbers

Fields = dict[str, str]
TYPES = {
    name: kind
    for names, kind in (
        ("signed char,int8,int8_t", "i1"),
        ("uchar,unsigned char,uint8,uint8_t", "u1"),
        ("short,short int,signed short,signed short int,int16,int16_t", "i2"),
        ("ushort,unsigned short,unsigned short int,uint16,uint16_t", "u2"),
        ("int,signed int,int32,int32_t", "i4"),
        ("uint,unsigned int,uint32,uint32_t", "u4"),
        ("longlong,long long,long long int,signed long long,signed long long int,int64,int64_t", "i8"),
        ("ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t", "u8"),
        ("float", "f4"),
        ("double", "f8"),
    )
    for name in names.split(",")
}
ENCODINGS = {
    "raw": "raw",
    "gzip": "gzip",
    "gz": "gzip",
    "hex": "hex",
    "txt": "ascii",
    "text": "ascii",
    "ascii": "ascii",
}
# Sign of each world axis that converts a space to LPS.
SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}
UNPLACED = {"scanner-xyz", "3d-right-handed"}  # right-handed like LPS, but without anatomical directions


def read_nrrd(path: Path) -> Stored:
    """Parse a .nrrd or .nhdr header. Raises InputError."""
    fields, names, end = _fields(path)
    if not {"type", "dimension", "sizes", "encoding"} <= fields.keys():
        raise InputError(
            "nrrd-header-incomplete", f"{path} is not a readable NRRD file (incomplete header); export it again"
        )
    sizes = whole_numbers(fields["sizes"], path, "sizes")
    if [len(sizes)] != whole_numbers(fields["dimension"], path, "dimension"):
        raise InputError("nrrd-sizes-disagree", f"{path}: dimension does not match sizes; correct its header")
    for key in ("oldmin", "oldmax"):
        if fields.get(key, "nan").lower() != "nan":
            raise InputError(
                "nrrd-quantised-values",
                f"{path} has quantised values ({key[:3]} {key[3:]} = {fields[key][:40]}); convert it first",
            )
    axes = _axes(fields, sizes, path)
    shape = tuple(sizes[axis] for axis in axes)
    affine, remarks = _affine(fields, axes, len(sizes), path) if len(axes) >= 3 else (np.eye(4), ())
    encoding = ENCODINGS.get(fields.get("encoding", "").lower())
    if encoding is None:
        raise InputError(
            "nrrd-encoding", f"{path}: encoding {fields.get('encoding', '')[:40]} is not supported; use raw or gzip"
        )
    files = data_file_paths(path, names) if names else (path,)
    start, skip = _start(fields, files, 0 if names else end, encoding, path)
    return Stored(path, shape, affine, _dtype(fields, encoding, path), files, start, encoding, skip, remarks=remarks)


def data_names(path: Path) -> list[str]:
    """Return the names of the data files in the header; empty if the voxels follow the header."""
    return _fields(path)[1]


def _fields(path: Path) -> tuple[Fields, list[str], int]:
    """Return the fields (names without spaces), the names of data files, and the offset where the header ends."""
    fields: Fields = {}
    names: list[str] = []
    with open(path, "rb") as file:
        if not file.readline(2**16).startswith(b"NRRD"):
            raise InputError(
                "nrrd-magic-missing",
                f"{path} is not a readable NRRD file (it does not begin with NRRD); export it again",
            )
        while line := os.fsdecode(file.readline(2**16)).strip():  # an empty line ends the header
            key, found, value = line.partition(":")
            if line.startswith("#") or value.startswith("=") or not found:
                continue  # a comment, or a user-defined key/value pair (key:=value)
            key, value = key.strip().lower().replace(" ", ""), value.strip()
            key = {"centers": "centerings"}.get(key, key)
            if fields.setdefault(key, value) != value:
                raise InputError("nrrd-key-twice", f"{path} has {key} twice with different values; correct its header")
            if key == "datafile" and value.split()[:1] == ["LIST"]:
                names = [name for each in file.read(2**22).splitlines() if (name := os.fsdecode(each).strip())]
                break
        end = file.tell()
    name = fields.get("datafile", "")
    if name and not names:
        names = expand_pattern(name, path, 0) if "%" in name else [name]
    return fields, names, end


def _dtype(fields: Fields, encoding: str, path: Path) -> np.dtype:
    kind = TYPES.get(fields["type"].lower())
    if kind is None:
        raise InputError(
            "nrrd-voxel-type",
            f"{path}: type {fields['type'][:40]} is not supported; convert it first",
        )
    dtype, order = np.dtype(kind), fields.get("endian", "").lower()
    if order not in ("little", "big") and dtype.itemsize > 1 and encoding != "ascii":
        raise InputError(
            "nrrd-endian", f"{path}: endian is {order[:20] or 'missing'}, but must be little or big; correct its header"
        )
    return dtype.newbyteorder(">" if order == "big" and encoding != "ascii" else "<")


def _start(
    fields: Fields, files: tuple[Path, ...], header_end: int, encoding: str, path: Path
) -> tuple[int | None, int]:
    """Return the offset of the data in each file (None: at its end), and the number of decoded bytes to skip."""
    (lines, *_), (skip, *_) = (whole_numbers(fields.get(key, "0"), path, key) for key in ("lineskip", "byteskip"))
    several = len(files) > 1 and (lines or encoding != "raw")  # of several files, each raw one has the bytes to skip
    unsupported = (lines or skip) and (several or encoding in ("ascii", "hex"))
    if unsupported or lines < 0 or lines > 2**16 or skip < -1 or (skip == -1 and encoding != "raw"):
        raise InputError(
            "nrrd-data-skip",
            f"{path}: line skip {lines} and byte skip {skip} are not valid for its data; convert it first",
        )
    with open(files[0], "rb") as file:
        file.seek(header_end)
        for _ in range(lines):
            file.readline()
        return (None, 0) if skip == -1 else (file.tell(), skip)


# Axes and positions ----------------------------------------------------------------------------------------


def _axes(fields: Fields, sizes: list[int], path: Path) -> list[int]:
    """Return the spatial and time axes; other axes are dropped if their size is 1 and rejected otherwise."""
    kinds = fields.get("kinds", "").lower().split() or ["domain"] * len(sizes)
    vectors = _vectors(fields, len(sizes), path)
    if len(kinds) != len(sizes):
        raise InputError("nrrd-kinds-count", f"{path} has {len(kinds)} kinds for {len(sizes)} axes; correct its header")
    placed = [kind in ("domain", "space", "time", "none", "???") for kind in kinds]
    if vectors is not None:
        placed = [ok and vector is not None for ok, vector in zip(placed, vectors, strict=True)]
    if any(not ok and size != 1 for ok, size in zip(placed, sizes, strict=True)):
        kind = next(kind for kind, ok, size in zip(kinds, placed, sizes, strict=True) if not ok and size != 1)
        what = f"vector voxels (an axis of kind {kind[:20]})"
        raise InputError("nrrd-vector-voxels", f"{path} has {what}, not one value per voxel; convert it first")
    return [axis for axis, ok in enumerate(placed) if ok]


def _vectors(fields: Fields, count: int, path: Path) -> list[np.ndarray | None] | None:
    """Return the direction vector of each axis (None for "none"); None if the header has no space directions."""
    if "spacedirections" not in fields:
        return None
    found = re.findall(r"none|\([^)]*\)", fields["spacedirections"].lower())
    if len(found) != count:
        raise InputError(
            "nrrd-directions-count", f"{path} has {len(found)} space directions for {count} axes; correct its header"
        )
    return [None if text == "none" else _vector(text, path, "space directions") for text in found]


def _vector(text: str, path: Path, field: str) -> np.ndarray:
    return numbers(text.strip("() ").replace(",", " "), None, path, field)


def _affine(fields: Fields, axes: list[int], count: int, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the affine (4, 4) of the first three of ``axes``, voxel index -> LPS mm, and remarks for the user."""
    vectors = _vectors(fields, count, path)
    first = axes[:3]
    step, origin, remarks = np.eye(3), np.zeros(3), []
    if vectors is None:
        sizes = _spacings(fields, count, first, path)
        remarks += [] if sizes.all() else ["spacings are missing; 1 mm is assumed"]
        if (sizes < 0).any():
            remarks.append(
                f"spacings {' '.join(f'{s:g}' for s in sizes)} are negative; those axes are taken as reversed"
            )
        step = np.diag(np.where(sizes == 0, 1, sizes))
    else:
        directions = [vector for axis in first if (vector := vectors[axis]) is not None]
        if len({len(vector) for vector in directions}) != 1 or any(len(vector) not in (3, 4) for vector in directions):
            raise InputError(
                "nrrd-directions-dimension",
                f"{path}: space directions must be vectors in 3D space; correct its header",
            )
        _refuse_beside_directions(fields, path)
        step = np.column_stack([vector[:3] for vector in directions])
    if "spaceorigin" in fields:
        origin = _vector(fields["spaceorigin"], path, "space origin")[:3]
        if len(origin) != 3:
            raise InputError(
                "nrrd-origin-dimension", f"{path}: space origin must be a point in 3D space; correct its header"
            )
    signs, unplaced = _space(fields, path)
    scale = np.array(signs) * _space_units(fields, path)
    affine = np.eye(4)
    affine[:3, :3] = step * scale[:, None]
    affine[:3, 3] = origin * scale
    return affine, (*remarks, *unplaced)


def _spacings(fields: Fields, count: int, axes: list[int], path: Path) -> np.ndarray:
    """Return the spacing (mm) along ``axes`` of a header without space directions; 0 if unknown."""
    for key in ("axismins", "axismaxs"):
        if set(fields.get(key, "").lower().split()) - {"nan"}:
            raise InputError(
                "nrrd-axes-unsupported",
                f"{path} positions its axes with {key[:4]} {key[4:]}, which is not supported; use space directions",
            )
    if "spacings" not in fields:
        return np.zeros(len(axes))
    spacing_text = fields["spacings"].lower().replace("nan", "0")
    sizes = numbers(spacing_text, count, path, "spacings")
    units = re.findall(r'"([^"]*)"', fields.get("units", "")) or [""] * count
    if len(units) != count:
        raise InputError("nrrd-units-count", f"{path} has {len(units)} units for {count} axes; correct its header")
    return np.array([sizes[axis] * mm_per_unit(units[axis], path, "units") for axis in axes])


def _refuse_beside_directions(fields: Fields, path: Path) -> None:
    """Raise InputError for fields that the format forbids with space directions, because both state the spacing."""
    for key in ("spacings", "units", "axismins", "axismaxs"):
        values = fields.get(key, "").lower().replace('"', " ").split()
        if set(values) - {"nan", "mm", "???"}:
            raise InputError(
                "nrrd-spacing-and-directions",
                f"{path} has both {key} {fields[key][:60]} and space directions; remove one of them",
            )


def _space(fields: Fields, path: Path) -> tuple[tuple[int, int, int], list[str]]:
    name = fields.get("space", "").lower().removesuffix("-time")
    name = {"rast": "ras", "last": "las", "lpst": "lps"}.get(name, name)
    if name in SPACES:
        return SPACES[name], []
    if name and name not in UNPLACED:
        raise InputError(
            "nrrd-space-unknown", f"{path}: space {name[:40]} is not anatomical; use left-posterior-superior"
        )
    what = f"space is {name}, which does" if name else "space is missing, so the header does"
    return (1, 1, 1), [f"{what} not say which side is left; left-posterior-superior is assumed"]


def _space_units(fields: Fields, path: Path) -> np.ndarray:
    units = re.findall(r'"([^"]*)"', fields.get("spaceunits", ""))
    if not units and fields.get("spaceunits", ""):
        units = fields["spaceunits"].split()
    if units and len(units) not in (3, 4):
        raise InputError(
            "nrrd-space-units-count", f"{path} has {len(units)} space units for 3 spatial axes; correct its header"
        )
    return np.array([mm_per_unit(unit.strip(), path, "space units") for unit in units[:3]] or [1.0] * 3)
