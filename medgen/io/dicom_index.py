"""An index of the DICOM headers below a folder that is kept: only files that are new or changed are read again."""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from medgen.io.dicom_header import Header, is_scan, lost_slices, read_header
from medgen.types import InputError

VERSION = "1"  # of what is kept of a header; another one starts the index anew
TOGETHER = 2000  # files between two commits: what a kill costs
TABLES = """
    CREATE TABLE IF NOT EXISTS about (version TEXT, folder TEXT);
    CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, header TEXT, fault TEXT);
"""


@dataclass
class Index:
    """Headers of the images below a folder, and what is wrong with files that should be images."""

    images: list[tuple[Path, Header]] = field(default_factory=list)
    faults: dict[Path, str] = field(default_factory=dict)
    read: int = 0  # files whose header was read now; the others' was known


def indexed(folder: Path, database: Path | None = None) -> Index:
    """Read the headers of all files below ``folder``, or take them from ``database`` where path, size and time agree.

    Hidden files and folders are passed over and links to folders not followed. The database is written once there is
    a DICOM file; one that is damaged, or of another folder or version, is made anew.

    Raises:
        InputError: the folder or the database's place cannot be used.
    """
    found, new = Index(), []
    others: list[Path] = []
    try:
        known = {} if database is None else _known(folder, database)
        for path, size, mtime in _files(folder):
            row = known.pop(path, None)
            if row is None or row[:2] != (size, mtime):
                row = (size, mtime, *_read(folder / path))
                found.read += 1
                new.append((path, *row))
            header, fault = row[2:]
            if fault:
                found.faults[folder / path] = fault
            elif header:
                found.images.append((folder / path, json.loads(header)))
            else:
                others.append(folder / path)
            if database is not None and found.images and len(new) >= TOGETHER:
                _keep(folder, database, new, ())
                new = []
        if database is not None and (known or (new and found.images)):
            _keep(folder, database, new, known)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{folder} cannot be indexed ({reason}); check its permissions and the output's") from error
    found.faults |= lost_slices(others, (path for path, _ in found.images))
    return found


def _files(folder: Path) -> Iterator[tuple[str, int, int]]:
    """(path below the folder, size, mtime in ns) of every file, sorted by path within each folder."""
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with os.scandir(folder / below) as entries:
            listed = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
        for entry in listed:
            path = os.path.join(below, entry.name)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif entry.is_file():
                stat = entry.stat()
                yield path, stat.st_size, stat.st_mtime_ns


def _read(path: Path) -> tuple[str | None, str | None]:
    """(header as JSON of a scan's image, fault); both None for what is no image of a scan."""
    try:
        header = read_header(path)
        return (json.dumps(header), None) if header is not None and is_scan(header, path) else (None, None)
    except InputError as error:
        return None, str(error)


def _known(folder: Path, database: Path) -> dict[str, tuple]:
    if not database.exists():
        return {}
    try:
        with closing(sqlite3.connect(database)) as connection:
            if connection.execute("SELECT version, folder FROM about").fetchall() == [(VERSION, str(folder.resolve()))]:
                rows = connection.execute("SELECT path, size, mtime, header, fault FROM files")
                return {path: tuple(row) for path, *row in rows}
    except sqlite3.DatabaseError:
        pass
    database.unlink()
    return {}


def _keep(folder: Path, database: Path, new: list[tuple], gone: Iterable[str]) -> None:
    database.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executescript(TABLES)
        if not connection.execute("SELECT 1 FROM about").fetchall():
            connection.execute("INSERT INTO about VALUES (?, ?)", (VERSION, str(folder.resolve())))
        connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", new)
        connection.executemany("DELETE FROM files WHERE path = ?", [(path,) for path in gone])
