"""Read volumes (NIfTI, NRRD, MetaImage, DICOM series), choosing the reader by path."""

from pathlib import Path

from medgen.errors import InputError
from medgen.io.dicom import read as dicom_read
from medgen.io.dicom import series as dicom
from medgen.io.formats import itk, nifti
from medgen.io.mixed import ambiguous_input_message, scan_in, shortened_names
from medgen.io.paths import ENDINGS, ITK_ENDINGS, NIFTI_ENDINGS, PAIR_ENDINGS, has_ending, require_path
from medgen.io.volume import Geometry, Volume


def read_volume(path: str | Path, *, series: str | None = None) -> Volume:
    """Read NIfTI, NRRD, MHA/MHD, a DICOM series folder, or the series that contains a DICOM file.

    Args:
        path: file or folder.
        series: selects one of several DICOM series: UID, 1-based number in ``list_series``, or part of the description.

    Raises:
        InputError: the path does not hold exactly one 3D volume with finite values and a usable affine.
    """
    path = require_path(path)
    if path.is_dir():
        _check_folder(path, series)
        return dicom_read.read_series(path, series=series)
    if has_ending(path, NIFTI_ENDINGS):
        return nifti.read_nifti(path)
    if has_ending(path, ITK_ENDINGS):
        return itk.read_itk(path)
    return dicom_read.read_series(path.parent, series=series or _uid_of(path))


def read_channels(path: str | Path) -> list[Volume]:
    """Read the channels of a 4D NIfTI file (X, Y, Z, C), or the one volume of any other path; see ``read_volume``."""
    path = require_path(path)
    stacked = path.is_file() and has_ending(path, NIFTI_ENDINGS)
    return nifti.read_nifti_channels(path) if stacked else [read_volume(path)]


def channel_count(path: str | Path) -> int:
    """Return the number of volumes that ``read_channels`` returns, from the header alone. Raises the same errors."""
    path = require_path(path)
    if has_ending(path, NIFTI_ENDINGS):
        return nifti.nifti_channel_count(path)
    if path.is_file() and has_ending(path, ITK_ENDINGS):
        itk.read_itk_geometry(path)  # raises for several values per voxel
    return 1


def read_geometry(path: str | Path, *, series: str | None = None) -> Geometry:
    """Read the grid of a volume from its header alone, without voxel data. See ``read_volume``."""
    path = require_path(path)
    if path.is_dir():
        _check_folder(path, series)
        return dicom_read.read_series_geometry(path, series=series)
    if has_ending(path, NIFTI_ENDINGS):
        return nifti.read_nifti_geometry(path)
    if has_ending(path, ITK_ENDINGS):
        return itk.read_itk_geometry(path)
    return dicom_read.read_series_geometry(path.parent, series=series or _uid_of(path))


def find_volumes(folder: str | Path, *, beside_dicom: bool = False) -> list[Path]:
    """Return the volumes directly in ``folder``, sorted by name, without hidden files.

    Broken links, special files and files without permission are included, so that reading them raises an error instead
    of losing the case silently.

    Raises:
        InputError: the folder cannot be listed, or also holds a DICOM scan and ``beside_dicom`` is false.
    """
    folder = require_path(folder)
    if not folder.is_dir():
        raise InputError("folder-is-file", f"{folder} is a file, but a folder of volumes is expected; give its folder")
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(
            "folder-unlistable", f"{folder} cannot be listed ({error.strerror}); check its permissions"
        ) from error
    found = [p for p in entries if has_ending(p, ENDINGS) and not p.name.startswith(".") and not _is_folder(p)]
    if found and not beside_dicom and (image := scan_in(folder)):
        series = f"a DICOM series ({image.name})"
        raise InputError(
            "folder-mixed-kinds",
            f"{ambiguous_input_message(folder, found, series)}; give the path of the volume, or move the volume or "
            f"the series elsewhere",
        )
    return found


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # the folder can be listed but not entered
        return False


def _check_folder(folder: Path, series: str | None) -> None:
    """Raise InputError if no DICOM series is selected and the folder holds volumes."""
    if series is None and (volumes := find_volumes(folder)):
        raise InputError(
            "folder-not-one-volume",
            f"{folder} is a folder of volumes ({shortened_names(volumes)}); give the path of one file",
        )


def _uid_of(path: Path) -> str:
    if has_ending(path, PAIR_ENDINGS):
        raise InputError(
            "nifti-header-image-pair",
            f"{path} is part of an .hdr/.img pair, which is not supported; convert the pair to .nii.gz",
        )
    uid = dicom.series_uid(path)
    if uid is None:
        known = " ".join(ENDINGS)
        raise InputError("file-unknown-format", f"{path} is not in a supported format; use {known} or a DICOM series")
    return uid
