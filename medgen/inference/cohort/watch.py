"""Watch a folder: yield scans once their files stop changing, again if they change, and failed scans after a pause."""

import os
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from medgen.errors import InputError
from medgen.inference.cohort.completeness import missing_images
from medgen.inference.inputs import Scan, find_scans, folders_with_files, scan_of_file
from medgen.io.formats.itk import data_files
from medgen.io.mixed import ambiguous_input_message, is_dicom, scan_in
from medgen.io.read import find_volumes

RETRY_PAUSES = (60.0, 300.0, 1800.0, 3600.0)  # seconds before each retry of a failed scan; the last one repeats
PATIENCE = 30  # factor on the waiting time of a series that has fewer images than its headers state
State = tuple[tuple[str, int, int, int], ...]
Files = tuple[Path, ...]


@dataclass
class _Seen:
    state: State
    since: float  # when this state was first seen, or when the scan was last tried
    tries: int = 0
    missing: tuple[str, str] | None = None  # see ``completeness.missing_images``; None: not determined yet


def arrivals(
    source: Path, output: Path, contrasts: Sequence[str], still: float, failed: Container[Files] = ()
) -> Iterator[Scan | None]:
    """Yield the scans of ``source`` whose files have not changed in size and time for ``still`` seconds; never ends.

    For one contrast: the volumes in the folder and its subfolders, and each subfolder with other files (a DICOM
    series). A case is named after all folders down to it, e.g. ``PATIENT_SERIES``. For several contrasts: the cases of
    ``find_scans`` that have all contrasts. A folder that cannot be listed, or a case that has a contrast twice, is
    yielded once as a scan with a ``fault``.

    A series with fewer images than its headers state waits PATIENCE times as long, and is then yielded with a warning.
    A series whose headers state no number is yielded with a note. None means that there is no scan for now; the next
    request waits.

    Args:
        source: the folder to watch.
        output: the output folder, which must not be inside ``source``.
        contrasts: the model's source contrasts.
        still: seconds without changes.
        failed: files of the scans that failed; the caller updates it. A failed scan is yielded again after the pauses
            of ``RETRY_PAUSES``, because the cause may have gone, e.g. a full disk or a folder that was not mounted.

    Raises:
        InputError: ``source`` is not a folder, or the output is inside it, so that outputs would be converted again.
    """
    if not source.is_dir():
        raise InputError(
            "folder-watched-missing", f"{source} is not a folder, so it cannot be watched; create it first"
        )
    if source.resolve() in (output.resolve(), *output.resolve().parents):
        raise InputError(
            "output-inside-input", f"{output} is inside the watched folder {source}; choose an output outside it"
        )
    return _arrivals(source, contrasts, still, failed)


def _arrivals(source: Path, contrasts: Sequence[str], still: float, failed: Container[Files]) -> Iterator[Scan | None]:
    seen: dict[Scan, _Seen] = {}
    while True:
        present = _present(source, contrasts)
        yielded: list[_Seen] = []
        faults = {
            scan.case for scan in present if scan.fault
        }  # once corrected, such a case counts as new; one that is being deleted does not
        seen = {s: one for s, one in seen.items() if not (s.fault or s.case in faults) or s in present}
        for scan in present:
            state = _state(scan)
            one = seen.get(scan)
            if state and (one is None or one.state != state):
                seen[scan] = _Seen(state, time.monotonic())
            elif state and one is not None and time.monotonic() - one.since >= _pause(scan, one.tries, still, failed):
                if (counted := _counted(scan, one, still)) is not None:
                    one.tries += 1
                    yielded.append(one)
                    yield counted
        yield None
        for one in yielded:  # all of them are converted by now
            one.since = time.monotonic()
        time.sleep(max(still / 4, 0.05))


def _counted(scan: Scan, one: _Seen, still: float) -> Scan | None:
    """Add a warning or note about missing images to the scan; None while it has to wait for them."""
    if one.missing is None:
        found = [missing_images(path) for path in scan.files if path.is_dir() and not scan.fault]
        one.missing = ". ".join(filter(None, (f[0] for f in found))), ". ".join(filter(None, (f[1] for f in found)))
    missing, note = one.missing
    if missing and not one.tries and time.monotonic() - one.since < PATIENCE * still:
        return None
    ends = f"{missing}; the series was converted as it is and will be converted again when more images arrive"
    return replace(scan, warnings=(ends,) if missing else (), notes=(note,) if note else ())


def _pause(scan: Scan, tries: int, still: float, failed: Container[Files]) -> float:
    """Seconds before a scan is yielded. A scan with a fault is not retried until its folder changes."""
    if not tries:
        return still
    return RETRY_PAUSES[min(tries, len(RETRY_PAUSES)) - 1] if scan.files in failed and not scan.fault else float("inf")


def _present(source: Path, contrasts: Sequence[str]) -> list[Scan]:
    """The scans present. Entries deleted meanwhile are ignored; a folder that cannot be listed is a fault."""
    scans: list[Scan] = []
    unlisted: list[OSError] = []
    if len(contrasts) > 1:
        for name in contrasts:
            folders_with_files(source / name, unlisted.append)
        try:
            scans += [scan for scan in find_scans(source, contrasts) if len(scan.files) >= len(contrasts)]
        except InputError:  # the folder of a contrast does not exist yet, or is empty
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
    """The volumes of a folder, or the folder as a DICOM series; both at once are a fault, because it is ambiguous."""
    if not volumes:
        return [_by_place(folder, source)]
    if (image := scan_in(folder)) is None:
        return [_by_place(path, source) for path in volumes]
    fault = (
        f"{ambiguous_input_message(folder, volumes, f'a DICOM series ({image.name})')}; move one of the two elsewhere"
    )
    return [replace(_by_place(folder, source), fault=fault)]


def _loose(source: Path, volumes: list[Path]) -> list[Scan]:
    """A scan with a fault if DICOM lies directly in the watched folder, where series cannot be separated."""
    candidates = (path for path in sorted(source.iterdir()) if not path.name.startswith(".") and path not in volumes)
    first = next((path for path in candidates if os.path.isfile(path) and is_dicom(path)), None)
    fault = (
        f"{first} is directly in {source}, but --watch reads DICOM from its subfolders; move each series to a subfolder"
    )
    return [] if first is None else [replace(_by_place(first, source), fault=fault)]


def _by_place(path: Path, source: Path) -> Scan:
    """A scan named after all folders down to it: another patient's scan may have the same file name."""
    scan = scan_of_file(path)
    return replace(scan, case="_".join((*path.relative_to(source).parts[:-1], scan.case)))


def _state(scan: Scan) -> State:
    """Name, size and time of each file, data files of a header included; empty if one is deleted meanwhile."""
    try:
        return tuple(_mark(file) for path in scan.files for file in ([path] if scan.fault else _files(path)))
    except FileNotFoundError:
        return ()


def _files(path: Path) -> list[Path]:
    if os.path.isdir(path):
        return [file for file in sorted(path.rglob("*")) if not os.path.isdir(file)]
    return [path, *data_files(path)]


def _mark(path: Path) -> tuple[str, int, int, int]:
    try:
        found = path.stat() if os.path.exists(path) else path.lstat()  # a link may be broken
    except FileNotFoundError:
        raise
    except OSError:  # without permission for stat; reading the file will fail and report it
        return str(path), -1, -1, -1
    # A copy that keeps size and modification time, as of another scan on the same grid, has another change time.
    return str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns
