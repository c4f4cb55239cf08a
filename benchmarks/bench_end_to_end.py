"""20 CTs from .nii.gz to converted .nii.gz: ``medgen translate`` and a MONAI script as its tutorials write it (peers/).

Both are programs, so their start counts. The network, its weights and the windows are the same; no verdicts, because
the script has none.
"""

import itertools
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from peers import networks
from scans import patient, save
from small_model import small_model
from timing import ROOT, compare, medgen_command, program, size

from medgen.checkpoint import load_model
from medgen.io.read import read_volume

STUDIES, MM, SIDE = size((20, 3.0, 64), (2, 10.0, 16))
SHAPE = size((128, 112, 80), (40, 32, 24))
OVERLAP, BATCH = 0.25, 4  # MONAI's default, and its tutorials' windows at a time
FILTERS, LEVELS = size((16, 4), (4, 2))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, numbers = Path(name), itertools.count()
        for n in range(STUDIES):
            one = patient(n % 4, SHAPE, MM)
            save(folder / "in" / f"s{n:02}.nii.gz", one.contrast + n, one.affine)
        inference = {"window": "patch", "overlap": OVERLAP}
        generator = {"filters": FILTERS, "levels": LEVELS, "pointwise_features": 8, "norm": "instance"}
        saved = small_model(folder / "model", MM, patch=(SIDE,) * 3, inference=inference, **generator)
        plain = networks.UNet(FILTERS, LEVELS, 8, torch.nn.InstanceNorm3d)
        networks.copy_weights(load_model(saved).generator, plain)
        torch.save(plain, folder / "network.pt")
        script = [sys.executable, ROOT / "benchmarks" / "peers" / "convert.py"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])}

        def ours() -> Path:
            out = folder / f"ours{next(numbers)}"
            program(medgen_command("translate", saved, folder / "in", out, "--qa-limits", "none"), env=environment)
            return out

        def peer() -> Path:
            out = folder / "peer"
            shutil.rmtree(out, ignore_errors=True)
            words = [folder / "in", out, folder / "network.pt", str(SIDE), str(OVERLAP), str(BATCH)]
            program([*script, *words], env=environment)
            return out

        def apart(a: Path, b: Path) -> float:
            """Largest mean difference of a case where the source is within the window; medgen keeps values beyond."""
            found = []
            for path in sorted((folder / "in").iterdir()):
                x, y, z = (read_volume(where / path.name).data for where in (folder / "in", a, b))
                found.append(float(np.abs(y - z)[np.abs(x) < 1000].mean()))
            return max(found)

        shape = " × ".join(map(str, SHAPE))
        row = f"{STUDIES} CTs of {shape}, .nii.gz to .nii.gz (MONAI script; difference: mean of a case, HU)"
        compare(__file__, row, ours, peer, tolerance=1, difference=apart, rounds=2, warm_up=False)


if __name__ == "__main__":
    main()
