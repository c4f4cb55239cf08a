"""Persistent index of the DICOM headers below a folder; only new or changed files are read again."""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medgen.errors import InputError
from medgen.io.claim import check_ours, record_written
from medgen.io.dicom.elements import Header
from medgen.io.dicom.header import is_scan, read_header, shared
from medgen.io.dicom.lost import lost_slices
from medgen.io.paths import broken_link_message, enters

VERSION = "6"  # of the stored header contents; an index with another version is rebuilt
BESIDE = "{}"  # stored instead of the header for DICOM objects that are not scans (reports, presentation states)
TOGETHER = 2000  # files per commit; an interrupted run loses at most this many
TABLES = """
    CREATE TABLE IF NOT EXISTS about (version TEXT, folder BLOB);
    CREATE TABLE IF NOT EXISTS files
        (path BLOB PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER, header TEXT, fault TEXT);
"""


@dataclass
class Index:
    """Headers of the images below a folder, and error messages for files that should be images."""

    images: list[tuple[Path, Header]] = field(default_factory=list)
    faults: dict[Path, str] = field(default_factory=dict)
    read: int = 0  # number of files read in this call; other headers came from the database


def indexed(folder: Path, database: Path | None = None) -> Index:
    """Read the headers of all files below ``folder``, or take them from ``database`` if path, size and times agree.

    The times are mtime and ctime, because extracting an archive again resets mtime. Hidden files and folders are
    skipped, and links to folders are not followed. The database is created when the first DICOM file is found; a
    database that is damaged or belongs to another folder or version is rebuilt. A subfolder that cannot be listed is
    reported in ``faults``. Read errors caused by permissions or the disk are not cached, so these files are tried again
    each time.

    Raises:
        InputError: the folder cannot be read, or the database cannot be written.
    """
    found, new = Index(), []
    others: list[Path] = []
    values: dict[str, Any] = {}
    try:
        stored = {} if database is None else _load(folder, database)
        for path, *state in _files(folder, found.faults):
            row = stored.pop(path, None)
            if row is None or row[:3] != tuple(state):
                header, fault, cacheable = _read(folder / path)
                row = (*state, header, fault)
                found.read += 1
                if cacheable:
                    new.append((os.fsencode(path), *row))  # as bytes: SQLite text must be valid Unicode
            header, fault = row[3:]
            if fault:
                found.faults[folder / path] = fault
            elif header:
                if header != BESIDE:
                    found.images.append((folder / path, shared(json.loads(header), values)))
            else:
                others.append(folder / path)
            if database is not None and found.images and len(new) >= TOGETHER:
                _store(folder, database, new, ())
                new = []
        if database is not None and (stored or (new and found.images)):
            _store(folder, database, new, stored)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            "dicom-folder-not-indexed",
            f"{folder} cannot be indexed ({reason}); check its permissions and those of the output folder",
        ) from error
    found.faults |= lost_slices(others, (path for path, _ in found.images))
    return found


def _files(folder: Path, faults: dict[Path, str]) -> Iterator[tuple[str, int, int, int]]:
    """Yield (path below the folder, size, mtime and ctime in ns) of every file, sorted by name within each folder.

    Error messages for folders and files that cannot be accessed are added to ``faults``.
    """
    pending, links = [""], list[str]()
    seen: set[str] = set()
    while pending or links:
        subfolder = pending.pop() if pending else links.pop(0)  # links last: a folder is named by its own path
        if (real := os.path.realpath(folder / subfolder)) in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(folder / subfolder) as entries:
                children = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            if not subfolder:
                raise
            faults[folder / subfolder] = _unreadable(folder / subfolder, error)
            continue
        for entry in children:
            path = os.path.join(subfolder, entry.name)
            try:
                stat = entry.stat() if entry.is_file() else None
                if entry.is_symlink() and not os.path.exists(entry.path):
                    faults[folder / path] = broken_link_message(folder / path)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
                elif entry.is_dir() and enters(Path(entry.path), folder):
                    links.append(path)
            except OSError as error:
                faults[folder / path] = _unreadable(folder / path, error)
                continue
            if stat is not None:
                yield path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path} cannot be read ({error.strerror}); check its permissions"


def _read(path: Path) -> tuple[str | None, str | None, bool]:
    """Read one file.

    Returns:
        (header as JSON, error message, whether the result may be cached). The header is BESIDE for DICOM objects that
        are not scans. Header and message are None for files that are not DICOM. Operating system errors are not cached,
        because permissions and disk errors can change while the file does not.
    """
    try:
        header = read_header(path)
        if header is None:
            return None, None, True
        return (json.dumps(header) if is_scan(header, path) else BESIDE), None, True
    except InputError as error:
        cacheable = not isinstance(error.__cause__, OSError)
        return None, str(error).encode(errors="backslashreplace").decode(), cacheable


def _load(folder: Path, database: Path) -> dict[str, tuple]:
    if not database.exists():
        return {}
    try:
        with closing(sqlite3.connect(database)) as connection:
            if connection.execute("SELECT version, folder FROM about").fetchall() == [(VERSION, _folder_key(folder))]:
                rows = connection.execute("SELECT path, size, mtime, ctime, header, fault FROM files")
                return {os.fsdecode(path): tuple(row) for path, *row in rows}
    except sqlite3.DatabaseError:
        pass
    check_ours(database)
    database.unlink()
    return {}


def _store(folder: Path, database: Path, new: list[tuple], deleted: Iterable[str]) -> None:
    database.parent.mkdir(parents=True, exist_ok=True)
    check_ours(database)
    record_written(database)
    database.touch()  # sqlite creates a file without the permissions that the umask gives to a group
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executescript(TABLES)
        if not connection.execute("SELECT 1 FROM about").fetchall():
            connection.execute("INSERT INTO about VALUES (?, ?)", (VERSION, _folder_key(folder)))
        connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", new)
        connection.executemany("DELETE FROM files WHERE path = ?", [(os.fsencode(path),) for path in deleted])


def _folder_key(folder: Path) -> bytes:
    return os.fsencode(folder.resolve())
