"""Enhanced multi-frame images, and several volumes in one series."""

import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import OBLIQUE, RECODED, item, recode, stored, write_ct, write_enhanced_ct, write_enhanced_mr
from pydicom.uid import RLELossless
from refusal import refused

from medgen.inference.series import find_series
from medgen.io.dicom.derived import copies as dicom_copies
from medgen.io.dicom.index import indexed
from medgen.io.dicom.pixels import rescale_of
from medgen.io.dicom.read import read_series
from medgen.io.dicom.series import list_series
from medgen.io.formats.itk import itk_affine
from medgen.io.read import read_geometry, read_volume
from medgen.io.volume import same_geometry


@pytest.mark.parametrize("kind, low", [("u2", 0), ("i2", -2000)])
def test_enhanced_ct_equals_the_same_slices_as_single_frames(tmp_path, kind, low):
    pixels, rescale = stored(low=low), lambda k: (1 + k % 2, -1024 + k)
    write_ct(tmp_path / "single", pixels, OBLIQUE, kind=kind, rescale=rescale)
    write_enhanced_ct(tmp_path / "multi/a.dcm", pixels, OBLIQUE, kind=kind, order=[3, 0, 4, 1, 2], rescale=rescale)
    single, multi = read_volume(tmp_path / "single"), read_volume(tmp_path / "multi")
    np.testing.assert_array_equal(multi.data, single.data)
    assert same_geometry(multi.geometry, single.geometry, tolerance=1e-6) and multi.dtype == single.dtype
    assert same_geometry(read_geometry(tmp_path / "multi/a.dcm"), single.geometry, tolerance=1e-6)
    assert [frame for _, frame in multi.frames] == [1, 3, 4, 0, 2]


def test_enhanced_ct_agrees_with_simpleitk(tmp_path):
    write_enhanced_ct(tmp_path / "a.dcm", stored(), OBLIQUE)
    image, volume = sitk.ReadImage(tmp_path / "a.dcm"), read_volume(tmp_path)
    np.testing.assert_array_equal(volume.data, sitk.GetArrayFromImage(image).transpose())
    np.testing.assert_allclose(volume.affine, itk_affine(image), atol=1e-4)


def test_top_level_rescale_of_an_enhanced_image_is_applied(tmp_path):
    pixels = stored()
    write_enhanced_ct(tmp_path / "a.dcm", pixels)
    ds = pydicom.dcmread(tmp_path / "a.dcm")
    for group in ds.PerFrameFunctionalGroupsSequence:
        del group.PixelValueTransformationSequence
    ds.RescaleSlope, ds.RescaleIntercept = "2", "-1000"
    ds.save_as(tmp_path / "a.dcm")
    assert rescale_of(ds, 3, tmp_path) == (2, -1000)
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.data, 2.0 * pixels.transpose(2, 1, 0) - 1000)
    np.testing.assert_array_equal(volume.data, sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "a.dcm")).transpose())
    ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = [
        item(RescaleSlope="1", RescaleIntercept="-7")
    ]
    assert rescale_of(ds, 3, tmp_path) == (1, -7)


def test_stack_of_an_enhanced_image_can_be_chosen(tmp_path):
    pixels = stored(8)
    write_enhanced_ct(tmp_path / "a.dcm", pixels, stacks=2)
    assert [(s.part, len(s.slices)) for s in list_series(tmp_path)] == [("StackID 1", 4), ("StackID 2", 4)]
    with refused("dicom-ambiguous-folder", names=("StackID 1", "StackID 2")):
        read_volume(tmp_path)
    second = read_volume(tmp_path, series="StackID 2")
    np.testing.assert_array_equal(second.data, pixels[4:].transpose(2, 1, 0) - 1024.0)


def test_acquisitions_in_one_series_are_separated(tmp_path):
    pixels = stored(8)
    place = lambda k: [0, 0, 2.0 * (k % 4)]  # noqa: E731
    write_ct(tmp_path, pixels, ImagePositionPatient=place, AcquisitionNumber=lambda k: 5 + k // 4)
    assert [s.part for s in list_series(tmp_path)] == ["AcquisitionNumber 5", "AcquisitionNumber 6"]
    volume = read_series(tmp_path, series="acquisitionnumber 6")
    np.testing.assert_array_equal(volume.data, pixels[4:].transpose(2, 1, 0) - 1024.0)


@pytest.mark.parametrize("tags", [{"AcquisitionNumber": [1, 2]}, {"ContrastBolusAgentPhase": ["ART", "VEN"]}])
@pytest.mark.parametrize("count", [4, 7])
def test_interleaved_phases_are_separated(tmp_path, tags, count):
    pixels, ((keyword, values),) = stored(count), tags.items()
    write_ct(tmp_path, pixels, **{keyword: lambda k: values[k % 2], "AcquisitionTime": lambda k: f"10{k % 2}000"})
    assert [s.part for s in list_series(tmp_path)] == [f"{keyword} {value}" for value in values]
    volume = read_series(tmp_path, series=f"{keyword} {values[1]}")
    np.testing.assert_array_equal(volume.data, pixels[1::2].transpose(2, 1, 0) - 1024.0)
    assert volume.spacing[2] == pytest.approx(5)


@pytest.mark.parametrize(
    "tags",
    [
        {"AcquisitionNumber": lambda k: k // 4},  # head to abdomen
        {"AcquisitionNumber": lambda k: int(k > 5), "ContrastBolusAgentPhase": lambda k: "AB"[k > 5]},
        {"AcquisitionNumber": lambda k: k // 2},  # table positions
        {"AcquisitionTime": lambda k: f"10{k % 2}000", "Modality": "MR"},  # passes
        {"AcquisitionNumber": lambda k: k % 2, "Modality": "MR"},
    ],
)
def test_one_volume_acquired_in_blocks_or_passes_stays_one(tmp_path, tags):
    pixels = stored(8)
    write_ct(tmp_path, pixels, **tags)
    np.testing.assert_array_equal(read_volume(tmp_path).data, pixels.transpose(2, 1, 0) - 1024.0)


def test_copy_of_an_image_counts_once_and_another_image_at_its_position_does_not(tmp_path):
    pixels = stored()
    write_ct(tmp_path, pixels)
    shutil.copy(tmp_path / "002.dcm", tmp_path / "copy of 002.dcm")
    np.testing.assert_array_equal(read_volume(tmp_path).data, pixels.transpose(2, 1, 0) - 1024.0)
    other = pydicom.dcmread(tmp_path / "002.dcm")
    other.SOPInstanceUID = other.SOPInstanceUID[:-1] + str((int(other.SOPInstanceUID[-1]) + 1) % 10)
    other.save_as(tmp_path / "copy of 002.dcm")
    with refused("dicom-same-position", names=("002.dcm", "copy of 002.dcm")):
        read_volume(tmp_path)


def test_different_images_with_one_instance_uid_are_not_taken_for_copies(tmp_path):
    write_ct(tmp_path / "a", stored(), SOPInstanceUID="1.2.3")
    with refused("dicom-duplicate-uid", names=("000.dcm", "001.dcm")):
        read_volume(tmp_path / "a")
    write_ct(tmp_path / "b/p1", stored())
    shutil.copytree(tmp_path / "b/p1", tmp_path / "b/p2")
    for path in (tmp_path / "b/p2").iterdir():  # only the voxels differ
        ds = pydicom.dcmread(path)
        ds.PixelData = bytes(len(ds.PixelData))
        ds.save_as(path)
    with refused("dicom-duplicate-uid", names=("p1/000.dcm", "p2/000.dcm")):
        read_volume(tmp_path / "b")


def test_slices_of_two_patients_or_frames_of_reference_are_refused(tmp_path):
    write_ct(tmp_path / "a", stored(6), PatientID=lambda k: f"p{k // 3}")
    assert [(s.header["PatientID"], len(s.slices)) for s in list_series(tmp_path / "a")] == [("p0", 3), ("p1", 3)]
    write_ct(tmp_path / "b", stored(6), StudyInstanceUID=lambda k: f"1.{k // 3}")
    assert [len(s.slices) for s in list_series(tmp_path / "b")] == [3, 3]
    write_ct(tmp_path / "c", stored(6), FrameOfReferenceUID=lambda k: f"1.{k // 3}")
    with refused("dicom-slices-differ", names=("003.dcm", "frame of reference", "000.dcm")):
        read_volume(tmp_path / "c")


def test_a_missing_frame_and_frames_without_a_description_are_named(tmp_path):
    write_enhanced_ct(tmp_path / "a.dcm", stored(6))
    whole = pydicom.dcmread(tmp_path / "a.dcm")
    size = whole.Rows * whole.Columns * 2
    del whole.PerFrameFunctionalGroupsSequence[3]
    whole.save_as(tmp_path / "a.dcm")
    with refused("dicom-frame-count", names="a.dcm"):
        read_volume(tmp_path)
    whole.NumberOfFrames = 5
    whole.PixelData = whole.PixelData[: 5 * size]
    whole.save_as(tmp_path / "a.dcm")
    with refused("dicom-spacing-uneven", names=("a.dcm frame 3", "a.dcm frame 4")):
        read_volume(tmp_path)


def test_enhanced_mr_keeps_its_values_and_an_echo_can_be_chosen(tmp_path):
    pixels = stored(6, 10, 12)
    write_enhanced_mr(tmp_path / "one/a.dcm", pixels, OBLIQUE)
    image, volume = sitk.ReadImage(tmp_path / "one/a.dcm"), read_volume(tmp_path / "one")
    np.testing.assert_array_equal(volume.data, pixels.transpose(2, 1, 0) * 0.5)
    np.testing.assert_array_equal(volume.data, sitk.GetArrayFromImage(image).transpose())
    np.testing.assert_allclose(volume.affine, itk_affine(image), atol=1e-4)
    write_enhanced_mr(tmp_path / "two/a.dcm", pixels, OBLIQUE, echoes=2)
    assert [(s.part, len(s.slices)) for s in list_series(tmp_path / "two")] == [
        ("EffectiveEchoTime 20.0", 3),
        ("EffectiveEchoTime 80.0", 3),
    ]
    with refused("dicom-ambiguous-folder", names=("EffectiveEchoTime 20", "EffectiveEchoTime 80")):
        read_volume(tmp_path / "two")
    late = read_volume(tmp_path / "two", series="EffectiveEchoTime 80.0")
    np.testing.assert_array_equal(late.data, pixels[3:].transpose(2, 1, 0) * 0.5)


@pytest.mark.parametrize("kind, low", [("u2", 0), ("i2", -2000), ("u1", 0)])
@pytest.mark.parametrize("name", RECODED)
def test_other_transfer_syntaxes_change_nothing(tmp_path, name, kind, low):
    write_ct(tmp_path, stored(3, 10, 11, low=low, high=250 if kind == "u1" else 3000), OBLIQUE, kind=kind)
    plain = read_volume(tmp_path)
    recode(tmp_path, RECODED[name])
    assert pydicom.dcmread(tmp_path / "000.dcm").file_meta.TransferSyntaxUID == RECODED[name]
    again = read_volume(tmp_path)
    np.testing.assert_array_equal(again.data, plain.data)
    assert same_geometry(again.geometry, plain.geometry, tolerance=0.0)
    assert same_geometry(read_geometry(tmp_path), plain.geometry, tolerance=0.0)


@pytest.mark.parametrize("name", RECODED)
def test_enhanced_ct_in_other_transfer_syntaxes(tmp_path, name):
    pixels = stored(4, 10, 12)
    write_enhanced_ct(tmp_path / "a.dcm", pixels, OBLIQUE, order=[2, 0, 3, 1])
    recode(tmp_path, RECODED[name])
    np.testing.assert_array_equal(read_volume(tmp_path).data, pixels.transpose(2, 1, 0) - 1024.0)


@pytest.mark.parametrize("kind", ["file meta", "lengths", "compressed"])
def test_image_exported_twice_counts_once(tmp_path, kind):
    """Another program may write another file meta group, or sequences of undefined length."""
    write_ct(tmp_path / "a", stored(4, 6, 6), RequestAttributesSequence=[item(ScheduledProcedureStepID="1")])
    for file in sorted((tmp_path / "a").iterdir()):
        for number in range(2):
            ds = pydicom.dcmread(file)
            if kind == "file meta":
                ds.file_meta.SourceApplicationEntityTitle = f"OTHER{number}"
            elif kind == "lengths":
                ds["RequestAttributesSequence"].is_undefined_length = True
            elif number:
                ds.compress(RLELossless, generate_instance_uid=False)
            ds.save_as(file.with_name(f"again{number}_{file.name}"))
    (series,) = list_series(tmp_path / "a")
    assert len(series.slices) == 4 and read_series(tmp_path / "a").data.shape[2] == 4


def test_compressed_image_of_other_values_is_not_a_copy(tmp_path):
    write_ct(tmp_path, stored(4, 6, 6))
    ds = pydicom.dcmread(tmp_path / "000.dcm")
    ds.compress(RLELossless, ds.pixel_array // 2, generate_instance_uid=False)
    ds.save_as(tmp_path / "again.dcm")
    with refused("dicom-duplicate-uid"):
        read_volume(tmp_path)


def test_images_with_equal_headers_are_each_read_once(tmp_path, monkeypatch):
    """Comparing all pairs of 400 images took a minute."""
    write_ct(tmp_path, stored(12, 6, 6), step=0, SOPInstanceUID="1.2.3", InstanceNumber=1)
    parsed = []

    def counted(path, **how):
        parsed.append(path)
        return pydicom.dcmread(path, **how)

    monkeypatch.setattr(dicom_copies, "dcmread", counted)
    (series,) = list_series(tmp_path)
    assert len(series.slices) == 12 and len(parsed) == len(set(parsed)) == 12


def test_few_slices_of_another_kind_do_not_split_a_volume(tmp_path):
    write_ct(tmp_path, stored(12, 6, 6))
    for name in ("000.dcm", "011.dcm"):
        ds = pydicom.dcmread(tmp_path / name)
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "EDGE"]
        ds.save_as(tmp_path / name)
    (series,) = list_series(tmp_path)
    assert len(series.slices) == 12


@pytest.mark.parametrize("elements", [{"RescaleSlope": "1"}, {"RescaleIntercept": "0"}])
def test_incomplete_rescale_without_effect_is_identity(tmp_path, elements):
    ds = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    assert rescale_of(ds, 0, tmp_path) == (1, 0)


def in_parts(path, bounds, total=True):
    """Write an enhanced image as a concatenation (PS3.3 C.7.6.16.2.2.4) with one file per part."""
    whole = pydicom.dcmread(path)
    frames, size = list(whole.PerFrameFunctionalGroupsSequence), 2 * whole.Rows * whole.Columns
    made = []
    for n, (first, last) in enumerate(bounds, 1):
        part = pydicom.dcmread(path)
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = f"{whole.SOPInstanceUID[:50]}.{n}"
        part.ConcatenationUID, part.InConcatenationNumber, part.ConcatenationFrameOffsetNumber = "1.2.3", n, first
        if total:
            part.InConcatenationTotalNumber = len(bounds)
        part.PerFrameFunctionalGroupsSequence, part.NumberOfFrames = frames[first:last], last - first
        part.PixelData = whole.PixelData[first * size : last * size]
        made.append(path.with_name(f"part{n}.dcm"))
        part.save_as(made[-1])
    path.unlink()
    return made


@pytest.mark.parametrize("total", [True, False])
def test_concatenated_image_is_read_completely_or_refused(tmp_path, total):
    write_enhanced_ct(tmp_path / "a.dcm", stored(9, 6, 5))
    whole = read_volume(tmp_path)
    parts = in_parts(tmp_path / "a.dcm", [(0, 4), (4, 7), (7, 9)], total)
    again = read_volume(tmp_path)
    np.testing.assert_array_equal(again.data, whole.data)
    assert same_geometry(again.geometry, whole.geometry)
    for n, part in enumerate(parts, 1):
        moved = part.rename(tmp_path.parent / f"{tmp_path.name}.aside")
        if n < 3 or total:  # without a total number, a missing last part cannot be detected
            for read in (read_volume, read_geometry):
                with refused("dicom-series-part-missing", names=f"part {n} of 3"):
                    read(tmp_path)
            (found,) = find_series(tmp_path, indexed(tmp_path))
            assert f"part {n} of 3" in found.fault and "is missing" in found.fault
        moved.rename(part)


def test_parts_of_a_concatenated_image_may_be_separate_volumes(tmp_path):
    """Two stacks in separate parts: each can be chosen if both parts are present."""
    write_enhanced_ct(tmp_path / "a.dcm", stored(8, 6, 5), stacks=2)
    _, second = in_parts(tmp_path / "a.dcm", [(0, 4), (4, 8)])
    assert read_volume(tmp_path, series="StackID 2").data.shape == (5, 6, 4)
    second.unlink()
    with refused("dicom-series-part-missing", names="part 2 of 2"):
        read_volume(tmp_path)
