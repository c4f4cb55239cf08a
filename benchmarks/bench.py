"""Run all benchmarks, or the named ones: python benchmarks/bench.py [NAME ...], or make bench [BENCH="NAME ..."]

A name is that of a file bench_NAME.py. Each runs in a process of its own, so that memory, threads and failures of one
do not reach the others. docs/performance.md says how they measure.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from timing import machine

FOLDER = Path(__file__).parent


def names() -> list[str]:
    return sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))


def main() -> int:
    known, wanted = names(), sys.argv[1:] or names()
    unknown = [name for name in wanted if name not in known]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; choose from: {' '.join(known)}")
        return 2
    print(json.dumps(machine()), flush=True)
    failed, begun = [], time.monotonic()
    for name in wanted:
        started = time.monotonic()
        if subprocess.run([sys.executable, str(FOLDER / f"bench_{name}.py")]).returncode:
            failed.append(name)
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    print(f"all: {time.monotonic() - begun:.0f} s")
    if failed:
        print(f"failed: {' '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
