"""Test the robustness against malformed and malicious inputs, each in a separate process.

    python benchmarks/hostile.py [--each 30] [--first 0] [--kinds nifti,dicom]

Each input (made by tests/hostile.py from its kind and number) must lead to a correct result or to an error message of
one sentence: no traceback or crash, at most 10 s of CPU time, at most 2 GiB of additional memory, and no file outside
the output folder. Prints a table and every fault; the exit code is 1 if there are any.
"""

import argparse
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import torch
from hostile import KINDS, run, save_small_model, write
from small import make_model

SECONDS, GIB = 10, 2
WALL = 300  # s, limit for a process that waits without computing, on a busy machine


def listing(root: Path) -> set[tuple[str, int]]:
    """Files of a case outside its output folder, with their sizes."""
    files = (p for p in root.rglob("*") if not p.is_relative_to(root / "case/out"))
    return {(os.fsencode(p).decode(errors="replace"), p.lstat().st_size) for p in files if not p.is_dir()}


def attempt(kind: str, folder: Path, model, answer: Path) -> None:
    """Run a case in the child process with limits on memory and time; write the outcome to ``answer``."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + GIB * 2**30,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    os.chdir(folder)
    try:
        result = run(kind, folder, model)
        if "not enough memory" in result:
            result = f"FAULT more than {GIB} GiB requested: {result}"
    except BaseException as error:
        result = f"FAULT {type(error).__name__}: {' '.join(str(error).split())[:400]}"
    answer.write_text(result, errors="backslashreplace")


def outcome(kind: str, seed: int, root: Path, model, model_folder: Path) -> str:
    """Outcome of a case: "converted", "read", an error message, or "FAULT ..."."""
    folder, answer = root / "case", root.with_name("answer")
    write(kind, seed, folder, model_folder)
    before = listing(root)
    child = os.fork()
    if not child:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 2)
        os.dup2(devnull, 1)
        attempt(kind, folder, model, answer)
        os._exit(0)
    status, deadline = (0, 0), time.monotonic() + WALL
    while status == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.002)
        status = os.waitpid(child, os.WNOHANG)
    if status == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return f"FAULT still waiting after {WALL} s"
    if os.WIFSIGNALED(status[1]):
        cause = f"more than {SECONDS} s" if os.WTERMSIG(status[1]) in (signal.SIGXCPU, signal.SIGKILL) else "a crash"
        return f"FAULT {cause}: {signal.Signals(os.WTERMSIG(status[1])).name}"
    if listing(root) != before:
        return f"FAULT files outside the output folder: {sorted(listing(root) ^ before)}"
    result = answer.read_text()
    answer.unlink()
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=30, help="inputs per kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    faults, total, model = [], Counter(), make_model()
    print("| kind | inputs | converted or read | refused | faults |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        model_folder = save_small_model(model, Path(name) / "model")
        for kind in options.kinds.split(","):
            counts: Counter[str] = Counter()
            for seed in range(options.first, options.first + options.each):
                root = Path(name) / f"{kind}-{seed}"
                result = outcome(kind, seed, root, model, model_folder)
                fault = result.startswith("FAULT")
                faults += [f"{kind} {seed}: {result[6:]}"] if fault else []
                counts["fault" if fault else result if result in ("converted", "read") else "refused"] += 1
            total.update(counts)
            print(f"| {kind} | {options.each} {row(counts)}", flush=True)
    print(f"| all | {total.total()} {row(total)}")
    print("\n".join(faults))
    return int(bool(faults))


def row(counts: Counter[str]) -> str:
    return f"| {counts['converted'] + counts['read']} | {counts['refused']} | {counts['fault']} |"


if __name__ == "__main__":
    sys.exit(main())
