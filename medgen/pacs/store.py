"""Converted series into a PACS, and a record of what it has accepted, so that a rerun sends only the rest.

``stored.jsonl`` in the output folder (of a de-identified run in the private one) gets a line when a series, or a part
of it, has been accepted. It holds for a server and for the bytes sent: an output that was made anew is stored anew.
What a kill leaves unrecorded is sent again, which replaces nothing: the same images have the same UIDs.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from medgen.errors import InputError
from medgen.inference.output import OURS
from medgen.io.claim import check_ours, wrote
from medgen.io.hashes import sha256_of
from medgen.pacs.server import HAD, PAUSES, Server

RECORD = "stored.jsonl"


@dataclass
class Stored:
    """What became of a series: images that the server has, and how many of these were sent now."""

    images: int = 0
    sent: int = 0
    remarks: list[str] = field(default_factory=list)  # what the server changed


class Storage:
    """Stores series of ``output`` in ``server``. One thread may use it."""

    def __init__(
        self,
        server: Server,
        output: Path,
        pauses: Sequence[float] = PAUSES,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.server, self.record, self.pauses, self.told = server, output / RECORD, pauses, told
        self.lost = False
        self.contents: dict[tuple[str, str], set[str]] = {}  # (server, series): hashes of what was accepted of it
        self.accepted = self._read()

    def store(self, folder: Path) -> Stored:
        """Send the images of a derived series, or one DICOM file, that the server has not accepted yet.

        Raises:
            InputError: it is no derived series, cannot be read, or the server refuses images or was lost too often;
                the images it did accept are recorded.
        """
        files = [folder] if folder.is_file() and folder.suffix == ".dcm" else []
        if folder.is_dir():
            files = sorted(path for path in folder.iterdir() if OURS.fullmatch(path.name))
        if not files:
            raise InputError(
                "pacs-not-dicom-series", f"{folder} is no DICOM series, so it cannot be stored in {self.server.name}"
            )
        digest = sha256_of(files)
        others = self.contents.get((self.server.name, folder.name), set()) - {digest}
        accepted = self.accepted.setdefault((self.server.name, digest), set())
        left = [file for file in files if file.name not in accepted]
        result = Stored(len(files))
        refused: list[str] = []
        waits = iter(() if self.lost else self.pauses)  # no more patience while the last series was given up
        while left:
            answered, lost = set(), None
            try:
                for file, said, has in self.server.store(left):
                    answered.add(file)
                    if said == HAD and others:
                        said, has = "holds another image of its UID, made with other settings; remove that there", False
                    if said:
                        (result.remarks if has else refused).append(f"{file}: {self.server.name} {said}")
                    if has:
                        accepted.add(file.name)
                        result.sent += 1
            except ConnectionError as error:
                lost = error
            finally:
                self._add(folder, digest, [file.name for file in answered if file.name in accepted])
            left = [file for file in left if file not in answered]
            if lost is None:
                break
            if answered:
                waits = iter(self.pauses)  # patience is for a connection that takes nothing
            elif (pause := next(waits, None)) is not None:
                self.told(f"{lost}; {folder.name} is tried again in {pause:g} s")
                time.sleep(pause)
            else:
                self.lost = True
                raise InputError(
                    "pacs-images-not-stored",
                    f"{folder}: {len(left)} of {len(files)} images are not stored ({lost}); start again to send them",
                )
        self.lost = False
        if refused:
            raise InputError(
                "pacs-images-refused",
                f"{refused[0]}; {len(refused)} of {len(files)} images of {folder.name} are not stored",
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
                told = json.loads(line)
                key = str(told["server"]), str(told["sha256"])
                found.setdefault(key, set()).update(str(name) for name in told["images"])
                self.contents.setdefault((key[0], str(told["series"])), set()).add(key[1])
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # torn by a kill
        return found

    def _add(self, folder: Path, digest: str, names: list[str]) -> None:
        if not names:
            return
        self.contents.setdefault((self.server.name, folder.name), set()).add(digest)
        line = {"server": self.server.name, "series": folder.name, "sha256": digest, "images": sorted(names)}
        try:
            check_ours(self.record)
            wrote(self.record)
            with open(self.record, "ab+", opener=_private) as record:
                if record.tell():  # a kill may have torn the last line
                    record.seek(-1, os.SEEK_END)
                    torn = record.read(1) != b"\n"
                    record.write(b"\n" if torn else b"")
                record.write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise InputError(
                "pacs-record-not-writable",
                f"{self.record} cannot be written ({error.strerror}); images will be sent again",
            ) from None


def _private(path: str, flags: int) -> int:
    """It names servers and patients' series: for its owner only."""
    descriptor = os.open(path, flags, 0o600)
    if hasattr(os, "fchmod"):
        with suppress(OSError):
            os.fchmod(descriptor, 0o600)
    return descriptor
