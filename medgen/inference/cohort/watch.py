"""What arrives in a folder: each scan once it has stood still, again when it changes, and what failed after a while."""

import os
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from medgen.errors import InputError
from medgen.inference.cohort.completeness import lacking
from medgen.inference.inputs import Scan, find_scans, folders_with_files, named
from medgen.io.formats.itk import data_files
from medgen.io.mixed import is_dicom, mixed, scan_in
from medgen.io.read import find_volumes

AGAIN = (60.0, 300.0, 1800.0, 3600.0)  # seconds before what failed is tried again; the last one from then on
PATIENCE = 30  # times as long waits a series that has fewer images than its headers say
State = tuple[tuple[str, int, int], ...]
Files = tuple[Path, ...]


@dataclass
class _Seen:
    state: State
    since: float  # when it was first so, or was last tried
    tries: int = 0
    lacking: tuple[str, str] | None = None  # see completeness; None: not asked yet


def arrivals(
    source: Path, output: Path, contrasts: Sequence[str], still: float, failed: Container[Files] = ()
) -> Iterator[Scan | None]:
    """Scans of ``source`` whose files' sizes and times have not changed for ``still`` seconds; without end.

    For one contrast: the volumes in the folder and in those within it, and each folder within it that holds other files
    (a DICOM series), called ``PATIENT_SERIES`` after all folders down to them. For several: cases that have all of
    them, as ``find_scans`` finds them. What cannot be listed, and a case that has a contrast twice, is a scan with the
    fault said, once. A series that has fewer images than its headers count waits PATIENCE times as long, and then comes
    with a warning; one whose headers count none comes with a note. None says that there is no more for now: what takes
    it may take its time, and asking on waits.

    Args:
        failed: the files of scans that could not be converted, kept by whoever takes them. Such a scan comes again
            after the pauses of ``AGAIN``: a full disk is freed, a folder shared again.

    Raises:
        InputError: no folder, or an output inside it, which would be converted again.
    """
    if not source.is_dir():
        raise InputError("folder-watched-missing", f"{source} is no folder to watch; make it first")
    if source.resolve() in (output.resolve(), *output.resolve().parents):
        raise InputError(
            "output-inside-input", f"{output} lies in {source}, which is watched; choose an output outside"
        )
    return _arrivals(source, contrasts, still, failed)


def _arrivals(source: Path, contrasts: Sequence[str], still: float, failed: Container[Files]) -> Iterator[Scan | None]:
    seen: dict[Scan, _Seen] = {}
    while True:
        present = _present(source, contrasts)
        given: list[_Seen] = []
        faults = {scan.case for scan in present if scan.fault}  # once mended, such a case is new; what just goes is not
        seen = {s: one for s, one in seen.items() if not (s.fault or s.case in faults) or s in present}
        for scan in present:
            state = _state(scan)
            one = seen.get(scan)
            if state and (one is None or one.state != state):
                seen[scan] = _Seen(state, time.monotonic())
            elif state and one is not None and time.monotonic() - one.since >= _pause(scan, one.tries, still, failed):
                if (counted := _counted(scan, one, still)) is not None:
                    one.tries += 1
                    given.append(one)
                    yield counted
        yield None
        for one in given:  # all are done by now
            one.since = time.monotonic()
        time.sleep(max(still / 4, 0.05))


def _counted(scan: Scan, one: _Seen, still: float) -> Scan | None:
    """The scan with what is known of the images that are still to come; None while it has to wait for them."""
    if one.lacking is None:
        found = [lacking(path) for path in scan.files if path.is_dir() and not scan.fault]
        one.lacking = ". ".join(filter(None, (f[0] for f in found))), ". ".join(filter(None, (f[1] for f in found)))
    missing, note = one.lacking
    if missing and not one.tries and time.monotonic() - one.since < PATIENCE * still:
        return None
    ends = f"{missing}; it was converted as it is, and will be again when more arrive"
    return replace(scan, warnings=(ends,) if missing else (), notes=(note,) if note else ())


def _pause(scan: Scan, tries: int, still: float, failed: Container[Files]) -> float:
    """Seconds that a scan waits before it comes; a fault of the folder goes when the folder changes."""
    if not tries:
        return still
    return AGAIN[min(tries, len(AGAIN)) - 1] if scan.files in failed and not scan.fault else float("inf")


def _present(source: Path, contrasts: Sequence[str]) -> list[Scan]:
    """Each entry by itself: what goes while it is listed is left out, what cannot be listed told as a fault."""
    scans: list[Scan] = []
    unlisted: list[OSError] = []
    if len(contrasts) > 1:
        for name in contrasts:
            folders_with_files(source / name, unlisted.append)
        try:
            scans += [scan for scan in find_scans(source, contrasts) if len(scan.files) >= len(contrasts)]
        except InputError:  # the folder of a contrast is not there yet, or empty
            pass
        except OSError as error:
            unlisted.append(error)
    else:
        for folder in folders_with_files(source, unlisted.append):
            with suppress(InputError, OSError):
                volumes = find_volumes(folder, beside_dicom=True)
                if folder == source:
                    scans += [_by_place(path, source) for path in volumes] + _loose(source, volumes)
                else:
                    scans += _of_folder(folder, volumes, source)
    return scans + [scan for error in unlisted if (scan := _unlisted(error, source))]


def _unlisted(error: OSError, source: Path) -> Scan | None:
    path = Path(error.filename or source)
    path = path if path.is_relative_to(source) else source
    gone = isinstance(error, FileNotFoundError | NotADirectoryError)
    if gone or any(part.startswith(".") for part in path.relative_to(source).parts):  # .Trash-1000
        return None
    return replace(_by_place(path, source), fault=f"{path} cannot be listed ({error.strerror}); check its permissions")


def _of_folder(folder: Path, volumes: list[Path], source: Path) -> list[Scan]:
    """Its volumes, or the folder itself as a series; both at once are told, as which is meant is not clear."""
    if not volumes:
        return [_by_place(folder, source)]
    if (image := scan_in(folder)) is None:
        return [_by_place(path, source) for path in volumes]
    fault = f"{mixed(folder, volumes, f'a DICOM series ({image.name})')}; move one of the two elsewhere"
    return [replace(_by_place(folder, source), fault=fault)]


def _loose(source: Path, volumes: list[Path]) -> list[Scan]:
    """DICOM that lies in the watched folder itself, by its first file: which series is whole there nobody knows."""
    others = (path for path in sorted(source.iterdir()) if not path.name.startswith(".") and path not in volumes)
    first = next((path for path in others if os.path.isfile(path) and is_dicom(path)), None)
    fault = f"{first} lies in {source} itself; --watch takes DICOM from folders within it, so put each series into one"
    return [] if first is None else [replace(_by_place(first, source), fault=fault)]


def _by_place(path: Path, source: Path) -> Scan:
    """Named after all folders down to it: what arrives later may be called the same, in another patient's folder."""
    scan = named(path)
    return replace(scan, case="_".join((*path.relative_to(source).parts[:-1], scan.case)))


def _state(scan: Scan) -> State:
    """Name, size and time of each file, those with the voxels of a header too; empty while one goes."""
    try:
        return tuple(_mark(file) for path in scan.files for file in ([path] if scan.fault else _files(path)))
    except FileNotFoundError:
        return ()


def _files(path: Path) -> list[Path]:
    if os.path.isdir(path):
        return [file for file in sorted(path.rglob("*")) if not os.path.isdir(file)]
    return [path, *data_files(path)]


def _mark(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat() if os.path.exists(path) else path.lstat()  # a link may lead nowhere
    except FileNotFoundError:
        raise
    except OSError:  # what may not be looked at cannot be read either, and that tells
        return str(path), -1, -1
    return str(path), found.st_size, found.st_mtime_ns
