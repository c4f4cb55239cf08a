"""Detect folders with both DICOM scans and other volumes, where the user must choose the scan."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from medgen.errors import InputError
from medgen.io.dicom.derived.references import NOTICE
from medgen.io.dicom.elements import Header
from medgen.io.dicom.header import is_scan, read_header
from medgen.io.dicom.index import indexed
from medgen.io.dicom.series import grouped
from medgen.io.paths import ENDINGS, has_ending

SHOWN = 3  # maximum number of names in a message


def scan_in(folder: Path) -> Path | None:
    """Return the first file of a DICOM scan directly in ``folder``, or a damaged DICOM file; None if there is none.

    Other objects (reports, segmentations, localisers, screenshots) and series written by medgen are ignored.
    """
    images = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or has_ending(path, ENDINGS) or not path.is_file():
            continue
        try:
            header = read_header(path)
            if header is not None and is_scan(header, path):
                images.append((path, header))
        except InputError:
            if is_dicom(path):
                return path
    return _first(images)


def scan_below(folder: Path) -> Path | None:
    """Like ``scan_in``, but also search subfolders; the returned path is relative to ``folder``."""
    place = folder.resolve()
    found = indexed(place)
    damaged = sorted(path for path in found.faults if is_dicom(path))
    first = _first(found.images) or next(iter(damaged), None)
    return None if first is None else first.relative_to(place)


def is_dicom(file: Path) -> bool:
    """Return whether a file has the DICOM prefix (PS3.10 7.1)."""
    with suppress(OSError), open(file, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"
    return False


def _first(images: Iterable[tuple[Path, Header]]) -> Path | None:
    scans = (series for series in grouped(images) if not series.remark)
    return next((s.files[0] for s in scans if not str(s.header.get("SeriesDescription", "")).startswith(NOTICE)), None)


def ambiguous_input_message(folder: Path, volumes: Sequence[Path], series: str) -> str:
    """Return the message for a folder that holds volumes and a DICOM series."""
    return f"{folder} holds {series} and {shortened_names(volumes)}, so the input is ambiguous"


def shortened_names(paths: Sequence[Path]) -> str:
    """Return file names for a message, shortened if there are many."""
    names = [path.name for path in paths[:SHOWN]]
    return ", ".join(names) + (f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else "")
