"""Read volumes: NIfTI, NRRD, MetaImage and DICOM series, by the kind of path that is given."""

from pathlib import Path

from medgen.errors import InputError
from medgen.io.dicom import series as dicom
from medgen.io.formats import itk, nifti
from medgen.io.mixed import mixed, scan_in, some
from medgen.io.paths import ENDINGS, ITK_ENDINGS, NIFTI_ENDINGS, PAIR_ENDINGS, has_ending, require_path
from medgen.io.volume import Geometry, Volume


def read_volume(path: str | Path, *, series: str | None = None) -> Volume:
    """Read NIfTI, NRRD, MHA/MHD, a DICOM series folder, or the series that one DICOM file belongs to.

    ``series`` chooses among several DICOM series: UID, 1-based number in ``list_series``, or part of the
    description. Raises InputError for everything that is not one finite 3D volume with a usable affine.
    """
    path = require_path(path)
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
    path = require_path(path)
    stacked = path.is_file() and has_ending(path, NIFTI_ENDINGS)
    return nifti.read_nifti_channels(path) if stacked else [read_volume(path)]


def channel_count(path: str | Path) -> int:
    """How many volumes ``read_channels`` gives, from the header alone. Errors as ``read_volume``."""
    path = require_path(path)
    return nifti.nifti_channel_count(path) if has_ending(path, NIFTI_ENDINGS) else 1


def read_geometry(path: str | Path, *, series: str | None = None) -> Geometry:
    """Grid of a volume from its header alone: no voxel is read or decompressed. Errors as ``read_volume``."""
    path = require_path(path)
    if path.is_dir():
        _check_folder(path, series)
        return dicom.read_series_geometry(path, series=series)
    if has_ending(path, NIFTI_ENDINGS):
        return nifti.read_nifti_geometry(path)
    if has_ending(path, ITK_ENDINGS):
        return itk.read_itk_geometry(path)
    return dicom.read_series_geometry(path.parent, series=series or _uid_of(path))


def find_volumes(folder: str | Path, *, beside_dicom: bool = False) -> list[Path]:
    """Volumes directly in ``folder``, sorted by name (hidden files left out); empty where there are none.

    A link to a file that is gone is among them, and what is no regular file or may not be looked at: reading it tells,
    where leaving it out would lose a case in silence. Raises InputError for a folder that cannot be listed, and where
    a DICOM scan lies beside the volumes, unless ``beside_dicom``.
    """
    folder = require_path(folder)
    if not folder.is_dir():
        raise InputError("folder-is-file", f"{folder} is a file where a folder of volumes is expected; name its folder")
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
            f"{mixed(folder, found, series)}; name the volume's file, or move one of the two elsewhere",
        )
    return found


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # in a folder that can be listed and not entered
        return False


def _check_folder(folder: Path, series: str | None) -> None:
    """Refuse a folder that holds volumes, where a DICOM series is to be read and none is chosen."""
    if series is None and (volumes := find_volumes(folder)):
        raise InputError(
            "folder-not-one-volume", f"{folder} is a folder of volumes ({some(volumes)}); name one of its files"
        )


def _uid_of(path: Path) -> str:
    if has_ending(path, PAIR_ENDINGS):
        raise InputError(
            "nifti-header-image-pair",
            f"{path} is half of an .hdr/.img pair, which is not read; convert the pair to .nii.gz",
        )
    uid = dicom.series_uid(path)
    if uid is None:
        known = " ".join(ENDINGS)
        raise InputError("file-unknown-format", f"{path} is not a volume medgen reads; use {known} or a DICOM series")
    return uid
