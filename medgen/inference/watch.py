"""What arrives in a folder: each scan once it has stood still, and again when it changes."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from medgen.inference.inputs import Scan, find_scans, is_dicom, named
from medgen.io.volume import find_volumes
from medgen.types import InputError

State = tuple[tuple[str, int, int], ...]


def arrivals(source: Path, output: Path, contrasts: Sequence[str], still: float) -> Iterator[Scan | None]:
    """Scans of ``source`` whose files' sizes and times have not changed for ``still`` seconds; without end.

    For one contrast: the volumes in the folder and in those within it, and each folder within it that holds other files
    (a DICOM series), called ``PATIENT_SERIES`` after all folders down to them. For several: cases that have all of
    them, as ``find_scans`` finds them. None says that there is no more for now: what takes it may take its time, and
    asking on waits.

    Raises:
        InputError: no folder, or an output inside it, which would be converted again.
    """
    if not source.is_dir():
        raise InputError(f"{source} is no folder to watch; make it first")
    if source.resolve() in (output.resolve(), *output.resolve().parents):
        raise InputError(f"{output} lies in {source}, which is watched; choose an output outside")
    return _arrivals(source, contrasts, still)


def _arrivals(source: Path, contrasts: Sequence[str], still: float) -> Iterator[Scan | None]:
    seen: dict[Scan, tuple[State, float]] = {}  # as it was found, and when first so
    told: dict[Scan, State] = {}
    while True:
        for scan in _present(source, contrasts):
            state = _state(scan)
            if not state or told.get(scan) == state:
                continue
            before, since = seen.get(scan, ((), 0.0))
            if before != state:
                seen[scan] = state, time.monotonic()
            elif time.monotonic() - since >= still:
                seen.pop(scan)
                told[scan] = state
                yield scan
        yield None
        time.sleep(max(still / 4, 0.05))


def _present(source: Path, contrasts: Sequence[str]) -> list[Scan]:
    with suppress(InputError, OSError):  # a folder that is not there yet, or goes while it is listed
        if len(contrasts) > 1:
            return [scan for scan in find_scans(source, contrasts) if not scan.fault]
        folders = {p.parent for p in source.rglob("*") if p.is_file() and not p.name.startswith(".")}
        volumes = {folder: find_volumes(folder) for folder in sorted(folders - {source})}
        deeper = [path for folder, found in volumes.items() for path in (*found, *_series(folder, found))]
        return [named(path) for path in find_volumes(source)] + [_by_place(path, source) for path in deeper]
    return []


def _series(folder: Path, volumes: list[Path]) -> list[Path]:
    """The folder itself where it holds DICOM, or nothing else that could be read."""
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".") and p not in volumes]
    return [folder] if not volumes or any(is_dicom(file) for file in files) else []


def _by_place(path: Path, source: Path) -> Scan:
    """Named after all folders down to it: what arrives later may be called the same, in another patient's folder."""
    scan = named(path)
    return replace(scan, case="_".join((*path.relative_to(source).parts[:-1], scan.case)))


def _state(scan: Scan) -> State:
    """Name, size and time of each file; empty while one goes."""
    try:
        files = [p for path in scan.files for p in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        return tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files if p.is_file())
    except OSError:
        return ()
