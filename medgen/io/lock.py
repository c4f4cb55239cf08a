"""Lock folders for one process at a time, on one machine or on several that share a file system."""

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
from medgen.io.names import one_line

NAME = ".medgen.lock"
BEAT, STALE = 20.0, 120.0  # seconds between heartbeats, and without a heartbeat until a lock is stale
_open: set[int] = set()  # closed in forked children, which would otherwise keep the locks of a killed parent


def _forked() -> None:
    for descriptor in _open:
        with suppress(OSError):
            os.close(descriptor)
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@contextmanager
def locked(folder: Path, name: str = NAME) -> Iterator[None]:
    """Hold the lock file ``folder/name``, which names its holder; delete it when the block ends.

    The operating system releases its lock (flock) when the process ends. Some shared file systems do not pass this lock
    to other machines. Therefore the holder also updates the modification time of the file as a heartbeat, and a file of
    another machine counts as locked while this time is recent. The lock of a dead process is taken over.

    Raises:
        InputError: another process holds the lock, or the folder cannot be written.
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
    heartbeat = Thread(target=_send_heartbeats, args=(descriptor, ended), daemon=True)
    try:
        with suppress(OSError):  # if the disk is full, the lock works without its text
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(_ourselves()).encode())
        heartbeat.start()
        yield
    finally:
        ended.set()
        with suppress(OSError):
            if _is_same_file(descriptor, path):
                path.unlink()
        if descriptor in _open:  # not in a forked child
            _open.discard(descriptor)
            heartbeat.join()
            os.close(descriptor)


def _opened(path: Path, folder: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _refuse_held(descriptor, folder, path)
        except BaseException:
            os.close(descriptor)
            raise
        if _is_same_file(descriptor, path):
            return descriptor
        os.close(descriptor)  # the previous holder has just deleted it


def _refuse_held(descriptor: int, folder: Path, path: Path) -> None:
    acquired = _flock(descriptor)
    holder = _holder(descriptor)
    if acquired is False or (holder and _is_alive(holder, acquired, descriptor, folder)):
        since = f"{holder.get('command', 'medgen')}, process {holder.get('pid', '?')} on {holder.get('host', '?')}"
        since += f" since {holder.get('since', '?')}"
        remedy = (
            "wait for it or stop it"
            if acquired is False
            else f"wait for it, or delete {path} if that process has ended"
        )
        raise InputError(
            "output-locked", one_line(f"{folder} is being written by another run of medgen ({since}); {remedy}")
        )


def _flock(descriptor: int) -> bool | None:
    """Return whether this process got the flock; None if the system or file system does not support it."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None


def _is_alive(holder: dict[str, Any], acquired: bool | None, descriptor: int, folder: Path) -> bool:
    """Return whether the process named in a lock file is alive, if flock does not answer that."""
    if holder.get("boot") != _boot():
        with tempfile.TemporaryFile(dir=folder) as now:  # read the clock of the file system
            return os.fstat(now.fileno()).st_mtime - os.fstat(descriptor).st_mtime < STALE
    if acquired:
        return False
    if sys.platform == "win32":  # on Windows os.kill would end the process
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
        content = json.loads(os.pread(descriptor, 4096, 0))
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _ourselves() -> dict[str, Any]:
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    program = Path(sys.argv[0]).name.replace("__main__.py", "medgen")
    command = " ".join([program, *sys.argv[1:2]])
    return {"host": platform.node(), "boot": _boot(), "pid": os.getpid(), "since": since, "command": command}


def _boot() -> str:
    """Return the boot ID of the machine, which is the same in all its containers (their host names differ)."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return platform.node()


def _send_heartbeats(descriptor: int, ended: Event) -> None:
    while not ended.wait(BEAT):
        with suppress(OSError):
            os.utime(descriptor)


def _is_same_file(descriptor: int, path: Path) -> bool:
    """Return whether ``path`` is still the open file."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False
