"""Files that are named as the images of their folder and are none: slices that were cut short, damaged or packed."""

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

DICOM_ENDINGS = (".dcm", ".ima")
PACKED = {".gz", ".zip", ".bz2", ".xz", ".zst", ".7z"}


def lost_slices(others: Iterable[Path], images: Iterable[Path]) -> dict[Path, str]:
    """What is wrong with those of ``others``, files that are not DICOM, that are named as the images of their folder:
    slices of which a copy was cut short or damaged, or that are packed."""
    names: dict[Path, set[str]] = {}
    for image in images:
        names.setdefault(image.parent, set()).add(_pattern(image))
    found = {}
    for path in others:
        packed = path.suffix.lower() in PACKED
        what = "is no DICOM and cannot be read among DICOM files; copy the series again"
        if _pattern(path.with_suffix("") if packed else path) in names.get(path.parent, ()):
            if packed:
                what = "is packed, and named as the DICOM files beside it; unpack it"
            else:
                with suppress(OSError), open(path, "rb") as file:
                    state = "named as those" if file.read(132).strip(b"\0") else "empty"
                    what = f"is no DICOM but {state} among DICOM files; copy the series again"
            found[path] = f"{path} {what} or take the file away"
    return found


def _pattern(path: Path) -> str:
    """What the files of a series share in name: the ending, else (a UID's last number is none) all but numbers."""
    ending = "" if path.suffix[1:].isdigit() else path.suffix.lower()
    return ending or re.sub(r"\d+", "0", path.name)
