"""The downstream section from references and predictions with labels, with segmenters of a few steps."""

import json

import nibabel as nib
import numpy as np
import pytest
from evaluating import evaluate
from refusal import refused

from medgen.downstream.section import Protocols, make_protocols

TRAINING = {"steps": 2, "filters": 2, "voxels": 8**3}


@pytest.fixture
def cohort(tmp_path):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels = np.zeros((16, 16, 12), np.uint8)
        labels[4:11, 5:12, 3:9] = 2
        for name, data in {"target": 100 * labels + rng.normal(0, 9, labels.shape), "made": 90.0 * labels}.items():
            (tmp_path / name).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(data.astype(np.float32), np.eye(4)), tmp_path / name / f"p{seed // 2}_{seed}.nii")
        (tmp_path / "labels").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "labels" / f"p{seed // 2}_{seed}.nii")
    (tmp_path / "labels.json").write_text('{"liver": 2}')
    return tmp_path


def run(cohort, **changed):
    given = {"labels": cohort / "labels", "downstream": Protocols(2, (0,), TRAINING)} | changed
    where = cohort / "target", cohort / "made", cohort / "out"
    return evaluate(*where, data_range=300, patient_pattern="^p[0-9]", **given)


def test_rows_of_every_protocol_and_label(cohort):
    assert not run(cohort).failures
    section = json.loads((cohort / "out/summary.json").read_text())["downstream"]
    rows = {(row["protocol"], row["label"]): row for row in section["rows"]}
    protocols = ("real_to_real", "real_to_synthetic", "synthetic_to_real", "both_to_real")
    assert set(rows) == {(name, label) for name in protocols for label in ("liver", "mean")}
    assert rows["both_to_real", "liver"]["n"] == 4 and rows["real_to_real", "liver"]["gain"] is None
    assert 0 <= rows["real_to_real", "liver"]["dice_mean"] <= 1 and section["folds"] == 2


def test_missing_inputs_are_refused(cohort):
    with refused("evaluation-reference-labels-needed"):
        run(cohort, labels=None)
    failures = run(cohort, downstream=Protocols(3, (0,), TRAINING)).failures
    assert [f.case for f in failures] == ["downstream"] and "3 folds cannot be made of 2 patients" in failures[0].error
    assert make_protocols(3, 4, 2) == Protocols(4, (0, 1), {"minutes": 3, "device": "cpu"})
