"""Time of a cohort run relative to its network alone, on the embedded cohort. Part of bench.py."""

import statistics
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from small_model import small_model

from medgen.checkpoint import Model, load_model
from medgen.inference.check import checks_for
from medgen.inference.cohort.run import convert
from medgen.inference.predict import translate_case
from medgen.io.read import read_volume
from medgen.phantom.cohort import make_patient
from medgen.qa.run import Checks

STUDIES, MM = 16, 2.5  # the size of the demo's cohort
NETWORK = {"filters": 16, "levels": 4, "pointwise_features": 8}  # as in configs/ct_contrast_pix2pix.yaml


def network_alone(model: Model, studies: Path) -> float:
    """Seconds of the network alone, on scans in memory."""
    volumes = [read_volume(path) for path in sorted(studies.iterdir())]
    started = time.perf_counter()
    for volume in volumes:
        translate_case(model, [volume])
    return time.perf_counter() - started


def cohort_run(model: Model, studies: Path, checks: Checks | None) -> float:
    """Seconds of a cohort run from scans on disk to outputs on disk."""
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        results = convert(model, studies, Path(out), checks=checks)
        taken = time.perf_counter() - started
    assert all(result.status == "converted" for result in results)
    return taken


def main() -> None:
    print("\n| cohort run | s | network alone, s | ratio (required: at most 1.15) |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        studies = Path(name) / "in"
        studies.mkdir()
        patient = make_patient(0)
        for n in range(STUDIES):
            scan = np.rint(patient.contrast + n).astype(np.int16)
            nib.save(nib.Nifti1Image(scan, patient.affine), studies / f"s{n:02}.nii.gz")
        model = load_model(small_model(Path(name) / "model", MM, **NETWORK))
        network_alone(model, studies)  # warm-up
        for what, checks, times in (("", None, 5), (", with verdicts", checks_for(model), 1)):
            # Alternate both, so that a temporary slowdown of the machine affects both.
            rounds = [(cohort_run(model, studies, checks), network_alone(model, studies)) for _ in range(times)]
            taken, alone = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
            ratios = sorted(run / network for run, network in rounds)
            spread = f" ({ratios[0]:.2f} to {ratios[-1]:.2f} in {times} rounds)" if times > 1 else ""
            cohort = f"{STUDIES} phantoms of 160 × 128 × 96{what}"
            print(f"| {cohort} | {taken:.1f} | {alone:.1f} | {statistics.median(ratios):.2f}{spread} |", flush=True)


if __name__ == "__main__":
    main()
