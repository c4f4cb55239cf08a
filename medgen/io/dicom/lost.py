"""Find files that are named like DICOM slices but are not DICOM: truncated, damaged or compressed slices."""

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

DICOM_ENDINGS = (".dcm", ".ima")
PACKED = {".gz", ".zip", ".bz2", ".xz", ".zst", ".7z"}


def lost_slices(others: Iterable[Path], images: Iterable[Path]) -> dict[Path, str]:
    """Return an error message for each file of ``others`` that is named like the DICOM images of its folder.

    Args:
        others: files that are not DICOM.
        images: DICOM images.
    """
    names: dict[Path, set[str]] = {}
    for image in images:
        names.setdefault(image.parent, set()).add(_pattern(image))
    found = {}
    for path in others:
        packed = path.suffix.lower() in PACKED
        problem = "is not DICOM and cannot be read, but is named like the DICOM files beside it; copy the series again"
        if _pattern(path.with_suffix("") if packed else path) in names.get(path.parent, ()):
            if packed:
                problem = "is compressed but named like the DICOM files beside it; decompress it"
            else:
                with suppress(OSError), open(path, "rb") as file:
                    state = "is not DICOM" if file.read(132).strip(b"\0") else "is empty"
                    problem = f"{state} but named like the DICOM files beside it; copy the series again"
            found[path] = f"{path} {problem} or remove the file"
    return found


def _pattern(path: Path) -> str:
    """Return what the file names of a series share: the extension, or else the name with all numbers replaced by 0.

    A numeric extension does not count, because it is the last component of a UID.
    """
    ending = "" if path.suffix[1:].isdigit() else path.suffix.lower()
    return ending or re.sub(r"\d+", "0", path.name)
