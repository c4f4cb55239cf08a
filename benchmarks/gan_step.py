"""Print time and memory of a training step as JSON: python benchmarks/gan_step.py METHOD [section.key=value ...]

Run one process per method, because the peak is per process. Memory is the increase of the peak resident memory by the
training steps, after imports and the construction of the networks.
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


def settings_from(name: str, overrides: list[str]) -> dict[str, Any]:
    """Settings of a method from ``key=value`` and ``section.key=value``."""
    method: dict[str, Any] = {"name": name}
    for word in overrides:
        key, _, value = word.partition("=")
        section, _, inner = key.rpartition(".")
        (method.setdefault(section, {}) if section else method)[inner] = yaml.safe_load(value)
    return {"method": method, "data": {"paired": settings_class(name).paired_only}}


def main() -> None:
    name, *overrides = sys.argv[1:]
    method = build_method(parse_settings(settings_from(name, overrides), "benchmark"))
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
    """Peak resident memory, MiB. ru_maxrss is not used because a child process inherits its parent's."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
