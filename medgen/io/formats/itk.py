"""Read NRRD and MetaImage files with medgen's own header parsers and write them with SimpleITK.

Files use LPS coordinates, ``Volume`` uses RAS.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from medgen.errors import InputError
from medgen.io.atomic import atomic_write
from medgen.io.claim import check_ours, record_written
from medgen.io.formats.metaimage import data_names as meta_names
from medgen.io.formats.metaimage import read_meta
from medgen.io.formats.nrrd import data_names as nrrd_names
from medgen.io.formats.nrrd import read_nrrd
from medgen.io.formats.stored import Stored, data_file_paths
from medgen.io.paths import ITK_ENDINGS, has_ending
from medgen.io.volume import (
    Geometry,
    Volume,
    checked_affine,
    checked_finite,
    checked_shape,
    scaled_values,
    slope_inter,
    stored_values,
)

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
META_ENDINGS = (".mha", ".mhd")


def read_itk(path: Path) -> Volume:
    """Read a .mha, .mhd, .nrrd or .nhdr file. Raises InputError."""
    stored, geometry = _header(path)
    with _file_errors(path):
        raw, more = stored.voxels()
    raw = raw.reshape(geometry.shape, order="F")
    data = scaled_values(raw, stored.slope, stored.inter)
    integral = stored.slope.is_integer() and stored.inter.is_integer()
    dtype = raw.dtype.newbyteorder("=") if integral else np.dtype(np.float32)
    warnings = tuple(f"{path.name}: {remark}" for remark in (*stored.remarks, *more))
    return Volume(checked_finite(data, path), geometry.affine, dtype, None, path, warnings=warnings)


def read_itk_geometry(path: Path) -> Geometry:
    """Read the grid of a .mha, .mhd, .nrrd or .nhdr file from its header. Raises InputError."""
    return _header(path)[1]


def _header(path: Path) -> tuple[Stored, Geometry]:
    with _file_errors(path):
        stored = read_meta(path) if has_ending(path, META_ENDINGS) else read_nrrd(path)
    shape = checked_shape(stored.shape, path)
    return stored, Geometry(shape, checked_affine(LPS_RAS @ stored.affine, path))


def data_files(path: Path) -> list[Path]:
    """Return the existing voxel data files of a detached header; empty for other files. Never raises.

    The header names one file, a list, or a pattern with one file per slice. Only files in the header's folder count,
    because others are not read.
    """
    if not has_ending(path, ITK_ENDINGS):
        return []
    found: list[Path] = []
    try:
        names = meta_names(path) if has_ending(path, META_ENDINGS) else nrrd_names(path)
    except (OSError, ValueError):
        return []
    for name in names:
        with suppress(InputError):
            found += data_file_paths(path, [name])
    return found


def write_itk(path: Path, volume: Volume) -> None:
    """Write a compressed .mha, .mhd, .nrrd or .nhdr file; .mhd and .nhdr get a data file in the same folder."""
    slope, inter = slope_inter(volume.header)
    fractional = not (slope.is_integer() and inter.is_integer())  # these formats cannot store a slope
    raw = stored_values(volume.data, np.dtype(np.float32) if fractional else volume.dtype)
    image = to_itk(raw, volume.affine)
    with atomic_write(path) as temporary:
        # Write to a temporary folder under the final name, because .mhd and .nhdr contain the name of their data file.
        with tempfile.TemporaryDirectory(prefix=".medgen-", dir=path.parent) as folder:
            try:
                sitk.WriteImage(image, str(Path(folder, path.name)), useCompression=True)
            except RuntimeError as error:
                raise InputError(
                    "output-not-writable", f"{path} cannot be written; choose another folder or name"
                ) from error
            os.replace(Path(folder, path.name), temporary)
            for data_file in Path(folder).iterdir():
                check_ours(path.parent / data_file.name)
                record_written(path.parent / data_file.name, data_file)
                os.replace(data_file, path.parent / data_file.name)


def data_file_of(path: Path) -> Path | None:
    """Return the data file that ``write_itk`` writes beside a .mhd or .nhdr file; None for other files."""
    endings = {".mhd": ".zraw", ".nhdr": ".raw.gz"}
    ending = endings.get(path.suffix.lower())
    return path.with_name(path.name[: -len(path.suffix)] + ending) if ending else None


def to_itk(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """Convert an (X, Y, Z) array with a voxel -> RAS mm affine to a SimpleITK image (LPS)."""
    lps = LPS_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def itk_affine(image: Any) -> np.ndarray:
    """Return the voxel -> RAS mm affine of a SimpleITK image, or of a reader that has read the header."""
    n = image.GetDimension()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (n, n))[:3, :3] * np.asarray(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    return LPS_RAS @ affine


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            "file-unreadable", f"{path} cannot be read ({error.strerror or 'input/output error'}); copy it again"
        ) from error
