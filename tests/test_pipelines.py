import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medgen.data.phantom import LABELS, make_patient

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two converters of three patients: ``close`` leaves 10 % of the contrast, ``far`` half of it."""
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(3):
        patient = make_patient(seed, size=(40, 32, 24), spacing=10.0)
        truth, scan = patient.noncontrast, patient.contrast
        volumes = {"target": truth, "source": scan, "close": truth + (scan - truth) / 10, "far": (truth + scan) / 2}
        volumes["labels"] = patient.labels
        for name, data in volumes.items():
            (folder / name).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(data.astype(np.float32), patient.affine), folder / name / f"p{seed}.nii.gz")
    (folder / "labels.json").write_text(json.dumps(LABELS))
    return folder


def evaluation(cohort, out, *more):
    command = [sys.executable, ROOT / "pipelines" / "clinical_evaluation.py", out, *more]
    folders = ["--reference", cohort / "target", "--source", cohort / "source"]
    return subprocess.run([*map(str, command), *map(str, folders)], capture_output=True, text=True, cwd=ROOT)


def test_two_converters_in_one_report(cohort, tmp_path):
    run = evaluation(cohort, tmp_path, "--prediction", f"close={cohort / 'close'}", f"far={cohort / 'far'}")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("structure check: ") == 2
    page = (tmp_path / "report.html").read_text()
    assert "close" in page and "far" in page and "p, Holm" in page
    assert (tmp_path / "close" / "summary.json").exists() and (tmp_path / "far" / "cases.csv").exists()


def test_limits_and_lesion_masks_reach_the_report(cohort, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for seed in range(3):
        scan = nib.load(cohort / "source" / f"p{seed}.nii.gz")
        lesion = np.zeros(scan.shape, np.uint8)
        lesion[20:22, 16:18, 12:14] = 1
        nib.save(nib.Nifti1Image(lesion, scan.affine), masks / f"p{seed}.nii.gz")
    given = [
        "--prediction",
        cohort / "source",
        "--labels",
        cohort / "labels",
        "--checks",
        "ct_contrast",
        "--lesions",
        masks,
    ]
    run = evaluation(cohort, tmp_path / "out", *given)
    assert run.returncode == 0, run.stderr
    section = json.loads((tmp_path / "out" / "source" / "summary.json").read_text())["structure"]
    assert section["counts"]["pass"] == 0 and section["lesions"]["volumes"] == 3  # nothing was converted
    assert "off the truth" in (tmp_path / "out" / "report.html").read_text()
    run = evaluation(cohort, tmp_path / "out", "--prediction", cohort / "close", "--checks", "ct_contrst")
    assert run.returncode == 2 and "ct_contrast, general" in run.stderr


def test_a_case_that_fails_is_named_and_the_report_is_made(cohort, tmp_path):
    one = tmp_path / "one"
    one.mkdir()
    (one / "p0.nii.gz").write_bytes((cohort / "close" / "p0.nii.gz").read_bytes())
    run = evaluation(cohort, tmp_path / "out", "--prediction", one)
    assert run.returncode == 2 and "no prediction for the reference" in run.stderr
    assert (tmp_path / "out" / "report.html").exists()
    run = evaluation(cohort, tmp_path / "out", "--prediction", f"a/b={one}")
    assert run.returncode == 2 and "plain word" in run.stderr and "Traceback" not in run.stderr
