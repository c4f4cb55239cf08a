"""Compare medgen with a peer: time, memory and results of both, as one row of a table and one JSON record.

Every ``bench_*.py`` calls `compare`. ``MEDGEN_BENCH_SMALL=1`` makes every benchmark run on small data in one round, to
test that it works; its numbers mean nothing, and they are recorded only if ``MEDGEN_BENCH_RESULTS`` names a file.
``MEDGEN_BENCH_ROUNDS=1`` limits the rounds at full size, without a warm-up, for a first look.
"""

import ctypes
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

SMALL = os.environ.get("MEDGEN_BENCH_SMALL", "") not in ("", "0")
ROOT = Path(__file__).parents[1]
MOST_ROUNDS = int(os.environ.get("MEDGEN_BENCH_ROUNDS") or (1 if SMALL else 100))
RESULTS = os.environ.get("MEDGEN_BENCH_RESULTS") or (None if SMALL else str(ROOT / "benchmarks" / "results.json"))
COLUMNS = ("medgen: median, least", "peer: median, least", "ratio (range)", "MiB: medgen, peer", "difference")
T = TypeVar("T")
_children_mib = 0.0  # the largest peak of the programs that the current call started


class UnequalError(AssertionError):
    """Both results differ by more than the tolerance, so that their times cannot be compared."""


def size(full: T, small: T) -> T:
    """``full``, or ``small`` in a test run."""
    return small if SMALL else full


def compare(
    file: str,
    row: str,
    ours: Callable[[], Any],
    peer: Callable[[], Any],
    *,
    tolerance: float,
    difference: Callable[[Any, Any], float] | None = None,
    rounds: int = 5,
    warm_up: bool = True,
    count: int = 1,
) -> dict[str, Any]:
    """Run ours and the peer in turn, print a row of the table, and append a record to the results.

    In every round each runs once, and the first to run alternates, so that a slowdown of the machine affects both.
    Before each call the process returns its free memory to the system, because what it keeps would hide the peak.

    Args:
        file: ``__file__`` of the benchmark.
        row: what is compared, and in parentheses with what.
        ours, peer: return arrays, numbers, or lists or mappings of them, which must be equal.
        tolerance: the largest difference of results that counts as equal.
        difference: (result of ours, result of the peer) → how far ours is off; default `largest_difference`. For
            results that need not be equal, such as of other windows, it says by how much the quality of ours is worse.
        rounds: timed rounds, at most those of the environment.
        warm_up: first run each once without counting it.
        count: the number of items that a call computes; times are shown for one.

    Returns:
        The record; times in seconds for one item (``_processor``: of all cores together), memory in MiB.

    Raises:
        UnequalError: the results differ by more than ``tolerance`` in some round.
    """
    rounds, calls = min(rounds, MOST_ROUNDS), {"ours": ours, "peer": peer}
    measure_difference = difference or largest_difference
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    busy: dict[str, list[float]] = {"ours": [], "peer": []}
    mib: dict[str, list[float]] = {"ours": [], "peer": []}
    worst = 0.0
    for number in range(-int(warm_up and MOST_ROUNDS > 1), rounds):
        results = {}
        for who in ("peer", "ours") if number % 2 == 0 else ("ours", "peer"):
            results[who], taken, processor, used = _measured(calls[who])
            mib[who].append(used)
            if number >= 0:
                seconds[who].append(taken / count)
                busy[who].append(processor / count)
        found = measure_difference(results["ours"], results["peer"])
        worst = max(worst, found) if found == found else found  # NaN is never equal
        if not worst <= tolerance:
            raise UnequalError(f"{row}: the results differ by {worst:.3g}, more than {tolerance:.3g}")
    ratios = [p / o for o, p in zip(seconds["ours"], seconds["peer"], strict=True)]
    record = {
        "benchmark": Path(file).stem,
        "row": row,
        **{f"{who}_median": statistics.median(seconds[who]) for who in seconds},
        **{f"{who}_least": min(seconds[who]) for who in seconds},
        "ratio": statistics.median(seconds["peer"]) / statistics.median(seconds["ours"]),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        # of all cores, and of programs that have ended: what a busy machine changes least
        **{f"{who}_processor": statistics.median(busy[who]) for who in busy},
        # of the later calls, where there are some: the first one loads libraries
        **{f"{who}_mib": max(mib[who][1:] or mib[who]) for who in mib},
        "difference": worst,
        "tolerance": tolerance,
        "rounds": rounds,
    }
    _print_header(file)
    both = [f"{_time(record[f'{who}_median'])}, {_time(record[f'{who}_least'])}" for who in ("ours", "peer")]
    ratio = f"{record['ratio']:.2f} ({record['ratio_low']:.2f} to {record['ratio_high']:.2f})"
    memory = f"{record['ours_mib']:.0f}, {record['peer_mib']:.0f}"
    print(f"| {row} | {both[0]} | {both[1]} | {ratio} | {memory} | {worst:.1e} (≤ {tolerance:g}) |", flush=True)
    return _recorded(record)


def single(file: str, row: str, value: float, unit: str) -> dict[str, Any]:
    """Print and record a value without a peer, such as the machine's copy bandwidth."""
    _print_header(file)
    print(f"| {row} | {value:.4g} {unit} | | | | |", flush=True)
    return _recorded({"benchmark": Path(file).stem, "row": row, "value": value, "unit": unit})


def rate(file: str, record: dict[str, Any], plain: Callable[[], Any]) -> dict[str, Any]:
    """Print and record how many floating point operations ours does in a second, for the share of the machine.

    Args:
        record: of `compare`, for one item.
        plain: the peer's call for one item, in which the operations of convolutions and matrix products are counted.
    """
    with FlopCounterMode(display=False) as counted:
        plain()
    operations = counted.get_total_flops() / 1e9
    return single(file, f"{record['row']}: operations of the plain path", operations / record["ours_median"], "GFLOP/s")


def largest_difference(ours: Any, peer: Any) -> float:
    """The largest absolute difference of two arrays, numbers, or lists or mappings of them; NaN equals NaN.

    Raises:
        UnequalError: lengths, keys or shapes differ.
    """
    if isinstance(peer, Mapping):
        if set(ours) != set(peer):
            raise UnequalError(f"only one side has {sorted(map(str, set(ours) ^ set(peer)))}")
        return max((largest_difference(ours[key], peer[key]) for key in peer), default=0.0)
    if isinstance(peer, list | tuple):
        if len(ours) != len(peer):
            raise UnequalError(f"one side has {len(ours)} results, the other {len(peer)}")
        return max((largest_difference(a, b) for a, b in zip(ours, peer, strict=True)), default=0.0)
    a, b = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, np.float64) for x in (ours, peer))
    if a.shape != b.shape:
        raise UnequalError(f"one side has the shape {a.shape}, the other {b.shape}")
    with np.errstate(invalid="ignore"):  # of inf - inf, which are equal
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
    return float(apart.max(initial=0))


def largest_relative(ours: Any, peer: Any) -> float:
    """As ``largest_difference``, relative to the largest value of the peer; for arrays and lists of numbers."""
    return largest_difference(ours, peer) / max(largest_difference(peer, np.zeros_like(peer)), 1e-30)


def program(command: Sequence[str | Path], **options: Any) -> str:
    """Run a program to its end; its peak memory counts for the current call. Returns its output.

    The peak is polled: the last few milliseconds of the program may be missed.

    Raises:
        RuntimeError: the program failed.
    """
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([*map(str, command)], stdout=output, stderr=subprocess.STDOUT, **options)
        pause = 0.002
        while process.poll() is None:
            count_memory(_status_mib("VmHWM", process.pid))
            time.sleep(pause)
            pause = min(pause * 1.2, 0.02)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{text[-2000:]}")
    return text


def medgen_command(*words: object) -> list[str]:
    """The command line program of this checkout."""
    return [sys.executable, "-m", "medgen", *map(str, words)]


def _measured(call: Callable[[], T]) -> tuple[T, float, float, float]:
    """Result, seconds, processor seconds, and MiB by which the memory grew at its peak.

    The memory is that of the GPU if the process uses one, else the resident memory; of programs, their peak.
    """
    global _children_mib
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again, see proc(5)
    before, _children_mib = _status_mib("VmRSS"), 0.0
    on_gpu = torch.cuda.is_initialized()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    started, processor = time.perf_counter(), sum(os.times()[:4])
    result = call()
    if on_gpu:
        torch.cuda.synchronize()
    taken, processor = time.perf_counter() - started, sum(os.times()[:4]) - processor
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else _status_mib("VmHWM")
    return result, taken, processor, max(peak - before, _children_mib)


def resident_mib(process: int, *, start: bool = False) -> float:
    """Resident memory of another process at its peak since the last ``start``, which begins the measurement; MiB."""
    if start and sys.platform == "linux":
        Path(f"/proc/{process}/clear_refs").write_text("5")
    return _status_mib("VmRSS" if start else "VmHWM", process)


def count_memory(mib: float) -> None:
    """Count the memory that another process needed for the current call."""
    global _children_mib
    _children_mib = max(_children_mib, mib)


def _status_mib(key: str, process: int | str = "self") -> float:
    """Resident memory (VmRSS) or its peak (VmHWM), MiB; 0 if the process is gone, NaN where there is no /proc.

    ru_maxrss is not used, because a child process inherits its parent's.
    """
    if not Path("/proc/self/status").exists():
        return float("nan")
    try:
        found = re.search(rf"{key}:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


_printed: set[str] = set()


def _print_header(file: str) -> None:
    if file not in _printed:
        _printed.add(file)
        print(f"\n| {' | '.join((Path(file).stem, *COLUMNS))} |\n|---|---|---|---|---|---|", flush=True)


def _recorded(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the machine and the versions, appended to the file of results."""
    record |= {"small": SMALL, "date": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %z}", **machine()}
    if RESULTS:
        path = Path(RESULTS)
        records = json.loads(path.read_text()) if path.exists() else []
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps([*records, record], indent=1) + "\n")
        aside.replace(path)
    return record


def machine() -> dict[str, Any]:
    """Commit, processor, threads and versions."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
    return {
        "commit": commit,
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "monai": version("monai"),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found[1].strip() if found else platform.processor()
