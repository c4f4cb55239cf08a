"""Text whose bytes contradict the character set keeps its meaning, and patients stay apart."""

import pydicom
from dicom_series import item, stored, write_ct

from medgen.io.deidentification.deidentify import Deidentifier
from medgen.io.dicom.charset import repair_text, text_warning
from medgen.io.dicom.header import read_header
from medgen.io.read import read_volume


def mistaken(folder, charset="ISO_IR 192", **bytes_of):
    """A series whose elements have these bytes, whatever the character set that is stated."""
    write_ct(folder, stored(3, 8, 9), SpecificCharacterSet=charset, **{key: f"X{key}X" for key in bytes_of})
    for file in folder.iterdir():
        content = file.read_bytes()
        for key, value in bytes_of.items():
            placed = f"X{key}X".encode()
            padded = placed + b" " * (len(placed) % 2)
            assert len(value) <= len(padded)
            content = content.replace(padded, value.ljust(len(padded)))
        file.write_bytes(content)
    return folder


def test_latin_1_under_another_character_set_is_read_and_told(tmp_path):
    folder = mistaken(tmp_path / "a", PatientName=b"M\xfcller^A", PatientID=b"ID\xc41", StudyID=b"plain")
    volume = read_volume(folder)
    (warning,) = volume.warnings
    assert warning.startswith("PatientName, PatientID: bytes that SpecificCharacterSet does not have")
    assert "ller" not in warning
    ds = pydicom.dcmread(folder / "000.dcm")
    assert repair_text(ds) == ["PatientName", "PatientID"]
    assert (str(ds.PatientName), ds.PatientID, ds.StudyID) == ("M\xfcller^A", "ID\xc41", "plain")
    ds.save_as(tmp_path / "b.dcm")
    again = pydicom.dcmread(tmp_path / "b.dcm")
    assert not text_warning(again) and str(again.PatientName) == "M\xfcller^A"


def test_patients_that_differ_in_such_a_byte_stay_apart(tmp_path):
    one = mistaken(tmp_path / "a", PatientID=b"ID\xc41") / "000.dcm"
    two = mistaken(tmp_path / "b", PatientID=b"ID\xd61") / "000.dcm"
    assert read_header(one)["PatientID"] != read_header(two)["PatientID"]
    aliases = set()
    for file in (one, two):
        ds = pydicom.dcmread(file)
        repair_text(ds)
        Deidentifier(b"k" * 32).deidentify(ds)
        aliases.add(ds.PatientID)
    assert len(aliases) == 2


def test_other_character_sets_lack_bytes_as_well(tmp_path):
    folder = mistaken(tmp_path / "a", "GB18030", PatientID=b"ID\xc41")
    assert "PatientID: bytes" in read_volume(folder).warnings[0]


def test_text_in_its_character_set_is_left_alone(tmp_path):
    for k, (charset, name) in enumerate((("ISO_IR 192", "M\xfcller^\u5c71"), ("ISO_IR 100", "M\xfcller"),
                                         (["", "ISO 2022 IR 87"], "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce"),
                                         ("ISO_IR 192", "lost \ufffd before"))):  # fmt: skip
        write_ct(tmp_path / f"{k}", stored(3, 8, 9), SpecificCharacterSet=charset, PatientName=name)
        ds = pydicom.dcmread(tmp_path / f"{k}" / "000.dcm")
        assert repair_text(ds) == [] and str(ds.PatientName) == name
        assert read_volume(tmp_path / f"{k}").warnings == ()


def test_nested_text_is_read_as_well(tmp_path):
    nested = [item(CodeMeaning="XCodeMeaningX")]
    write_ct(tmp_path / "a", stored(3, 8, 9), SpecificCharacterSet="ISO_IR 192", ProcedureCodeSequence=nested)
    file = tmp_path / "a/000.dcm"
    file.write_bytes(file.read_bytes().replace(b"XCodeMeaningX", b"Sch\xe4del      "))
    ds = pydicom.dcmread(file)
    assert repair_text(ds) == ["CodeMeaning"] and ds.ProcedureCodeSequence[0].CodeMeaning == "Sch\xe4del"
