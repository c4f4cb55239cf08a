"""The same scan and result get the same verdict from every command."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from evaluating import evaluate
from small import make_model, small_settings

from medgen.inference.check import checks_for
from medgen.inference.cohort.run import convert
from medgen.phantom.cohort import LABELS, make_patient
from medgen.qa.run import Checks, named_checks

SIZE, MM = (64, 52, 34), 6.0
ODD = "size of the body"


@pytest.fixture(scope="module")
def patient():
    return make_patient(3, size=SIZE, spacing=MM)


def save(path, data, affine, dtype=np.int16):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = data if np.issubdtype(dtype, np.floating) else np.rint(data)
    nib.save(nib.Nifti1Image(data.astype(dtype), affine), path)
    return path.parent


@pytest.fixture(scope="module")
def made(tmp_path_factory, patient):
    """Scans of several kinds with their outputs and entries; the model reports one scan as out of distribution."""
    folder = tmp_path_factory.mktemp("made")
    save(folder / "in/enhanced.nii.gz", patient.contrast, patient.affine)
    save(folder / "in/plain.nii.gz", patient.noncontrast + 0.25, patient.affine, np.float32)
    save(folder / "in/odd.nii.gz", 1.2 * patient.noncontrast, patient.affine)
    model = make_model(small_settings(data={"removes_contrast": True}), spacing=(MM,) * 3, train=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medgen.inference.convert_case.out_of_distribution", odd)
        entries = convert(model, folder / "in", folder / "out", checks=checks_for(model))
    return folder, {entry.case: entry for entry in entries}


def odd(_, volumes):
    return [ODD] if volumes[0].data.min() < -1100 else []


def verdicts_of(*given, **options):
    return {case.name: case.structure for case in evaluate(*given, **options).cases}


def test_translate_and_evaluate_agree(made, tmp_path):
    folder, entries = made
    found = verdicts_of(None, folder / "out", tmp_path, source=folder / "in")
    assert set(found) == set(entries) == {"enhanced", "plain", "odd"}
    for name, entry in entries.items():
        assert found[name]["status"] == entry.verdict, name
        assert found[name]["reasons"] == entry.reasons, name
        assert found[name]["findings"] == entry.findings, name
    assert f"The input is unusual: {ODD}" in entries["odd"].reasons and entries["odd"].verdict != "pass"
    assert entries["enhanced"].verdict == "fail"


def test_a_renamed_output_is_recognised_by_its_content(made, tmp_path):
    folder, entries = made
    for role, new in (("in", "source"), ("out", "prediction")):
        (tmp_path / new).mkdir()
        shutil.copy(folder / role / "odd.nii.gz", tmp_path / new / "case_7.nii.gz")
    shutil.copy(folder / "out/manifest.json", tmp_path / "prediction/manifest.json")
    found = verdicts_of(None, tmp_path / "prediction", tmp_path / "results", source=tmp_path / "source")
    assert found["case_7"]["status"] == entries["odd"].verdict and ODD in " ".join(found["case_7"]["reasons"])


def test_the_manifest_of_a_single_file_is_next_to_it(made, tmp_path, monkeypatch):
    folder, _ = made
    monkeypatch.setattr("medgen.inference.convert_case.out_of_distribution", odd)
    model, out = make_model(spacing=(MM,) * 3, train=False), tmp_path / "x.nii.gz"
    (entry,) = convert(model, folder / "in/odd.nii.gz", out, checks=checks_for(model))
    assert json.loads((tmp_path / "x.manifest.json").read_text())["cases"]
    found = verdicts_of(None, out, tmp_path / "results", source=folder / "in/odd.nii.gz")["x"]
    assert (found["status"], found["reasons"]) == (entry.verdict, entry.reasons) and entry.verdict != "pass"
    assert f"The input is unusual: {ODD}" in found["reasons"]


def test_a_record_applies_only_to_its_own_file_and_other_limits_can_be_chosen(made, patient, tmp_path):
    folder, entries = made
    shutil.copytree(folder / "out", tmp_path / "out")
    save(tmp_path / "out/odd.nii.gz", nib.load(folder / "out/odd.nii.gz").get_fdata() + 1, patient.affine)
    (tmp_path / "out/plain.nii.gz").unlink()
    found = verdicts_of(None, tmp_path / "out", tmp_path / "r", source=folder / "in", checks=Checks())
    assert not any("odd" in text for text in found["odd"]["reasons"])  # another file than the recorded one
    assert entries["enhanced"].verdict == "fail" and found["enhanced"]["status"] == "pass"  # general limits


def test_labels_can_add_findings_and_the_truth_can_remove_some_and_both_are_reported(made, patient, tmp_path):
    folder, entries = made
    save(tmp_path / "labels/enhanced.nii.gz", patient.labels, patient.affine, np.uint8)
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    given = {"source": folder / "in/enhanced.nii.gz", "labels": tmp_path / "labels"}
    found = verdicts_of(None, folder / "out/enhanced.nii.gz", tmp_path / "r", **given)["enhanced"]
    alone = {one["text"] for one in entries["enhanced"].findings}
    assert alone <= {one["text"] for one in found["findings"]}
    added = {one["by"] for one in found["findings"] if one["text"] not in alone}
    assert "labels" in added and added <= {"labels", "lesions"}
    truth = save(tmp_path / "truth/enhanced.nii.gz", patient.contrast, patient.affine) / "enhanced.nii.gz"
    source = folder / "in/enhanced.nii.gz"
    excused = verdicts_of(truth, folder / "out/enhanced.nii.gz", tmp_path / "r2", source=source)["enhanced"]
    assert excused["status"] == "pass" and set(entries["enhanced"].reasons) <= set(excused["excused"])


def test_limits_by_the_name_auto():
    assert named_checks("auto").auto and not named_checks("general").auto
