"""Contours and segments of DICOM become label maps in their place, or are refused."""

import matplotlib.path
import nibabel as nib
import numpy as np
import pytest
from dicom_series import OBLIQUE, item, stored, write_ct, write_enhanced_ct
from dicom_structures import to_mm, write_rtstruct, write_segmentation
from pydicom.uid import generate_uid
from refusal import refused
from typer.testing import CliRunner

from medgen.cli import app
from medgen.commands import json_output
from medgen.io.dicom.structures.read import read_structures
from medgen.io.dicom.structures.rtstruct import polygon_mask
from medgen.io.label_headers import header_names, is_label_map
from medgen.io.read import read_volume
from medgen.io.volume import same_geometry
from medgen.io.write import write_volume

SQUARE = [(2.5, 3.5), (7.5, 3.5), (7.5, 8.5), (2.5, 8.5)]  # voxels 3..7 and 4..8
INNER = [(4.5, 5.5), (5.5, 5.5), (5.5, 7.5), (4.5, 7.5)]  # voxel 5 and 6..7
SERIES = {
    "axial": lambda to: write_ct(to, stored(5, 12, 14)),
    "oblique": lambda to: write_ct(to, stored(5, 12, 14), OBLIQUE),
    "tilted": lambda to: write_ct(to, stored(5, 12, 14), ImagePositionPatient=lambda k: [0, 1.5 * k, 2.0 * k]),
    "enhanced": lambda to: write_enhanced_ct(to / "a.dcm", stored(5, 12, 14), OBLIQUE, order=[3, 0, 4, 1, 2]),
}


@pytest.fixture(params=SERIES)
def any_series(request, tmp_path):
    SERIES[request.param](tmp_path / "ct")
    return tmp_path / "ct"


@pytest.fixture
def ct(tmp_path):
    SERIES["axial"](tmp_path / "ct")
    return tmp_path / "ct"


def test_contours_are_masks_in_their_place(any_series, tmp_path):
    path = write_rtstruct(tmp_path / "rs.dcm", any_series, {"liver": [(1, SQUARE), (2, SQUARE)]})
    volume, values = read_structures(path, any_series)
    assert values == {"liver": 1} and volume.warnings == ()
    wanted = np.zeros((14, 12, 5))
    wanted[3:8, 4:9, 1:3] = 1
    assert np.array_equal(volume.data, wanted)
    assert same_geometry(volume.geometry, read_volume(any_series).geometry)


def test_a_contour_in_a_contour_is_a_hole_and_one_in_that_an_island(ct, tmp_path):
    island = [(4.9, 5.9), (5.1, 5.9), (5.1, 6.1), (4.9, 6.1)]
    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"liver": [(1, INNER), (1, island), (1, SQUARE), (1, SQUARE)]})
    volume, _ = read_structures(path, ct)
    wanted = np.zeros((14, 12))
    wanted[3:8, 4:9] = 1
    wanted[5, 6:8] = 0
    wanted[5, 6] = 1
    assert np.array_equal(volume.data[:, :, 1], wanted) and not volume.data[:, :, [0, 2, 3, 4]].any()
    assert "holes" in volume.warnings[0]


def test_a_ring_thinner_than_a_voxel_is_no_disc(ct, tmp_path):
    outer = [(2.4, 3.4), (8.6, 3.4), (8.6, 9.6), (2.4, 9.6)]
    inner = [(2.6, 3.6), (8.4, 3.6), (8.4, 9.4), (2.6, 9.4)]
    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"wall": [(1, inner), (1, outer)], "liver": [(2, SQUARE)]})
    volume, _ = read_structures(path, ct)
    assert not (volume.data == 1).any() and "wall has no voxel" in " ".join(volume.warnings)


def test_a_contour_inside_several_others_together_is_told(ct, tmp_path):
    left = [(1.5, 3.5), (6.5, 3.5), (6.5, 9.5), (1.5, 9.5)]
    right = [(5.5, 3.5), (10.5, 3.5), (10.5, 9.5), (5.5, 9.5)]
    across = [(4.5, 5.5), (8.5, 5.5), (8.5, 7.5), (4.5, 7.5)]
    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"body": [(1, left), (1, right), (1, across)]})
    assert "1 contours lie inside several others together" in " ".join(read_structures(path, ct)[0].warnings)


def test_two_structures_of_one_number_are_refused(ct, tmp_path):
    def merged(ds):
        ds.StructureSetROISequence[1].ROINumber = 1

    def merged_segments(ds):
        ds.SegmentSequence[1].SegmentNumber = 1

    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"liver": [(1, SQUARE)], "tumour": [(2, SQUARE)]}, merged)
    with refused("structures-number-twice"):
        read_structures(path, ct)
    with refused("structures-number-twice"):
        read_structures(write_segmentation(tmp_path / "seg.dcm", ct, random_masks()[0], merged_segments), ct)


def test_contours_of_another_series_and_of_no_structure_are_told(ct, tmp_path):
    def other(ds):
        for contour in ds.ROIContourSequence[0].ContourSequence:
            contour.ContourImageSequence[0].ReferencedSOPInstanceUID = generate_uid()
        ds.ROIContourSequence[1].ReferencedROINumber = 9

    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"liver": [(1, SQUARE)], "tumour": [(2, SQUARE)]}, other)
    told = " ".join(read_structures(path, ct)[0].warnings)
    assert "liver was drawn on images of another series" in told and "contours of 1 structures" in told


def test_contours_that_overlap_in_part_are_joined(ct, tmp_path):
    moved = [(i + 2, j + 2) for i, j in SQUARE]
    volume, _ = read_structures(write_rtstruct(tmp_path / "rs.dcm", ct, {"a": [(0, SQUARE), (0, moved)]}), ct)
    assert volume.data.sum() == 25 + 25 - 9


def test_contours_that_exclude_each_other_do_so(ct, tmp_path):
    def exclusive(ds):
        for contour in ds.ROIContourSequence[0].ContourSequence:
            contour.ContourGeometricType = "CLOSEDPLANAR_XOR"

    moved = [(i + 2, j + 2) for i, j in SQUARE]
    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"a": [(0, SQUARE), (0, moved)]}, exclusive)
    volume, _ = read_structures(path, ct)
    assert volume.data.sum() == 25 + 25 - 2 * 9 and not volume.warnings


@pytest.mark.parametrize("again", [SQUARE, [*SQUARE, SQUARE[0]] * 2, [SQUARE[0], *SQUARE, SQUARE[0]]])
def test_a_contour_traced_twice_is_the_contour(ct, tmp_path, again):
    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"liver": [(0, SQUARE), (1, [*again, *again]), (2, SQUARE)]})
    volume, _ = read_structures(path, ct)
    assert volume.data.sum(axis=(0, 1)).tolist() == [25, 25, 25, 0, 0] and volume.warnings == ()


def test_a_contour_that_goes_round_a_part_twice_is_told(ct, tmp_path):
    twice = [*SQUARE, SQUARE[0], *INNER, INNER[0]]
    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"liver": [(0, SQUARE), (1, twice)]})
    volume, _ = read_structures(path, ct)
    assert volume.data[:, :, 1].sum() == 23 and "1 contours go round a part" in volume.warnings[0]


def test_a_contour_a_little_beyond_the_border_is_cut_there(ct, tmp_path):
    around = [(-0.6, -1.2), (14.3, -1.2), (14.3, 12.2), (-0.6, 12.2)]
    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"body": [(1, around)]})
    volume, _ = read_structures(path, ct)
    assert volume.data.sum() == 14 * 12 and volume.data[:, :, 1].all()


def test_frames_of_segments_that_are_not_listed_are_told(ct, tmp_path):
    def unlisted(ds):
        for group in ds.PerFrameFunctionalGroupsSequence[-1:]:
            group.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 7

    path = write_segmentation(tmp_path / "seg.dcm", ct, random_masks()[0], unlisted)
    assert "1 frames of segments that it does not list" in read_structures(path, ct)[0].warnings[0]


def test_a_name_that_is_given_twice_is_refused(ct, tmp_path):
    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"liver": [(1, SQUARE)]})
    with refused("structures-name-given-twice"):
        read_structures(path, ct, names=["liver", "liver"])


def test_points_are_left_out_with_a_warning(ct, tmp_path):
    def point(ds):
        ds.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "POINT"

    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"a": [(0, SQUARE)], "b": [(1, SQUARE)]}, point)
    volume, values = read_structures(path, ct)
    assert values == {"a": 1, "b": 2} and set(np.unique(volume.data)) == {0, 2}
    assert "points" in volume.warnings[0] and "no closed contour" in volume.warnings[1]


def test_a_keyhole_leaves_a_hole_without_a_trace():
    """The border, a cut to the hole, the hole, and the cut back; the cut goes through voxel centres."""
    outer, hole = [(1.5, 1.5), (1.5, 9.5), (9.5, 9.5), (9.5, 5), (9.5, 1.5)], [(4.5, 4.5), (7.5, 4.5), (7.5, 5)]
    points = [(9.5, 5), (9.5, 1.5), *outer[:3], (9.5, 5), (7.5, 5), (7.5, 7.5), (4.5, 7.5), *hole]
    mask = polygon_mask(np.array(points), (12, 12))
    wanted = np.zeros((12, 12), bool)
    wanted[2:10, 2:10] = True
    wanted[5:8, 5:8] = False
    assert np.array_equal(mask, wanted)


@pytest.mark.parametrize("seed", range(5))
def test_polygons_are_those_of_matplotlib(seed):
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 40))
    radius = rng.uniform(3, 14, 40)
    points = np.stack([15 + radius * np.cos(angles), 12 + radius * np.sin(angles)], axis=1)
    centres = np.stack(np.meshgrid(np.arange(30), np.arange(25), indexing="ij"), axis=-1).reshape(-1, 2)
    wanted = matplotlib.path.Path(points).contains_points(centres).reshape(30, 25)
    assert np.array_equal(polygon_mask(points, (30, 25)), wanted) and wanted.any()


def between(k, points=SQUARE):
    return {"liver": [(k, points)]}


OTHER = generate_uid()


def other_frame(ds):
    ds.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = OTHER


def no_frame(ds):
    del ds.StructureSetROISequence[0].ReferencedFrameOfReferenceUID


def tilted(ds):
    data = ds.ROIContourSequence[0].ContourSequence[0].ContourData
    data[2] = float(data[2]) + 1.0


def other_slice(ds):
    """The contour says that it is of the image of another slice: someone moved it."""
    contours = ds.ROIContourSequence[0].ContourSequence
    contours[0].ContourImageSequence, contours[1].ContourImageSequence = (
        contours[1].ContourImageSequence,
        contours[0].ContourImageSequence,
    )


@pytest.mark.parametrize(
    ("rois", "change", "code"),
    [
        (between(1), other_frame, "structures-frame-differs"),
        (between(1), no_frame, "structures-frame-differs"),
        (between(1.4), lambda ds: None, "structures-off-plane"),
        (between(1), tilted, "structures-off-plane"),
        (between(7), lambda ds: None, "structures-outside"),
        (between(1, [(i + 9, j) for i, j in SQUARE]), lambda ds: None, "structures-outside"),
        ({"liver": [(1, SQUARE), (2, SQUARE)]}, other_slice, "structures-slice-differs"),
        ({"liver": [(0, SQUARE), (2, SQUARE), (4, SQUARE)]}, lambda ds: None, "structures-slices-skipped"),
        (between(1, SQUARE[:2]), lambda ds: None, "structures-contour-damaged"),
        ({"liver": [(1, SQUARE)], "tumour": [(1, INNER)]}, lambda ds: None, "structures-overlap"),
    ],
)
def test_contours_without_a_certain_place_are_refused(ct, tmp_path, rois, change, code):
    with refused(code, names="rs.dcm"):
        read_structures(write_rtstruct(tmp_path / "rs.dcm", ct, rois, change), ct)


def test_names_give_values_and_order_and_what_is_absent_is_told(ct, tmp_path):
    rois = {"tumour": [(1, INNER)], "liver": [(1, SQUARE)], "point": []}
    path = write_rtstruct(tmp_path / "rs.dcm", ct, rois)
    volume, values = read_structures(path, ct, names=["liver", "spleen", "tumour"])
    assert values == {"liver": 1, "spleen": 2, "tumour": 3} and "spleen" in volume.warnings[0]
    assert np.count_nonzero(volume.data == 3) == 2 and np.count_nonzero(volume.data == 1) == 23
    volume, _ = read_structures(path, ct, names=["tumour", "liver"])
    assert np.count_nonzero(volume.data == 1) == 0
    volume, values = read_structures(path, ct, names=["LIVER", "Spleen"])
    assert values == {"liver": 1, "Spleen": 2} and np.count_nonzero(volume.data == 1) == 25
    with refused("structures-name-unknown", names="liver"):
        read_structures(path, ct, names=["Leber"])


def test_the_command_writes_a_label_map_with_names(ct, tmp_path):
    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"liver ]]": [(1, SQUARE)], "vein": [(3, SQUARE)]})
    out = tmp_path / "labels/p1.nii.gz"
    result = CliRunner().invoke(app, ["labels", str(path), str(ct / "000.dcm"), str(out)])
    assert result.exit_code == 0 and "2: vein, 25 voxels" in result.output
    assert header_names(out) == {1: "liver ]]", 2: "vein"} and is_label_map(out)
    written, volume = read_volume(out), read_volume(ct)
    assert same_geometry(written.geometry, volume.geometry) and written.dtype == np.int16
    assert nib.load(out).get_fdata()[4, 5, 3] == 2
    again = CliRunner().invoke(app, ["labels", str(path), str(ct), str(out)])
    assert again.exception.code == "output-exists"
    assert CliRunner().invoke(app, ["labels", str(path), str(ct), "a.nrrd"]).exception.code == "labels-not-nifti"


def test_an_item_for_each_contour_of_one_structure(ct, tmp_path):
    """Some programs repeat the number of the structure instead of putting all contours into one item."""

    def split(ds):
        contours = ds.ROIContourSequence[0].ContourSequence
        ds.ROIContourSequence = [item(ReferencedROINumber=1, ContourSequence=[c]) for c in contours]

    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"liver": [(1, SQUARE), (2, SQUARE), (3, SQUARE)]}, split)
    assert np.count_nonzero(read_structures(path, ct)[0].data) == 75


def test_a_structure_between_the_voxel_centres_is_told(ct, tmp_path):
    tiny = [(4.2, 5.2), (4.8, 5.2), (4.8, 5.8), (4.2, 5.8)]
    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"node": [(1, tiny)], "liver": [(1, SQUARE)]})
    volume, _ = read_structures(path, ct)
    assert "node has no voxel" in " ".join(volume.warnings) and np.count_nonzero(volume.data) == 25


def test_points_on_voxel_centres_give_straight_borders(any_series, tmp_path):
    square = [(3, 4), (8, 4), (8, 9), (3, 9)]
    path = write_rtstruct(tmp_path / "rs.dcm", any_series, {"liver": [(k, square) for k in range(5)]})
    found = read_structures(path, any_series)[0].data
    wanted = np.zeros_like(found)
    wanted[3:8, 4:9] = 1
    assert np.array_equal(found, wanted)


def test_only_the_frames_of_the_named_structures_count(ct, tmp_path):
    def elsewhere(ds):
        ds.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = generate_uid()

    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"liver": [(1, SQUARE)], "point": [(1, INNER)]}, elsewhere)
    assert np.count_nonzero(read_structures(path, ct, names=["liver"])[0].data) == 25
    with refused("structures-frame-differs"):
        read_structures(path, ct)


def test_names_with_commas_can_be_chosen(ct, tmp_path):
    rois = {"GTV [T1]": [(1, SQUARE)], "Lung, left": [(2, SQUARE)], "a,b": [(3, SQUARE)]}
    path, out = write_rtstruct(tmp_path / "rs.dcm", ct, rois), tmp_path / "l.nii.gz"
    result = CliRunner().invoke(app, ["labels", str(path), str(ct), str(out), "--names", "a,b, Lung, left,GTV [T1]"])
    assert result.exit_code == 0, result.output
    assert header_names(out) == {1: "a,b", 2: "Lung, left", 3: "GTV [T1]"}


@pytest.mark.parametrize("right", [True, False])
def test_frames_of_an_enhanced_image_are_told_apart_by_number(tmp_path, right):
    folder = tmp_path / "ct"
    SERIES["enhanced"](folder)
    volume, (masks, _) = read_volume(folder), random_masks()

    def numbered(ds):
        for n, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
            k = n % 5 if right else 4 - n % 5
            source = group.DerivationImageSequence[0].SourceImageSequence[0]
            source.ReferencedFrameNumber = volume.frames[k][1] + 1

    path = write_segmentation(tmp_path / "seg.dcm", folder, masks, numbered)
    if right:
        read_structures(path, folder)
        return
    with refused("structures-slice-differs"):
        read_structures(path, folder)


def test_other_files_are_refused(ct, tmp_path):
    with refused("structures-kind"):
        read_structures(ct / "000.dcm", ct)
    path = write_rtstruct(tmp_path / "rs.dcm", ct, between(1))
    write_volume(tmp_path / "ct.nii.gz", read_volume(ct))
    with refused("structures-need-dicom"):
        read_structures(path, tmp_path / "ct.nii.gz")
    (tmp_path / "a.dcm").write_bytes(b"no")
    with refused("dicom-unreadable"):
        read_structures(tmp_path / "a.dcm", ct)
    moved = tmp_path / "moved"
    write_ct(moved, stored(5, 12, 14))  # the same grid, of another examination
    with refused("structures-frame-differs"):
        read_structures(path, moved)


def random_masks(seed=0):
    values = np.random.default_rng(seed).integers(0, 3, (14, 12, 5))
    return {"liver": values == 1, "tumour": values == 2}, values


def test_segments_are_label_maps_in_their_place(any_series, tmp_path):
    masks, values = random_masks()
    volume, table = read_structures(write_segmentation(tmp_path / "seg.dcm", any_series, masks), any_series)
    assert np.array_equal(volume.data, values) and table == {"liver": 1, "tumour": 2} and not volume.warnings


def test_the_segmentations_that_medgen_writes_are_read(any_series, tmp_path):
    pytest.importorskip("highdicom")
    from medgen.io.dicom.derived.segmentation import write_seg

    volume, (_, values) = read_volume(any_series), random_masks(4)
    write_seg(volume.replaced(values.astype(np.float32)), {1: "liver", 2: "tumour"}, any_series, tmp_path / "s.dcm",
              algorithm="test")  # fmt: skip
    found, table = read_structures(tmp_path / "s.dcm", any_series)
    assert np.array_equal(found.data, values) and table == {"liver": 1, "tumour": 2}


def test_frames_in_another_direction_are_turned(ct, tmp_path):
    """The same voxels as a frame whose rows run the other way and whose columns are rows."""
    masks, values = random_masks()

    def turned(ds):
        volume = read_volume(ct)
        x, y = (volume.affine[:3, axis] * (-1, -1, 1) for axis in (0, 1))
        right, down = np.linalg.norm(x), np.linalg.norm(y)
        shared = ds.SharedFunctionalGroupsSequence[0]
        shared.PixelMeasuresSequence[0].PixelSpacing = [f"{right:.6f}", f"{down:.6f}"]
        shared.PlaneOrientationSequence[0].ImageOrientationPatient = [f"{v:.9f}" for v in (*-y / down, *x / right)]
        for k, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
            start = to_mm(volume, [(0, 11)], k % 5)[0]
            group.PlanePositionSequence[0].ImagePositionPatient = [f"{v:.6f}" for v in start]
        frames = np.array([mask[:, ::-1, k] for mask in masks.values() for k in range(5)], np.uint8)
        ds.Rows, ds.Columns = frames.shape[1:]
        ds.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()

    volume, _ = read_structures(write_segmentation(tmp_path / "seg.dcm", ct, masks, turned), ct)
    assert np.array_equal(volume.data, values)


def spaced(ds):
    ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = ["0.8", "0.61"]


def shifted(ds):
    place = ds.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0]
    place.ImagePositionPatient = [float(v) + 0.3 * (n == 0) for n, v in enumerate(place.ImagePositionPatient)]


def rotated(ds):
    ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [
        f"{v:.9f}" for v in (np.cos(0.05), np.sin(0.05), 0, -np.sin(0.05), np.cos(0.05), 0)
    ]


def moved_up(ds):
    for group in ds.PerFrameFunctionalGroupsSequence:
        place = group.PlanePositionSequence[0]
        place.ImagePositionPatient = [float(v) + 2.5 * (n == 2) for n, v in enumerate(place.ImagePositionPatient)]


def unplaced(ds):
    del ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence


def fractional(ds):
    ds.SegmentationType = "FRACTIONAL"


def elsewhere(ds):
    ds.FrameOfReferenceUID = OTHER


CHANGES = {
    spaced: "structures-off-grid",
    shifted: "structures-off-grid",
    rotated: "structures-off-grid",
    moved_up: "structures-slice-differs",
    unplaced: "structures-frame-unplaced",
    fractional: "structures-not-binary",
    elsewhere: "structures-frame-differs",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_segments_without_a_certain_place_are_refused(ct, tmp_path, change):
    path = write_segmentation(tmp_path / "seg.dcm", ct, random_masks()[0], change)
    with refused(CHANGES[change], names="seg.dcm"):
        read_structures(path, ct)


def left_out(*kept, distance=None):
    """Only the frames of these slices."""

    def change(ds):
        groups = list(ds.PerFrameFunctionalGroupsSequence)
        frames = [n for n in range(len(groups)) if n % 5 in kept]
        pixels = ds.pixel_array[frames]
        ds.PerFrameFunctionalGroupsSequence = [groups[n] for n in frames]
        ds.NumberOfFrames = len(frames)
        ds.PixelData = np.packbits(pixels.ravel(), bitorder="little").tobytes()
        if distance:
            ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = str(distance)

    return change


@pytest.mark.parametrize("change", (left_out(0, 2, 4), left_out(2, distance=5.0), left_out(0, 4, distance=8.0)))
def test_segments_of_thicker_slices_are_refused(any_series, tmp_path, change):
    path = write_segmentation(tmp_path / "seg.dcm", any_series, random_masks()[0], change)
    with refused("structures-slices-skipped", names="seg.dcm"):
        read_structures(path, any_series)


def test_names_that_differ_in_case_only_are_told_apart(ct, tmp_path):
    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"Lesion": [(1, SQUARE)], "lesion": [(3, SQUARE)]})
    volume, _ = read_structures(path, ct, names=["Lesion"])
    assert volume.warnings == ("rs.dcm has lesion beside Lesion; it is left out",)
    assert not read_structures(path, ct)[0].warnings


@pytest.mark.parametrize(("slices", "given"), [((0, 3, 4), True), ((0, 4), True), ((0, 2, 4), False), ((1, 2), True)])
def test_nodules_in_one_slice_each_are_not_a_structure_of_thicker_slices(ct, tmp_path, slices, given):
    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"nodules": [(k, SQUARE) for k in slices]})
    if given:
        assert set(np.nonzero(read_structures(path, ct)[0].data)[2]) == set(slices)
    else:
        with refused("structures-slices-skipped", names="every 2. slice"):
            read_structures(path, ct)


def test_a_structure_that_others_cover_is_told(ct, tmp_path):
    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"tumour": [(1, INNER)], "liver": [(1, SQUARE)]})
    volume, _ = read_structures(path, ct, names=["tumour", "liver"])
    assert volume.warnings == ("tumour has no voxel left: later structures lie on top of it",)


def test_a_backslash_in_a_name_is_part_of_it(ct, tmp_path):
    path = write_rtstruct(tmp_path / "rs.dcm", ct, {"PTV\\60Gy": [(1, SQUARE)], "liver": [(2, SQUARE)]})
    volume, table = read_structures(path, ct, names=["PTV\\60Gy"])
    assert table == {"PTV\\60Gy": 1} and volume.data.sum() == 25 and not volume.warnings
    assert list(read_structures(path, ct)[1]) == ["PTV\\60Gy", "liver"]


@pytest.mark.parametrize("kept", ((0, 1, 4), (2,), (0, 3), (1, 4), (0, 2, 3, 4)))
def test_empty_frames_may_be_left_out(any_series, tmp_path, kept):
    masks, values = random_masks()
    path = write_segmentation(tmp_path / "seg.dcm", any_series, masks, left_out(*kept))
    values[:, :, [k for k in range(5) if k not in kept]] = 0
    assert np.array_equal(read_structures(path, any_series)[0].data, values)


def test_overlapping_segments_need_an_order(ct, tmp_path):
    masks = {"liver": np.ones((14, 12, 5), bool), "tumour": random_masks()[0]["tumour"]}
    path = write_segmentation(tmp_path / "seg.dcm", ct, masks)
    with refused("structures-overlap", names="tumour"):
        read_structures(path, ct)
    volume, _ = read_structures(path, ct, names=["liver", "tumour"])
    assert np.array_equal(volume.data, np.where(masks["tumour"], 2, 1))


def no_number(ds):
    del ds.StructureSetROISequence[0].ROINumber


def no_reference(ds):
    del ds.ROIContourSequence[0].ReferencedROINumber


def no_segment_number(ds):
    del ds.SegmentSequence[0].SegmentNumber


def short_pixels(ds):
    ds.PixelData = ds.PixelData[:2]


@pytest.mark.parametrize("change", [no_number, no_reference, no_segment_number, short_pixels])
def test_damaged_objects_are_refused_in_one_sentence(ct, tmp_path, change):
    if change in (no_number, no_reference):
        path = write_rtstruct(tmp_path / "rs.dcm", ct, between(1), change)
    else:
        path = write_segmentation(tmp_path / "rs.dcm", ct, random_masks()[0], change)
    with refused("structures-damaged", "dicom-unreadable", names="rs.dcm") as caught:
        read_structures(path, ct)
    assert "\n" not in str(caught.value)


def test_another_patient_in_the_same_frame_is_told(ct, tmp_path):
    def renamed(ds):
        ds.PatientID = "p2"

    volume, _ = read_structures(write_rtstruct(tmp_path / "rs.dcm", ct, between(1), renamed), ct)
    assert "PatientID" in volume.warnings[0]


def test_values_and_voxels_are_in_the_output_for_scripts(ct, tmp_path):
    path = write_rtstruct(tmp_path / "rs.dcm", ct, between(1))
    assert CliRunner().invoke(app, ["labels", str(path), str(ct), str(tmp_path / "a.nii.gz")]).exit_code == 0
    assert json_output._found["labels"] == {"liver": 1} and json_output._found["voxels"] == {"liver": 25}
