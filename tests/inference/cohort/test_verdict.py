"""The verdict of each conversion of a run, and warnings that a scan does not suit the model."""

import json
import re
from dataclasses import asdict

import nibabel as nib
import numpy as np
import pytest
from dicom_series import stored, write_ct
from refusal import refused
from small import make_model, small_settings

from medgen.data.fingerprint import describe
from medgen.inference.check import checks_for, verdict
from medgen.inference.cohort.run import convert
from medgen.io.volume import Volume
from medgen.phantom.cohort import make_patient
from medgen.qa.out_of_distribution import out_of_distribution
from medgen.qa.run import named_checks
from medgen.reports.conversion import conversion_report

SIZE, MM = (64, 52, 40), 6.0


@pytest.fixture(scope="module")
def patient():
    return make_patient(3, size=SIZE, spacing=MM)


def volume(data, affine):
    return Volume(np.asarray(data, np.float32), affine)


def test_the_truth_passes_and_remaining_contrast_medium_does_not(patient):
    checks = checks_for(make_model(small_settings(data={"removes_contrast": True})))
    source, truth = (volume(v, patient.affine) for v in (patient.contrast, patient.noncontrast))
    assert verdict([source], [truth], ["target"], checks)[0] == "pass"
    status, reasons, _ = verdict([source], [source], ["target"], checks)
    assert status in ("review", "fail") and any("enhanced" in text for text in reasons)


def test_a_flipped_output_fails_by_the_limits_of_any_translation(patient):
    checks = checks_for(make_model())
    source = volume(patient.contrast, patient.affine)
    status, reasons, _ = verdict([source], [volume(patient.noncontrast[::-1], patient.affine)], ["target"], checks)
    assert status == "fail" and reasons
    # of several contrasts made the worst counts, and reasons say whose they are
    made = [volume(patient.noncontrast, patient.affine), volume(patient.noncontrast[::-1], patient.affine)]
    status, reasons, _ = verdict([source], made, ["a", "b"], checks)
    assert status == "fail" and all(text.startswith("b: ") for text in reasons)


def test_findings_of_a_run_have_their_places_and_reach_manifest_and_report(tmp_path, patient, monkeypatch):
    """The box of remaining enhancement surrounds the position named in the sentence, after a rerun too."""
    source = tmp_path / "in" / "a.nii.gz"
    source.parent.mkdir()
    nib.save(nib.Nifti1Image(patient.contrast.astype(np.float32), patient.affine), source)
    same = [volume(patient.contrast, patient.affine)]
    monkeypatch.setattr("medgen.inference.convert_case.translate_case", lambda *_, **__: same)
    for status in ("converted", "skipped"):
        (entry,) = convert(make_model(), source.parent, tmp_path / "out", checks=named_checks("ct_contrast"))
        assert entry.status == status
        found = next(one for one in entry.findings if one["fault"] == "enhancement")
        middle = np.add(found["place"]["low"], found["place"]["high"]) / 2
        named = re.search(r"around [RL] (\d+), [AP] (\d+), [SI] (\d+) mm", found["text"])
        assert found["text"] in entry.reasons
        assert np.allclose(np.abs(middle), [int(mm) for mm in named.groups()], atol=0.6)
        page = conversion_report([asdict(entry)], tmp_path / "report.html").read_text()
        assert 'class="mark"' in page and "data-slices" in page
    recorded = json.loads((tmp_path / "out/manifest.json").read_text())["cases"]
    assert next(iter(recorded.values()))["findings"] == json.loads(json.dumps(entry.findings))


def test_a_case_that_cannot_be_checked_needs_review():
    flat = volume(np.full((4, 4, 4), np.nan), np.eye(4))
    status, reasons, _ = verdict([flat], [flat], ["target"], named_checks("general"))
    assert status == "review" and "could not be done" in reasons[0]


def test_limits_by_the_model_by_name_or_none():
    assert checks_for(make_model()).thresholds.contrast_removed is False
    assert checks_for(make_model(small_settings(data={"targets": ["native"]}))).thresholds.contrast_removed is True
    assert checks_for(make_model(), "ct_contrast").thresholds.contrast_removed is True
    assert checks_for(make_model(), "none") is None
    with refused("option-segmenter-without-checks", names="--segmenter"):
        checks_for(make_model(), "none", "somewhere")


def test_a_run_records_each_verdict_and_keeps_it(tmp_path, patient):
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(patient.contrast.astype(np.int16), patient.affine), tmp_path / "in/a.nii.gz")
    settings = small_settings(data={"removes_contrast": True})
    model = make_model(settings, spacing=(MM,) * 3, train=False)  # gives its input back
    for status in ("converted", "skipped"):
        (entry,) = convert(model, tmp_path / "in", tmp_path / "out", checks=checks_for(model))
        assert entry.status == status and entry.verdict in ("review", "fail")
        assert any("enhanced" in text for text in entry.reasons)
    record = json.loads((tmp_path / "out/manifest.json").read_text())["cases"]["a"]
    assert record["verdict"] == entry.verdict and record["reasons"] == entry.reasons
    (unchecked,) = convert(model, tmp_path / "in", tmp_path / "other")
    assert unchecked.verdict is None and (tmp_path / "other/a.nii.gz").exists()


def test_other_limits_are_applied_without_a_new_conversion(tmp_path, patient, monkeypatch):
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(patient.contrast.astype(np.int16), patient.affine), tmp_path / "in/a.nii.gz")
    model = make_model(spacing=(MM,) * 3, train=False)  # gives its input back

    def run(limits):
        (entry,) = convert(model, tmp_path / "in", tmp_path / "out", checks=limits and named_checks(limits))
        record = json.loads((tmp_path / "out/manifest.json").read_text())["cases"]["a"]
        assert record["status"] == "converted" and entry.verdict in (record["verdict"], None)
        return entry.status, entry.verdict

    assert run(None) == ("converted", None)
    monkeypatch.setattr("medgen.inference.convert_case.translate_case", None)
    assert run("general")[0] == "skipped" and run("general")[1] in ("pass", "review")
    assert run("ct_contrast") == ("skipped", "fail")  # all contrast medium is still there
    assert run(None) == ("skipped", None) and run("ct_contrast") == ("skipped", "fail")


def test_verdicts_as_structured_reports_beside_the_series(tmp_path):
    pytest.importorskip("highdicom", reason="highdicom (medgen[dicom]) is absent")
    from pydicom import dcmread

    write_ct(tmp_path / "in/case", stored(12, 32, 34) // 3)
    model = make_model(small_settings(inference={"spacing": "ignore"}), train=False)
    checks = named_checks("general")

    def run(**options):
        (entry,) = convert(model, tmp_path / "in", tmp_path / "out", checks=checks, qa_report_sr=True, **options)
        return entry

    assert run().status == "converted"
    report = dcmread(tmp_path / "out/verdicts/case.dcm")
    image = dcmread(tmp_path / "out/case/00000.dcm")
    assert report.Modality == "SR" and report.StudyInstanceUID == image.StudyInstanceUID
    assert report.PatientID == image.PatientID and run().verdict in report.SeriesDescription
    assert run().status == "skipped"
    (tmp_path / "out/verdicts/case.dcm").unlink()
    for _ in range(2):
        assert run().status == "skipped"
        assert dcmread(tmp_path / "out/verdicts/case.dcm").SeriesDescription == report.SeriesDescription
        convert(model, tmp_path / "in", tmp_path / "out", checks=named_checks("ct_contrast"))  # another verdict
        assert not (tmp_path / "out/verdicts/case.dcm").exists()
    with refused("output-report-not-possible", names="--format nifti"):
        run(format="nifti", overwrite=True)
    nib.save(nib.Nifti1Image(stored(12, 32, 34).astype(np.int16) // 3, np.eye(4)), tmp_path / "volume.nii.gz")
    (result,) = convert(model, tmp_path / "volume.nii.gz", tmp_path / "other", checks=checks, qa_report_sr=True)
    assert result.status == "failed" and "volume.nii.gz is none; omit --qa-report-sr" in result.error
    with refused("option-verdict-without-checks", names="--qa-report-sr"):
        convert(model, tmp_path / "in", tmp_path / "out", qa_report_sr=True)


def test_a_scan_already_without_contrast_medium_gives_a_warning():
    def look(data):
        return describe(np.asarray(data), (MM,) * 3, model.source_code)

    model = make_model(small_settings(data={"removes_contrast": True}), spacing=(MM,) * 3)
    patients = [make_patient(seed, size=SIZE, spacing=MM) for seed in range(10, 15)]
    known = [[look(p.contrast) for p in patients[:4]]]
    model.info = model.info.model_validate(
        model.info.model_dump()
        | {"training_scans": known, "training_targets": [[look(p.noncontrast) for p in patients[:4]]]}
    )
    new = patients[4]
    with_medium, without = (
        out_of_distribution(model, [volume(v, new.affine)]) for v in (new.contrast, new.noncontrast)
    )
    assert not any("already" in text for text in with_medium)
    assert any("already be without contrast medium" in text for text in without)


def test_a_ct_without_its_offset_gives_a_warning():
    model = make_model(small_settings(), spacing=(MM,) * 3)
    patient = make_patient(10, size=SIZE, spacing=MM)
    for offset, warned in ((0, False), (1024, True)):
        found = out_of_distribution(model, [volume(patient.contrast + offset, patient.affine)])
        assert any("lack the offset of -1024" in text for text in found) == warned
