"""Folders that appear whole or not at all, under one name, whatever kills the writer."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


@contextmanager
def folder_written_aside(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``folder``; on success it takes ``folder``'s place and name.

    A kill leaves the old content: under its name, or (between the two renames) aside, from where
    ``recovered`` brings it back.
    """
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        for path in aside.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    recovered(folder)
    if folder.exists():
        os.rename(folder, _old(folder))
    os.rename(aside, folder)
    shutil.rmtree(_old(folder), ignore_errors=True)


def recovered(folder: Path) -> Path:
    """``folder``, after undoing what a kill between two renames may have left."""
    if _old(folder).exists():
        if folder.exists():
            shutil.rmtree(_old(folder), ignore_errors=True)
        else:
            os.rename(_old(folder), folder)
    return folder
