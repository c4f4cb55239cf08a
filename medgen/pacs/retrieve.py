"""Studies of a PACS into a folder that is kept: each appears whole, and what has arrived is not asked for again.

``FOLDER/STUDY/SERIES_INSTANCE.dcm``, all by their UIDs. While images of a study are missing its folder is hidden
(``FOLDER/.STUDY.part``), so that half a study is never converted: lost slices at the end of a scan would not show.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from itertools import chain
from pathlib import Path

from pydicom import dcmread

from medgen.errors import InputError
from medgen.inference.inputs import Scan, find_scans
from medgen.inference.series import Rules, check_choice, ours
from medgen.io import claim
from medgen.io.atomic import atomic_write
from medgen.io.dicom.header import NOT_SCANS, Header
from medgen.pacs.server import PAUSES, Server, fits, retried, uid

IMAGE = re.compile(r"(?P<series>[0-9.]+)_(?P<instance>[0-9.]+)\.dcm", re.ASCII)


def retrieved(
    server: Server,
    query: Mapping[str, str],
    folder: Path,
    *,
    series: str | None = None,
    rules: Rules | None = None,
    told: Callable[[str], None] = lambda _: None,
    pauses: Sequence[float] = PAUSES,
) -> Iterator[Scan | None]:
    """The scans of the studies that fit a query; the next studies are retrieved while one is worked on.

    Args:
        folder: of the studies; made where there is none.
        series, rules: which series of a study to convert, see ``series.find_series``. Of modalities that no rule
            includes nothing is retrieved.
        told: called with a line for each study, which names it by its UID.
        pauses: seconds before a lost connection is tried again; fewer attempts are made while the last study was
            given up.

    Returns:
        An iterator of scans; one with a fault for each study that could not be had; None while nothing is there.

    Raises:
        InputError: the server cannot be asked, or no study fits.
    """
    check_choice(series, rules)
    try:
        answers = retried(lambda: server.studies(query), pauses[:2])  # who started it is still there
    except ConnectionError as error:
        raise InputError("pacs-unreachable", f"{error}; check the address and start again") from None
    studies: set[str] = set()
    nameless: list[Scan] = []
    for answer in answers:
        if fits(answer, query):
            try:
                studies.add(uid(answer.get("StudyInstanceUID"), server.name))
            except InputError as error:
                nameless.append(Scan(f"nameless_{len(nameless) + 1}", (folder.resolve(),), str(error)))
    if not studies and not nameless:
        raise InputError(
            "pacs-no-study", f"{server.name} has no study of {' '.join(f'{k}={v}' for k, v in query.items())}"
        )
    told(f"{server.name}: {len(studies)} studies")
    return chain(nameless, _arriving(server, sorted(studies), folder.resolve(), series, rules, told, pauses))


def _arriving(
    server: Server,
    studies: Sequence[str],
    folder: Path,
    series: str | None,
    rules: Rules | None,
    told: Callable[[str], None],
    pauses: Sequence[float],
) -> Iterator[Scan | None]:
    """Each study's scans, in order; the studies are retrieved one after the other in a thread."""
    lost = False

    def fetch(study: str) -> list[Scan]:
        nonlocal lost
        place = folder / study
        try:
            count, new = retrieve_study(server, study, folder, rules, () if lost else pauses)
            lost = False
            told(f"study {study}: {count} images, {new} of them retrieved now")
            return find_scans(place, ["scan"], series=series, rules=rules) if count else []
        except ConnectionError as error:
            lost = True  # then the next study is not waited for as long
            fault = f"{place} could not be retrieved ({error}); start again to go on where it stopped"
        except (InputError, OSError) as error:
            fault = f"{place} could not be retrieved ({error})"
        return [Scan(study, (place,), fault)]

    pool = ThreadPoolExecutor(1, "retrieval")
    try:
        for future in [pool.submit(fetch, study) for study in studies]:
            if not future.done():
                yield None
            yield from future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def retrieve_study(
    server: Server, study: str, folder: Path, rules: Rules | None = None, pauses: Sequence[float] = PAUSES
) -> tuple[int, int]:
    """Bring ``folder/STUDY`` to what the server has of a study: what is missing is retrieved, what is gone is removed.

    Returns:
        The images there are now, and how many of them were retrieved by this call.

    Raises:
        ConnectionError: the connection was lost too often; what has arrived is kept aside.
        InputError: the server refuses, does not send what it lists, or the folder cannot be written.
    """
    whole, part = folder / study, folder / f".{study}.part"
    try:
        listed = {
            uid(s.get("SeriesInstanceUID"), server.name): s for s in retried(lambda: server.series(study), pauses)
        }
        if not listed:
            raise InputError("pacs-no-series", f"{server.name} lists no series of it")
        here = _images(part if part.is_dir() else whole)
        gone = [image for image in here if image[0] not in listed]
        missing: dict[str, tuple[list[str], bool]] = {}  # by series: instances, and whether these are all of it
        for series in (name for name, about in listed.items() if _wanted(about, rules)):
            held = {instance for name, instance in here if name == series}
            told = retried(lambda series=series: server.instances(study, series), pauses)  # type: ignore[misc]
            instances = list(dict.fromkeys(uid(instance, server.name) for instance in told))
            count = _count(listed[series])
            if not instances or count not in (None, len(instances)):  # slices at an end of the scan would be lost
                counted = "" if count is None else f" of {count}"
                raise InputError(
                    "pacs-image-count-differs",
                    f"{server.name} lists {len(instances)} images{counted} of series {series}; "
                    "start again once it has them all, or ask its administrator to have answers unbounded",
                )
            gone += [(series, instance) for instance in held.difference(instances)]
            lacking = [instance for instance in instances if instance not in held]
            if lacking:
                missing[series] = (lacking, not held)
    except ConnectionError:
        if whole.is_dir() and not part.is_dir():  # it was whole when it came
            return len(_images(whole)), 0
        raise
    if missing and whole.is_dir() and not part.is_dir():
        _rename(whole, part)
    for name, instance in gone:
        for path in (place / f"{name}_{instance}.dcm" for place in (whole, part)):
            claim.remove(path)
            if path.exists():
                raise InputError(
                    "pacs-file-foreign",
                    f"{path} is none that {server.name} lists and was not retrieved from it; move it away",
                )
    for series, (instances, everything) in missing.items():
        _retrieve(server, study, series, instances, everything, part, pauses)
    if part.is_dir():
        for leftover in part.glob(".part-*"):
            leftover.unlink()
        with suppress(OSError):  # an empty folder of the name
            whole.rmdir()
        _rename(part, whole)
    return len(_images(whole)), sum(len(instances) for instances, _ in missing.values())


def _rename(old: Path, new: Path) -> None:
    for path in old.iterdir():
        if claim.ours(path):
            claim.wrote(new / path.name, path)
    os.rename(old, new)


def _images(folder: Path) -> set[tuple[str, str]]:
    """(series, instance) of the images in a study's folder."""
    names = (IMAGE.fullmatch(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return {(name["series"], name["instance"]) for name in names if name}


def _wanted(series: Header, rules: Rules | None) -> bool:
    """Whether images of a series may be converted, as far as the server's list tells."""
    modality = str(series.get("Modality", "")).upper()
    if modality in NOT_SCANS or ours(series):
        return False
    return not modality or rules is None or any((r.modality or modality).upper() == modality for r in rules.include)


def _count(series: Header) -> int | None:
    try:
        return int(series["NumberOfSeriesRelatedInstances"])
    except (KeyError, TypeError, ValueError):
        return None


def _retrieve(
    server: Server,
    study: str,
    series: str,
    instances: Sequence[str],
    everything: bool,
    folder: Path,
    pauses: Sequence[float],
) -> None:
    """Retrieve these images into ``folder``; each attempt asks for what is still missing."""
    missing = dict.fromkeys(instances)

    def keep(data: bytes) -> None:
        instance = _named(data, study, series)
        if instance in missing:  # else it was not asked for, or is no DICOM
            with atomic_write(folder / f"{series}_{instance}.dcm") as aside:
                aside.write_bytes(data)
            del missing[instance]

    waits = iter(pauses)
    while missing:
        before, error = len(missing), None
        try:
            server.retrieve(study, series, None if everything else list(missing), keep)
        except ConnectionError as lost:
            error = lost
        everything, come = False, len(missing) < before
        if come:
            waits = iter(pauses)  # patience is for a connection that brings nothing
        elif error is None:
            raise InputError(
                "pacs-images-not-sent",
                f"{server.name} lists {len(missing)} images of series {series} that it does not send",
            )
        elif (pause := next(waits, None)) is None:
            raise error
        else:
            time.sleep(pause)


def _named(data: bytes, study: str, series: str) -> str | None:
    """The instance UID of an image of this study and series; None for anything else."""
    keywords = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    try:
        image = dcmread(BytesIO(data), stop_before_pixels=True, specific_tags=keywords)
        said = [str(image.get(keyword)) for keyword in keywords]
    except Exception:  # pydicom raises nearly anything on bytes that are not DICOM
        return None
    return said[2] if said[:2] == [study, series] else None
