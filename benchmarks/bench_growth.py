"""How the time grows with the work: conversion with the voxels, evaluation with the cases. Both should be linear.

The value is the exponent p of time ∝ size^p, fitted to four sizes: 1 is linear; below 1, a fixed part still counts.
``memory.py`` tests that memory does not grow with the number of cases.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scans import large_ct, patient, save
from small_model import small_model
from timing import single, size

from medgen.checkpoint import load_model
from medgen.evaluation.evaluate import evaluate
from medgen.evaluation.inputs import Inputs
from medgen.inference.predict import translate_volume
from medgen.io.volume import Volume

TIMES = (1, 2, 4, 8)


def exponent(name: str, call: Callable[[int], Callable[[], object]]) -> None:
    """``call``: size → what is timed, prepared outside its time."""
    seconds = []
    for n in TIMES:
        run = call(n)
        run()
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    p = np.polyfit(np.log(TIMES), np.log(seconds), 1)[0]
    shown = ", ".join(f"{s:.3g} s" for s in seconds)
    single(__file__, f"{name}: exponent of the growth ({shown} for {', '.join(map(str, TIMES))})", float(p), "")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, side = Path(name), size(48, 16)
        inference = {"window": "patch", "overlap": 0.25, "spacing": "ignore"}
        model = load_model(small_model(folder / "model", 1.0, patch=(side,) * 3, inference=inference, norm="instance"))

        def conversion(n: int) -> Callable[[], object]:
            data, affine = large_ct(size((192, 192, 48 * n), (32, 32, 16 * n)))
            volume = Volume(data.astype(np.float32), affine)
            return lambda: translate_volume(model, volume)

        one = patient(0, *size(((80, 64, 48), 5.0), ((40, 32, 24), 10.0)))

        def evaluation(n: int) -> Callable[[], object]:
            for k in range(n):
                save(folder / f"made{n}" / f"p{k}.nii.gz", one.contrast + k, one.affine)
                save(folder / f"truth{n}" / f"p{k}.nii.gz", one.noncontrast, one.affine)
            return lambda: evaluate(Inputs(folder / f"made{n}", folder / f"truth{n}"), folder / f"results{n}")

        exponent("conversion, with the voxels", conversion)
        exponent("evaluation, with the cases", evaluation)


if __name__ == "__main__":
    main()
