"""What the two kinds of server have in common: address, query, names of what they hold, and patience with them.

All that a server says is untrusted: UIDs become names of files only if they are UIDs, answers are counted, and
what does not fit the query is dropped.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol, TypeVar

from pydicom import Dataset

from medgen.errors import InputError
from medgen.io.dicom.header import Header, plain
from medgen.io.dicom.quiet import quiet_pydicom
from medgen.io.names import shown

UID = re.compile(r"(?=.{1,64}\Z)[0-9]+(\.[0-9]+)*", re.ASCII)  # PS3.5 9.1; leading zeros of a component occur
DATES = re.compile(r"\d{8}(-(\d{8})?)?|-\d{8}", re.ASCII)  # PS3.4 C.2.2.2.5
MOST = 200_000  # answers to one query; more is a server gone wrong
LARGEST = 2**31  # bytes of one image (an enhanced CT of 1000 slices has a quarter) or one answer
PAUSES = (1.0, 5.0, 30.0, 120.0)  # seconds before a lost connection is tried again
HAD = "had it already"  # of an image with this UID, which a server keeps
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
Answer = TypeVar("Answer")
quiet_pydicom()  # warnings quote values


class Server(Protocol):
    """A PACS. Every method raises ConnectionError where the connection fails or is lost (another attempt may help)
    and InputError where the server refuses."""

    name: str  # for messages and records: the address, which holds no credentials

    def studies(self, query: Mapping[str, str]) -> list[Header]:
        """The studies that fit, each with the elements of ``STUDY`` that the server tells."""
        ...

    def series(self, study: str) -> list[Header]:
        """The series of a study, each with the elements of ``SERIES`` that the server tells."""
        ...

    def instances(self, study: str, series: str) -> list[str]:
        """The SOP instance UIDs of a series, as the server writes them: unchecked."""
        ...

    def retrieve(self, study: str, series: str, instances: Sequence[str] | None, keep: Callable[[bytes], None]) -> None:
        """Hand each image of a series (or those named) to ``keep`` as a DICOM file. Images may be missing."""
        ...

    def store(self, files: Sequence[Path]) -> Iterator[tuple[Path, str, bool]]:
        """Send DICOM files: (file, what the server said, whether it has it now) of each as it is answered."""
        ...


def parse_query(texts: Sequence[str]) -> dict[str, str]:
    """``KEY=VALUE`` each, of ``KEYS``; InputError for others, and for none: that would ask for the whole archive."""
    query: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if key not in KEYS:
            near = get_close_matches(key, KEYS, 1, 0.4)
            raise InputError(
                "pacs-query-key-unknown",
                f"--query {text}: choose {near[0] if near else 'one of ' + ', '.join(KEYS)}=VALUE",
            )
        if not equals or not value.strip() or "\\" in value or not value.isprintable():
            raise InputError(
                "pacs-query-value-invalid",
                f"--query {text}: give {key}=VALUE, without backslashes and control characters",
            )
        if key == "StudyDate" and not DATES.fullmatch(value.strip()):
            raise InputError(
                "pacs-query-date-invalid",
                f"--query {text}: give days and ranges as 20200101, 20200101-20201231 or 20200101-",
            )
        if key in query:
            raise InputError(
                "pacs-query-key-twice", f"--query {key} is given twice; a range of dates is StudyDate=20200101-20201231"
            )
        query[key] = value.strip()
    if not query:
        raise InputError(
            "pacs-query-missing",
            "--from-pacs asks for nothing; say which studies with --query, e.g. StudyDate=20260101-",
        )
    return query


def fits(study: Header, query: Mapping[str, str]) -> bool:
    """Whether a study is what was asked for, as far as its answer tells: servers may ignore keys (PS3.4 C.2.2.1.3).

    Wildcards, ranges of dates and lists of modalities as in PS3.4 C.2.2.2; upper and lower case are the same.
    """
    for key, wanted in query.items():
        held = study.get(key)
        if held is None:
            continue
        values = [str(v).strip() for v in (held if isinstance(held, list) else str(held).split("\\"))]
        if key == "StudyDate":
            first, dash, last = wanted.partition("-")
            fitting = any(first <= v <= (last or "99999999" if dash else first) for v in values)
        else:
            pattern = re.escape(wanted).replace(r"\*", ".*").replace(r"\?", ".")
            fitting = any(re.fullmatch(pattern, v, re.IGNORECASE | re.DOTALL) for v in values)
        if not fitting:
            return False
    return True


def header(dataset: Dataset, keywords: Sequence[str]) -> Header:
    """Those elements of an answer that are usable."""
    return plain(dataset, list(keywords))


def uid(value: object, server: str) -> str:
    """``value`` if it is a UID. Else InputError: it could lead out of a folder."""
    text = str(value).strip(" \0") if value is not None else ""
    if not UID.fullmatch(text):
        raise InputError(
            "pacs-uid-invalid", f"{server} answers with {shown(text[:80])!r} where a UID belongs; ask its administrator"
        )
    return text


def retried(action: Callable[[], Answer], pauses: Sequence[float] = PAUSES) -> Answer:
    """What ``action`` returns; after a ConnectionError it is tried again after each of ``pauses``, in seconds."""
    for pause in pauses:
        try:
            return action()
        except ConnectionError:
            time.sleep(pause)
    return action()
