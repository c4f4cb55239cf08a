"""Conversions written as DICOM series."""

import json
import re

import numpy as np
import pydicom
import pytest
import torch
from dicom_series import OBLIQUE, stored, write_ct, write_enhanced_ct
from refusal import refused
from small import make_model, small_settings
from typer.testing import CliRunner

from medgen.checkpoint import save_model
from medgen.cli import app
from medgen.errors import InputError
from medgen.inference import convert_case as cases
from medgen.inference.cohort.run import convert
from medgen.inference.output import derivation
from medgen.io.atomic import atomic_folder
from medgen.io.dicom.derived.references import NOTICE
from medgen.io.read import read_volume
from medgen.io.volume import Volume
from medgen.io.write import write_volume

HU = {
    "intensity": {"source": {"low": -1000, "high": 1000, "outside": "preserve"}},
    "inference": {"spacing": "ignore"},
}


def scan():
    return np.clip(stored(8, 32, 34) // 3, 100, 2000)


@pytest.fixture
def identity():
    """A model that changes nothing: residual, with a last layer of zeros."""
    model = make_model(small_settings(**HU), train=False)
    with torch.no_grad():
        for parameter in model.generator.parameters():
            parameter.zero_()
    return model


@pytest.mark.parametrize("kind", ["single", "enhanced"])
def test_an_identity_model_gives_a_dicom_series_of_the_sources_hu(identity, tmp_path, kind):
    if kind == "single":
        write_ct(tmp_path / "in/case", scan(), OBLIQUE)
    else:
        write_enhanced_ct(tmp_path / "in/case/a.dcm", scan(), OBLIQUE)
    (result,) = convert(identity, tmp_path / "in", tmp_path / "out")
    assert result.status == "converted", result.error
    before, after = read_volume(tmp_path / "in/case"), read_volume(tmp_path / "out/case")
    np.testing.assert_array_equal(after.data, before.data)
    np.testing.assert_array_equal(after.affine, before.affine)
    ds = pydicom.dcmread(tmp_path / "out/case/00000.dcm")
    assert ds.SeriesDescription.startswith(NOTICE) and identity.info.sha256 in ds.DerivationDescription
    for name in (".DS_Store", "Thumbs.db"):
        (tmp_path / "out/case" / name).write_text("of a system")
    assert [r.status for r in convert(identity, tmp_path / "in", tmp_path / "out")] == ["skipped"]
    (tmp_path / "out/case/00000.dcm").write_bytes(b"broken")
    assert [r.status for r in convert(identity, tmp_path / "in", tmp_path / "out")] == ["converted"]
    assert set(json.loads((tmp_path / "out/manifest.json").read_text())["cases"]) == {"case"}


def test_dicom_is_written_in_the_requested_format(identity, tmp_path):
    write_ct(tmp_path / "case", scan())
    convert(identity, tmp_path / "case", tmp_path / "out", format="nifti")
    convert(identity, tmp_path / "case", tmp_path / "one.mha")
    for path in (tmp_path / "out/case.nii.gz", tmp_path / "one.mha"):
        np.testing.assert_array_equal(read_volume(path).data, read_volume(tmp_path / "case").data)


def test_the_record_of_another_single_output_is_kept(identity, tmp_path):
    for name in "ab":
        write_volume(tmp_path / f"{name}.nii.gz", Volume(np.full((16, 16, 16), ord(name), np.float32), np.eye(4)))
    convert(identity, tmp_path / "a.nii.gz", tmp_path / "out.nii.gz")
    with refused("output-exists", names="out.manifest.json"):
        convert(identity, tmp_path / "b.nii.gz", tmp_path / "out.mha")
    assert list(json.loads((tmp_path / "out.manifest.json").read_text())["cases"]) == ["a"]
    (tmp_path / "out.nii.gz").unlink()
    (result,) = convert(identity, tmp_path / "b.nii.gz", tmp_path / "out.mha")
    assert result.status == "converted"


def test_dicom_output_needs_dicom_input_and_replaces_no_other_files(identity, tmp_path):
    write_volume(tmp_path / "v/a.nii.gz", Volume(np.zeros((16, 16, 16)), np.eye(4)))
    (result,) = convert(identity, tmp_path / "v", tmp_path / "out", format="dicom")
    assert result.status == "failed" and "a.nii.gz is not DICOM" in result.error
    write_ct(tmp_path / "in/case", scan())
    (tmp_path / "out/case").mkdir(parents=True)
    (tmp_path / "out/case/thesis.txt").write_text("")
    with refused("folder-not-empty", names=("format", "--overwrite")):
        convert(identity, tmp_path / "in", tmp_path / "out")
    (result,) = convert(identity, tmp_path / "in", tmp_path / "out", overwrite=True)
    assert result.status == "failed" and "thesis.txt is not part of a series" in result.error
    assert (tmp_path / "out/case/thesis.txt").exists()
    (result,) = convert(identity, tmp_path / "in/case", tmp_path / "in/case/out")
    assert result.status == "failed" and "choose another output" in result.error


def test_output_in_hu_is_not_written_as_mr(identity, tmp_path):
    model = make_model(
        small_settings(intensity={"source": {"low": 0, "high": 1000}, "target": {"low": -1000, "high": 1000}})
    )
    write_ct(tmp_path / "case", scan(), Modality="MR")
    (result,) = convert(model, tmp_path / "case", tmp_path / "out")
    assert result.status == "failed" and "is MR but the model output is in HU" in result.error


@pytest.mark.parametrize(
    "data, removes",
    [({}, False), ({"removes_contrast": True}, True), ({"targets": ["Native"]}, True), ({"targets": ["late"]}, False)],
)
def test_a_model_knows_whether_it_removes_contrast(data, removes):
    assert derivation(make_model(small_settings(data=data))).removes_contrast is removes


def test_output_not_in_hu_is_not_written_as_ct(tmp_path):
    write_ct(tmp_path / "in/case", scan())
    model = make_model(small_settings(**HU))
    model.info.target_range[0] = model.info.target_range[0].model_copy(update={"low": 0.0})
    (result,) = convert(model, tmp_path / "in", tmp_path / "out")
    assert result.status == "failed" and "is CT but the model output is not in HU" in result.error
    (result,) = convert(model, tmp_path / "in", tmp_path / "out", format="nifti")
    assert result.status == "converted"


@pytest.mark.parametrize("name", ["manifest.json", "dicom_index.sqlite", "Stored.jsonl", ".hidden"])
def test_no_case_takes_the_place_of_a_file_of_the_runs(identity, tmp_path, name):
    write_ct(tmp_path / "in" / name, scan())
    write_ct(tmp_path / "in/case", scan())
    for status in ("converted", "skipped"):
        results = {r.case: r for r in convert(identity, tmp_path / "in", tmp_path / "out")}
        assert results.pop("case").status == status
        assert all(r.status == "failed" and "rename it" in r.error for r in results.values())


def test_remains_of_a_killed_run_are_removed_and_the_old_series_is_restored(identity, tmp_path):
    write_ct(tmp_path / "in/case", scan())
    convert(identity, tmp_path / "in", tmp_path / "out")
    write_ct(tmp_path / "out/.gone.tmp", scan()[:2])
    for n, file in enumerate(sorted((tmp_path / "out/.gone.tmp").iterdir())):
        file.rename(file.with_name(f"{n:05}.dcm"))
    (tmp_path / "out/.kept.tmp").mkdir()
    (tmp_path / "out/.kept.tmp/notes").write_text("not medgen's")
    (tmp_path / "out/case").rename(tmp_path / "out/.case.old")
    assert [r.status for r in convert(identity, tmp_path / "in", tmp_path / "out")] == ["skipped"]
    assert not (tmp_path / "out/.gone.tmp").exists() and (tmp_path / "out/.kept.tmp/notes").exists()


def test_a_dry_run_lists_and_writes_nothing(identity, tmp_path):
    with atomic_folder(tmp_path / "m") as folder:
        save_model(folder, identity.generator, identity.info)
    write_ct(tmp_path / "in/whole", scan(), SeriesDescription="portal")
    write_ct(tmp_path / "in/gap", scan())
    (tmp_path / "in/gap/003.dcm").unlink()
    before = sorted(tmp_path.rglob("*"))
    given = ["translate", *(str(tmp_path / name) for name in ("m", "in", "out")), "--dry-run"]
    call = CliRunner().invoke(app, given)
    assert call.exit_code == 2 and "whole: " in call.output and "portal" in call.output and "8 slices" in call.output
    assert "gap: not convertible" in call.output and "unevenly spaced" in call.output
    assert sorted(tmp_path.rglob("*")) == before
    call = CliRunner().invoke(
        app, ["translate", *(str(tmp_path / n) for n in ("m", "in", "out")), "--dry-run", "--watch"]
    )
    assert isinstance(call.exception, InputError)


def test_original_series_with_our_file_names_are_not_overwritten(identity, tmp_path):
    write_ct(tmp_path / "in/case", scan())
    write_ct(tmp_path / "out/case", scan(), PatientID="other")
    for n, path in enumerate(sorted((tmp_path / "out/case").iterdir())):
        path.rename(path.with_name(f"{n:05}.dcm"))
    (result,) = convert(identity, tmp_path / "in", tmp_path / "out", overwrite=True)
    assert result.status == "failed" and "a DICOM series not written by medgen" in result.error
    assert pydicom.dcmread(tmp_path / "out/case/00000.dcm").PatientID == "other"


def test_a_scan_replaced_during_its_conversion_fails(identity, tmp_path, monkeypatch):
    write_ct(tmp_path / "in/case", scan())
    translate = cases.translate_case

    def replaced(*given, **options):
        for path in (tmp_path / "in/case").iterdir():
            path.unlink()
        write_ct(tmp_path / "in/case", scan(), PatientID="bob", StudyInstanceUID="1.2.3")
        return translate(*given, **options)

    monkeypatch.setattr(cases, "translate_case", replaced)
    (result,) = convert(identity, tmp_path / "in", tmp_path / "out")
    assert result.status == "failed" and "changed during the conversion" in result.error
    assert not (tmp_path / "out/case").exists()


@pytest.mark.parametrize("format", [None, "nifti"])
@pytest.mark.parametrize(
    "tags, text",
    [
        ({"RescaleType": "MGML"}, "values in MGML (RescaleType)"),
        ({"RescaleType": "US"}, "unspecified unit"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "EFF_ATOMIC_NUM"]}, "values in EFF_ATOMIC_NUM (ImageType)"),
        ({"Modality": "PT", "Units": "BQML"}, "values in BQML (Units)"),
        ({"Modality": "MR", "RescaleType": "US"}, "modality MR and values without a unit"),
        ({"Modality": "NM", "RescaleType": "US"}, "modality NM and values without a unit"),
    ],
)
def test_a_model_of_hu_takes_nothing_else(identity, tmp_path, tags, text, format):
    write_ct(tmp_path / "in/case", scan(), **tags)
    (result,) = convert(identity, tmp_path / "in", tmp_path / "out", format=format)
    assert result.status == "failed" and text in result.error and "takes CT in HU" in result.error
    assert not (tmp_path / "out/case").exists()


def with_range(model, **ends):
    for side in (model.info.source_range, model.info.target_range):
        side[0] = side[0].model_copy(update=ends)


def test_a_model_of_signal_takes_mr_and_no_ct_model_an_iodine_map(identity, tmp_path):
    signal = {"intensity": {"source": {"kind": "percentile"}, "target": {"kind": "percentile"}}}
    write_ct(tmp_path / "mr/case", scan(), Modality="MR", RescaleType="US")
    write_ct(tmp_path / "map/case", scan(), RescaleType="MGML")
    model = make_model(small_settings(**signal, inference={"spacing": "ignore"}))
    with_range(model, low=0.0)
    (result,) = convert(model, tmp_path / "mr", tmp_path / "out")
    assert result.status == "converted", result.error
    assert pydicom.dcmread(tmp_path / "out/case/00000.dcm").RescaleType == "US"
    (result,) = convert(model, tmp_path / "map", tmp_path / "nifti", format="nifti")
    assert result.status == "converted", result.error  # it takes no HU and makes none


def test_mr_phase_images_are_not_written_as_ct(tmp_path):
    phase = {"kind": "window", "low": -4096, "high": 4096}
    model = make_model(small_settings(intensity={"source": phase, "target": phase}, inference={"spacing": "ignore"}))
    with_range(model, low=-4096, high=4096)
    write_ct(tmp_path / "mr/case", scan(), Modality="MR", rescale=lambda k: (2, -4096))
    write_ct(tmp_path / "ct/case", scan())
    (result,) = convert(model, tmp_path / "mr", tmp_path / "out")
    assert result.status == "converted", result.error
    (result,) = convert(model, tmp_path / "ct", tmp_path / "ct_out")
    assert result.status == "failed" and "is CT but the model output is not in HU" in result.error


@pytest.mark.parametrize("kind", ["float", "no BitsStored", "no StudyInstanceUID", "no SOPInstanceUID"])
def test_series_without_needed_attributes_are_refused_before_translation(identity, tmp_path, monkeypatch, kind):
    write_ct(tmp_path / "in/case", scan())
    files = sorted((tmp_path / "in/case").iterdir())
    for path in files[3:4] if kind == "no SOPInstanceUID" else files:
        ds = pydicom.dcmread(path)
        if kind == "float":
            ds.FloatPixelData = (ds.pixel_array * 1.0).astype("f4").tobytes()
            del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
            ds.BitsAllocated = 32
        else:
            del ds[kind[3:]]
        ds.save_as(path)
    monkeypatch.setattr(cases, "translate_case", lambda *_, **__: pytest.fail("worked on"))
    (result,) = convert(identity, tmp_path / "in", tmp_path / "out")
    text = {"float": "has FloatPixelData", "no BitsStored": "BitsStored|Bits Stored"}.get(kind, f"has {kind}")
    assert result.status == "failed" and re.search(text, result.error)


def test_a_secondary_capture_beside_a_scan_is_ignored_with_a_note(identity, tmp_path):
    uid = write_ct(tmp_path / "in/case", scan())
    sheet = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "SeriesDescription": "Exam Summary"}
    write_ct(tmp_path / "x", scan()[:1], StudyInstanceUID=uid[:60] + ".1", **sheet)
    (tmp_path / "x/000.dcm").rename(tmp_path / "in/case/sheet.dcm")
    (result,) = convert(identity, tmp_path / "in", tmp_path / "out")
    assert result.status == "converted" and "Exam Summary" in result.notes[0] and "secondary capture" in result.notes[0]
    (result,) = convert(identity, tmp_path / "in", tmp_path / "out")
    assert result.status == "skipped" and "Exam Summary" in result.notes[0]
