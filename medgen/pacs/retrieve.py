"""Retrieve studies from a PACS into a persistent folder; images retrieved earlier are not requested again.

Files are named ``FOLDER/STUDY/SERIES_INSTANCE.dcm`` by their UIDs. While images of a study are missing, its folder has
the hidden name ``FOLDER/.STUDY.part``, so that incomplete studies are not converted: missing slices at the end of a
scan could not be detected.
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
from medgen.inference.series import Rules, check_choice, made_by_medgen
from medgen.io import claim
from medgen.io.atomic import atomic_write
from medgen.io.dicom.elements import Header
from medgen.io.dicom.header import NOT_SCANS
from medgen.pacs.server import PAUSES, Server, matches_query, retried, uid

IMAGE = re.compile(r"(?P<series>[0-9.]+)_(?P<instance>[0-9.]+)\.dcm", re.ASCII)


def retrieved(
    server: Server,
    query: Mapping[str, str],
    folder: Path,
    *,
    series: str | None = None,
    rules: Rules | None = None,
    log: Callable[[str], None] = lambda _: None,
    pauses: Sequence[float] = PAUSES,
) -> Iterator[Scan | None]:
    """Retrieve the scans of all studies that match a query; retrieval continues while the caller processes a scan.

    Args:
        folder: folder for the studies; created if it does not exist.
        series, rules: which series of a study to convert, see ``series.find_series``. Series whose modality is not
            included by any rule are not retrieved.
        log: called with a log line for each study, which contains the study UID.
        pauses: seconds before each retry of a lost connection; no retries are made after a study that failed.

    Returns:
        An iterator of scans. It yields a scan with ``fault`` for each study that could not be retrieved, and None while
        the next study is not ready.

    Raises:
        InputError: the server cannot be reached, or no study matches.
    """
    check_choice(series, rules)
    try:
        answers = retried(lambda: server.studies(query), pauses[:2])  # few retries: the user is waiting
    except ConnectionError as error:
        raise InputError("pacs-unreachable", f"{error}; check the address and run again") from None
    studies: set[str] = set()
    without_uid: list[Scan] = []
    for answer in answers:
        if matches_query(answer, query):
            try:
                studies.add(uid(answer.get("StudyInstanceUID"), server.name))
            except InputError as error:
                without_uid.append(Scan(f"nameless_{len(without_uid) + 1}", (folder.resolve(),), str(error)))
    if not studies and not without_uid:
        raise InputError(
            "pacs-no-study",
            f"{server.name} has no study that matches {' '.join(f'{k}={v}' for k, v in query.items())}; change --query",
        )
    log(f"{server.name}: {len(studies)} studies")
    return chain(without_uid, _retrieve_in_order(server, sorted(studies), folder.resolve(), series, rules, log, pauses))


def _retrieve_in_order(
    server: Server,
    studies: Sequence[str],
    folder: Path,
    series: str | None,
    rules: Rules | None,
    log: Callable[[str], None],
    pauses: Sequence[float],
) -> Iterator[Scan | None]:
    """Yield the scans of each study in order; a thread retrieves the studies one after the other."""
    lost = False

    def fetch(study: str) -> list[Scan]:
        nonlocal lost
        destination = folder / study
        try:
            count, new = retrieve_study(server, study, folder, rules, () if lost else pauses)
            lost = False
            log(f"study {study}: {count} images, {new} of them new")
            return find_scans(destination, ["scan"], series=series, rules=rules) if count else []
        except ConnectionError as error:
            lost = True  # no retries for the next study
            fault = f"{destination} could not be retrieved ({error}); run again to resume"
        except (InputError, OSError) as error:
            fault = f"{destination} could not be retrieved ({error})"
        return [Scan(study, (destination,), fault)]

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
    """Synchronise ``folder/STUDY`` with the server: retrieve missing images and remove images deleted on the server.

    Returns:
        Number of images in the folder, and how many of them were retrieved by this call.

    Raises:
        ConnectionError: the connection was lost too often; images received so far are kept in the hidden folder.
        InputError: the server refuses the request, lists no series, or does not send images that it lists; or a file in
            the folder was not retrieved from the server or cannot be written.
        OSError: the folder cannot be renamed or cleaned up.
    """
    complete, part = folder / study, folder / f".{study}.part"
    try:
        listed = {
            uid(s.get("SeriesInstanceUID"), server.name): s for s in retried(lambda: server.series(study), pauses)
        }
        if not listed:
            raise InputError("pacs-no-series", f"{server.name} lists no series of this study; ask its administrator")
        local = _images(part if part.is_dir() else complete)
        deleted = [image for image in local if image[0] not in listed]
        missing: dict[str, tuple[list[str], bool]] = {}  # series -> (instances, whether all are missing)
        for series in (name for name, elements in listed.items() if _is_convertible(elements, rules)):
            local_instances = {instance for name, instance in local if name == series}
            answer = retried(lambda series=series: server.instances(study, series), pauses)  # type: ignore[misc]
            instances = list(dict.fromkeys(uid(instance, server.name) for instance in answer))
            count = _count(listed[series])
            if not instances or count not in (None, len(instances)):  # end slices could be missing unnoticed
                of_total = "" if count is None else f" of {count}"
                raise InputError(
                    "pacs-image-count-differs",
                    f"{server.name} lists {len(instances)} images{of_total} of series {series}; "
                    "run again when the server has all images, or ask its administrator to lift the response limit",
                )
            deleted += [(series, instance) for instance in local_instances.difference(instances)]
            absent = [instance for instance in instances if instance not in local_instances]
            if absent:
                missing[series] = (absent, not local_instances)
    except ConnectionError:
        if complete.is_dir() and not part.is_dir():  # complete when it was retrieved
            return len(_images(complete)), 0
        raise
    if missing and complete.is_dir() and not part.is_dir():
        _rename(complete, part)
    for name, instance in deleted:
        for path in (destination / f"{name}_{instance}.dcm" for destination in (complete, part)):
            claim.remove(path)
            if path.exists():
                raise InputError(
                    "pacs-file-foreign",
                    f"{path} is not listed by {server.name} and was not retrieved from it; move the file away",
                )
    for series, (instances, whole_series) in missing.items():
        _retrieve(server, study, series, instances, whole_series, part, pauses)
    if part.is_dir():
        for leftover in part.glob(".part-*"):
            leftover.unlink()
        with suppress(OSError):  # remove an empty folder of the same name
            complete.rmdir()
        _rename(part, complete)
    return len(_images(complete)), sum(len(instances) for instances, _ in missing.values())


def _rename(old: Path, new: Path) -> None:
    for path in old.iterdir():
        if claim.is_ours(path):
            claim.record_written(new / path.name, path)
    os.rename(old, new)


def _images(folder: Path) -> set[tuple[str, str]]:
    """Return (series, instance) of each image in the folder of a study."""
    names = (IMAGE.fullmatch(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return {(name["series"], name["instance"]) for name in names if name}


def _is_convertible(series: Header, rules: Rules | None) -> bool:
    """Whether a series may be converted, judged by the elements that the server lists."""
    modality = str(series.get("Modality", "")).upper()
    if modality in NOT_SCANS or made_by_medgen(series):
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
    whole_series: bool,
    folder: Path,
    pauses: Sequence[float],
) -> None:
    """Retrieve images of a series into ``folder``; each retry requests only the images still missing.

    ``whole_series``: request the whole series in the first attempt instead of naming the images.
    """
    missing = dict.fromkeys(instances)

    def keep(data: bytes) -> None:
        instance = _instance_uid(data, study, series)
        if instance in missing:  # otherwise it was not requested, or is not DICOM
            with atomic_write(folder / f"{series}_{instance}.dcm") as temporary:
                temporary.write_bytes(data)
            del missing[instance]

    retries = iter(pauses)
    while missing:
        before, error = len(missing), None
        try:
            server.retrieve(study, series, None if whole_series else list(missing), keep)
        except ConnectionError as lost:
            error = lost
        whole_series, progress = False, len(missing) < before
        if progress:
            retries = iter(pauses)  # progress was made: allow all retries again
        elif error is None:
            raise InputError(
                "pacs-images-not-sent",
                f"{server.name} lists {len(missing)} images of series {series} but does not send them; "
                "ask its administrator",
            )
        elif (pause := next(retries, None)) is None:
            raise error
        else:
            time.sleep(pause)


def _instance_uid(data: bytes, study: str, series: str) -> str | None:
    """Return the SOP instance UID of an image of this study and series; None for any other data."""
    keywords = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    try:
        image = dcmread(BytesIO(data), stop_before_pixels=True, specific_tags=keywords)
        uids = [str(image.get(keyword)) for keyword in keywords]
    except Exception:  # pydicom raises arbitrary exceptions on bytes that are not DICOM
        return None
    return uids[2] if uids[:2] == [study, series] else None
