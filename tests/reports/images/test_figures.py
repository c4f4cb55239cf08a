import io

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from refusal import refused

from medgen.reports.images.figures import case_picture, conversion_picture

SHAPE = (24, 20, 16)


def _write(path, data, spacing=(2.0, 2.0, 3.0)):
    nib.save(nib.Nifti1Image(data.astype(np.float32), np.diag([*spacing, 1.0])), path)
    return path


@pytest.fixture
def files(tmp_path):
    truth = np.full(SHAPE, -1000.0)
    truth[4:20, 4:16, 2:14] = 40
    source = truth.copy()
    source[6:10, 8:12, 4:12] = 200  # the patient's left: low x in RAS
    prediction = truth.copy()
    prediction[6:10, 8:12, 4:12] = 90
    names = {"reference": truth, "source": source, "prediction": prediction}
    return {role: _write(tmp_path / f"{role}.nii.gz", data) for role, data in names.items()}


def _pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture.jpeg)).convert("RGB")).astype(int)


def test_picture_has_a_column_for_each_image_and_says_what_it_shows(files):
    picture = case_picture(files)
    assert "W 400 L 40 HU" in picture.caption and "−100 HU (blue) to +100 HU (orange)" in picture.caption
    four = _pixels(picture)
    del files["source"]
    three = _pixels(case_picture(files))
    assert four.shape[1] <= 1400 and three.shape[1] < four.shape[1]
    assert len(picture.jpeg) < 600_000


def test_what_is_left_too_bright_is_orange_on_the_side_where_it_is(files):
    """50 HU remain on the patient's left: the orange area is right of the middle of the axial difference."""
    pixels = _pixels(case_picture(files))
    red, blue = pixels[..., 0], pixels[..., 2]
    axial = slice(40, 300)
    panel = slice(4 * 326 - 300, 4 * 326 - 20)  # without the marks at the edges
    # the marks on top and below are amber too: only what is redder than they are
    orange = ((red - blue)[axial, panel] > 60) & (pixels[axial, panel, 1] < 110)
    columns = np.flatnonzero(orange.sum(axis=0) > 5)
    assert columns.size and columns.min() > 140


def test_the_same_volume_in_another_order_on_disk_gives_the_same_picture(files):
    before = case_picture(files)
    for path in files.values():
        turned = nib.load(path).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
        nib.save(nib.Nifti1Image(np.asarray(turned.dataobj), turned.affine), path)
    assert case_picture(files) == before


def test_aspect_follows_the_spacing(files, tmp_path):
    """Twice the slice distance makes the coronal and sagittal rows twice as high."""
    heights = []
    for step in (2.0, 4.0):
        for role, path in files.items():
            data = nib.load(path).get_fdata()
            files[role] = _write(tmp_path / f"{role}_{step}.nii.gz", data, (2.0, 2.0, step))
        heights.append(_pixels(case_picture(files)).shape[0])
    x, y, z = 24 * 2, 20 * 2, 16 * 2  # the margin of 8 mm reaches the faces of this volume
    scale = 320 / x
    assert heights[0] == pytest.approx(34 + 3 * 6 + scale * (y + 2 * z), abs=3)
    assert heights[1] == pytest.approx(34 + 3 * 6 + scale * (y + 4 * z), abs=3)


def test_images_without_units_are_shown_by_their_own_range(files, tmp_path):
    rng = np.random.default_rng(0)
    t2 = _write(tmp_path / "t2.nii.gz", rng.random(SHAPE) * 900)
    t1 = _write(tmp_path / "t1.nii.gz", rng.random(SHAPE) * 3)
    caption = case_picture({"reference": t2, "prediction": t2, "source": t1}).caption
    assert "HU" not in caption and "Window" in caption


def test_flat_and_thin_volumes_still_make_a_picture(tmp_path):
    flat = _write(tmp_path / "flat.nii.gz", np.zeros((5, 6, 1)))
    assert case_picture({"reference": flat, "prediction": flat}).jpeg[:2] == b"\xff\xd8"


def test_conversion_shows_input_output_and_the_change(files):
    picture = conversion_picture(files["source"], files["prediction"])
    assert "−200 HU (blue)" in picture.caption
    pixels = _pixels(picture)
    assert (pixels[..., 2] - pixels[..., 0] > 60).sum() > 500  # contrast taken away is blue


def test_other_grids_and_lost_files_are_refused(files, tmp_path):
    small = _write(tmp_path / "small.nii.gz", np.zeros((4, 4, 4)))
    with refused("report-grid-differs"):
        case_picture({**files, "prediction": small})
    with refused("file-missing", names="gone.nii.gz"):
        case_picture({**files, "prediction": tmp_path / "gone.nii.gz"})


def test_a_case_without_truth_or_source_is_shown_by_itself(files):
    alone = case_picture({"prediction": files["prediction"]})
    assert "W 400 L 40 HU" in alone.caption and "Difference" not in alone.caption
    changed = case_picture({"prediction": files["prediction"], "source": files["source"]})
    assert changed == conversion_picture(files["source"], files["prediction"])
