"""Receive a scan from a client: recognise it by its first bytes, and unpack archives without trusting their names."""

import os
import re
import shutil
import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from medgen.io.mixed import is_dicom
from medgen.io.names import of_system, one_line
from medgen.io.paths import ENDINGS, UNREAD_ENDINGS, ending_of, has_ending

MOST_FILES = 20_000  # in an archive
MOST_DIRECTORY = MOST_FILES * 600  # bytes of an archive's directory, which is read at once
DRIVE = re.compile(r"[A-Za-z]:")  # Windows
PLAIN_ENDING = re.compile(r"\.[A-Za-z]{1,8}")
END = b"PK\x05\x06"  # end of the directory of a zip file
BLOCK = 2**20


class Refused(Exception):
    """A request that is not served: HTTP ``status`` and the reason for the client."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes: of an upload, and of an archive's content. ``queue``: waiting jobs. ``kept``: finished jobs."""

    upload: int = 2 * 2**30
    unpacked: int = 8 * 2**30
    queue: int = 8
    kept: int = 16


def kind_of(head: bytes) -> str:
    """``nii``, ``nii.gz`` or ``zip`` from the first 352 bytes. Raises Refused."""
    if head.startswith(b"\x1f\x8b\x08"):
        return "nii.gz"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[344:347] == b"n+1" or head[4:7] == b"n+2":
        return "nii"
    raise Refused(415, "not a NIfTI file (.nii, .nii.gz) or a zip file of DICOM images")


def unpack(archive: Path, folder: Path, limits: Limits) -> tuple[dict[str, str], list[str]]:
    """Unpack a zip file of DICOM images into ``folder``, under numbers: no name of the archive becomes a path.

    Files of one folder of the archive stay together, and keep a plain ending, so that the reader leaves out what is no
    image, such as a viewer on a patient CD. Hidden files and those of an operating system are not unpacked.

    Returns:
        {name of a folder here: the folder in the archive}, and the files of formats that are not read.

    Raises:
        Refused: names that leave the archive, links, encryption, other compressions, too many files, or more content
            than stated or allowed.
    """
    _check_directory(archive)
    try:
        with zipfile.ZipFile(archive) as found:
            for info in found.infolist():
                _check_entry(info)
            entries = [(info, _place(info)) for info in found.infolist() if not info.is_dir()]
            entries = [(info, path) for info, path in entries if not any(map(_of_system, path.parts))]
            if not entries:
                raise Refused(400, "the zip file is empty")
            if len(entries) > MOST_FILES:
                raise Refused(413, f"the zip file has more than {MOST_FILES} files")
            if sum(info.file_size for info, _ in entries) > limits.unpacked:
                raise Refused(413, "the content of the zip file is too large")
            folders: dict[str, int] = {}
            unread: list[str] = []
            for number, (info, path) in enumerate(entries):
                parent = folders.setdefault(str(path.parent), len(folders))
                ending = _ending(path)
                target = folder / f"{parent:05d}" / f"{number:05d}{ending}"
                target.parent.mkdir(parents=True, exist_ok=True)
                with found.open(info) as source, open(target, "xb") as file:
                    _copy(source, file, info.file_size)
                if has_ending(target, UNREAD_ENDINGS) and not has_ending(target, ENDINGS) and not is_dicom(target):
                    unread.append(one_line(str(path)))
            return {f"{number:05d}": one_line(name) for name, number in folders.items()}, unread
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, ValueError, OverflowError) as error:
        raise Refused(400, "the zip file is damaged") from error
    except OSError as error:
        raise Refused(507, f"the zip file cannot be unpacked ({error.strerror})") from error


def _check_directory(archive: Path) -> None:
    """Refuse a directory that would take much memory to read, from the archive's last bytes."""
    size = archive.stat().st_size
    with open(archive, "rb") as file:
        file.seek(max(0, size - 2**16 - 22))
        tail = file.read()
    at = tail.rfind(END)
    if at < 0 or len(tail) < at + 22:
        raise Refused(400, "the zip file is damaged")
    count, length = int.from_bytes(tail[at + 10 : at + 12], "little"), int.from_bytes(tail[at + 12 : at + 16], "little")
    if count == 0xFFFF or length > MOST_DIRECTORY or b"PK\x06\x07" in tail[max(0, at - 20) : at]:
        raise Refused(413, f"the zip file has too many files, more than {MOST_FILES}, or is in the format zip64")


def _place(info: zipfile.ZipInfo) -> PurePosixPath:
    """Path of an entry in the archive; programs for Windows write backslashes."""
    return PurePosixPath(info.orig_filename.replace("\\", "/"))


def _ending(path: PurePosixPath) -> str:
    """The ending that tells the reader what a file is: known ones as a whole, such as .nii.gz; other plain ones; ""."""
    plain = path.suffix.lower() if PLAIN_ENDING.fullmatch(path.suffix) else ""
    return ending_of(Path(path.name), (*ENDINGS, *UNREAD_ENDINGS)) or plain


def _of_system(part: str) -> bool:
    return part == "__MACOSX" or of_system(part)


def _check_entry(info: zipfile.ZipInfo) -> None:
    name, path = info.orig_filename, _place(info)
    if path.is_absolute() or ".." in path.parts or "\0" in name or DRIVE.match(name) or len(name) > 1000:
        raise Refused(400, "the zip file has names that lead out of it")
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Refused(400, "the zip file has links or devices")
    if info.flag_bits & 1:
        raise Refused(400, "the zip file is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refused(415, "the zip file uses another compression than deflate")


def _copy(source: IO[bytes], file: IO[bytes], size: int) -> None:
    """Copy exactly ``size`` bytes."""
    left = size
    while left > 0:
        block = source.read(min(BLOCK, left))
        if not block:
            raise Refused(400, "the zip file is damaged")
        file.write(block)
        left -= len(block)
    if source.read(1):
        raise Refused(413, "a file of the zip file is larger than stated")


def zip_files(root: Path, results: Sequence[Path], archive: Path) -> None:
    """Write results, files or folders below ``root``, as a zip file without compression."""
    with zipfile.ZipFile(archive, "x", zipfile.ZIP_STORED) as made:
        for result in results:
            for path in [result] if result.is_file() else sorted(result.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    made.write(path, path.relative_to(root).as_posix())


def below(root: Path | None, path: str) -> Path:
    """A scan below the allowed folder, links resolved. Raises Refused."""
    if root is None:
        raise Refused(403, "this server takes no paths; upload the scan")
    if not path or "\0" in path or len(path) > 4096 or os.path.isabs(path):
        raise Refused(400, "give a path relative to the server's folder")
    place = Path(os.path.realpath(root / path))
    if not place.is_relative_to(os.path.realpath(root)):
        raise Refused(403, "the path leads out of the server's folder")
    if not place.exists():
        raise Refused(404, "there is no such scan")
    return place


def remove(folder: Path) -> None:
    """Delete a folder with its content."""
    shutil.rmtree(folder, ignore_errors=True)
