"""Time and memory of a training step: python benchmarks/gan_step.py METHOD [section.key=value ...] prints both as JSON.

One process a method, so that its peak memory is its own: what the step adds to the resident memory of a process
that has imported everything and built the networks.
"""

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from medgen.checkpoint import build_method
from medgen.config import parse_settings
from medgen.methods import settings_class

SIDE = 48


def given(name: str, words: list[str]) -> dict[str, Any]:
    """Settings of a method from ``key=value`` and ``section.key=value``."""
    method: dict[str, Any] = {"name": name}
    for word in words:
        key, _, value = word.partition("=")
        section, _, inner = key.rpartition(".")
        (method.setdefault(section, {}) if section else method)[inner] = yaml.safe_load(value)
    return {"method": method, "data": {"paired": settings_class(name).paired_only}}


def main() -> None:
    name, *words = sys.argv[1:]
    method = build_method(parse_settings(given(name, words), "benchmark"))
    optimizers = method.optimizers()

    def update(key: str, loss: torch.Tensor) -> None:
        optimizers[key].zero_grad(set_to_none=True)
        loss.backward()
        optimizers[key].step()

    x, y = torch.rand(2, 1, 1, SIDE, SIDE, SIDE) * 2 - 1
    before = peak()
    seconds = []
    for n in range(6):
        started = time.perf_counter()
        method.step({"source": x, "target": y, "step": n}, update)
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": min(seconds[1:]), "mib": peak() - before}))


def peak() -> float:
    """MiB. Not ru_maxrss: a child inherits its parent's."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
