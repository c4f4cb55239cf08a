"""An index of the DICOM headers below a folder that is kept: only files that are new or changed are read again."""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medgen.errors import InputError
from medgen.io.claim import check_ours, wrote
from medgen.io.dicom.header import Header, is_scan, read_header, shared
from medgen.io.dicom.lost import lost_slices
from medgen.io.paths import dangling

VERSION = "6"  # of what is kept of a header; an index of another version is built again
BESIDE = "{}"  # kept in place of the header of a report, a presentation state and the like
TOGETHER = 2000  # files between two commits: what a kill costs
TABLES = """
    CREATE TABLE IF NOT EXISTS about (version TEXT, folder BLOB);
    CREATE TABLE IF NOT EXISTS files
        (path BLOB PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER, header TEXT, fault TEXT);
"""


@dataclass
class Index:
    """Headers of the images below a folder, and what is wrong with files that should be images."""

    images: list[tuple[Path, Header]] = field(default_factory=list)
    faults: dict[Path, str] = field(default_factory=dict)
    read: int = 0  # files whose header was read now; the others' was known


def indexed(folder: Path, database: Path | None = None) -> Index:
    """Read the headers of all files below ``folder``, or take them from ``database`` where path, size and times agree.

    Times are those of the content and of any change (ctime), as unpacking an archive again sets the first back.
    Hidden files and folders are passed over and links to folders not followed. The database is written once there is
    a DICOM file; one that is damaged, or of another folder or version, is made anew. A subfolder that cannot be listed
    is a fault; that a file cannot be read for its permissions or its disk is found out anew each time.

    Raises:
        InputError: the folder or the database's place cannot be used.
    """
    found, new = Index(), []
    others: list[Path] = []
    values: dict[str, Any] = {}
    try:
        known = {} if database is None else _known(folder, database)
        for path, *state in _files(folder, found.faults):
            row = known.pop(path, None)
            if row is None or row[:3] != tuple(state):
                header, fault, lasting = _read(folder / path)
                row = (*state, header, fault)
                found.read += 1
                if lasting:
                    new.append((os.fsencode(path), *row))  # as bytes: a name of another encoding is no text to SQLite
            header, fault = row[3:]
            if fault:
                found.faults[folder / path] = fault
            elif header:
                if header != BESIDE:
                    found.images.append((folder / path, shared(json.loads(header), values)))
            else:
                others.append(folder / path)
            if database is not None and found.images and len(new) >= TOGETHER:
                _keep(folder, database, new, ())
                new = []
        if database is not None and (known or (new and found.images)):
            _keep(folder, database, new, known)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            "dicom-folder-not-indexed", f"{folder} cannot be indexed ({reason}); check its permissions and the output's"
        ) from error
    found.faults |= lost_slices(others, (path for path, _ in found.images))
    return found


def _files(folder: Path, faults: dict[Path, str]) -> Iterator[tuple[str, int, int, int]]:
    """(path below the folder, size, mtime and ctime in ns) of every file, sorted by path within each folder. What is
    wrong with what cannot be listed goes into ``faults``."""
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            with os.scandir(folder / below) as entries:
                listed = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            if not below:
                raise
            faults[folder / below] = _unreadable(folder / below, error)
            continue
        for entry in listed:
            path = os.path.join(below, entry.name)
            try:
                stat = entry.stat() if entry.is_file() else None
                if entry.is_symlink() and not os.path.exists(entry.path):
                    faults[folder / path] = dangling(folder / path)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
            except OSError as error:
                faults[folder / path] = _unreadable(folder / path, error)
                continue
            if stat is not None:
                yield path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path} cannot be read ({error.strerror}); check its permissions"


def _read(path: Path) -> tuple[str | None, str | None, bool]:
    """(header as JSON, fault, whether that stays so while the file does); BESIDE for DICOM that is no image of a scan,
    no header and no fault for what is no DICOM. Permissions and disks that fail change without the file."""
    try:
        header = read_header(path)
        if header is None:
            return None, None, True
        return (json.dumps(header) if is_scan(header, path) else BESIDE), None, True
    except InputError as error:
        lasting = not isinstance(error.__cause__, OSError)
        return None, str(error).encode(errors="backslashreplace").decode(), lasting


def _known(folder: Path, database: Path) -> dict[str, tuple]:
    if not database.exists():
        return {}
    try:
        with closing(sqlite3.connect(database)) as connection:
            if connection.execute("SELECT version, folder FROM about").fetchall() == [(VERSION, _place(folder))]:
                rows = connection.execute("SELECT path, size, mtime, ctime, header, fault FROM files")
                return {os.fsdecode(path): tuple(row) for path, *row in rows}
    except sqlite3.DatabaseError:
        pass
    check_ours(database)
    database.unlink()
    return {}


def _keep(folder: Path, database: Path, new: list[tuple], gone: Iterable[str]) -> None:
    database.parent.mkdir(parents=True, exist_ok=True)
    check_ours(database)
    wrote(database)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executescript(TABLES)
        if not connection.execute("SELECT 1 FROM about").fetchall():
            connection.execute("INSERT INTO about VALUES (?, ?)", (VERSION, _place(folder)))
        connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", new)
        connection.executemany("DELETE FROM files WHERE path = ?", [(os.fsencode(path),) for path in gone])


def _place(folder: Path) -> bytes:
    return os.fsencode(folder.resolve())
