"""Python programs in a process of their own, for tests that kill it or limit its files.

They are forked from one process that has medgen imported and has computed nothing, which is safe, and saves the seconds
that each start of torch takes.
"""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

_servers = multiprocessing.get_context("forkserver")
_servers.set_forkserver_preload(
    ["medgen.training.loop", "medgen.commands.shared", "medgen.inference.cohort.run", "medgen.cli"]
)


def run_program(code, *args):
    """Run the text of a program; its ``returncode`` (negative: the signal that ended it), ``stdout`` and ``stderr``."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdout", "stderr")]
        process = _servers.Process(target=_run, args=(code, [*map(str, args)], [*map(str, files)]))
        process.start()
        process.join()
        return SimpleNamespace(returncode=process.exitcode, **{file.name: file.read_text() for file in files})


def _run(code, args, files):
    for stream, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
    sys.argv = ["-c", *args]
    exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})
