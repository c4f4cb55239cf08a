"""One process at a time per folder: file lock on one machine, heartbeat between machines."""

import json
import os
import signal
import subprocess
import sys

import pytest
from refusal import refused

from medgen.io import lock
from medgen.io.lock import NAME, locked

HOLD = """
import os, signal, sys
from pathlib import Path
from medgen.io.lock import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:
        print("held", flush=True)  # by the child, because it closes the inherited lock file after the fork
        signal.pause()
    sys.stdin.read()
"""


def holder(**changed):
    return {**lock._ourselves(), **changed}


def test_lock_names_its_holder_and_is_free_afterwards(tmp_path):
    with locked(tmp_path):
        with refused("output-locked", names=f"process {os.getpid()} on"):
            with locked(tmp_path):
                pass
        assert (tmp_path / NAME).exists()
    assert not (tmp_path / NAME).exists()
    with locked(tmp_path):
        pass


def test_lock_ends_with_its_process_although_a_child_is_alive(tmp_path):
    run = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert run.stdout.readline() == b"held\n"
        with refused("output-locked", names=f"process {run.pid} on"), locked(tmp_path):
            pass
        run.kill()
        run.wait()
        assert (tmp_path / NAME).exists()
        with locked(tmp_path):
            pass
    finally:
        os.killpg(run.pid, signal.SIGKILL)


def written(folder, content, age=0.0):
    (folder / NAME).write_text(content)
    times = os.stat(folder / NAME)
    os.utime(folder / NAME, (times.st_atime - age, times.st_mtime - age))


def test_lock_of_another_machine_holds_until_its_heartbeat_is_stale(tmp_path):
    written(tmp_path, json.dumps(holder(boot="another", host="node7", pid=1)))
    with refused("output-locked", names=("process 1 on node7", ".medgen.lock")):
        with locked(tmp_path):
            pass
    written(tmp_path, json.dumps(holder(boot="another", host="node7", pid=1)), age=lock.STALE + 1)
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": "x"}', "\x00" * 50])
def test_damaged_lock_of_this_machine_does_not_block(tmp_path, content):
    written(tmp_path, content, age=lock.STALE + 1)
    with locked(tmp_path):
        pass


def test_lock_checks_the_process_where_the_system_has_no_file_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_flock", lambda descriptor: None)
    written(tmp_path, json.dumps(holder(pid=os.getppid())))
    with refused("output-locked", names=f"process {os.getppid()}"), locked(tmp_path):
        pass
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    written(tmp_path, json.dumps(holder(pid=gone.pid)))
    with locked(tmp_path):
        pass


def test_lock_holder_updates_its_heartbeat(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with locked(tmp_path):
        os.utime(tmp_path / NAME, (1, 1))
        for _ in range(1000):
            if os.stat(tmp_path / NAME).st_mtime > 1:
                break
            lock.Event().wait(0.01)
        assert os.stat(tmp_path / NAME).st_mtime > 1


def test_link_is_not_a_lock(tmp_path):
    (tmp_path / NAME).symlink_to(tmp_path / "elsewhere")
    with refused("output-not-writable"), locked(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()
