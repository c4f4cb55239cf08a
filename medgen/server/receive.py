"""Receive the body of a request within limits: a scan as the body, or the parts of a multipart message as files."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO

import anyio
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from medgen.server.jobs import Jobs, ServerJob
from medgen.server.uploads import MOST_FILES, Refused, kind_of, remove, unpack

HEAD = 352  # bytes from which an upload is recognised
STALLED = 60.0  # seconds without a byte after which an upload is ended
logging.getLogger("python_multipart").addHandler(logging.NullHandler())  # its warnings quote requests

# Headers of a part, names in lower case → the new file for its content, or None to leave it out. May raise Refused.
Place = Callable[[dict[str, str]], Path | None]


async def receive_scan(request: Request, job: ServerJob, jobs: Jobs) -> Path:
    """Write the body into the job's folder, and unpack it if it is an archive. Raises Refused."""
    raw, head = job.folder / "upload", b""
    try:
        async with await anyio.open_file(raw, "xb") as file:
            async for block in _blocks(request, jobs.limits.upload):
                if len(head) < HEAD:
                    head += block[: HEAD - len(head)]
                    if len(head) == HEAD:
                        kind_of(head)
                await file.write(block)
    except OSError as error:
        raise Refused(507, f"the upload cannot be stored ({error.strerror})") from error
    return await run_in_threadpool(placed, raw, job, jobs)


def placed(raw: Path, job: ServerJob, jobs: Jobs) -> Path:
    """The scan of an upload: a NIfTI file, or a folder of DICOM files. Raises Refused."""
    with open(raw, "rb") as file:
        kind = kind_of(file.read(HEAD))
    if kind != "zip":
        return raw.rename(job.folder / f"scan.{kind}")
    folder = job.folder / "scan"
    folder.mkdir()
    try:
        job.folders, job.unread = unpack(raw, folder, jobs.limits)
    except Refused:
        remove(folder)
        raise
    raw.unlink()
    return folder


async def receive_parts(request: Request, kind: str, limit: int, place: Place) -> None:
    """Write the parts of a multipart message to files.

    Args:
        kind: media type of the message, such as ``multipart/related``.
        limit: most bytes of the message.
        place: see ``Place``.

    Raises:
        Refused: another media type, a damaged message, more than 20,000 parts, or what ``place`` raises.
    """
    media, options = parse_options_header(request.headers.get("content-type"))
    if media != kind.encode() or not options.get(b"boundary"):
        raise Refused(415, f"send {kind} with a boundary")
    try:
        parts = _Parts(options[b"boundary"], place)
        try:
            async for block in _blocks(request, limit):
                await run_in_threadpool(parts.write, block)
        finally:
            parts.close()
    except FormParserError as error:
        raise Refused(400, "the multipart message is damaged") from error
    except OSError as error:
        raise Refused(507, f"the upload cannot be stored ({error.strerror})") from error
    if not parts.complete:
        raise Refused(400, "the multipart message is cut short")


async def _blocks(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body in blocks. Raises Refused if it is too large or stalls."""
    size, stream = 0, request.stream()
    while True:
        try:
            block = await asyncio.wait_for(anext(stream), STALLED)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Refused(408, "the upload stalled") from None
        size += len(block)
        if size > limit:
            raise Refused(413, "the upload is too large")
        yield block


class _Parts:
    """Writes the parts of a multipart message (RFC 2046 5.1) as its blocks come; headers are bounded by the parser."""

    def __init__(self, boundary: bytes, place: Place) -> None:
        self.complete, self._place, self._count = False, place, 0
        self._file: IO[bytes] | None = None
        self._headers: dict[str, str] = {}
        self._name = self._value = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._headers.clear,
                "on_header_field": self._field,
                "on_header_value": self._content,
                "on_header_end": self._header,
                "on_headers_finished": self._open,
                "on_part_data": self._data,
                "on_part_end": self.close,
                "on_end": self._end,
            },
        )

    def write(self, block: bytes) -> None:
        self._parser.write(block)

    def close(self) -> None:
        """Close the file of the present part."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _content(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value.decode("latin-1")
        self._name = self._value = b""

    def _open(self) -> None:
        self._count += 1
        if self._count > MOST_FILES:
            raise Refused(413, f"the message has more than {MOST_FILES} parts")
        path = self._place(self._headers)
        if path is not None:
            self._file = open(path, "xb")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])

    def _end(self) -> None:
        self.complete = True
