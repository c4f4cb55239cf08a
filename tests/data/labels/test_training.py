import nibabel as nib
import numpy as np
import pytest
from refusal import refused

from medgen.data.labels.training import cached_labels, part_voxels


def put(path, data, spacing=1.0):
    nib.save(nib.Nifti1Image(data, np.diag([spacing, spacing, spacing, 1])), path)
    return path


@pytest.fixture
def files(tmp_path):
    named = np.random.default_rng(0).choice([0, 3, 7], (6, 5, 4)).astype(np.uint8)
    return put(tmp_path / "labels.nii.gz", named), put(tmp_path / "image.nii.gz", np.zeros((6, 5, 4), np.int16)), named


def test_classes_count_from_the_background_in_the_order_of_the_values(files, tmp_path):
    path, image, named = files
    file = cached_labels(tmp_path / "cache", path, image, [0, 3, 7], spacing=None)
    classes = np.load(file)
    assert classes.dtype == np.uint8
    assert np.array_equal(np.array([0, 3, 7])[classes], named)
    before = file.stat().st_mtime_ns
    assert cached_labels(tmp_path / "cache", path, image, [0, 3, 7], spacing=None).stat().st_mtime_ns == before
    assert cached_labels(tmp_path / "cache", path, image, [0, 3, 7, 9], spacing=None) != file


def test_values_without_a_name_are_refused(files, tmp_path):
    path, image, _ = files
    with refused("labels-value-unknown", names=("labels.nii.gz", "7")):
        cached_labels(tmp_path / "cache", path, image, [0, 3], spacing=None)


def test_labels_follow_the_grid(tmp_path):
    named = np.zeros((8, 8, 8), np.uint8)
    named[2:6, 2:6, 2:6] = 5
    path = put(tmp_path / "labels.nii.gz", named)
    same = put(tmp_path / "same.nii.gz", np.zeros((8, 8, 8), np.int16))
    fine = np.load(cached_labels(tmp_path, path, same, [0, 5], spacing=(0.5, 0.5, 0.5)))
    doubled = (named // 5).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    corners = np.argwhere(fine != doubled)  # where less than half of the cell around a place is the label's
    assert set(map(tuple, corners)) == {(x, y, z) for x in (4, 11) for y in (4, 11) for z in (4, 11)}
    large = put(tmp_path / "large.nii.gz", np.zeros((12, 4, 8), np.int16))
    moved = np.load(cached_labels(tmp_path, path, large, [0, 5], spacing=None))
    assert np.array_equal(moved[:8], named[:, :4] // 5) and not moved[8:].any()
    with refused("labels-grid-differs", names=("labels.nii.gz", "large.nii.gz")):
        cached_labels(tmp_path / "other", path, large, [0, 5], spacing=None, movable=False)


def test_label_values_are_merged_into_classes(files, tmp_path):
    path, image, named = files
    file = cached_labels(tmp_path / "cache", path, image, [0, 3, 7], [0, 0, 1], spacing=None)
    assert np.array_equal(np.load(file), named == 7)
    assert cached_labels(tmp_path / "cache", path, image, [0, 3, 7], spacing=None) != file


def test_small_and_large_components_give_equally_many_centres():
    classes = np.zeros((12, 12, 12), np.uint8)
    classes[:6, :6, :6], classes[9, 9, 9], classes[0, 0, 11] = 2, 2, 3
    places = part_voxels(classes, [2])
    assert (classes[tuple(places.T)] == 2).all()
    assert (places == 9).all(1).sum() == len(places) / 2
    assert part_voxels(classes, [1]).shape == (0, 3)
    assert {classes[tuple(p)] for p in part_voxels(classes, [2, 3])} == {2, 3}
