"""An earlier version of medgen in a process of its own, as the peer of code that has no other.

The version is unpacked from the repository's history. The process gets its inputs once and then computes on request, so
that loading is no part of the time.
"""

import json
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

from timing import count_memory, resident_mib

ROOT = Path(__file__).parents[2]
BEFORE = "96a0fe6"  # the version before the work on speed


class Earlier:
    """Run ``program`` (Python source) with medgen of a commit; every `call` lets it answer once.

    The program defines ``answer()``, whose result is converted to JSON; ``sys.argv[1:]`` holds ``arguments``.
    """

    def __init__(self, folder: Path, program: str, *arguments: object, commit: str = BEFORE) -> None:
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit, "medgen", "configs"], capture_output=True)
        if archive.returncode:
            raise RuntimeError(f"the history has no commit {commit}: {archive.stderr.decode()}")
        with tarfile.open(fileobj=BytesIO(archive.stdout)) as packed:
            packed.extractall(folder, filter="data")
        loop = "\nimport json\nprint('RESULT 0', flush=True)\n"
        loop += "for line in sys.stdin:\n    print('RESULT ' + json.dumps(answer()), flush=True)\n"
        command = [sys.executable, "-c", f"import sys; sys.path[0] = {str(folder)!r}\n{program}{loop}"]
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
        )
        self._result()  # it has loaded its inputs

    def call(self) -> Any:
        assert self.process.stdin
        before = resident_mib(self.process.pid, start=True)
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found = self._result()
        count_memory(resident_mib(self.process.pid) - before)
        return found

    def _result(self) -> Any:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("RESULT "):
                return json.loads(line.removeprefix("RESULT "))
        raise RuntimeError("the earlier version failed; its error is above")

    def __enter__(self) -> "Earlier":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
