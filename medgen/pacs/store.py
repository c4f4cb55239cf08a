"""Store converted series in a PACS and record the accepted images, so that a rerun sends only the rest.

Each time the server accepts a series or a part of it, a line is added to ``stored.jsonl`` in the output folder (in the
private folder for a de-identified run). An entry is valid for one server and for the bytes sent, so an output that was
converted again is stored again. Images accepted but not recorded before an interruption are sent again; this replaces
nothing on the server, because the same images have the same UIDs.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from medgen.errors import InputError
from medgen.inference.output import DERIVED_FILE_NAME
from medgen.io.claim import check_ours, record_written
from medgen.io.hashes import sha256_of
from medgen.pacs.server import HAD, PAUSES, Server

RECORD = "stored.jsonl"


@dataclass
class Stored:
    """Result of storing a series: number of images on the server, and how many of them were sent in this call."""

    images: int = 0
    sent: int = 0
    remarks: list[str] = field(default_factory=list)  # warnings of the server, e.g. about changed images


class Storage:
    """Stores series of the folder ``output`` in ``server``; not thread-safe.

    ``log`` is called with a log line before each retry.
    """

    def __init__(
        self,
        server: Server,
        output: Path,
        pauses: Sequence[float] = PAUSES,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.server, self.record, self.pauses, self.log = server, output / RECORD, pauses, log
        self.lost = False
        self.contents: dict[tuple[str, str], set[str]] = {}  # (server, series) -> content hashes with accepted images
        self.accepted = self._read()

    def store(self, folder: Path) -> Stored:
        """Send the images of a derived series, or one DICOM file, that the server has not accepted yet.

        Raises:
            InputError: ``folder`` is not a derived series or cannot be read, the server refuses images, or the
                connection was lost too often. Accepted images are recorded in any case.
        """
        files = [folder] if folder.is_file() and folder.suffix == ".dcm" else []
        if folder.is_dir():
            files = sorted(path for path in folder.iterdir() if DERIVED_FILE_NAME.fullmatch(path.name))
        if not files:
            raise InputError(
                "pacs-not-dicom-series",
                f"{folder} is not a DICOM series, so it cannot be stored in {self.server.name}; write DICOM output",
            )
        digest = sha256_of(files)
        others = self.contents.get((self.server.name, folder.name), set()) - {digest}
        accepted = self.accepted.setdefault((self.server.name, digest), set())
        remaining = [file for file in files if file.name not in accepted]
        result = Stored(len(files))
        refused: list[str] = []
        retries = iter(() if self.lost else self.pauses)  # no retries if the previous series failed
        while remaining:
            answered, lost = set(), None
            try:
                for file, message, present in self.server.store(remaining):
                    answered.add(file)
                    if message == HAD and others:
                        message, present = (
                            "already has an image with this UID made with other settings; delete it on the server",
                            False,
                        )
                    if message:
                        (result.remarks if present else refused).append(f"{file}: {self.server.name} {message}")
                    if present:
                        accepted.add(file.name)
                        result.sent += 1
            except ConnectionError as error:
                lost = error
            finally:
                self._add(folder, digest, [file.name for file in answered if file.name in accepted])
            remaining = [file for file in remaining if file not in answered]
            if lost is None:
                break
            if answered:
                retries = iter(self.pauses)  # progress was made: allow all retries again
            elif (pause := next(retries, None)) is not None:
                self.log(f"{lost}; retrying {folder.name} in {pause:g} s")
                time.sleep(pause)
            else:
                self.lost = True
                raise InputError(
                    "pacs-images-not-stored",
                    f"{folder}: {len(remaining)} of {len(files)} images are not stored ({lost}); "
                    "run again to send them",
                )
        self.lost = False
        if refused:
            raise InputError(
                "pacs-images-refused",
                f"{refused[0]}; {len(refused)} of {len(files)} images of {folder.name} were refused and are not stored",
            )
        return result

    def _read(self) -> dict[tuple[str, str], set[str]]:
        found: dict[tuple[str, str], set[str]] = {}
        try:
            lines = self.record.read_bytes().splitlines() if self.record.exists() else []
        except OSError as error:
            raise InputError(
                "file-unreadable", f"{self.record} cannot be read ({error.strerror}); check its permissions"
            ) from None
        for line in lines:
            try:
                entry = json.loads(line)
                key = str(entry["server"]), str(entry["sha256"])
                found.setdefault(key, set()).update(str(name) for name in entry["images"])
                self.contents.setdefault((key[0], str(entry["series"])), set()).add(key[1])
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # incomplete line of an interrupted run
        return found

    def _add(self, folder: Path, digest: str, names: list[str]) -> None:
        if not names:
            return
        self.contents.setdefault((self.server.name, folder.name), set()).add(digest)
        line = {"server": self.server.name, "series": folder.name, "sha256": digest, "images": sorted(names)}
        try:
            check_ours(self.record)
            record_written(self.record)
            with open(self.record, "ab+", opener=_open_private) as record:
                if record.tell():  # an interrupted run may have left an incomplete last line
                    record.seek(-1, os.SEEK_END)
                    incomplete = record.read(1) != b"\n"
                    record.write(b"\n" if incomplete else b"")
                record.write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise InputError(
                "pacs-record-not-writable",
                f"{self.record} cannot be written ({error.strerror}), so a rerun sends these images again; "
                "check its permissions",
            ) from None


def _open_private(path: str, flags: int) -> int:
    """Open a file readable only by its owner, because the record names servers and series of patients."""
    descriptor = os.open(path, flags, 0o600)
    if hasattr(os, "fchmod"):
        with suppress(OSError):
            os.fchmod(descriptor, 0o600)
    return descriptor
