import io

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medgen.reports.images.case_images import case_scene
from medgen.reports.images.stacks import MOST, slice_indices, stacks
from medgen.reports.images.windows import PRESETS, greys, levels

SPACING = (2.0, 2.0, 3.0)
SHAPE = (60, 50, 40)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A body in which the axial slice k has the value 2 k HU; 80 HU too much on the patient's left, high up."""
    truth = np.full(SHAPE, -1000.0, np.float32)
    truth[5:55, 5:45, 5:35] = 2 * np.arange(5, 35)
    source = truth.copy()
    source[10:25, 20:30, 25:30] += 160
    prediction = truth.copy()
    prediction[10:25, 20:30, 25:30] += 80
    root, made = tmp_path_factory.mktemp("stack"), {}
    affine = np.diag([*SPACING, 1.0])
    affine[2, 3] = -60
    for role, data in {"reference": truth, "source": source, "prediction": prediction}.items():
        made[role] = root / f"{role}.nii.gz"
        nib.save(nib.Nifti1Image(data, affine), made[role])
    return made


def _pixels(frame):
    return np.asarray(Image.open(io.BytesIO(frame))).astype(int)


@given(st.integers(0, 50), st.integers(1, 700), st.data(), st.integers(1, 40))
def test_every_nth_slice_with_the_one_that_matters_among_them(first, count, data, most):
    start = data.draw(st.integers(first, first + count - 1))
    indices = slice_indices(first, first + count, start, most)
    assert start in indices and len(indices) <= most
    assert indices[0] - indices.step < first <= indices[0] and indices[-1] < first + count <= indices[-1] + indices.step


def test_each_frame_is_the_slice_at_the_place_it_names(files):
    axial = stacks(case_scene(files))[0]
    assert axial.plane == "axial" and axial.titles == ["input", "output", "truth", "output − truth"]
    for place, frame in zip(axial.places, axial.frames[2], strict=True):
        side, mm = place.removesuffix(" mm").split()
        slice_ = ((float(mm) if side == "S" else -float(mm)) + 60) / SPACING[2]
        pixels = _pixels(frame)
        value = 2 * slice_ if 5 <= slice_ < 35 else -1000
        assert pixels[pixels.shape[0] // 3, pixels.shape[1] // 3] == pytest.approx(levels(value), abs=4)


def test_the_first_slice_shown_holds_what_differs_and_on_the_right_side(files):
    axial, coronal, _ = stacks(case_scene(files))
    side, mm = axial.places[axial.start].removesuffix(" mm").split()
    assert side == "S" and 25 <= (float(mm) + 60) / SPACING[2] < 30
    pixels = _pixels(axial.frames[3][axial.start])
    orange = np.flatnonzero((pixels[..., 0] - pixels[..., 2] > 90)[20:-20, 20:-20].sum(axis=0) > 5) + 20
    # x 10 to 24 in RAS is the patient's left: right of the middle on the page
    assert orange.size and orange.min() > pixels.shape[1] / 2
    assert coronal.start == coronal.places.index(coronal.places[coronal.start])


def test_all_planes_have_one_scale_and_bounded_bytes(files):
    made = stacks(case_scene(files))
    sizes = {stack.plane: _pixels(stack.frames[0][0]).shape for stack in made}
    mm = [58 * 2, 48 * 2, 36 * 3]  # the body with a margin of 8 mm, in whole voxels
    scale = sizes["axial"][1] / mm[0]
    assert sizes["axial"][0] == pytest.approx(mm[1] * scale, abs=1)
    assert sizes["coronal"] == pytest.approx((mm[2] * scale, mm[0] * scale), abs=1)
    assert sizes["sagittal"] == pytest.approx((mm[2] * scale, mm[1] * scale), abs=1)
    assert [stack.share for stack in made] == pytest.approx([1, 1, mm[1] / mm[0]])
    for stack in made:
        assert sum(map(len, stack.frames)) <= MOST[stack.plane]
    assert sum(stack.size for stack in made) < 3e6


def test_several_systems_share_the_frames(files):
    one = stacks(case_scene(files))
    two = stacks(case_scene(files, {"a": files["prediction"], "b": files["source"]}))
    assert two[0].titles == ["input", "a", "b", "truth", "a − truth", "b − truth"]
    for few, many in zip(one, two, strict=True):
        assert len(many.frames) == 6 and sum(map(len, many.frames)) <= MOST[many.plane]
        assert few.step_mm <= many.step_mm


@given(st.floats(-1e4, 1e4), st.sampled_from(list(PRESETS.values())))
def test_each_window_shows_the_grey_of_every_hu(hu, window):
    """The level of a frame, through a window's table, is the grey that the window gives: to a few HU of rounding."""
    width, level = window
    expected = np.clip((hu - level) / width + 0.5, 0, 1)
    step = 24 / width if hu > 240 else 19 / width if hu < -160 else 4.3 / width
    assert greys(width, level)[round(float(levels(hu)))] == pytest.approx(expected, abs=step)


INSIDE = {"low": [19, 39, 13.5], "high": [49, 59, 28.5]}  # around the voxels that differ, in mm
OUTSIDE = {"low": [500, 500, 500], "high": [510, 510, 510]}


@pytest.mark.parametrize("turned", [False, True])
def test_a_finding_is_marked_where_it_lies_and_every_plane_opens_there(files, tmp_path, turned):
    """On all three planes the box holds all that differs, however the file stores its axes."""
    if turned:
        images = {
            role: nib.load(path).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]])) for role, path in files.items()
        }
        files = {role: tmp_path / f"{role}.nii.gz" for role in images}
        for role, image in images.items():
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), files[role])
    scene = case_scene(files, places={1: INSIDE, 2: OUTSIDE})
    assert [mark.number for mark in scene.marks] == [1]
    for plane in stacks(scene):
        (mark,) = plane.marks
        assert mark["first"] <= plane.start <= mark["last"]
        pixels = _pixels(plane.frames[3][plane.start])
        rows, columns = np.nonzero((pixels[..., 0] - pixels[..., 2] > 90) & (pixels[..., 1] < 110))
        height, width = pixels.shape[:2]
        left, top = mark["left"] / 100 * width, mark["top"] / 100 * height
        assert len(rows) > 20 and (rows > top - 2).all() and (columns > left - 2).all()
        assert (rows < top + mark["height"] / 100 * height + 2).all()
        assert (columns < left + mark["width"] / 100 * width + 2).all()
        for n in (mark["first"] - 1, mark["last"] + 1):
            if 0 <= n < len(plane.places):  # nothing differs on the slices where the box is not shown
                beyond = _pixels(plane.frames[3][n])
                assert ((beyond[..., 0] - beyond[..., 2] > 90) & (beyond[..., 1] < 110)).sum() < len(rows) / 2


def test_the_box_of_a_voxel_is_large_enough_to_be_seen_and_shown_on_the_nearest_slice(files):
    voxel = {"low": [30, 40, 15], "high": [30.1, 40.1, 15.1]}
    many = {name: files["prediction"] for name in "abcdefgh"}  # few slices each
    for plane in stacks(case_scene(files, many, {1: voxel})):
        (mark,) = plane.marks
        assert mark["width"] >= 5 and mark["height"] >= 5 and mark["first"] == mark["last"] == plane.start


def test_where_frames_are_large_there_are_fewer_of_them(files, monkeypatch):
    scene = case_scene(files)
    full = sum(stack.size for stack in stacks(scene))
    monkeypatch.setattr("medgen.reports.images.stacks.MOST_BYTES", full // 2)
    made = stacks(scene)
    assert full // 4 < sum(stack.size for stack in made) <= full // 2
    assert all(
        stack.voxels[stack.start] + scene.view[n].start == scene.at[n] for stack, n in zip(made, (2, 1, 0), strict=True)
    )


def test_the_pictures_of_four_cases_take_less_than_15_mb_in_base64():
    from medgen.reports.images import stacks, volumes

    assert 4 * (stacks.MOST_BYTES + volumes.MOST_BYTES) * 4 / 3 < 14e6
