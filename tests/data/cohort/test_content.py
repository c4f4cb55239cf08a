"""Content hashes depend on every voxel, but not on file type, compression, name and axis order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medgen.data.cohort.content import content_hash, content_hashes
from medgen.io.volume import Volume
from medgen.io.write import write_volume

values = arrays(np.float32, (3, 4, 5), elements=st.integers(-1000, 1000).map(float))


@settings(max_examples=60, deadline=None)
@given(values, st.permutations(range(3)), st.tuples(*[st.sampled_from([1, -1])] * 3), st.integers(0, 59))
def test_content_hash_ignores_axis_order_and_depends_on_every_voxel(data, order, steps, place):
    turned = data.transpose(order)[tuple(slice(None, None, step) for step in steps)]
    expected = content_hash(data)
    assert content_hash(turned) == expected and (expected is None) == (np.ptp(data) == 0)
    other = data.copy()
    other.flat[place] += 0.5
    assert content_hash(other) != expected


def test_content_hash_depends_on_voxel_positions():
    data = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    swapped = data.copy()
    swapped[0, 0, 0], swapped[3, 4, 5] = data[3, 4, 5], data[0, 0, 0]
    assert content_hash(swapped) != content_hash(data) != content_hash(data.reshape(8, 7, 6))
    assert content_hash(np.where(data > 0, data, 0.0)) == content_hash(np.where(data > 0, data, -0.0))


@pytest.mark.parametrize("ending, dtype", [(".nii.gz", "i2"), (".nii", "f4"), (".mha", "i4"), (".nrrd", "f8")])
def test_a_copy_in_another_format_and_orientation_has_the_same_hash(tmp_path, ending, dtype):
    data = np.random.default_rng(1).integers(-1000, 1000, (5, 6, 7)).astype(np.float32)
    write_volume(tmp_path / "a.nii.gz", Volume(data, np.diag([2, 2, 2, 1.0]), np.dtype("i2")))
    affine = np.array([[0, 0, -2, 20], [2, 0, 0, 0], [0, -2, 0, 9], [0, 0, 0, 1.0]])
    copy = tmp_path / f"b{ending}"
    write_volume(copy, Volume(data.transpose(1, 2, 0)[:, ::-1, ::-1], affine, np.dtype(dtype)))
    a, b = content_hashes([tmp_path / "a.nii.gz", copy], tmp_path / "cache").values()
    assert a == b is not None


def test_hashes_are_kept_until_the_file_changes(tmp_path):
    file, data = tmp_path / "a.nii", np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    write_volume(file, Volume(data, np.eye(4)))
    (first,) = content_hashes([file], tmp_path).values()
    kept = (tmp_path / "content.json").read_text().replace(first, "kept")
    (tmp_path / "content.json").write_text(kept)
    assert list(content_hashes([file], tmp_path).values()) == ["kept"]
    write_volume(file, Volume(data[..., :4], np.eye(4)))
    assert list(content_hashes([file], tmp_path).values()) not in (["kept"], [first])
    (tmp_path / "content.json").write_text("{")
    assert content_hashes([file, tmp_path / "gone.nii"], tmp_path)[tmp_path / "gone.nii"] == ""
