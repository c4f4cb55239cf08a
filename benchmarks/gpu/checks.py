"""Seeded losses on CUDA compared with the CPU, in bfloat16 with 32 bits, and under DDP of one process with none.

``--device cpu`` runs the same on the CPU alone, to test this script.
"""

import argparse
import json
from typing import Any

import torch
from lightning_fabric import Fabric
from timing import single

from medgen.config import parse_settings
from medgen.methods import settings_class
from medgen.training.run import Run, floats

SIDE = 32
GENERATOR = {"resnet": {"filters": 8, "blocks": 3}, "unet": {"name": "unet", "filters": 8, "levels": 3}}
METHODS: dict[str, dict[str, Any]] = {
    "cyclegan": {"generator": GENERATOR["resnet"], "adversary": {"filters": 8, "layers": 2}},
    "cut": {"generator": GENERATOR["resnet"], "adversary": {"filters": 8, "layers": 2}},
    "pix2pix": {"generator": GENERATOR["unet"], "adversary": {"filters": 8, "layers": 2}},
    "regression": {"generator": {"name": "residual_unet", "filters": 8, "levels": 3}},
}


def losses(
    name: str, steps: int, on: str, *, precision: Any = "32-true", strategy: str = "auto"
) -> list[dict[str, float]]:
    """Losses of seeded steps on fixed images. Weights and images are drawn on the CPU, so all runs share them."""
    paired = settings_class(name).paired_only
    settings = parse_settings({"method": {"name": name, **METHODS[name]}, "data": {"paired": paired}}, "check")
    fabric = Fabric(accelerator=on, devices=1, precision=precision, strategy=strategy)
    fabric.launch()
    run = Run(settings, fabric)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(2, 1, 1, SIDE, SIDE, SIDE, generator=generator) * 2 - 1).to(fabric.device)
    batch = {"source": x, "target": y, "source_case": ["a"], "target_case": ["a"]}
    return [floats(run.train_step(batch)) for _ in range(steps)]


def apart(a: list[dict[str, float]], b: list[dict[str, float]]) -> float:
    """Largest difference of a loss, relative to its size."""
    return max(abs(x[k] - y[k]) / max(abs(y[k]), 1e-2) for x, y in zip(a, b, strict=True) for k in y)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    device, steps = options.device, options.steps
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    wrong = []
    for name in METHODS:
        reference, found = losses(name, steps, "cpu"), losses(name, steps, device)
        rows = {
            f"{name}, losses of {steps} steps, {device} against CPU": (apart(found, reference), 1e-2),
            f"{name}, bfloat16 against 32 bits": (
                apart(losses(name, steps, device, precision="bf16-mixed"), found),
                0.5,
            ),
            f"{name}, DDP of one process against none": (
                apart(losses(name, steps, device, strategy="ddp"), found),
                1e-3,
            ),
        }
        for row, (difference, most) in rows.items():
            single(__file__, f"{row} (at most {most:g})", difference, "relative")
            wrong += [row] if not difference <= most else []
    print(json.dumps({"wrong": wrong}))
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
