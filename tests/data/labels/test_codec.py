import nibabel as nib
import numpy as np
from refusal import refused

from medgen.data.labels.codec import LabelTable, cached_label_map, describe_labels
from medgen.data.patches import Patches
from medgen.io.volume import Volume

TABLE = LabelTable({"organ": 7, "body": 3})


def put(path, data, spacing=1.0):
    nib.save(nib.Nifti1Image(data, np.diag([spacing, spacing, spacing, 1])), path)
    return path


def case(folder, shape=(10, 12, 8)):
    folder.mkdir(exist_ok=True)
    labels = np.zeros(shape, np.uint8)
    labels[2:8, 2:9, 1:6], labels[4:6, 4:7, 2:4] = 3, 7
    image = np.where(labels > 0, 500, np.where(np.arange(shape[0])[:, None, None] < 5, 10, 200)).astype(np.int16)
    return labels, put(folder / "labels.nii.gz", labels), put(folder / "image.nii.gz", image)


def test_one_hot_and_back():
    data = np.random.default_rng(0).choice([0.0, 3, 7], (4, 5, 6)).astype(np.float32)
    code = TABLE.encode(data)
    assert TABLE.names == {0: "background", 3: "body", 7: "organ"} and code.shape == (3, 4, 5, 6)
    assert (code.sum(0) == 1).all() and np.array_equal(code[2] == 1, data == 7)
    assert np.array_equal(TABLE.decode(code), data)
    shares = code * 0.6 + 0.2 * np.roll(code, 1, 1)
    assert np.array_equal(TABLE.decode(shares), data)


def test_tissue_classes_replace_the_background():
    table = LabelTable({"organ": 7, "body": 3}, tissues=2)
    assert table.names == {3: "body", 7: "organ", 8: "tissue_1", 9: "tissue_2"}
    assert np.array_equal(table.structures(np.array([3, 7, 8, 9, 0])), [3, 7, 0, 0, 0])


def test_values_that_are_not_in_the_table(tmp_path):
    path = tmp_path / "odd.nii.gz"
    with refused("labels-value-unknown", names=("odd.nii.gz", "2, 5.5")):
        TABLE.check(np.array([0, 2, 3, 5.5]), path)
    TABLE.check(np.array([0, 3, 7]), path)


def test_filled_background(tmp_path):
    labels, path, image = case(tmp_path)
    table = LabelTable({"organ": 7, "body": 3}, tissues=2, smoothing=0.0)
    volume = Volume(labels, np.eye(4), path=path)
    scan = Volume(nib.load(image).get_fdata(), np.eye(4), path=image)
    filled = table.filled(volume, scan).data
    assert np.array_equal(filled[labels > 0], labels[labels > 0])
    dark = (labels == 0) & (np.arange(10)[:, None, None] < 5)
    assert (filled[dark] == 8).all() and (filled[(labels == 0) & ~dark] == 9).all()
    carried = table.filled(Volume(filled, np.eye(4), path=path), None)
    assert np.array_equal(carried.data, filled)
    with refused("labels-tissue-classes-missing", names=("labels.nii.gz", "8, 9")):
        table.filled(volume, None)
    with refused("labels-tissue-and-background", names=("labels.nii.gz", "8", "tissue_1")):
        table.filled(volume.replaced(np.where(dark, 8, labels)), scan)


def test_cache_is_made_once_and_depends_on_the_image(tmp_path):
    labels, path, image = case(tmp_path)
    options = dict(spacing=None, movable=False)
    found = cached_label_map(tmp_path / "cache", path, image, TABLE, **options)
    assert np.array_equal(found.data, labels) and found.range == TABLE and found.spacing == (1, 1, 1)
    assert (labels[tuple(found.body.T)] > 0).all() and len(found.body) == (labels > 0).sum()
    made = found.path.stat().st_mtime_ns
    assert cached_label_map(tmp_path / "cache", path, image, TABLE, **options).path.stat().st_mtime_ns == made
    other = put(tmp_path / "other.nii.gz", np.ones(labels.shape, np.int16))
    assert cached_label_map(tmp_path / "cache", path, other, TABLE, **options).path != found.path


def test_labels_on_another_grid_are_refused_or_resampled(tmp_path):
    labels, path, _ = case(tmp_path)
    fine = put(tmp_path / "fine.nii.gz", np.random.default_rng(0).integers(0, 99, (20, 24, 16)).astype(np.int16), 0.5)
    with refused("labels-grid-differs", names=("labels.nii.gz", "fine.nii.gz")):
        cached_label_map(tmp_path / "cache", path, fine, TABLE, spacing=None, movable=False)
    found = cached_label_map(tmp_path / "cache", path, fine, TABLE, spacing=None, movable=True)
    assert found.data.shape == (20, 24, 16) and set(np.unique(found.data)) == {0, 3, 7}
    coarse = cached_label_map(tmp_path / "cache", path, fine, TABLE, spacing=(2.0, 2.0, 2.0), movable=True)
    assert coarse.data.shape == (5, 6, 4) and set(np.unique(coarse.data)) <= {0, 3, 7}


def test_extent_is_the_bounding_box_of_the_structures():
    table = LabelTable({"a": 1}, tissues=2)
    data = np.full((10, 10, 10), 2.0)
    data[3:7, 2:4, 5:6] = 1
    found = describe_labels(Volume(data, np.diag([1.0, 2, 3, 1])), table)
    assert found["extent"] == [4, 4, 3] and found["spacing"] == [1, 2, 3] and len(found["quantiles"]) == 25


def test_label_patches_are_one_hot_and_paired_under_any_augmentation(tmp_path):
    from medgen.data.cache import cached

    labels, path, _ = case(tmp_path)
    image = put(tmp_path / "same.nii.gz", labels.astype(np.int16) * 100)
    source = (cached_label_map(tmp_path / "cache", path, image, TABLE, spacing=None, movable=False),)
    target = (cached(tmp_path / "cache", image, {"kind": "window", "low": 0, "high": 700}, spacing=None),)
    patches = Patches(
        {"a": source}, {"a": target}, paired=True, patch=(12, 12, 12), seed=0, flip=("x",), rotate=20, scale=0.1
    )
    for n in range(4):
        sample = patches[n]
        assert sample["source"].shape == (3, 12, 12, 12) and (sample["source"].sum(0) == 1).all()
        assert set(sample["source"].unique().tolist()) <= {0.0, 1.0}
        value = (sample["source"] * np.array([0, 300, 700])[:, None, None, None]).sum(0)
        seen = (sample["target"][0] + 1) / 2 * 700
        assert ((value - seen).abs() < 200).float().mean() > 0.9
