"""Errors of the shipped model with different layouts of its windows, on phantoms and on real CTs.

    python benchmarks/window_layouts.py [--phantoms 4]

Phantoms: mean absolute error in HU against the scan less its iodine, in the body, in enhancing voxels and in bone. Real
CTs, if ``../shared/data`` is there: changes of a CT without contrast medium, which should be none, and the mean HU of
structures of an angiogram. Seconds are of all cores together.
"""

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
from real_ct import DATA, native
from scans import patient

from medgen.checkpoint import Model, load_model
from medgen.data.body_mask import body_mask
from medgen.inference.predict import translate_volume
from medgen.io.read import read_volume
from medgen.io.volume import Volume, to_canonical
from medgen.models import model_folder
from medgen.phantom.cohort import make_patient

LAYOUTS: dict[str, dict[str, Any]] = {
    "fixed, 0.25 (MONAI)": {"layout": "fixed", "overlap": 0.25},
    "fixed, 0.4": {"layout": "fixed", "overlap": 0.4},
    "fixed, 0.5 (MONAI)": {"layout": "fixed", "overlap": 0.5},
    "even, 0.25": {"layout": "even", "overlap": 0.25},
    "even, 0.4": {"layout": "even", "overlap": 0.4},
}
SHAPES = ((200, 160, 96), (224, 192, 112), (200, 160, 130), (240, 200, 80))
STRUCTURES = ("aorta", "aorta_true_lumen", "aorta_false_lumen", "vertebrae_T12")


def converted(model: Model, scan: Volume, layout: dict[str, Any]) -> tuple[np.ndarray, float]:
    """The conversion in canonical axes, and the seconds that it took."""
    inference = model.settings.inference.model_copy(update=layout)
    started = time.process_time()
    made = translate_volume(replace(model, settings=model.settings.model_copy(update={"inference": inference})), scan)
    return to_canonical(made).data, time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantoms", type=int, default=4)
    model = load_model(model_folder("ct-noncontrast"))
    for n in range(parser.parse_args().phantoms):
        seed, shape = 3 + n, SHAPES[n % len(SHAPES)]
        one, clean = patient(seed, shape, 1.5), make_patient(seed, size=shape, spacing=1.5, noise_free=True)
        scan, iodine = Volume(np.rint(one.contrast), one.affine), clean.contrast - clean.noncontrast
        body = body_mask(scan.data)
        parts = {"body": body, "enhancing": body & (iodine > 30), "bone": body & (clean.noncontrast > 200)}
        for name, layout in LAYOUTS.items():
            made, seconds = converted(model, scan, layout)
            wrong = np.abs(made - (scan.data - iodine))
            found = {part: round(float(wrong[where].mean()), 2) for part, where in parts.items()}
            print(f"phantom {seed}, {name}: {found}, {seconds:.1f} s", flush=True)
    if not (DATA / "ct").exists():
        return
    abdomen, angiogram = (
        read_volume(DATA / "ct" / name / "ct.nii.gz") for name in ("abdomen_noncontrast", "aorta_cta")
    )
    masks = {name: to_canonical(read_volume(DATA / f"ct/aorta_cta/{name}.nii.gz")).data > 0 for name in STRUCTURES}
    for name, layout in LAYOUTS.items():
        made, seconds = converted(model, abdomen, layout)
        print(f"abdomen, {name}: {native(to_canonical(abdomen).data, made)}, {seconds:.1f} s", flush=True)
        made, seconds = converted(model, angiogram, layout)
        means = {structure: round(float(made[where].mean()), 1) for structure, where in masks.items()}
        print(f"angiogram, {name}: {means}, {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
