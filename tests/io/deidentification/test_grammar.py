"""Text planted in every element of the dictionary, nested or not, in its own VR and in others, is removed."""

import struct
from io import BytesIO

import numpy as np
import pydicom
import pytest
from dicom_series import MADE, OBLIQUE, stored, write_ct
from hypothesis import given
from hypothesis import strategies as st
from pydicom import DataElement, Dataset
from pydicom.datadict import DicomDictionary, dictionary_VM, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from medgen.io.deidentification import grammar
from medgen.io.deidentification.deidentify import Deidentifier
from medgen.io.dicom.derived.write import write_derived
from medgen.io.read import read_volume

KEY = bytes(range(32))
ENCODINGS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
LEFT_OUT = [  # required for reading, or a reason to refuse the image
    tag_for_keyword(k)
    for k in "SpecificCharacterSet Modality SOPClassUID ImageType SequenceOfUltrasoundRegions PixelData".split()
]
WRONG = ("LO", "TM", "DS", "US", "FD", "OB", "UN", "AT", "CS", "SQ", "UI")


def planted(text, turn=None):
    """Data set whose elements contain the text as raw bytes, in their own VR or one of ``WRONG``."""
    ds = Dataset()
    for number, (kinds, *_) in DicomDictionary.items():
        tag, right = Tag(number), kinds.split(" or ")[0]
        kind = right if turn is None else WRONG[(number % 97 + turn) % len(WRONG)]
        if tag.group > 7 and number not in LEFT_OUT and right != "NONE" and not (kind == "SQ" == right):
            size = 8 if kind in ("FD", "US", "AT") else 2
            content = text + b" " * (-len(text) % size)
            ds[tag] = RawDataElement(tag, kind, len(content), content, 0, False, True)
    return ds


def file_bytes(ds):
    stream = BytesIO()
    pydicom.dcmwrite(stream, ds, implicit_vr=False, little_endian=True)
    return stream.getvalue()


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize(
    "text, encoding, turn",
    [
        *(("Smith^John", encoding, None) for encoding in ("utf-8", "utf-16-le", "utf-32-be")),
        ("SMITHX", "utf-8", None),
        ("Müller Käthe", "latin-1", None),
        *(("Smith^John", encoding, turn) for turn, encoding in ((0, "utf-8"), (4, "utf-16-le"), (8, "utf-8"))),
    ],
)
def test_planted_text_is_removed(text, encoding, turn, shift):
    if shift and (encoding != "utf-8" or turn):
        return
    raw = text.encode(encoding)
    ds, inner = planted(raw, turn), planted(raw, turn)
    inner[0x00081140] = DataElement(0x00081140, "SQ", Sequence([planted(raw, None if turn else 0)]))
    ds[0x0018A001] = DataElement(0x0018A001, "SQ", Sequence([inner]))
    assert len(ds) > 3600
    Deidentifier(KEY, shift).deidentify(ds)
    content = file_bytes(ds)
    for part in (text, text[:6]):
        assert not any(part.encode(form) in content for form in ENCODINGS), found(ds, part)


def found(ds, text):
    return [element.keyword for element in ds if text in str(element.value)]


def test_dose_and_geometry_are_kept():
    ds = Dataset()
    ds.Exposure, ds.ExposureTime, ds.XRayTubeCurrent, ds.KVP, ds.CTDIvol = 200, 500, 310, "120", 7.25
    ds.ImagePositionPatient, ds.PixelSpacing = ["-80", "-80.5", "1e1"], [0.48828125, 0.48828125]
    ds.ImageOrientationPatient, ds.SliceThickness = [1, 0, 0, 0, 1, 0], "2.5"
    ds.AcquisitionMatrix, ds.Rows, ds.NumberOfFrames, ds.EchoTime = [0, 256, 192, 0], 512, 3, "4.6"
    ds.DiffusionBValue, ds.DiffusionGradientOrientation = 1000.0, [0.5, -0.5, 0.7071]
    ds.DimensionIndexValues, ds.FrameIncrementPointer = [1, 12], 0x00540080
    ds.PatientPosition, ds.BodyPartExamined, ds.ScanOptions = "HFS", "CHEST", ["HELICAL MODE", "SMITHX"]
    ds.ConvolutionKernel, ds.SoftwareVersions, ds.Manufacturer = ["Br40d", "3"], "syngo CT VA48A", "GE MEDICAL SYSTEMS"
    before = {e.keyword: e.value for e in ds}
    Deidentifier(KEY).deidentify(ds)
    changed = {k for k, value in before.items() if ds.get(k) != value}
    assert changed == {"ScanOptions"} and ds.ScanOptions == ["HELICAL MODE", ""]


def test_a_number_that_is_too_long_is_written_shorter():
    ds = Dataset()
    ds[0x00280030] = RawDataElement(
        Tag(0x00280030), "DS", 44, b"0.488281250000000000\\0.488281250000000000001 ", 0, False, True
    )
    Deidentifier(KEY).deidentify(ds)
    assert [str(value) for value in ds.PixelSpacing] == ["0.48828125", "0.48828125"]


def test_multi_valued_binary_elements_that_spell_text_are_removed():
    """Elements with any number of binary values could spell a text, so few of them are kept."""
    for tag, (kinds, *_) in DicomDictionary.items():
        kind = kinds.split(" or ")[0]
        if kind in grammar.WORDS and "n" in dictionary_VM(tag):
            values = [float(ord(c)) if kind in ("FL", "FD") else ord(c) for c in "Smith^"]
            assert not grammar.clean(DataElement(tag, kind, values)), tag


@given(
    st.sampled_from(sorted(grammar.WORDS)),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=8),
)
def test_numbers_whose_bytes_are_text_are_removed(kind, text):
    size = struct.calcsize(grammar.WORDS[kind])
    values = [struct.unpack(grammar.WORDS[kind], text.encode()[i : i + size])[0] for i in range(0, 8, size)]
    assert not grammar._measures(kind, values) or size < 4 and len(values) < 2


@given(st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) > 1e-9), st.integers(-(2**31), 2**31 - 1))
def test_ordinary_numbers_are_kept(number, whole):
    ds = Dataset()
    ds.SliceThickness, ds.InstanceNumber, ds.TriggerTime = float(f"{number:.6g}"), whole, float(f"{number:.3g}")
    before = [str(ds[k].value) for k in ("SliceThickness", "InstanceNumber", "TriggerTime")]
    Deidentifier(KEY).deidentify(ds)
    assert [str(ds[k].value) for k in ("SliceThickness", "InstanceNumber", "TriggerTime")] == before


@pytest.mark.parametrize(
    "kind, good, bad",
    [
        ("DS", ["1", "-1.5", "+.5", "1.", "1E-3", "1e+10"], ["", "1 2", "1,5", "0x1", "nan", "inf", "1\\2", "१"]),
        ("IS", ["0", "-12", "+7"], ["1.5", "1e3", "١", "", "Dr"]),
        ("UI", ["1.2.840", "0"], ["1..2", ".1", "1." * 40 + "1", "1.2.x", ""]),
        ("DA", ["20240229"], ["2024", "2024-02-29", "2024022x"]),
        ("TM", ["10", "1011", "101112", "101112.123456"], ["10:11", "101112.", "1", "noon"]),
        ("DT", ["2024", "20240229101112.5+0100"], ["20240229T10", "x"]),
        ("AS", ["012Y"], ["12Y", "012y", "012"]),
        ("CS", ["A_B 1"], ["a", "A^B", "A" * 17, "Ä"]),
    ],
)
def test_grammars(kind, good, bad):
    assert all(grammar.matches(kind, text) for text in good)
    assert not any(grammar.matches(kind, text) for text in bad)


@pytest.mark.parametrize(
    "text",
    [
        "B30f",
        "Br40d",
        "STANDARD",
        "syngo CT 2012B",
        "SIEMENS",
        "SOMATOM Definition AS+",
        "LightSpeed VCT",
        "BLOB-OS-TF",
        "1H",
        "HU",
    ],
)
def test_technical_text_is_recognised(text):
    assert grammar.is_technical(text)


@pytest.mark.parametrize(
    "text", ["Smith", "SMITH^JOHN", "John 12", "19701231", "patient B30f", "MRN 1234567", "B30f\x00Smith", "Ä1"]
)
def test_non_technical_text_is_recognised(text):
    assert not grammar.is_technical(text)


def test_code_meanings_are_taken_from_the_standard():
    ds = Dataset()
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "T-D3000", "SRT", "Smith^John"
    other = Dataset()
    other.CodeValue, other.CodingSchemeDesignator, other.CodeMeaning = "Smith^John", "99 Dr Smith", "Chest of Smith"
    ds.AnatomicRegionSequence = [item, other]
    Deidentifier(KEY).deidentify(ds)
    assert item.CodeMeaning == "Thoracic structure" and item.CodeValue == "T-D3000"
    assert [other.CodeValue, other.CodingSchemeDesignator, other.CodeMeaning] == ["REMOVED"] * 3


def test_names_hidden_in_numbers_are_removed(tmp_path):
    write_ct(tmp_path / "in", stored(2, 8, 8), OBLIQUE, KVP="120.00000", Exposure="200200")
    for file in (tmp_path / "in").iterdir():
        content = file.read_bytes()
        assert b"120.00000 " in content and b"200200" in content
        content = content.replace(b"120.00000 ", b"Smith^John").replace(b"200200", b"Dr Who")
        file.write_bytes(content + b"\xfc\xff\xfc\xffOB\0\0\x0a\0\0\0Smith^John")
    volume = read_volume(tmp_path / "in")
    write_derived(tmp_path / "out", volume, MADE, deidentifier=Deidentifier(KEY))
    for file in (tmp_path / "out").iterdir():
        assert b"Smith" not in file.read_bytes() and b"Who" not in file.read_bytes()
    np.testing.assert_array_equal(read_volume(tmp_path / "out").data, volume.data)
