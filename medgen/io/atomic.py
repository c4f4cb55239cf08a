"""Files and folders that appear whole or not at all, whatever kills the writer."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medgen.errors import InputError
from medgen.io.claim import check_ours, ours, wrote


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``; moved onto it when the block ends well, removed when it does not.

    Raises InputError where it cannot be written, or would replace what medgen did not write, see ``claim``.
    """
    path = Path(path)
    aside = path.with_name(f".part-{path.name}")  # one name, so that what a kill leaves is written over
    check_ours(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        wrote(path, aside)
        os.replace(aside, path)
    except (OSError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError("output-not-writable", f"{path} cannot be written ({reason}); choose another place") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, as UTF-8; see `as_text`."""
    with atomic_write(path) as aside:
        aside.write_text(as_text(text), encoding="utf-8")


def as_text(text: str) -> str:
    """``text`` as a file holds it: bytes of a file name that are not UTF-8 are escaped, such as ``\\udcff``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


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
        made = list(aside.iterdir())
        for path in made:
            check_ours(folder / path.name)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        _keep_others(recovered(folder), aside)
        for path in made:
            wrote(folder / path.name, path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if folder.exists():
        os.rename(folder, _old(folder))
    os.rename(aside, folder)
    shutil.rmtree(_old(folder), ignore_errors=True)


def _keep_others(folder: Path, aside: Path) -> None:
    """Copy into the new folder what somebody else put into the old one."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if not ours(path) and not any(ours(file) for file in path.rglob("*")):
            copy = shutil.copytree if path.is_dir() and not path.is_symlink() else shutil.copy2
            copy(path, aside / path.name)


def recovered(folder: Path) -> Path:
    """``folder``, after undoing what a kill between two renames may have left."""
    if _old(folder).exists():
        if folder.exists():
            shutil.rmtree(_old(folder), ignore_errors=True)
        else:
            os.rename(_old(folder), folder)
    return folder
