"""Time and memory of a training step: python benchmarks/gan_step.py METHOD [key=value ...] prints both as JSON.

One process a method, so that its peak memory is its own: what the step adds to the resident memory of a process
that has imported everything and built the networks.
"""

import json
import re
import sys
import time
from pathlib import Path

import torch
import yaml

from medgen.methods import method_class

SIDE = 48


def main() -> None:
    name, *words = sys.argv[1:]
    method = method_class(name)(**{k: yaml.safe_load(v) for k, v in (w.split("=", 1) for w in words)})
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
