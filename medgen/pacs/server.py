"""Shared parts of the DIMSE and DICOMweb clients: interface, query parsing, UID checks and retries.

Responses of a server are untrusted: UIDs are validated before they become file names, the number of responses is
limited, and responses that do not match the query are dropped.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol, TypeVar

from pydicom import Dataset

from medgen.errors import InputError
from medgen.io.dicom.elements import Header, plain
from medgen.io.dicom.quiet import quiet_pydicom
from medgen.io.names import one_line

UID = re.compile(r"(?=.{1,64}\Z)[0-9]+(\.[0-9]+)*", re.ASCII)  # PS3.5 9.1; allows components with leading zeros
DATES = re.compile(r"\d{8}(-(\d{8})?)?|-\d{8}", re.ASCII)  # PS3.4 C.2.2.2.5
MOST = 200_000  # maximum responses to one query; more indicate a faulty server
LARGEST = 2**31  # maximum bytes of one image or response; an enhanced CT of 1000 slices has a quarter of this
PAUSES = (1.0, 5.0, 30.0, 120.0)  # seconds before each retry of a lost connection
HAD = "already had an image with this UID"  # and keeps that image
EXTRA = "pip install 'medgen[pacs]'"
KEYS = (
    "PatientID",
    "StudyDate",
    "ModalitiesInStudy",
    "StudyDescription",
    "StudyInstanceUID",
    "AccessionNumber",
)
STUDY = (*KEYS, "NumberOfStudyRelatedInstances")
SERIES = ("SeriesInstanceUID", "Modality", "SeriesDescription", "NumberOfSeriesRelatedInstances")
Result = TypeVar("Result")
quiet_pydicom()  # warnings quote header values


class Server(Protocol):
    """A PACS.

    Every method raises ConnectionError if the connection fails or is lost (a retry may help), and InputError if the
    server refuses the request.
    """

    name: str  # the address, without credentials; used in messages and records

    def studies(self, query: Mapping[str, str]) -> list[Header]:
        """Return the matching studies, each with the elements of ``STUDY`` that the server provides."""
        ...

    def series(self, study: str) -> list[Header]:
        """Return the series of a study, each with the elements of ``SERIES`` that the server provides."""
        ...

    def instances(self, study: str, series: str) -> list[str]:
        """Return the SOP instance UIDs of a series as sent by the server, without validation."""
        ...

    def retrieve(self, study: str, series: str, instances: Sequence[str] | None, keep: Callable[[bytes], None]) -> None:
        """Pass each image of a series (or only ``instances``) to ``keep`` as a DICOM file. Images may be missing."""
        ...

    def store(self, files: Sequence[Path]) -> Iterator[tuple[Path, str, bool]]:
        """Send DICOM files; yield (file, server message, whether the server has it now) for each response."""
        ...


def parse_query(texts: Sequence[str]) -> dict[str, str]:
    """Parse ``KEY=VALUE`` strings with keys from ``KEYS``.

    Raises:
        InputError: a key or value is invalid, or there is no query, which would request the whole archive.
    """
    query: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if key not in KEYS:
            similar = get_close_matches(key, KEYS, 1, 0.4)
            raise InputError(
                "pacs-query-key-unknown",
                f"--query {text}: unknown key; use {similar[0] if similar else 'one of ' + ', '.join(KEYS)}=VALUE",
            )
        if not equals or not value.strip() or "\\" in value or not value.isprintable():
            raise InputError(
                "pacs-query-value-invalid",
                f"--query {text}: invalid value; give {key}=VALUE without backslashes and control characters",
            )
        if key == "StudyDate" and not DATES.fullmatch(value.strip()):
            raise InputError(
                "pacs-query-date-invalid",
                f"--query {text}: invalid date; give a day or a range as 20200101, 20200101-20201231 or 20200101-",
            )
        if key in query:
            raise InputError(
                "pacs-query-key-twice",
                f"--query {key} is given twice; give a date range as StudyDate=20200101-20201231",
            )
        query[key] = value.strip()
    if not query:
        raise InputError(
            "pacs-query-missing",
            "--from-pacs needs a query; select studies with --query, e.g. StudyDate=20260101-",
        )
    return query


def matches_query(study: Header, query: Mapping[str, str]) -> bool:
    """Whether a study matches the query; keys missing in the response are ignored.

    The check is needed because servers may ignore query keys (PS3.4 C.2.2.1.3). Wildcards, date ranges and lists of
    modalities follow PS3.4 C.2.2.2; matching is case-insensitive.
    """
    for key, pattern_text in query.items():
        actual = study.get(key)
        if actual is None:
            continue
        values = [str(v).strip() for v in (actual if isinstance(actual, list) else str(actual).split("\\"))]
        if key == "StudyDate":
            first, dash, last = pattern_text.partition("-")
            matches = any(first <= v <= (last or "99999999" if dash else first) for v in values)
        else:
            pattern = re.escape(pattern_text).replace(r"\*", ".*").replace(r"\?", ".")
            matches = any(re.fullmatch(pattern, v, re.IGNORECASE | re.DOTALL) for v in values)
        if not matches:
            return False
    return True


def header(dataset: Dataset, keywords: Sequence[str]) -> Header:
    """Return the elements ``keywords`` of a response that are present and valid."""
    return plain(dataset, list(keywords))


def uid(value: object, server: str) -> str:
    """Return ``value`` if it is a UID; otherwise raise InputError, because it could lead to a path outside a folder."""
    text = str(value).strip(" \0") if value is not None else ""
    if not UID.fullmatch(text):
        raise InputError(
            "pacs-uid-invalid", f"{server} sent {one_line(text[:80])!r} instead of a UID; ask its administrator"
        )
    return text


def retried(action: Callable[[], Result], pauses: Sequence[float] = PAUSES) -> Result:
    """Return the result of ``action``; on ConnectionError, retry it after each of ``pauses`` (in seconds)."""
    for pause in pauses:
        try:
            return action()
        except ConnectionError:
            time.sleep(pause)
    return action()
