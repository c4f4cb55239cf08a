"""Paths of volumes: file extensions, case names, and errors for unusable paths."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from medgen.errors import InputError

NIFTI_ENDINGS = (".nii.gz", ".nii")
ITK_ENDINGS = (".mha", ".mhd", ".nrrd", ".nhdr")
ENDINGS = NIFTI_ENDINGS + ITK_ENDINGS
# Archives and images that are not read; a patient may have nothing else.
UNREAD_ENDINGS = tuple(
    ".zip .tar .tgz .tar.gz .bz2 .xz .zst .7z .rar .dcm.gz .ima.gz .mgz .mgh .mnc .mnc.gz .hdr .hdr.gz .img .img.gz "
    ".par .rec .brik .brik.gz .head .tif .tiff .npy .npz .h5 .hdf5 .mat .vti .vtk".split()
)
# Files that may lie beside volumes: detached voxel data, tables, text and report images.
SIDECAR_ENDINGS = tuple(
    ".raw .zraw .json .txt .csv .tsv .md .rst .yaml .yml .xml .html .pdf .png .jpg .jpeg .log .bval .bvec .mat .xlsx "
    ".ini .db .lock .journal .sqlite".split()
)
SIDECARS = {"readme", "changes", "license", "licence", "citation"}  # without an extension, as in BIDS
PAIR_ENDINGS = (".hdr", ".img", ".hdr.gz", ".img.gz")  # NIfTI and Analyze pairs: not supported


def case_name(path: str | Path) -> str:
    """Return ``CASE`` for ``.../CASE.nii.gz``; a name without a known extension (a DICOM folder) stays unchanged."""
    name = Path(path).name
    for ending in (*ENDINGS, ".dcm"):
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return name


def require_path(path: str | Path) -> Path:
    """Return ``path`` as a Path. Raises InputError if it is missing, unreadable, a broken link, a pipe or a device."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except ValueError as error:
        raise InputError("path-null-character", f"{path} contains a null character; check the path") from error
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        if missing and path.is_symlink():
            raise InputError("file-dangling-link", broken_link_message(path)) from error
        reason = "does not exist" if missing else f"cannot be read ({error.strerror})"
        raise InputError("file-missing", f"{path} {reason}; check the path") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError("file-not-regular", f"{path} is neither a regular file nor a folder; give another path")
    return path


def has_ending(path: Path, endings: Sequence[str]) -> bool:
    return path.name.lower().endswith(tuple(endings))


def ending_of(path: Path, endings: Sequence[str] = ENDINGS) -> str:
    """The ending of a file that is one of ``endings``, in lower case; "" for others, such as a DICOM folder."""
    return next((ending for ending in endings if has_ending(path, (ending,))), "")


def walk(folder: Path, onerror: Callable[[OSError], None] | None = None) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield (folder, names of its folders, names of its files) as ``os.walk``, also behind links to folders.

    Each folder is visited once, under its own path if it has one below ``folder``; loops are not followed. Clear the
    second list to skip what lies below a folder.
    """
    seen: set[str] = set()
    pending = [folder]
    while pending:
        links: list[Path] = []
        for top in pending:
            for place, inner, names in os.walk(top, onerror=onerror):
                if (real := os.path.realpath(place)) in seen:
                    inner.clear()
                    continue
                seen.add(real)
                yield Path(place), inner, names
                links += [path for name in inner if (path := Path(place, name)).is_symlink()]
        pending = [link for link in sorted(links) if enters(link, folder)]


def enters(link: Path, folder: Path) -> bool:
    """Whether a link below ``folder`` leads to a folder that does not contain ``folder``."""
    real = Path(os.path.realpath(link))
    return real.is_dir() and not Path(os.path.realpath(folder)).is_relative_to(real)


def broken_link_message(path: Path) -> str:
    """Return the message for a broken link."""
    return f"{path} is a link to a missing file; fetch the file (git annex get, datalad get) or delete the link"
