"""Write files and folders atomically: complete or not at all, even if the process is killed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medgen.errors import InputError
from medgen.io.claim import check_ours, is_ours, record_written


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, delete it on failure.

    Raises InputError if the file cannot be written or would replace a file that medgen did not write, see ``claim``.
    """
    path = Path(path)
    temporary = path.with_name(f".part-{path.name}")  # fixed name: leftovers of a killed run are overwritten
    check_ours(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        record_written(path, temporary)
        os.replace(temporary, path)
    except (OSError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError("output-not-writable", f"{path} cannot be written ({reason}); choose another path") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, as UTF-8; see `as_text`."""
    with atomic_write(path) as aside:
        aside.write_text(escape_invalid_utf8(text), encoding="utf-8")


def escape_invalid_utf8(text: str) -> str:
    """``text`` as a file holds it: bytes of a file name that are not UTF-8 are escaped, such as ``\\udcff``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``folder``; on success it replaces ``folder``.

    If the process is killed, the old content remains: under its own name or, between the two renames, under a
    temporary name from which ``recover`` restores it.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        written = list(temporary.iterdir())
        for path in written:
            check_ours(folder / path.name)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        _keep_others(recover(folder), temporary)
        for path in written:
            record_written(folder / path.name, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if folder.exists():
        os.rename(folder, _old(folder))
    os.rename(temporary, folder)
    shutil.rmtree(_old(folder), ignore_errors=True)


def _keep_others(folder: Path, temporary: Path) -> None:
    """Copy files that medgen did not write from the old folder to the new one."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if not is_ours(path) and not any(is_ours(file) for file in path.rglob("*")):
            copy = shutil.copytree if path.is_dir() and not path.is_symlink() else shutil.copy2
            copy(path, temporary / path.name)


def recover(folder: Path) -> Path:
    """Restore ``folder`` if a process was killed between the two renames; return ``folder``."""
    if _old(folder).exists():
        if folder.exists():
            shutil.rmtree(_old(folder), ignore_errors=True)
        else:
            os.rename(_old(folder), folder)
    return folder
