"""Derived series: values, positions, references and marks; read with pydicom, SimpleITK and dciodvfy."""

import shutil
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from dicom_series import (
    AXIAL,
    LIDC,
    MADE,
    OBLIQUE,
    RECODED,
    SYNTAXES,
    by_simpleitk,
    errors,
    headers,
    recode,
    stored,
    write_ct,
    write_enhanced_ct,
    write_enhanced_mr,
)
from hypothesis import given
from hypothesis import strategies as st
from pydicom.pixels import apply_modality_lut, get_encoder
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from refusal import refused

from medgen.io.dicom.derived.references import NOTICE
from medgen.io.dicom.derived.write import write_derived
from medgen.io.dicom.pixels import Format, encoding
from medgen.io.dicom.units import UNSPECIFIED
from medgen.io.read import read_volume
from medgen.io.volume import Volume


def sources(folder):
    """One series of each supported kind, by name."""
    kinds = {
        "axial": lambda to: write_ct(to, stored()),
        "oblique": lambda to: write_ct(to, stored(), OBLIQUE),
        "signed": lambda to: write_ct(to, stored(low=-2000), kind="i2", rescale=lambda k: (1, 0)),
        "rescaled slice by slice": lambda to: write_ct(to, stored(), rescale=lambda k: (1 + k * 0.25, -1000 - k)),
        "8 bits": lambda to: write_ct(to, stored(rows=11, columns=13, high=256), kind="u1"),
        "tilted": lambda to: write_ct(to, stored(), ImagePositionPatient=lambda k: [0, 1.5 * k, 2.0 * k]),
        "enhanced": lambda to: write_enhanced_ct(to / "a.dcm", stored(), OBLIQUE, order=[3, 0, 4, 1, 2]),
        "enhanced MR": lambda to: write_enhanced_mr(to / "a.dcm", stored(), OBLIQUE, order=[3, 0, 4, 1, 2]),
        "enhanced, signed": lambda to: write_enhanced_ct(
            to / "a.dcm", stored(low=-2000), kind="i2", rescale=lambda k: (1 + k % 2, k)
        ),
    }
    for name, syntax in SYNTAXES.items():
        if get_encoder(syntax).is_available:
            kinds[name] = lambda to, syntax=syntax: write_ct(to, stored(), syntax=syntax)
    for name, syntax in RECODED.items():
        kinds[name] = lambda to, syntax=syntax: (write_ct(to, stored()), recode(to, syntax))
    return kinds


@pytest.fixture(params=sources(None))
def series(request, tmp_path):
    sources(tmp_path)[request.param](tmp_path / "source")
    return tmp_path / "source"


def test_unchanged_volume_keeps_values_and_position(series, tmp_path):
    volume = read_volume(series)
    write_derived(tmp_path / "out", volume, MADE)
    back = read_volume(tmp_path / "out")
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_array_equal(back.affine, volume.affine)
    (a, grid), (b, same) = by_simpleitk(series), by_simpleitk(tmp_path / "out")
    np.testing.assert_array_equal(a, b)
    assert grid == same
    if len(list(series.iterdir())) == 1:
        return
    made = {ds.SourceImageSequence[0].ReferencedSOPInstanceUID: ds for ds in headers(tmp_path / "out")}
    for source in headers(series):
        ds = made[source.SOPInstanceUID]
        assert ds.pixel_array.dtype == source.pixel_array.dtype.newbyteorder("=") and ds.BitsStored == source.BitsStored
        np.testing.assert_array_equal(
            apply_modality_lut(ds.pixel_array, ds), apply_modality_lut(source.pixel_array, source)
        )
        for keyword in "ImagePositionPatient ImageOrientationPatient PixelSpacing FrameOfReferenceUID".split():
            assert ds.get(keyword) == source.get(keyword)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is absent")
def test_dciodvfy_finds_no_error_that_the_source_does_not_have(series, tmp_path):
    write_derived(tmp_path / "out", read_volume(series), MADE)
    if headers(series)[0].file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
        recode(series, ExplicitVRLittleEndian)  # dciodvfy does not inflate
    assert errors(tmp_path / "out") <= errors(series)


@pytest.mark.skipif(not LIDC.is_dir(), reason="../shared/data/lidc_dicom is absent")
@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is absent")
def test_a_scanner_series_conforms_and_keeps_its_values_and_place(tmp_path):
    volume = read_volume(LIDC)
    write_derived(tmp_path / "out", volume, MADE)
    back = read_volume(tmp_path / "out")
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_array_equal(back.affine, volume.affine)
    (a, grid), (b, same) = by_simpleitk(LIDC), by_simpleitk(tmp_path / "out")
    assert np.array_equal(a, b) and grid == same
    assert errors(tmp_path / "out") <= errors(LIDC)


def test_patient_and_study_are_kept_and_outdated_elements_removed(series, tmp_path):
    write_derived(tmp_path / "out", read_volume(series), MADE)
    originals = headers(series)
    kept = (
        "PatientName PatientID PatientBirthDate PatientSex StudyInstanceUID StudyDate StudyTime StudyID "
        "AccessionNumber StudyDescription FrameOfReferenceUID SOPClassUID Modality"
    ).split()
    for ds in headers(tmp_path / "out"):
        assert all(ds[keyword] == originals[0][keyword] for keyword in kept)
        assert ds.ImageType[0] == "DERIVED" and ds.ImageType[1] == (
            "PRIMARY" if "NumberOfFrames" in ds else "SECONDARY"
        )
        for text in (ds.SeriesDescription, ds.ImageComments, ds.DerivationDescription):
            assert text.startswith(NOTICE)
        assert len(ds.SeriesDescription) <= 64 and ds.get("BurnedInAnnotation") == originals[0].get(
            "BurnedInAnnotation"
        )
        for part in (MADE.model, MADE.sha256, MADE.version):
            assert part in ds.DerivationDescription
        (listed,) = ds.ReferencedSeriesSequence
        assert listed.SeriesInstanceUID == originals[0].SeriesInstanceUID
        named = {image.ReferencedSOPInstanceUID for image in listed.ReferencedInstanceSequence}
        assert named == {o.SOPInstanceUID for o in originals}
        words = str(ds)
        for gone in ("Contrast/Bolus", "Exposure", "Tube Current", "CTDIvol", "Padding"):
            assert gone not in words
        assert ds.ContributingEquipmentSequence[-1].Manufacturer == "Scanner Works"


def test_contrast_attributes_are_kept_if_contrast_is_kept(tmp_path):
    write_ct(tmp_path / "source", stored())
    write_derived(tmp_path / "out", read_volume(tmp_path / "source"), replace(MADE, removes_contrast=False))
    assert all(ds.ContrastBolusAgent == "Iohexol" for ds in headers(tmp_path / "out"))


def test_private_elements_and_overlays_are_removed(tmp_path):
    write_ct(tmp_path / "source", stored())
    for path in (tmp_path / "source").iterdir():
        ds = pydicom.dcmread(path)
        ds.private_block(0x0019, "VENDOR", create=True).add_new(1, "DS", "12.5")
        ds.add_new(0x60000010, "US", ds.Rows)
        ds.save_as(path)
    write_derived(tmp_path / "out", read_volume(tmp_path / "source"), MADE)
    for ds in headers(tmp_path / "out"):
        assert not [e for e in ds if e.tag.is_private or e.tag.group == 0x6000]


def test_a_rerun_gives_the_same_bytes_and_another_model_other_uids(series, tmp_path):
    volume = read_volume(series)
    for name, made in (
        ("a", MADE),
        ("b", MADE),
        ("c", replace(MADE, sha256="0" * 64)),
        ("d", replace(MADE, target="t")),
    ):
        write_derived(tmp_path / name, volume, made)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    uids = [ds.SOPInstanceUID for name in "acd" for ds in headers(tmp_path / name)]
    assert len(set(uids)) == len(uids) and all(pydicom.uid.UID(uid).is_valid for uid in uids)
    assert len({ds.SeriesInstanceUID for name in "acd" for ds in headers(tmp_path / name)}) == 3


def test_a_source_corrected_under_its_own_uids_gives_other_uids(tmp_path):
    """An archive keeps the first object of a UID, so the corrected result would be lost."""

    def brighter(ds):
        ds.PixelData = (ds.pixel_array + 1).tobytes()

    write_ct(tmp_path / "source", stored(), PatientID="WRONG")
    volume = read_volume(tmp_path / "source")
    write_derived(tmp_path / "a", volume, MADE)
    write_derived(tmp_path / "same", volume.replaced(volume.data + 1e-3), MADE)  # another machine rounds otherwise
    for name, change in (("b", brighter), ("c", lambda ds: setattr(ds, "PatientID", "RIGHT"))):
        for path in (tmp_path / "source").iterdir():
            ds = pydicom.dcmread(path)
            change(ds)
            ds.save_as(path)
        write_derived(tmp_path / name, read_volume(tmp_path / "source"), MADE)
    uids = [{ds.SOPInstanceUID for ds in headers(tmp_path / name)} for name in ("a", "b", "c", "same")]
    assert len(set.union(*uids[:3])) == sum(map(len, uids[:3])) and uids[3] == uids[0]


def test_values_beyond_the_sources_bits_are_kept(tmp_path):
    """12 bits unsigned from -1024 HU: -1500 and 20000 HU need signed values or more bits, 90000 another rescale."""
    pixels = stored()
    write_ct(tmp_path / "source", pixels, BitsStored=12, HighBit=11)
    volume = read_volume(tmp_path / "source")
    for low, high, exact in ((-1500, 3000, True), (-1000, 20000, True), (-1000, 90000, False)):
        data = volume.data.copy()
        data[0, 0, 0], data[1, 0, 2] = low, high
        write_derived(tmp_path / "out", volume.replaced(data), MADE)
        back = read_volume(tmp_path / "out").data
        np.testing.assert_allclose(back, data, atol=0 if exact else 0.7)


@pytest.mark.parametrize(
    "unit, kind",
    [
        (None, "HU"),
        ("MGML (RescaleType)", "MGML"),
        (UNSPECIFIED, "US"),
        ("no unit (Parametric Map Storage without RescaleType)", "US"),
        ("stored values that only a RealWorldValueMapping turns into HU", "US"),
    ],
)
def test_rescale_type_is_a_unit_or_us(tmp_path, unit, kind):
    """A description of a missing unit is no RescaleType."""
    write_ct(tmp_path / "source", stored(), BitsStored=12, HighBit=11)
    volume = read_volume(tmp_path / "source")
    data = np.random.default_rng(0).uniform(0, 1, volume.data.shape).astype(np.float32)  # needs another rescale
    write_derived(tmp_path / "out", replace(volume.replaced(data, np.float32), unit=unit), MADE)
    assert {ds.RescaleType for ds in headers(tmp_path / "out")} == {kind}


def test_image_with_range_zero_to_one_keeps_its_resolution(tmp_path):
    write_ct(tmp_path / "source", stored())
    volume = read_volume(tmp_path / "source")
    data = np.random.default_rng(0).uniform(0, 1, volume.data.shape).astype(np.float32)
    write_derived(tmp_path / "out", volume.replaced(data, np.float32), MADE)
    np.testing.assert_allclose(read_volume(tmp_path / "out").data, data, atol=1 / 65534)


@given(
    st.sampled_from([Format(12, 16, False), Format(16, 16, True), Format(8, 8, False)]),
    st.lists(st.tuples(st.sampled_from([1.0, 2.0, 0.5, 0.123457]), st.integers(-2000, 100)), min_size=2, max_size=2),
    st.integers(0, 2**32 - 1),
)
def test_stored_values_of_the_source_are_written_unchanged(form, rescale, seed):
    numbers = np.random.default_rng(seed).integers(form.range[0], form.range[1] + 1, (2, 3, 4))
    rescale = [(slope, float(intercept)) for slope, intercept in rescale]
    values = [n * slope + intercept for n, (slope, intercept) in zip(numbers, rescale, strict=True)]
    data = np.stack(values, -1).astype(np.float32)
    code = encoding(data, bool(np.all(data == np.rint(data))), [form] * 2, rescale)
    assert code.source and code.format == form
    for k in range(2):
        np.testing.assert_array_equal(code.stored(data[:, :, k], k), numbers[k])


# Refused ------------------------------------------------------------------------------------------------


def test_non_dicom_input_and_unwritable_output_are_refused(tmp_path):
    with refused("output-source-not-dicom"):
        write_derived(tmp_path / "out", Volume(np.zeros((2, 2, 2)), np.eye(4)), MADE)
    write_ct(tmp_path / "source", stored())
    volume = read_volume(tmp_path / "source")
    (tmp_path / "file").write_text("")
    with refused("output-not-writable", names="file/out"):
        write_derived(tmp_path / "file/out", volume, MADE)
    write_ct(tmp_path / "nameless", stored())
    nameless = pydicom.dcmread(tmp_path / "nameless/000.dcm")
    nameless.SOPInstanceUID = ""
    nameless.save_as(tmp_path / "nameless/000.dcm", enforce_file_format=False)
    with refused("dicom-reference-missing", names=("000.dcm", "SOPInstanceUID")):
        write_derived(tmp_path / "out", read_volume(tmp_path / "nameless"), MADE)
    (tmp_path / "source/003.dcm").unlink()
    with refused("dicom-header-unusable", names="003.dcm"):
        write_derived(tmp_path / "out", volume, MADE)
    assert not (tmp_path / "out").exists()


def test_parts_of_an_enhanced_image_are_written_alone(tmp_path):
    write_enhanced_ct(tmp_path / "source/a.dcm", stored(8), AXIAL, stacks=2)
    volume = read_volume(tmp_path / "source", series="StackID 2")
    write_derived(tmp_path / "out", volume, MADE)
    back = read_volume(tmp_path / "out")
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_array_equal(back.affine, volume.affine)
    (ds,) = headers(tmp_path / "out")
    named = [
        g.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for g in ds.PerFrameFunctionalGroupsSequence
    ]
    assert named == [5, 6, 7, 8]


@pytest.mark.skipif("big endian" not in RECODED, reason="dcmconv (Debian's dcmtk) is absent")
def test_numbers_and_words_of_a_big_endian_header_are_the_same_in_little_endian(tmp_path):
    words = np.arange(6, dtype="<u2").tobytes()
    write_ct(tmp_path / "source", stored(2))
    for path in (tmp_path / "source").iterdir():
        ds = pydicom.dcmread(path)
        ds.add_new("RedPaletteColorLookupTableData", "OW", words)
        ds.VOILUTSequence = [pydicom.Dataset()]
        ds.VOILUTSequence[0].LUTDescriptor = [6, 0, 16]
        ds.VOILUTSequence[0].add_new("LUTData", "OW", words)
        ds.save_as(path)
    write_derived(tmp_path / "little", read_volume(tmp_path / "source"), MADE)
    recode(tmp_path / "source", RECODED["big endian"])
    write_derived(tmp_path / "big", read_volume(tmp_path / "source"), MADE)
    for a, b in zip(headers(tmp_path / "little"), headers(tmp_path / "big"), strict=True):
        assert a == b and a.RedPaletteColorLookupTableData == words and a.VOILUTSequence[0].LUTData == words


def test_study_with_added_images_gets_new_uids(tmp_path):
    write_ct(tmp_path / "in", stored(6, 12, 13))
    uids = []
    for name, files in (("whole", 6), ("again", 6), ("part", 4)):
        place = tmp_path / f"in_{name}"
        place.mkdir()
        for file in sorted((tmp_path / "in").iterdir())[:files]:
            shutil.copy(file, place)
        write_derived(tmp_path / name, read_volume(place), MADE)
        uids.append(
            {ds.SOPInstanceUID for ds in headers(tmp_path / name)} | {headers(tmp_path / name)[0].SeriesInstanceUID}
        )
    assert uids[0] == uids[1] and not uids[0] & uids[2]


def test_enhanced_image_with_top_level_rescale_round_trips(tmp_path):
    write_enhanced_ct(tmp_path / "in/a.dcm", stored(4, 12, 13))
    ds = pydicom.dcmread(tmp_path / "in/a.dcm")
    for group in (*ds.SharedFunctionalGroupsSequence, *ds.PerFrameFunctionalGroupsSequence):
        group.pop("PixelValueTransformationSequence", None)
    ds.RescaleSlope, ds.RescaleIntercept = "2", "-1024"
    ds.save_as(tmp_path / "in/a.dcm")
    volume = read_volume(tmp_path / "in")
    assert volume.data.max() > 4000 and (volume.data % 2 == 0).all()
    write_derived(tmp_path / "out", volume, MADE)
    np.testing.assert_array_equal(read_volume(tmp_path / "out").data, volume.data)
    np.testing.assert_array_equal(read_volume(tmp_path / "out").affine, volume.affine)


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("slope, intercept", [(None, None), ("1", None), (None, "0"), ("1", ""), ("", "0")])
def test_empty_and_incomplete_rescales_without_effect_are_written_complete(tmp_path, modality, slope, intercept):
    write_ct(tmp_path / "in", stored(3, 12, 13), Modality=modality, RescaleSlope=slope, RescaleIntercept=intercept)
    volume = read_volume(tmp_path / "in")
    write_derived(tmp_path / "out", volume, MADE)
    np.testing.assert_array_equal(read_volume(tmp_path / "out").data, volume.data)
    assert {(ds.RescaleSlope, ds.RescaleIntercept) for ds in headers(tmp_path / "out")} == {(1, 0)}


def test_a_modality_lut_beside_a_rescale_is_written_as_the_values_it_gives(tmp_path):
    write_ct(tmp_path / "in", stored(3, 12, 13), rescale=lambda k: (2, 0), ModalityLUTSequence=[lut()])
    volume = read_volume(tmp_path / "in")
    write_derived(tmp_path / "out", volume, MADE)
    np.testing.assert_array_equal(read_volume(tmp_path / "out").data, volume.data)


def lut():
    table = pydicom.Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, 16])
    table.ModalityLUTType = "HU"
    table.add_new("LUTData", "US", [2 * value for value in range(4096)])
    return table


@pytest.mark.parametrize("number", [lambda k: 1, lambda k: None, lambda k: k + 7])
def test_slices_without_numbers_of_their_own_are_numbered_in_order(tmp_path, number):
    write_ct(tmp_path / "source", stored(5), InstanceNumber=number)
    write_derived(tmp_path / "out", read_volume(tmp_path / "source"), MADE)
    made = sorted(headers(tmp_path / "out"), key=lambda ds: ds.ImagePositionPatient[2])
    first = 7 if number(0) == 7 else 1
    assert [ds.InstanceNumber for ds in made] == [first + k for k in range(5)]
