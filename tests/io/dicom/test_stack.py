"""Slices with small and large deviations from one stack; images that are not slices."""

import numpy as np
import pytest
from dicom_series import AXIAL, OBLIQUE, START, stored, write_ct
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from refusal import refused
from scipy.spatial.transform import Rotation

from medgen.io.dicom.index import indexed
from medgen.io.dicom.read import read_series
from medgen.io.dicom.series import list_series
from medgen.io.read import read_geometry, read_volume
from medgen.io.volume import same_geometry


def turned(axes, radians):
    """Row and column direction of a slice rotated by a rotation vector (radians), as in a header."""
    row, column = (Rotation.from_rotvec(radians) * Rotation.from_matrix(axes)).as_matrix()[:, :2].T
    return [f"{x:.9f}" for x in (*row, *column)]


@given(
    axes=st.sampled_from([AXIAL, OBLIQUE]),
    about=st.tuples(*[st.floats(-1, 1)] * 3),
    jitter=st.lists(st.floats(-1, 1), min_size=6, max_size=6),
)
@settings(max_examples=6, deadline=None)
def test_orientation_jitter_below_one_voxel_is_averaged(tmp_path_factory, axes, about, jitter):
    folder, size = tmp_path_factory.mktemp("jitter"), np.hypot(64 * 0.8, 68 * 0.6)
    most = 0.1 / size  # radians that move the corner by 0.1 mm
    angles = [np.array(about) / np.sqrt(3) * most * j for j in jitter]
    write_ct(folder, stored(6), axes, ImageOrientationPatient=lambda k: turned(axes, angles[k]))
    volume, pixels = read_volume(folder), stored(6)
    np.testing.assert_array_equal(volume.data, pixels.transpose(2, 1, 0) - 1024.0)
    write_ct(folder / "exact", pixels, axes)
    assert same_geometry(volume.geometry, read_geometry(folder / "exact"), tolerance=0.25)
    assert same_geometry(read_geometry(folder), volume.geometry, tolerance=0.0)


def test_visible_orientation_jitter_is_noted_and_a_larger_one_refused(tmp_path):
    for degrees in (0.02, 1.0, 10.0):
        angle = lambda k, d=degrees: turned(AXIAL, np.radians([0, 0, d]) * (k % 2))  # noqa: E731
        write_ct(tmp_path / f"{degrees}", stored(6), ImageOrientationPatient=angle)
    volume = read_volume(tmp_path / "0.02")
    assert "ImageOrientationPatient differs between the slices, by up to 0.01" in volume.notes[0]
    for folder in ("1.0", "10.0"):
        with refused("dicom-slices-differ", names="orientation"):
            read_volume(tmp_path / folder)
    write_ct(tmp_path / "one", stored(6), ImageOrientationPatient=lambda k: turned(AXIAL, [0.02 * (k == 4), 0, 0]))
    with refused("dicom-slices-differ", names=("004.dcm", "orientation", "000.dcm")):
        read_volume(tmp_path / "one")
    write_ct(tmp_path / "even", stored(6))
    assert read_volume(tmp_path / "even").notes == ()


def test_jittered_positions_are_read_with_a_note(tmp_path):
    rng = np.random.default_rng(3)
    off = rng.uniform(-1, 1, (8, 3)) * 0.1
    off[[0, -1]] = 0
    for name, size in (("0.1", 1.0), ("1", 10.0)):
        place = lambda k, s=size: [f"{x:.6f}" for x in START + [0, 0, 2.5 * k] + off[k] * s]  # noqa: E731
        write_ct(tmp_path / name, stored(8), ImagePositionPatient=place, PixelSpacing=["2", "2"])
    volume = read_volume(tmp_path / "0.1")
    np.testing.assert_allclose(volume.affine[:3, 2], (0, 0, 2.5), atol=1e-6)
    assert "from equal spacing" in volume.notes[0]
    with refused("dicom-slices-shifted"):
        read_volume(tmp_path / "1")


@pytest.mark.parametrize(
    "tags, remark",
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localiser"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"}, "secondary capture"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "colour"),
        ({"PhotometricInterpretation": "YBR_FULL", "SamplesPerPixel": 3}, "colour"),
        ({"ImagePositionPatient": None, "ImageType": ["DERIVED", "SECONDARY", "DOSE_INFO"]}, "no patient coordinates"),
        (
            {"ImageType": ["DERIVED", "SECONDARY", "REF"], "ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
            "derived image",
        ),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "Rows": 32, "Columns": 136}, "secondary capture"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("series", ["the same", "another"])
def test_non_slice_image_does_not_hide_the_scan(tmp_path, tags, remark, first, series):
    uid = write_ct(tmp_path, stored(6), ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    write_ct(tmp_path / "x", stored(1))
    ds = dcmread(tmp_path / "x/000.dcm")
    ds.StudyInstanceUID, ds.FrameOfReferenceUID = uid[:60] + ".1", uid[:60] + ".2"
    ds.SeriesInstanceUID = uid if series == "the same" else uid[:60] + ".9"
    for keyword, value in tags.items():
        setattr(ds, keyword, value) if value is not None else delattr(ds, keyword)
    ds.save_as(tmp_path / ("000 sheet.dcm" if first else "zzz.dcm"))
    (tmp_path / "x/000.dcm").unlink()
    if series == "another" and remark == "derived image":
        with refused("dicom-ambiguous-folder"):  # it may be a slice: the user must choose
            read_volume(tmp_path)
        return
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.data, stored(6).transpose(2, 1, 0) - 1024.0)
    if series == "the same":
        (found,) = list_series(tmp_path)
        assert found.beside == f"1 of the images in this series ({remark})" and found.beside in volume.notes[-1]
    else:
        assert sorted(s.remark for s in list_series(tmp_path)) == ["", remark]


def test_slice_without_a_position_is_refused(tmp_path):
    write_ct(tmp_path, stored(6))
    ds = dcmread(tmp_path / "005.dcm")
    del ds.ImagePositionPatient
    ds.save_as(tmp_path / "005.dcm")
    with refused("dicom-geometry-missing", names=("005.dcm", "ImagePositionPatient")):
        read_volume(tmp_path)


@pytest.mark.parametrize("term", ["MOSAIC", "VFRAME"])
@pytest.mark.parametrize("place", [3, 4])
def test_a_mosaic_is_refused_as_one(tmp_path, term, place):
    kinds = ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"]
    kinds[place] = term
    write_ct(tmp_path, stored(1), Modality="MR", ImageType=kinds)
    with refused("dicom-mosaic", names="000.dcm"):
        read_volume(tmp_path)


@pytest.mark.parametrize("kind", ["PALETTE COLOR", "RGB", "YBR_FULL_422", "ARGB"])
def test_colour_is_refused_as_colour(tmp_path, kind):
    write_ct(tmp_path, stored(3), PhotometricInterpretation=kind)
    with refused("dicom-colour", names=("000.dcm", kind)):
        read_volume(tmp_path)


@pytest.mark.parametrize(
    "modality, kind",
    [
        ("SR", "1.2.840.10008.5.1.4.1.1.88.33"),
        ("PR", "1.2.840.10008.5.1.4.1.1.11.1"),
        ("REG", "1.2.840.10008.5.1.4.1.1.66.1"),
        ("DOC", "1.2.840.10008.5.1.4.1.1.104.1"),
        ("CT", "1.2.840.10008.5.1.4.1.1.66"),
        ("KO", "1.2.840.10008.5.1.4.1.1.88.59"),
        ("MR", "1.2.840.10008.5.1.4.1.1.4.2"),
        ("CT", "1.2.840.10008.5.1.4.1.1.66.4"),
        ("PLAN", "1.2.840.10008.5.1.4.1.1.481.5"),
    ],
)
def test_objects_that_accompany_a_scan_are_ignored(tmp_path, modality, kind):
    write_ct(tmp_path, stored(4))
    ds = dcmread(tmp_path / "000.dcm")
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = kind
    ds.Modality, ds.SOPInstanceUID = modality, "1.2.3"
    if kind not in ("1.2.840.10008.5.1.4.1.1.4.2", "1.2.840.10008.5.1.4.1.1.66.4"):
        del ds.Rows, ds.Columns
    del ds.PixelData, ds.ImagePositionPatient
    ds.save_as(tmp_path / "000 other.dcm")
    assert read_volume(tmp_path).data.shape[2] == 4
    for _ in range(2):  # from the files, then from the index
        index = indexed(tmp_path, tmp_path.parent / "index" / tmp_path.name)
        assert len(index.images) == 4 and not index.faults


@pytest.mark.parametrize(
    ("step", "stated", "thickness", "told"),
    [(6, 3, 3, True), (9, 3, 2, True), (3, 3, 3, False), (3.02, 3, 3, False), (6, 1, 5, False), (6, None, 3, False),
     (4.5, 3, 3, False), (6, 3, 5, False)],
)  # fmt: skip
def test_slices_farther_apart_than_stated_are_told(tmp_path, step, stated, thickness, told):
    """A gap in place of the distance (6 mm apart, 5 mm thick, 1 mm stated) is not the loss of slices."""
    tags = {"SliceThickness": thickness} | ({"SpacingBetweenSlices": stated} if stated else {})
    write_ct(tmp_path, stored(4, 8, 9), step=step, **tags)
    warnings = read_volume(tmp_path).warnings
    assert [f"only every {step // 3}. slice" in text for text in warnings] == [True] * told


@pytest.mark.parametrize(("thickness", "numbered", "told"), [(3, 2, True), (6, 2, False), (3, 1, False), (2, 2, False)])
def test_every_other_slice_missing_by_number_and_thickness_is_told(tmp_path, thickness, numbered, told):
    """One echo of two in a series has every other number too, but slices as thick as their distance."""
    write_ct(tmp_path, stored(5, 8, 9), step=6, SliceThickness=thickness)
    for file in tmp_path.glob("*.dcm"):
        ds = dcmread(file)
        ds.InstanceNumber = 1 + numbered * (int(ds.InstanceNumber) - 1)
        ds.save_as(file)
    warnings = read_volume(tmp_path).warnings
    assert ["only every 2. slice may be here" in text for text in warnings] == [True] * told


@pytest.mark.parametrize(
    "kind, description, projected",
    [
        (["DERIVED", "SECONDARY", "AXIAL", "CT_SOM7 SPI MIP"], "Abdomen", True),
        (["DERIVED", "SECONDARY", "MIP"], "Abdomen", True),
        (["DERIVED", "PRIMARY", "VOLUME", "MAXIMUM"], "Abdomen", True),
        (["DERIVED", "SECONDARY", "AXIAL"], "CTA_thinMIP 8.0", True),
        (["DERIVED", "SECONDARY", "AXIAL"], "Thorax MinIP 5 mm", True),
        (["ORIGINAL", "PRIMARY", "AXIAL"], "Abdomen 5 min, max dose, shipment", False),
        (["DERIVED", "SECONDARY", "AXIAL", "AVERAGE"], "MPR cor", False),
    ],
)
def test_projections_of_slabs_are_named(kind, description, projected, tmp_path):
    write_ct(tmp_path, stored(4, 8, 9), ImageType=kind, SeriesDescription=description)
    assert any("names a projection" in text for text in read_volume(tmp_path).warnings) == projected
