"""DICOM files that change after their headers were read; pixels could belong to another position or patient."""

import numpy as np
import pydicom
import pytest
from dicom_series import MADE, stored, write_ct, write_enhanced_ct
from refusal import refused

from medgen.io.dicom.derived.segmentation import write_seg
from medgen.io.dicom.derived.write import write_derived
from medgen.io.dicom.read import read_series, read_slices
from medgen.io.dicom.series import list_series


def trade_names(folder):
    """Reverse the file names, as a new export in another order does: same images, same names."""
    paths = sorted(folder.iterdir())
    for path, content in zip(paths, [path.read_bytes() for path in reversed(paths)], strict=True):
        path.write_bytes(content)


def edited(path, change):
    ds = pydicom.dcmread(path)
    change(ds)
    ds.save_as(path)


def another_patient(folder):
    edited(folder / "000.dcm", lambda ds: setattr(ds, "PatientID", "p2"))


def no_dicom(folder):
    (folder / "000.dcm").write_bytes(b"x" * 500)


CHANGES = [trade_names, another_patient, no_dicom]


@pytest.mark.parametrize("change", CHANGES)
def test_slices_that_changed_since_they_were_found_are_not_read(tmp_path, change):
    write_ct(tmp_path / "s", stored(4, 8, 8))
    slices = list_series(tmp_path / "s")[0].slices
    change(tmp_path / "s")
    with refused("dicom-not-decodable" if change is no_dicom else "dicom-files-changed", names="000.dcm"):
        read_slices(slices, tmp_path / "s")


def test_frames_that_swap_positions_are_not_read(tmp_path):
    write_enhanced_ct(tmp_path / "s/e.dcm", stored(4, 8, 8))
    slices = list_series(tmp_path / "s")[0].slices

    def turn(ds):
        ds.PerFrameFunctionalGroupsSequence = list(reversed(ds.PerFrameFunctionalGroupsSequence))

    edited(tmp_path / "s/e.dcm", turn)
    with refused("dicom-files-changed", names="e.dcm"):
        read_slices(slices, tmp_path / "s")


def test_header_with_nan_is_unchanged(tmp_path):
    """NaN is not equal to itself."""
    write_ct(tmp_path / "s", stored(3, 8, 8))
    for path in (tmp_path / "s").iterdir():
        path.write_bytes(path.read_bytes().replace(b"2.5 ", b"NaN "))
    (series,) = list_series(tmp_path / "s")
    assert np.isnan(series.header["SliceThickness"])
    write_derived(tmp_path / "out", read_series(tmp_path / "s"), MADE)


@pytest.mark.parametrize("change", CHANGES)
def test_files_changed_after_reading_are_not_used_as_source(tmp_path, change):
    """The conversion may have taken an hour."""
    write_ct(tmp_path / "s", stored(4, 8, 8))
    volume = read_series(tmp_path / "s")
    labels = volume.replaced(np.ones_like(volume.data), dtype=np.uint8)
    change(tmp_path / "s")
    code = "dicom-unreadable" if change is no_dicom else "dicom-files-changed"
    with refused(code):
        write_derived(tmp_path / "out", volume, MADE)
    with refused(code):
        write_seg(labels, {1: "body"}, tmp_path / "s", tmp_path / "seg.dcm", algorithm="a", version="1")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]
