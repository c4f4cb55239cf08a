"""Training to a given error on the embedded cohort, compared with the same network in a plain MONAI loop (peers/).

Both start from the same weights, validate after the same number of steps on the same patients, and stop when the MAE
inside the body is at most ``TARGET`` of that of the unconverted scans. medgen trains as its config says, with the L1
distance of blocks and the moving average of the weights; the loop trains with the L1 distance.
"""

import copy
import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from peers import networks
from peers import train as loop
from scans import cohort
from timing import compare, size

import medgen.training.loop as training
from medgen.checkpoint import Model, build_method
from medgen.config import parse_settings
from medgen.data.body_mask import body_mask
from medgen.io.read import read_volume
from medgen.training.validation import Validation, Validator

CASES, HELD_OUT = size((16, 3), (3, 1))  # the size of the demo's cohort
SHAPE, MM, SIDE = size(((160, 128, 96), 2.5, 64), ((32, 32, 32), 12.0, 16))
FILTERS, LEVELS, LR = size((16, 4, 1e-3), (4, 2, 1e-3))
TARGET, EVERY, MOST = size((0.75, 25, 600), (10.0, 2, 4))


class Reached(Exception):
    """The error is low enough."""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        root, numbers = cohort(Path(name) / "cohort", CASES, SHAPE, MM), itertools.count()
        names = [path.name.removesuffix(".nii.gz") for path in sorted((root / "source").iterdir())]
        parts = {"train": names[HELD_OUT:], "validation": names[:HELD_OUT], "test": []}
        split = Path(name) / "split.json"
        split.write_text(json.dumps(parts))
        pairs = [
            [read_volume(root / side / f"{case}.nii.gz").data for side in ("source", "target")]
            for case in parts["validation"]
        ]
        bodies = [body_mask(x) for x, _ in pairs]
        before = float(np.mean([np.abs(x - y)[body].mean() for (x, y), body in zip(pairs, bodies, strict=True)]))
        target = TARGET * before
        settings = parse_settings(
            {
                "data": {"root": str(root), "split": str(split), "removes_contrast": True},
                "sampling": {"patch": [SIDE] * 3},
                "method": {
                    "name": "regression",
                    "generator": {"name": "residual_unet", "filters": FILTERS, "levels": LEVELS, "residual": True},
                    "lr": LR,
                },
                "train": {"steps": MOST, "validate_every": EVERY, "ema": 0.95, "decay_from": 1.0},
                "inference": {"overlap": 0.5},
            },
            "benchmark",
        )

        def ours() -> float:
            reached = [float("inf")]

            class Until(Validator):
                def __call__(self, model: Model, panel: Path) -> Validation:
                    found = super().__call__(model, panel)
                    reached.append(found.values["mae"])
                    if reached[-1] <= target:
                        raise Reached
                    return found

            training.Validator = Until  # type: ignore[misc]
            try:
                training.train(settings, Path(name) / f"run{next(numbers)}", say=lambda _: None)
            except Reached:
                pass
            finally:
                training.Validator = Validator  # type: ignore[misc]
            return reached[-1]

        torch.manual_seed(settings.train.seed)  # as ``Run`` does
        start = networks.ResidualUNet(FILTERS, LEVELS, residual=True)
        networks.copy_weights(build_method(settings).networks["G"], start)

        def peer() -> float:
            torch.manual_seed(0)
            options = {"side": SIDE, "lr": LR, "every": EVERY, "target": target, "most": MOST}
            return loop.main(copy.deepcopy(start), root, parts["train"], parts["validation"], bodies, **options)

        compare(
            __file__,
            f"training to a body MAE of {target:.1f} HU, unconverted {before:.1f} (MONAI loop; difference: HU above)",
            ours,
            peer,
            tolerance=0,
            difference=lambda a, b: max(0.0, a - target, b - target),
            rounds=1,
            warm_up=False,
        )


if __name__ == "__main__":
    main()
