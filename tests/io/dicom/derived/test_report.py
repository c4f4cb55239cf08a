"""Verdicts as structured reports and encapsulated PDFs; read with pydicom and highdicom, validated with dciodvfy."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from dicom_series import MADE, OBLIQUE, errors, headers, stored, write_ct, write_enhanced_ct
from pydicom.uid import ComprehensiveSRStorage, EncapsulatedPDFStorage
from refusal import refused

from medgen.io.deidentification.deidentify import Deidentifier
from medgen.io.dicom.derived.references import NOTICE
from medgen.io.dicom.derived.report import write_encapsulated_pdf, write_qa_report_sr
from medgen.io.dicom.derived.write import write_derived
from medgen.io.dicom.series import list_series
from medgen.io.read import read_volume

hd = pytest.importorskip("highdicom", reason="highdicom (medgen[dicom]) is absent")
VERDICT = {
    "status": "review",
    "reasons": ["HU of soft tissue moved by 31 HU, limit 20", "a lesion of 4.2 ml is lost \\ größer?"],
    "values": {"soft tissue, HU": np.float64(31.25), "lesions lost": 1, "orientation": "kept"},
}
PDF = b"%PDF-1.4\n%%EOF\n"


@pytest.fixture(params=["single", "enhanced"])
def derived(request, tmp_path):
    if request.param == "single":
        write_ct(tmp_path / "in", stored(3, 8, 8), OBLIQUE)
    else:
        write_enhanced_ct(tmp_path / "in/a.dcm", stored(3, 8, 8), OBLIQUE)
    write_derived(tmp_path / "out", read_volume(tmp_path / "in"), MADE)
    return tmp_path / "out"


def texts(item):
    for child in item.get("ContentSequence") or ():
        name = child.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in child else ""
        yield (
            name,
            child.get("TextValue")
            or (child.ConceptCodeSequence[0].CodeMeaning if "ConceptCodeSequence" in child else ""),
        )
        yield from texts(child)


def images(item):
    for child in item.get("ContentSequence") or ():
        if child.ValueType == "IMAGE":
            yield child.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        yield from images(child)


def test_report_contains_verdict_reasons_values_model_and_images(derived, tmp_path):
    write_qa_report_sr(VERDICT, derived, tmp_path / "sr/verdict.dcm", derivation=MADE)
    ds = pydicom.dcmread(tmp_path / "sr/verdict.dcm")
    assert ds.SOPClassUID == ComprehensiveSRStorage and ds.Modality == "SR" and ds.VerificationFlag == "UNVERIFIED"
    contents = list(texts(ds))
    assert ("Verdict", "review") in contents and ("Notice", NOTICE) in contents
    assert [text for name, text in contents if name == "Reason"] == [
        "HU of soft tissue moved by 31 HU, limit 20",
        "a lesion of 4.2 ml is lost / gr??er?",
    ]
    values = [text for name, text in contents if name == "Measured value"]
    assert values == ["soft tissue, HU: 31.25", "lesions lost: 1", "orientation: kept"]
    assert ("Algorithm Name", MADE.model) in contents and ("Algorithm Version", MADE.sha256) in contents
    made, source = headers(derived), headers(tmp_path / "in")
    assert sorted(images(ds)) == sorted(image.SOPInstanceUID for image in made + source)
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == made[0].StudyInstanceUID
    assert {s.SeriesInstanceUID for s in study.ReferencedSeriesSequence} == {
        made[0].SeriesInstanceUID,
        source[0].SeriesInstanceUID,
    }
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
        assert ds[keyword] == made[0][keyword]
    hd.sr.srread(tmp_path / "sr/verdict.dcm")


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is absent")
def test_dciodvfy_finds_no_error(derived, tmp_path):
    (tmp_path / "a.pdf").write_bytes(PDF)
    write_qa_report_sr(VERDICT, derived, tmp_path / "sr/verdict.dcm", derivation=MADE)
    write_qa_report_sr({"status": "pass", "reasons": [], "values": {}}, derived, tmp_path / "sr/b.dcm", derivation=MADE)
    write_encapsulated_pdf(tmp_path / "a.pdf", derived, tmp_path / "sr/c.dcm", derivation=MADE, title="Report")
    assert not errors(tmp_path / "sr")


def test_same_verdict_gives_the_same_bytes_and_another_verdict_another_object(derived, tmp_path):
    other = VERDICT | {"status": "fail"}
    for name, verdict in (("a", VERDICT), ("b", VERDICT), ("c", other)):
        write_qa_report_sr(verdict, derived, tmp_path / name, derivation=MADE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    a, c = pydicom.dcmread(tmp_path / "a"), pydicom.dcmread(tmp_path / "c")
    assert a.SOPInstanceUID != c.SOPInstanceUID and a.SeriesInstanceUID == c.SeriesInstanceUID
    os.utime(derived / "00000.dcm", (1e9, 1e9))  # converted again at another time: another object
    write_qa_report_sr(VERDICT, derived, tmp_path / "d", derivation=MADE)
    d = pydicom.dcmread(tmp_path / "d")
    assert d.SOPInstanceUID != a.SOPInstanceUID and d.ContentDate == "20010909"


def test_pdf_is_stored_byte_by_byte(derived, tmp_path):
    for name, content in (("odd", PDF), ("even", PDF + b"\n")):
        (tmp_path / name).write_bytes(content)
        write_encapsulated_pdf(tmp_path / name, derived, tmp_path / "pdf.dcm", derivation=MADE, title="Report")
        ds = pydicom.dcmread(tmp_path / "pdf.dcm")
        assert ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength] == content
        assert ds.SOPClassUID == EncapsulatedPDFStorage and ds.DocumentTitle == f"{NOTICE}: Report"
        assert ds.PatientName == "Doe^Jane" and ds.BurnedInAnnotation == "YES"
    (tmp_path / "no").write_bytes(b"<html>")
    with refused("report-not-pdf", names="no "):
        write_encapsulated_pdf(tmp_path / "no", derived, tmp_path / "x.dcm", derivation=MADE, title="Report")


def test_a_deidentified_series_gets_deidentified_reports(tmp_path):
    write_ct(tmp_path / "in", stored(2, 8, 8), PatientID="ZyxWvut", PatientName="ZyxWvut")
    uid = headers(tmp_path / "in")[0].StudyInstanceUID
    write_derived(tmp_path / "out", read_volume(tmp_path / "in"), MADE, deidentifier=Deidentifier(bytes(32)))
    write_qa_report_sr(VERDICT, tmp_path / "out", tmp_path / "sr.dcm", derivation=MADE)
    (tmp_path / "a.pdf").write_bytes(PDF)
    with refused("report-may-name-patient"):
        write_encapsulated_pdf(tmp_path / "a.pdf", tmp_path / "out", tmp_path / "p.dcm", derivation=MADE, title="R")
    write_encapsulated_pdf(
        tmp_path / "a.pdf", tmp_path / "out", tmp_path / "p.dcm", derivation=MADE, title="R", names_patient=False
    )
    for name in ("sr.dcm", "p.dcm"):
        content = (tmp_path / name).read_bytes()
        assert b"ZyxWvut" not in content and uid.encode() not in content
        assert pydicom.dcmread(tmp_path / name).PatientIdentityRemoved == "YES"


def test_reports_are_not_scans_and_folders_without_a_series_are_refused(derived, tmp_path):
    write_qa_report_sr(VERDICT, derived, derived / "verdict.dcm", derivation=replace(MADE, model="größer " * 20))
    assert len(list_series(derived)) == 1
    write_qa_report_sr(VERDICT, derived, tmp_path / "again.dcm", derivation=MADE)
    (tmp_path / "none").mkdir()
    with refused("dicom-no-derived-series"):
        write_qa_report_sr(VERDICT, tmp_path / "none", tmp_path / "x", derivation=MADE)
    (derived / "00000.dcm").write_bytes(b"broken")
    with refused("dicom-not-derived-image", names="00000.dcm"):
        write_qa_report_sr(VERDICT, derived, tmp_path / "x", derivation=MADE)
    with pytest.raises(ValueError, match="'good' is not one of pass, review, fail"):
        write_qa_report_sr(VERDICT | {"status": "good"}, derived, tmp_path / "x", derivation=MADE)
