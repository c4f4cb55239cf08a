"""One process at a time in a folder, on one machine or on several that share it."""

import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

from medgen.errors import InputError
from medgen.io.names import shown

NAME = ".medgen.lock"
BEAT, STALE = 20.0, 120.0  # seconds between two signs of life, and after which their absence means that it is dead
_open: set[int] = set()  # a forked child would hold the locks of a parent that was killed


def _forked() -> None:
    for descriptor in _open:
        with suppress(OSError):
            os.close(descriptor)
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@contextmanager
def locked(folder: Path, name: str = NAME) -> Iterator[None]:
    """Hold the lock ``folder/name``, which says who holds it; the file goes when the block ends.

    The system's lock (flock) ends with its process, however that ends. For machines whose shared file system passes
    no locks on there is a sign of life: the holder renews the file's time, and a file of another machine that is
    fresh is believed. A file that a dead process left is taken over.

    Raises:
        InputError: another process holds it, or the folder cannot be written.
    """
    path = folder / name
    try:
        descriptor = _opened(path, folder)
    except OSError as error:
        raise InputError(
            "output-not-writable", f"{folder} cannot be written ({error.strerror}); choose another output"
        ) from None
    _open.add(descriptor)
    ended = Event()
    beat = Thread(target=_beat, args=(descriptor, ended), daemon=True)
    try:
        with suppress(OSError):  # a full disk: the lock holds without its text
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(_ourselves()).encode())
        beat.start()
        yield
    finally:
        ended.set()
        with suppress(OSError):
            if _is(descriptor, path):
                path.unlink()
        if descriptor in _open:  # not in a forked child
            _open.discard(descriptor)
            beat.join()
            os.close(descriptor)


def _opened(path: Path, folder: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _refuse_held(descriptor, folder, path)
        except BaseException:
            os.close(descriptor)
            raise
        if _is(descriptor, path):
            return descriptor
        os.close(descriptor)  # its holder has just removed it


def _refuse_held(descriptor: int, folder: Path, path: Path) -> None:
    free = _flock(descriptor)
    holder = _holder(descriptor)
    if free is False or (holder and _lives(holder, free, descriptor, folder)):
        since = f"{holder.get('command', 'medgen')}, process {holder.get('pid', '?')} on {holder.get('host', '?')}"
        since += f" since {holder.get('since', '?')}"
        remedy = "wait for it or stop it" if free is False else f"wait for it, or remove {path} if it is dead"
        raise InputError(
            "output-locked", shown(f"{folder} is being written by another run of medgen ({since}); {remedy}")
        )


def _flock(descriptor: int) -> bool | None:
    """Whether the system's lock is ours now; None where the system or the file system has none."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None


def _lives(holder: dict[str, Any], free: bool | None, descriptor: int, folder: Path) -> bool:
    """Whether the process that a lock file names still writes, where the system's lock does not say so."""
    if holder.get("boot") != _boot():
        with tempfile.TemporaryFile(dir=folder) as now:  # by the clock of the file system
            return os.fstat(now.fileno()).st_mtime - os.fstat(descriptor).st_mtime < STALE
    if free:
        return False
    if sys.platform == "win32":  # os.kill would end the process
        return True
    try:
        os.kill(int(holder["pid"]), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return False
    return True


def _holder(descriptor: int) -> dict[str, Any]:
    try:
        told = json.loads(os.pread(descriptor, 4096, 0))
        return told if isinstance(told, dict) else {}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _ourselves() -> dict[str, Any]:
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    program = Path(sys.argv[0]).name.replace("__main__.py", "medgen")
    command = " ".join([program, *sys.argv[1:2]])
    return {"host": platform.node(), "boot": _boot(), "pid": os.getpid(), "since": since, "command": command}


def _boot() -> str:
    """The machine since it was started: one for all its containers, which have host names of their own."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return platform.node()


def _beat(descriptor: int, ended: Event) -> None:
    while not ended.wait(BEAT):
        with suppress(OSError):
            os.utime(descriptor)


def _is(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False
