"""What the machine can do: arithmetic of matrix products and 3D convolutions, and the bandwidth of copies.

The shares in docs/performance.md are relative to these. A benchmark's floating point operations per second divided by
those of the convolution is the share of the machine that it reaches.
"""

import sys
import time

import torch
from timing import single, size
from torch.nn import functional as nnf

DEVICE = "cuda" if "--cuda" in sys.argv else "cpu"


def best(call, times: int = size(7, 2)) -> float:
    """Seconds of the fastest call: a peak, so the least disturbed one counts."""
    taken = []
    for _ in range(times + 1):  # the first one warms up
        started = time.perf_counter()
        call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken[1:])


def main() -> None:
    torch.manual_seed(0)
    n = size(16384 if DEVICE == "cuda" else 2048, 256)
    a, b = torch.randn(2, n, n, device=DEVICE)
    out = torch.empty_like(a)
    single(
        __file__, f"matrix product, {n}², 32 bits", 2 * n**3 / best(lambda: torch.mm(a, b, out=out)) / 1e9, "GFLOP/s"
    )
    with torch.inference_mode():
        for batch, channels, side in ((2, 32, size(64, 16)), (1, 32, size(64, 16)), (2, 64, size(32, 8))):
            x = torch.randn(batch, channels, side, side, side, device=DEVICE)
            w = torch.randn(channels, channels, 3, 3, 3, device=DEVICE)
            operations = 2 * batch * side**3 * channels**2 * 27
            seconds = best(lambda x=x, w=w: nnf.conv3d(x, w, padding=1))
            name = f"3³ convolution, {channels} channels, {batch} × {side}³, 32 bits"
            single(__file__, name, operations / seconds / 1e9, "GFLOP/s")
    values = torch.randn(size(2**27, 2**20), device=DEVICE)
    copied = torch.empty_like(values)
    megabytes = values.numel() * 4 / 2**20
    name = f"copy of {megabytes:.0f} MiB, bytes read and written"
    single(__file__, name, 2 * values.numel() * 4 / best(lambda: copied.copy_(values)) / 1e9, "GB/s")


if __name__ == "__main__":
    main()
