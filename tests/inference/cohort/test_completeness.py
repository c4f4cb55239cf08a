"""Whether all images of a series have arrived."""

import pytest
from dicom_series import item, stored, write_ct, write_enhanced_ct
from pydicom import dcmread

from medgen.inference.cohort.completeness import missing_images


def half(folder, keep, **tags):
    write_ct(folder, stored(8, 6, 6), InstanceNumber=lambda k: k + 1, **tags)
    for k, path in enumerate(sorted(folder.iterdir())):
        if not keep(k):
            path.unlink()


@pytest.mark.parametrize("keyword", ["NumberOfSeriesRelatedInstances", "ImagesInAcquisition", "ImagesInSeries"])
def test_a_series_is_incomplete_until_the_count_in_its_headers_is_reached(tmp_path, keyword):
    half(tmp_path / "half", lambda k: k < 4, **{keyword: 8})
    assert missing_images(tmp_path / "half") == (f"only 4 of 8 images by {keyword} are present", "")
    half(tmp_path / "whole", lambda k: True, **{keyword: 8})
    assert missing_images(tmp_path / "whole") == ("", "")


def test_counts_that_hold_for_less_than_the_series(tmp_path):
    half(tmp_path / "two", lambda k: True, ImagesInAcquisition=4, AcquisitionNumber=lambda k: k // 4)
    assert missing_images(tmp_path / "two") == ("", "")
    half(tmp_path / "one", lambda k: k < 6, ImagesInAcquisition=4, AcquisitionNumber=lambda k: 1 - k // 4)
    assert missing_images(tmp_path / "one")[0] == ""
    half(tmp_path / "pet", lambda k: k < 3, NumberOfSlices=8, Modality="PT")
    assert "3 of 8 images by NumberOfSlices" in missing_images(tmp_path / "pet")[0]


@pytest.mark.parametrize("creator, tag", [("GEMS_SERS_01", 0x00251007), ("GEMS_RELA_01", 0x0021104F)])
def test_the_private_counts_of_ge(tmp_path, creator, tag):
    half(tmp_path, lambda k: k < 4)
    for path in tmp_path.iterdir():
        ds = dcmread(path)
        ds.private_block(tag >> 16, creator, create=True).add_new(tag & 0xFF, "SL", 8)
        ds.save_as(path)
    assert "4 of 8 images" in missing_images(tmp_path)[0]


def test_a_missing_count_and_regular_gaps_are_reported(tmp_path):
    half(tmp_path / "a", lambda k: k < 4)
    assert missing_images(tmp_path / "a")[1].endswith("how many images the series has; 4 had arrived")
    half(tmp_path / "b", lambda k: k % 2 == 0)
    assert "InstanceNumber increases in steps of 2, so images may be missing" in missing_images(tmp_path / "b")[0]
    write_ct(tmp_path / "c", stored(4, 6, 6), step=5.0, InstanceNumber=lambda k: k)
    assert "5 mm apart although SliceThickness is 2.5 mm" in missing_images(tmp_path / "c")[1]


def test_an_enhanced_image_is_whole_by_itself_and_a_concatenation_by_its_count(tmp_path):
    write_enhanced_ct(tmp_path / "a.dcm", stored(4, 6, 6))
    assert missing_images(tmp_path) == ("", "")
    ds = dcmread(tmp_path / "a.dcm")
    ds.ConcatenationUID, ds.InConcatenationNumber, ds.InConcatenationTotalNumber = "1.2.3", 1, 2
    ds.save_as(tmp_path / "a.dcm")
    assert "1 of 2 images by InConcatenationTotalNumber" in missing_images(tmp_path)[0]


def test_folders_without_a_series_give_no_message(tmp_path):
    (tmp_path / "a").write_text("x")
    assert missing_images(tmp_path) == ("", "")
    write_ct(tmp_path, stored(3, 6, 6), ReferencedStudySequence=[item()])
    (tmp_path / "001.dcm").write_bytes(b"broken")
    assert missing_images(tmp_path) == ("", "")
