"""Files in a folder of scans that are not read although they may be scans: packed, unfinished, of another format."""

import gzip
import logging
import re
from functools import cache
from pathlib import Path

from medgen.io.mixed import SHOWN
from medgen.io.names import one_line
from medgen.io.paths import ENDINGS, SIDECAR_ENDINGS, UNREAD_ENDINGS, has_ending, walk

log = logging.getLogger(__name__)
UNFINISHED = re.compile(r"\.(part|partial|filepart|crdownload|download|opdownload)$", re.IGNORECASE)
PACKED = re.compile(r"\.(dcm|ima|nii|mha|mhd|nrrd|nhdr)[._~-]", re.IGNORECASE)  # an ending that is not the last one
CHECKSUMS = (".md5", ".sha1", ".sha256", ".sha512", ".sig", ".asc")
GZIP = b"\x1f\x8b"
HEADERS = (b"NRRD", b"ObjectType", b"NDims")  # of NRRD and MetaImage
NIFTI_SIZES = {size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big")}


def warn_of_unread(folder: Path, *, below: bool) -> None:
    """Log a warning, once, that names the files which are left out although they may be scans.

    Args:
        folder: of the scans.
        below: whether its subfolders are read too.
    """
    if not folder.is_dir():
        return
    unread = []
    for place, folders, names in walk(folder, lambda _: None):
        if not any(part.startswith(".") for part in place.relative_to(folder).parts):
            unread += [path for name in sorted(names) if _may_be_scan(path := place / name)]
        if not below:
            folders.clear()
    if unread:
        shown = ", ".join(str(path.relative_to(folder)) for path in unread[:SHOWN])
        more = f" and {len(unread) - SHOWN} more" if len(unread) > SHOWN else ""
        _warn_once(
            f"warning: {folder}: archives, unfinished transfers and formats that are not read are left out: {shown}"
            f"{more}; unpack them, copy them again, or convert them to .nii.gz, if they are scans"
        )


def _may_be_scan(path: Path) -> bool:
    """Whether a file that is not read looks like a scan, by its name or its first bytes.

    DICOM without a known ending is read; if hidden, it is an unfinished transfer (rsync, Syncthing, NFS).
    """
    hidden = path.name.startswith((".", "~syncthing~"))
    named = has_ending(path, UNREAD_ENDINGS) or any(rule.search(path.name) for rule in (UNFINISHED, PACKED))
    beside = has_ending(path, (*ENDINGS, *SIDECAR_ENDINGS, *CHECKSUMS, ".dcm"))
    if (beside and not hidden and not has_ending(path, UNREAD_ENDINGS)) or not path.is_file():  # a pipe would block
        return False
    try:
        with path.open("rb") as file:
            first = file.read(132)
    except OSError:
        return False
    if first[128:] == b"DICM":
        return hidden
    volume = first.startswith(HEADERS) or first[:4] in NIFTI_SIZES or (first[:2] == GZIP and _packs_scan(path))
    return volume or (not hidden and (named or not first))  # an empty file may be one that is still copied


def _packs_scan(path: Path) -> bool:
    """Whether a gzip file, perhaps cut off, holds a volume."""
    try:
        with gzip.open(path, "rb") as file:
            first = file.read(16)
    except (OSError, EOFError):
        return True
    return first.startswith(HEADERS) or first[:4] in NIFTI_SIZES or first[:2] == GZIP


@cache
def _warn_once(text: str) -> None:
    log.warning("%s", one_line(text))
