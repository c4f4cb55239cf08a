"""Label maps as DICOM segmentations: the same mask in the same place, by highdicom, SimpleITK and pydicom."""

import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import MADE, OBLIQUE, errors, headers, stored, write_ct, write_enhanced_ct
from pydicom.sr.codedict import codes
from refusal import refused

from medgen.io.deidentification.deidentify import Deidentifier
from medgen.io.dicom.derived.references import NOTICE
from medgen.io.dicom.derived.segmentation import coded, write_seg
from medgen.io.dicom.derived.write import write_derived
from medgen.io.dicom.series import list_series
from medgen.io.read import read_volume
from medgen.io.volume import Volume
from medgen.phantom.anatomy.labels import LABELS

hd = pytest.importorskip("highdicom", reason="highdicom (medgen[dicom]) is absent")
NAMES = {2: "liver", 7: "kidney_left", 300: "lesion_hypovascular"}
KINDS = {
    "axial": lambda to: write_ct(to, stored(5, 9, 12)),
    "oblique": lambda to: write_ct(to, stored(5, 9, 12), OBLIQUE),
    "tilted": lambda to: write_ct(to, stored(5, 9, 12), ImagePositionPatient=lambda k: [0, 1.5 * k, 2.0 * k]),
    "enhanced": lambda to: write_enhanced_ct(to / "a.dcm", stored(5, 9, 12), OBLIQUE, order=[3, 0, 4, 1, 2]),
}


@pytest.fixture(params=KINDS)
def source(request, tmp_path):
    KINDS[request.param](tmp_path / "in")
    return tmp_path / "in"


def labelled(volume, values=(0, 2, 7, 300)):
    """Random labels; one plane is empty."""
    data = np.random.default_rng(3).choice(values, volume.data.shape).astype(np.float32)
    data[:, :, 1] = 0
    return volume.replaced(data, dtype=np.int32)


def by_place(file):
    """{segment number: {(x, y, z) in mm, rounded: voxel}} from the frames' own functional groups (PS3.3 C.7.6.16)."""
    ds = pydicom.dcmread(file)
    frames = np.atleast_3d(ds.pixel_array) if ds.NumberOfFrames > 1 else ds.pixel_array[None]
    shared = ds.SharedFunctionalGroupsSequence[0]
    x, y = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    rows, columns = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    found = {}
    for group, frame in zip(ds.PerFrameFunctionalGroupsSequence, frames, strict=True):
        start = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        for row, column in np.argwhere(frame):
            place = np.round(start + x * columns * column + y * rows * row, 2) * (-1, -1, 1)
            segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            found.setdefault(segment, set()).add(tuple(np.round(place + 0.0, 1)))
    return found


def test_segmentation_round_trip_keeps_mask_and_position(source, tmp_path):
    volume = read_volume(source)
    labels = labelled(volume)
    write_seg(labels, NAMES, source, tmp_path / "seg.dcm", algorithm="net")
    expected = {}
    for number, value in enumerate((2, 7, 300), 1):
        index = np.argwhere(labels.data == value)
        places = np.c_[index, np.ones(len(index))] @ volume.affine[:3].T
        expected[number] = {tuple(np.round(place + 0.0, 1)) for place in np.round(places, 2)}
    found = by_place(tmp_path / "seg.dcm")
    for number, places in expected.items():
        near = np.array(sorted(found[number])), np.array(sorted(places))
        assert near[0].shape == near[1].shape
        np.testing.assert_allclose(*near, atol=0.11)


def test_highdicom_reads_the_same_mask_slice_by_slice(source, tmp_path):
    volume = read_volume(source)
    labels = labelled(volume)
    write_seg(labels, NAMES, source, tmp_path / "seg.dcm", algorithm="net")
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    assert [d.segment_label for d in seg.SegmentSequence] == ["liver", "kidney_left", "lesion_hypovascular"]
    assert "value 300" in seg.SegmentSequence[2].SegmentDescription
    if len(list(source.iterdir())) == 1:
        uid = headers(source)[0].SOPInstanceUID
        planes = seg.get_pixels_by_source_frame(
            uid, [frame + 1 for _, frame in volume.frames], combine_segments=True, assert_missing_frames_are_empty=True
        )
    else:
        uids = [pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file, _ in volume.frames]
        planes = seg.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    expected = np.select([labels.data == v for v in (2, 7, 300)], (1, 2, 3))
    np.testing.assert_array_equal(planes, expected.transpose(2, 1, 0))


def test_simpleitk_reads_the_same_voxels_at_the_frames_places(source, tmp_path):
    volume = read_volume(source)
    labels = labelled(volume, values=(0, 2))
    labels.data[:, :, 1] = 2
    write_seg(labels, NAMES, source, tmp_path / "seg.dcm", algorithm="net")
    array = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "seg.dcm"))
    groups = pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence
    assert array.shape == (5, 9, 12)
    expected = np.empty(array.shape, bool)
    seen = set()
    for plane, group in zip(expected, groups, strict=True):
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float) * (-1, -1, 1)
        index = np.linalg.solve(volume.affine, (*place, 1))[:3]
        np.testing.assert_allclose(index[:2], 0, atol=1e-3)
        k = round(float(index[2]))
        seen.add(k)
        plane[:] = labels.data[:, :, k].T == 2
    assert seen == set(range(5))
    # GDCM, which SimpleITK reads with, leaves the voxels of a last byte that is not full uninitialised: 540 % 8 = 4.
    whole = array.size - array.size % 8
    np.testing.assert_array_equal(array.ravel()[:whole] != 0, expected.ravel()[:whole])


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is absent")
def test_dciodvfy_finds_no_error(source, tmp_path):
    write_seg(labelled(read_volume(source)), NAMES, source, tmp_path / "seg/a.dcm", algorithm="net")
    assert not errors(tmp_path / "seg")


def test_identity_study_and_position_equal_the_source_and_a_rerun_gives_the_same_bytes(source, tmp_path):
    labels = labelled(read_volume(source))
    bare = Volume(labels.data, labels.affine)  # from another program: the source images are found by the grid
    write_seg(labels, NAMES, source, tmp_path / "a", algorithm="net")
    write_seg(bare, NAMES, source, tmp_path / "b", algorithm="net")
    write_seg(bare, NAMES, sorted(source.iterdir()), tmp_path / "c", algorithm="net")
    write_seg(labels.replaced(labels.data[::-1]), NAMES, source, tmp_path / "d", algorithm="net")
    a, first = pydicom.dcmread(tmp_path / "a"), headers(source)[0]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    assert pydicom.dcmread(tmp_path / "d").SOPInstanceUID != a.SOPInstanceUID
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "AccessionNumber"):
        assert a[keyword] == first[keyword]
    assert "not for primary diagnosis" in a.SeriesDescription and a.SeriesInstanceUID != first.SeriesInstanceUID
    shutil.copy(tmp_path / "a", source / "seg.dcm")
    assert len(list_series(source)) == 1  # not listed as a scan


def test_segments_of_a_deidentified_synthetic_series(tmp_path):
    write_ct(tmp_path / "in", stored(3, 8, 8), PatientName="ZyxWvut", PatientID="ZyxWvut")
    write_derived(tmp_path / "out", read_volume(tmp_path / "in"), MADE, deidentifier=Deidentifier(bytes(32)))
    write_seg(labelled(read_volume(tmp_path / "out")), NAMES, tmp_path / "out", tmp_path / "s.dcm", algorithm="net")
    ds = pydicom.dcmread(tmp_path / "s.dcm")
    assert ds.SeriesDescription.startswith(NOTICE) and ds.PatientIdentityRemoved == "YES"
    content = (tmp_path / "s.dcm").read_bytes()
    assert b"ZyxWvut" not in content and headers(tmp_path / "in")[0].StudyInstanceUID.encode() not in content


def test_invalid_label_map_is_refused(tmp_path):
    write_ct(tmp_path / "in", stored(3, 8, 8))
    volume = read_volume(tmp_path / "in")
    out = tmp_path / "s.dcm"
    with refused("labels-all-background"):
        write_seg(volume.replaced(np.zeros_like(volume.data)), {}, tmp_path / "in", out, algorithm="net")
    for value in (0.5, -1):
        with refused("labels-values-invalid"):
            write_seg(volume.replaced(np.full_like(volume.data, value)), {}, tmp_path / "in", out, algorithm="net")
    with refused("labels-grid-differs"):
        write_seg(Volume(np.ones(volume.data.shape), np.eye(4)), {}, tmp_path / "in", out, algorithm="net")
    assert not out.exists()


def test_codes_exist_and_match_their_structure():
    assert coded("kidney_left")[1].meaning == "Kidney" and coded("adrenal_glands")[1].meaning == "Adrenal gland"
    assert coded("lesion_hypovascular") == (codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion)
    assert coded("fat")[0] == codes.SCT.Tissue and coded("whatsit")[1] == codes.SCT.Tissue
    assert sum(coded(name)[1] != codes.SCT.Tissue for name in LABELS) >= 20
