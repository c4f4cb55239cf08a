"""Paths of volumes: endings, case names, and clear errors for paths that cannot be used."""

import stat
from collections.abc import Sequence
from pathlib import Path

from medgen.errors import InputError

NIFTI_ENDINGS = (".nii.gz", ".nii")
ITK_ENDINGS = (".mha", ".mhd", ".nrrd", ".nhdr")
ENDINGS = NIFTI_ENDINGS + ITK_ENDINGS
PAIR_ENDINGS = (".hdr", ".img", ".hdr.gz", ".img.gz")  # of NIfTI and Analyze, not read


def case_name(path: str | Path) -> str:
    """``CASE`` of ``.../CASE.nii.gz``; a name without a known ending (a DICOM folder) stays whole."""
    name = Path(path).name
    for ending in (*ENDINGS, ".dcm"):
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return name


def require_path(path: str | Path) -> Path:
    """``path`` as a Path; InputError where there is no file or folder: nothing, a link to nothing, a pipe, a device."""
    from medgen.io.paths import dangling

    path = Path(path)
    try:
        mode = path.stat().st_mode
    except ValueError as error:
        raise InputError("path-null-character", f"{path} has a null character in its name; check the path") from error
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        if missing and path.is_symlink():
            raise InputError("file-dangling-link", dangling(path)) from error
        reason = "does not exist" if missing else f"cannot be read ({error.strerror})"
        raise InputError("file-missing", f"{path} {reason}; check the path") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError("file-not-regular", f"{path} is neither a regular file nor a folder; give one")
    return path


def has_ending(path: Path, endings: Sequence[str]) -> bool:
    return path.name.lower().endswith(tuple(endings))


def dangling(path: Path) -> str:
    """What is wrong with a link that leads nowhere."""
    return f"{path} is a link to a file that is not there; fetch it (git annex get, datalad get) or take the link away"
