"""Timing and table rows of the benchmarks."""

import time
from collections.abc import Callable


def best_of(call: Callable[[], object], times: int = 3) -> float:
    """Seconds of the fastest of some calls, the least disturbed by other processes."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return min(taken)


def row(name: str, ours: float, peer: float) -> None:
    """Print a row of the table of ``bench.py``."""
    print(f"| {name} | {ours * 1e3:.1f} ms | {peer * 1e3:.1f} ms | {peer / ours:.1f} × |", flush=True)
