"""De-identification removes a marker from every attribute of the profile, also from the bytes of the files."""

import os
import shutil
import stat
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_series import LIDC, MADE, OBLIQUE, by_simpleitk, errors, headers, stored, write_ct, write_enhanced_ct
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.datadict import DicomDictionary, dictionary_VR, keyword_for_tag
from pydicom.sr.codedict import codes
from refusal import refused

from medgen.io.deidentification.deidentify import Deidentifier, _patient, profile, read_key
from medgen.io.dicom.derived.references import NOTICE
from medgen.io.dicom.derived.write import write_derived
from medgen.io.read import read_volume

KEY = bytes(range(32))
MARK, NUMBER, UID = "ZQMARKZQ", 918273645, "1.2.3.91827364"
DATE, TIME = "17761204", "045917.135791"
MARKED = {
    **dict.fromkeys(("AE", "CS", "LO", "SH", "LT", "ST", "UT", "UC", "PN", "UR"), MARK),
    **{"DA": DATE, "TM": TIME, "DT": DATE + TIME, "UI": UID, "AS": "097Y", "IS": str(NUMBER), "DS": str(NUMBER)},
    **dict.fromkeys(("OB", "OW", "UN"), MARK.encode()),
    **dict.fromkeys(("UL", "SL", "FD", "FL"), NUMBER),
}
TEXTS = ("LO", "SH", "LT", "ST", "UT", "UC", "UR", "PN", "AE", "AS", "DA", "DT", "TM")
ORDERS = (
    "PatientBirthDateInAlternativeCalendar PatientDeathDateInAlternativeCalendar DeviceID AcquisitionProtocolName "
    "PlacerOrderNumberProcedure FillerOrderNumberProcedure PlacerOrderNumberImagingServiceRequestRetired "
    "FillerOrderNumberImagingServiceRequestRetired NTPSourceAddress ReconstructionDescription FrameLabel"
).split()
KEPT_APART = {"SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "PatientID"}


def marked(ds):
    """Mark every attribute of the profile, free text, private elements, overlays, curves and unknown elements;
    in the data set itself, in a sequence that is kept, and some of them in every sequence of the profile."""
    ds.ContributingEquipmentSequence = [_all_marked(Dataset())]
    return _all_marked(ds)


def _all_marked(ds):
    for tag in profile():
        keyword = keyword_for_tag(tag)
        kind = dictionary_VR(tag) if keyword else "LO"
        if tag >> 16 in (0, 2) or keyword in KEPT_APART or tag == 0xFFFCFFFC:
            continue
        if kind == "SQ":
            ds.add_new(tag, "SQ", [_some_marked(Dataset())])
        elif kind in MARKED:
            ds.add_new(tag, kind, MARKED[kind])
    for keyword in ("EvaluatorName", "SegmentDescription", "MaskOperationExplanation", "ExtendedCodeMeaning"):
        setattr(ds, keyword, MARK)
    ds.MultiFrameSourceSOPInstanceUID = UID
    ds.private_block(0x0019, MARK, create=True).add_new(1, "LO", MARK)
    ds.add_new(0x60004000, "LT", MARK)
    ds.add_new(0x50003000, "OW", MARK.encode())
    ds.add_new(0x00085678, "LO", MARK)
    return ds


def _some_marked(ds):
    ds.ReferencedSOPInstanceUID, ds.PatientName, ds.InstitutionName, ds.TextValue = UID, MARK, MARK, MARK
    ds.private_block(0x0019, MARK, create=True).add_new(1, "LO", MARK)
    return ds


def values(dataset):
    for element in dataset:
        if element.VR == "SQ":
            for inner in element.value:
                yield from values(inner)
        else:
            yield element.tag, element.value if element.tag != 0x7FE00010 else ""


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("kind", ["single", "enhanced"])
def test_marker_in_every_attribute_is_removed(tmp_path, kind, shift):
    if kind == "single":
        write_ct(tmp_path / "in", stored(2, 8, 8), OBLIQUE)
    else:
        write_enhanced_ct(tmp_path / "in/a.dcm", stored(2, 8, 8), OBLIQUE)
    for path in (tmp_path / "in").iterdir():
        ds = marked(pydicom.dcmread(path))
        ds.PatientID = MARK
        if kind == "enhanced":
            for group in ds.PerFrameFunctionalGroupsSequence:
                group.FrameContentSequence[0].FrameComments = MARK
                group.FrameContentSequence[0].FrameAcquisitionDateTime = DATE + TIME
        ds.save_as(path)
        assert sum(MARK in str(value) or UID in str(value) for _, value in values(ds)) > 500  # the check can fail
    volume = read_volume(tmp_path / "in")
    changes = write_derived(tmp_path / "out", volume, MADE, deidentifier=Deidentifier(KEY, shift))
    gone = (MARK, UID, DATE, str(NUMBER), "097Y") + (() if shift else (TIME,))
    for path in (tmp_path / "out").iterdir():
        for tag, value in values(pydicom.dcmread(path)):
            assert not any(mark in str(value) for mark in gone), (tag, value)
            assert not tag.is_private
        content = path.read_bytes()
        assert not any(mark.encode() in content for mark in gone)
    assert not any(mark in change for change in changes for mark in gone)
    assert changes["00101010 PatientAge removed"] >= 2 and changes["00190010 private removed"] >= 2
    back = read_volume(tmp_path / "out")
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_array_equal(back.affine, volume.affine)


@pytest.mark.parametrize("vr", [None, "CS"])
def test_every_text_element_of_the_dictionary_is_removed(vr):
    """Every element that DICOM defines as text, dates included; files may give them another VR."""
    ds, texts = Dataset(), {}
    for tag, (kinds, *_) in DicomDictionary.items():
        kind = next((k for k in kinds.split(" or ") if k in TEXTS), None)
        if kind and tag >> 16 > 2:
            texts[tag] = MARKED[kind]
            ds.add_new(tag, vr or kind, MARKED[kind])
    ds.ContributingEquipmentSequence = [deepcopy(ds)]
    Deidentifier(KEY).deidentify(ds)
    kept = {keyword_for_tag(tag) for tag, value in values(ds) if tag in texts and texts[tag] in str(value)}
    assert len(texts) > 900 and not kept


def test_orders_devices_and_labels_are_removed_and_kernels_codes_and_units_kept():
    ds = Dataset()
    for keyword in ORDERS:
        setattr(ds, keyword, MARK)
    ds.PositionReferenceIndicator, ds.ConvolutionKernel, ds.RescaleType, ds.CodeMeaning = MARK, "B30f", "HU", "Chest"
    ds.CodeValue, ds.CodingSchemeDesignator = "T-D3000", "SRT"
    changes = Deidentifier(KEY).deidentify(ds)
    assert MARK not in str(ds) and sum(changes.values()) == len(ORDERS) + 2
    assert "PositionReferenceIndicator" in ds  # type 2: required, may be empty
    assert (ds.ConvolutionKernel, ds.RescaleType, ds.CodeMeaning) == ("B30f", "HU", "Thoracic structure")


def test_private_creator_is_removed_with_its_pointer():
    ds, item = Dataset(), Dataset()
    item.DimensionIndexPrivateCreator = item.FunctionalGroupPrivateCreator = MARK
    item.DimensionIndexPointer = 0x00209056
    ds.DimensionIndexSequence = [item]
    Deidentifier(KEY).deidentify(ds)
    assert [element.keyword for element in ds.DimensionIndexSequence[0]] == ["DimensionIndexPointer"]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is absent")
@pytest.mark.parametrize("shift", [False, True])
def test_dciodvfy_finds_no_error_that_the_source_does_not_have(tmp_path, shift):
    write_ct(tmp_path / "single", stored(2, 8, 8))
    write_enhanced_ct(tmp_path / "enhanced/a.dcm", stored(2, 8, 8), OBLIQUE)
    for name in ("single", "enhanced"):
        write_derived(tmp_path / "out", read_volume(tmp_path / name), MADE, deidentifier=Deidentifier(KEY, shift))
        assert errors(tmp_path / "out") <= errors(tmp_path / name)


@pytest.mark.skipif(not LIDC.is_dir(), reason="../shared/data/lidc_dicom is absent")
@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is absent")
def test_a_scanner_series_keeps_values_and_place_and_nothing_of_its_header(tmp_path):
    for n, path in enumerate(sorted(LIDC.iterdir())):
        if 4 <= n < 8:
            (tmp_path / "in").mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / "in")
    volume = read_volume(tmp_path / "in")
    write_derived(tmp_path / "out", volume, MADE, deidentifier=Deidentifier(KEY))
    (a, grid), (b, same) = by_simpleitk(tmp_path / "in"), by_simpleitk(tmp_path / "out")
    assert np.array_equal(a, b) and grid == same
    assert errors(tmp_path / "out") <= errors(tmp_path / "in")
    known = set()
    for ds in headers(tmp_path / "in"):
        for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            known.add(str(ds[keyword].value))
        for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "PatientBirthDate", "StudyID"):
            if len(str(ds.get(keyword) or "")) > 3:
                known.add(str(ds[keyword].value))
    for path in (tmp_path / "out").iterdir():
        header = path.read_bytes()[: -volume.data[..., 0].size * 2]
        assert not any(text.encode() in header for text in known)


def test_without_an_id_a_name_counts_without_case_and_empty_parts():
    def of(name, born="19600102", number=""):
        ds = Dataset()
        ds.PatientName, ds.PatientBirthDate, ds.PatientID = name, born, number
        return _patient(ds)

    assert len({of(name) for name in ("DOE^JANE", "Doe^Jane^^^", " doe ^jane", "DOE^JANE==")}) == 1
    assert len({of("DOE^JANE"), of("DOE^JOHN"), of("DOE^JANE", "19600103"), of("DOE^^JANE"), of("x", number="7")}) == 5


@pytest.mark.parametrize("name", ["", "Anonymous", "ANON^ANON", "Patient 1", "De-identified"])
@pytest.mark.parametrize("born", ["", "19000101", "19700101"])
def test_what_an_anonymiser_gave_to_all_identifies_nobody(name, born):
    def of(study):
        ds = Dataset()
        ds.PatientName, ds.PatientBirthDate, ds.PatientID, ds.StudyInstanceUID = name, born, "", study
        return _patient(ds)

    assert of("1.2") != of("1.3") and of("1.2") == of("1.2")


@pytest.mark.parametrize("number", ["ANON", "Anonymous", "0", "000000", "XXXX", "REMOVED", "N/A", "Test", "99999999"])
def test_an_id_that_an_anonymiser_gave_to_all_identifies_nobody(number):
    def of(name, study="1.2"):
        ds = Dataset()
        ds.PatientName, ds.PatientID, ds.StudyInstanceUID = name, number, study
        return _patient(ds)

    assert of("Meier^A") != of("Huber^B") and of("Meier^A") == of("Meier^A", "1.3")
    assert of("Anonymous") != of("Anonymous", "1.3")


@pytest.mark.parametrize("number", ["1", "patient01", "Case 7", "00001", "A0", "0x5", "9"])
def test_an_id_with_a_number_identifies_a_patient(number):
    ds = Dataset()
    ds.PatientName, ds.PatientID, ds.StudyInstanceUID = "Anonymous", number, "1.2"
    assert _patient(ds) == number


def test_one_key_gives_one_patient_and_consistent_uids(tmp_path):
    uids = [write_ct(tmp_path / name, stored(2, 8, 8)) for name in "ab"]
    for path in (tmp_path / "b").iterdir():  # another series of the same study
        ds, first = pydicom.dcmread(path), pydicom.dcmread(tmp_path / "a/000.dcm")
        ds.StudyInstanceUID, ds.FrameOfReferenceUID = first.StudyInstanceUID, first.FrameOfReferenceUID
        ds.save_as(path)
    made = {}
    for name, key in (("a", KEY), ("b", KEY), ("a", KEY[::-1])):
        out = tmp_path / f"{name}{key[0]}"
        write_derived(out, read_volume(tmp_path / name), MADE, deidentifier=Deidentifier(key))
        made[name, key[0]] = headers(out)
    write_derived(tmp_path / "again", read_volume(tmp_path / "a"), MADE, deidentifier=Deidentifier(KEY))
    for path in (tmp_path / "a0").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    a, b, other = made["a", 0][0], made["b", 0][0], made["a", 31][0]
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert a[keyword] == b[keyword] and a[keyword] != other[keyword] and a.get(keyword)
    assert a.SeriesInstanceUID != b.SeriesInstanceUID
    for ds, uid in ((a, uids[0]), (b, uids[1])):
        source = Deidentifier(KEY).uid(uid)
        assert ds.ReferencedSeriesSequence[0].SeriesInstanceUID == source != uid
        assert ds.SeriesInstanceUID not in (source, uid, MADE.uid(uid), other.SeriesInstanceUID)
        images = {i.ReferencedSOPInstanceUID for i in ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
        originals = headers(tmp_path / ("a" if ds is a else "b"))
        assert images == {Deidentifier(KEY).uid(o.SOPInstanceUID) for o in originals}
        assert ds.SourceImageSequence[0].ReferencedSOPInstanceUID in images
        assert ds.SOPClassUID == originals[0].SOPClassUID


def test_header_records_the_derivation_and_marks_the_image_as_synthetic(tmp_path):
    write_ct(tmp_path / "in", stored(2, 8, 8))
    for shift, word, code in ((False, "REMOVED", "113100"), (True, "MODIFIED", "113107")):
        write_derived(tmp_path / "out", read_volume(tmp_path / "in"), MADE, deidentifier=Deidentifier(KEY, shift))
        ds = headers(tmp_path / "out")[0]
        assert ds.PatientIdentityRemoved == "YES" and ds.LongitudinalTemporalInformationModified == word
        methods = {(c.CodeValue, c.CodeMeaning) for c in ds.DeidentificationMethodCodeSequence}
        assert {codes.DCM.BasicApplicationConfidentialityProfile.value, code} == {c for c, _ in methods}
        assert ds.SeriesDescription.startswith(NOTICE) and ds.DerivationDescription.startswith(NOTICE)
        assert (ds.PatientBirthDate, ds.PatientSex, ds.AccessionNumber) == ("", "", "")
        assert bool(ds.StudyDate) is shift and ds.KVP == 120 and ds.PixelSpacing == [0.8, 0.6]


def test_shifted_dates_keep_their_distance_within_a_patient_and_differ_between_patients():
    moved = {}
    for patient in ("p1", "p2"):
        ds = Dataset()
        ds.PatientID, ds.StudyDate, ds.AcquisitionDate, ds.ContentTime = patient, "20200304", "20200306", "101112"
        ds.AcquisitionDateTime, ds.PatientBirthDate, ds.SeriesDate = "20200305101112.5", "19500102", "202003"
        Deidentifier(KEY, shift_dates=True).deidentify(ds)
        day = [
            np.datetime64(f"{d[:4]}-{d[4:6]}-{d[6:8]}")
            for d in (ds.StudyDate, ds.AcquisitionDateTime, ds.AcquisitionDate)
        ]
        assert np.diff(day).astype(int).tolist() == [1, 1] and ds.AcquisitionDateTime.endswith("101112.5")
        assert day[0] < np.datetime64("2020-03-04") and ds.ContentTime == "101112"
        assert not ds.PatientBirthDate and not ds.SeriesDate.startswith("202003")
        moved[patient] = day[0]
    assert moved["p1"] != moved["p2"]


@pytest.mark.parametrize(
    "tags",
    [
        {"BurnedInAnnotation": "YES"},
        {"Modality": "US"},
        {"Modality": "OT"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"},
        {"SequenceOfUltrasoundRegions": [Dataset()]},
        {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
    ],
)
def test_images_that_may_show_a_name_are_refused(tmp_path, tags):
    write_ct(tmp_path / "in", stored(2, 8, 8), **tags)
    with refused("deidentify-pixels-show-name", names="000.dcm"):
        write_derived(tmp_path / "out", read_volume(tmp_path / "in"), MADE, deidentifier=Deidentifier(KEY))
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom.valuerep")
@given(
    st.dictionaries(st.sampled_from(["PatientID", "PatientName", "PatientComments", "StudyID"]), st.binary(max_size=40))
)
def test_invalid_values_are_removed(values):
    ds = Dataset()
    ds.StudyInstanceUID = "not a UID"
    for keyword, value in values.items():
        tag = pydicom.tag.Tag(keyword)
        ds[tag] = pydicom.dataelem.RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
    ds.RetrieveAETitle = "A" * 40
    Deidentifier(KEY).deidentify(ds)
    assert len(ds.PatientID) == 16 and "PatientComments" not in ds and not ds.get("StudyID")
    assert ds.StudyInstanceUID.startswith("2.25.")


WARNED = """
import warnings
from pydicom import Dataset
from medgen.io.deidentification import deidentify
from medgen.pacs.server import header
before, seen = warnings.filters, []
class Spy(deidentify.Deidentifier):
    def _digest(self, kind, text):
        seen.append(warnings.filters is before)
        return super()._digest(kind, text)
ds = Dataset()
ds.StudyInstanceUID, ds.StudyDate, ds.PatientID = "Jane Doe", "Jane", "Jane" * 30
header(ds, ["StudyInstanceUID", "StudyDate"])
Spy(b"k" * 32).deidentify(ds)
assert seen and all(seen)
"""


def test_warnings_that_quote_values_are_disabled_for_all_threads():
    """Warning filters are shared by all threads; setting and resetting them in parallel would let names through."""
    done = subprocess.run([sys.executable, "-W", "always::UserWarning", "-c", WARNED], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_uids_that_dicom_defines_stay_and_others_are_valid():
    remap = Deidentifier(KEY).uid
    assert remap("1.2.840.10008.1.4.1.1") == "1.2.840.10008.1.4.1.1"
    for uid in ("1.2.3", "1.2.840.113619.2.55", "x", "1.2.840.10008.20260403.4711", "1.2.840.10008.4711"):
        assert pydicom.uid.UID(remap(uid)).is_valid and remap(uid) == remap(uid) != uid


def test_key_is_random_private_and_kept(tmp_path):
    key = read_key(tmp_path / "key")
    assert len(key) == 32 and key == read_key(tmp_path / "key") != read_key(tmp_path / "other")
    assert repr(key) not in repr(Deidentifier(key))
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
        (tmp_path / "key").chmod(0o644)
        with refused("deidentify-key-open"):
            read_key(tmp_path / "key")
    for text in ("", "secret", "abcd"):
        (tmp_path / "other").write_text(text)
        with refused("deidentify-key-invalid"):
            read_key(tmp_path / "other")
    with refused("deidentify-key-unusable"):
        read_key(Path(tmp_path / "absent/key"))
