"""DICOM and other volumes in one folder: which of them is the scan is said by the user, not guessed."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from medgen.errors import InputError
from medgen.io.dicom.header import Header, is_scan, read_header
from medgen.io.dicom.index import indexed
from medgen.io.dicom.references import NOTICE
from medgen.io.dicom.series import grouped
from medgen.io.paths import ENDINGS, has_ending

SHOWN = 3  # names in a message


def scan_in(folder: Path) -> Path | None:
    """The first file of a DICOM scan that lies in ``folder`` itself, of one that is damaged too; None where none does.

    Objects that are no scans do not count (reports, segmentations, localisers, pictures of the screen), nor do series
    that medgen made.
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
    """The same in ``folder`` and all folders within it; relative to it."""
    place = folder.resolve()
    found = indexed(place)
    damaged = sorted(path for path in found.faults if is_dicom(path))
    first = _first(found.images) or next(iter(damaged), None)
    return None if first is None else first.relative_to(place)


def is_dicom(file: Path) -> bool:
    """Whether a file says that it is (PS3.10 7.1)."""
    with suppress(OSError), open(file, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"
    return False


def _first(images: Iterable[tuple[Path, Header]]) -> Path | None:
    scans = (series for series in grouped(images) if not series.remark)
    return next((s.files[0] for s in scans if not str(s.header.get("SeriesDescription", "")).startswith(NOTICE)), None)


def mixed(folder: Path, volumes: Sequence[Path], series: str) -> str:
    """That volumes and a DICOM series lie in one folder."""
    return f"{folder} holds {series} and {some(volumes)}, and which is meant is not clear"


def some(paths: Sequence[Path]) -> str:
    """The names of files, of many the first."""
    names = [path.name for path in paths[:SHOWN]]
    return ", ".join(names) + (f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else "")
