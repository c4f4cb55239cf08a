import base64
import io
import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medgen.reports.images.case_images import case_scene
from medgen.reports.images.volumes import MOST_BYTES, block_size, volumes
from medgen.reports.images.windows import levels

SPACING = (2.0, 2.0, 3.0)
SHAPE = (60, 50, 40)


def save(path, data, affine=None):
    nib.save(nib.Nifti1Image(data.astype(np.float32), np.diag([*SPACING, 1.0]) if affine is None else affine), path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A body whose HU grow along every axis; the output is 60 HU too high in a box."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    truth = np.where((x > 4) & (x < 55) & (y > 4) & (y < 45) & (z > 4) & (z < 35), 1.0 * x + 0.5 * y + 2.0 * z, -1000)
    source, prediction = truth.copy(), truth.copy()
    source[10:25, 20:30, 25:30] += 160
    prediction[10:25, 20:30, 25:30] += 60
    root = tmp_path_factory.mktemp("volumes")
    made = {"reference": truth, "source": source, "prediction": prediction}
    return {role: save(root / f"{role}.nii.gz", data) for role, data in made.items()}


def decoded(made, column):
    """Cut the axial slices out of a column's JPEG, as the page's script does; (X, Y, Z)."""
    content = json.loads(json.dumps(made.content))
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content["columns"][column]["jpeg"]))))
    (nx, ny, nz), (width, height), tiles = content["shape"], content["tile"], content["tiles"]
    slices = []
    for z in range(nz):
        top, left = z // tiles * height, z % tiles * width
        slices.append(pixels[top : top + ny, left : left + nx].T)
    return np.stack(slices, -1)


def test_every_voxel_lies_where_the_affine_says(files):
    made = volumes(case_scene(files))
    assert made.factor == (1, 1, 1) and list(made.titles) == ["input", "output", "truth", "output − truth"]
    truth, grid = nib.load(files["reference"]).get_fdata(), decoded(made, 2)
    for voxel in [(0, 0, 0), (20, 10, 9), (40, 33, 20), tuple(n - 1 for n in made.shape)]:
        mm = made.affine @ [*voxel, 1]
        index = tuple(np.rint(mm[:3] / SPACING).astype(int))
        assert int(grid[voxel]) == pytest.approx(float(levels(truth[index])), abs=8), voxel
    first = np.rint(made.affine[:3, 3] / SPACING).astype(int)
    region = tuple(slice(a, a + n) for a, n in zip(first, made.shape, strict=True))
    errors = np.abs(grid.astype(float) - levels(truth[region]))
    assert np.median(errors) <= 1 and np.percentile(errors, 95) < 6


def test_a_difference_is_stored_around_the_middle_and_belongs_to_its_output(files):
    made = volumes(case_scene(files, {"a": files["prediction"], "b − c": files["source"]}))
    assert list(made.titles) == ["input", "a", "b − c", "truth", "a − truth", "b − c − truth"]
    assert list(made.over) == [None, None, None, None, 1, 2]
    low, high = made.ranges[4]
    difference = low + decoded(made, 4).astype(float) / 255 * (high - low)
    at = tuple(np.rint(np.linalg.solve(made.affine, [17 * 2, 25 * 2, 27 * 3, 1]))[:3].astype(int))
    assert difference[at] == pytest.approx(60, abs=4) and np.median(np.abs(difference)) < 1
    assert made.ranges[1] is None, "CT is stored as levels"


def test_the_mean_is_that_of_the_decoded_image(files):
    made = volumes(case_scene(files))
    for image, mean in zip(made.images, made.means, strict=True):
        assert np.asarray(Image.open(io.BytesIO(image))).mean() == pytest.approx(mean)


def test_blocks_of_voxels_are_averaged_and_their_centres_are_kept(files, monkeypatch):
    monkeypatch.setattr("medgen.reports.images.volumes.MOST_VOXELS", 4 * 10_000)
    made = volumes(case_scene(files))
    assert max(made.factor) > 1 and np.prod(made.shape) <= 10_000
    assert made.spacing == pytest.approx([f * s for f, s in zip(made.factor, SPACING, strict=True)])
    truth, grid = nib.load(files["reference"]).get_fdata(), decoded(made, 2)
    voxel = tuple(n // 2 for n in made.shape)
    index = (made.affine @ [*voxel, 1])[:3] / SPACING
    expected = 1.0 * index[0] + 0.5 * index[1] + 2.0 * index[2]
    assert truth[tuple(np.rint(index).astype(int))] > 0
    assert int(grid[voxel]) == pytest.approx(float(levels(expected)), abs=4)


def test_pure_noise_stays_below_the_bound(tmp_path):
    random = np.random.default_rng(0)
    names = ("reference", "source", "prediction")
    noisy = {role: save(tmp_path / f"{role}.nii", random.normal(40, 200, (120, 120, 100))) for role in names}
    made = volumes(case_scene(noisy))
    assert made.size <= MOST_BYTES and max(made.factor) > 1


@pytest.mark.parametrize(
    ("shape", "spacing", "most", "expected"),
    [
        ((10, 10, 10), (1, 1, 1), 1000, (1, 1, 1)),
        ((20, 20, 10), (1, 1, 2), 1000, (2, 2, 1)),
        ((1, 1, 1), (1, 1, 1), 0, (1, 1, 1)),
        ((5, 1, 1), (1, 9, 9), 1, (5, 1, 1)),
    ],
)
def test_fine_axes_are_averaged_first(shape, spacing, most, expected):
    assert block_size(shape, spacing, most) == expected
