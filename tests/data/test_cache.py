"""The cache of preprocessed volumes."""

import os

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused

from medgen.data.cache import _compact, cached, on_threads
from medgen.data.cohort.content import content_hashes
from medgen.io.volume import Volume
from medgen.io.write import write_volume


def test_header_warnings_are_kept_in_the_cache(tmp_path):
    """Whether the volume is read from its file or from the cache."""
    header = nib.Nifti1Header()
    header.set_data_shape((8, 8, 8))
    image = nib.Nifti1Image(np.random.default_rng(0).normal(0, 100, (8, 8, 8)).astype(np.int16), None, header)
    nib.save(image, tmp_path / "a.nii")
    for spacing in (None, (2.0, 2.0, 2.0)):
        for _ in range(2):
            entry = cached(tmp_path / "cache", tmp_path / "a.nii", {"kind": "percentile"}, spacing=spacing)
            assert "a.nii: sform_code and qform_code are 0" in entry.warnings[0]


def test_a_short_write_to_a_full_disk_is_refused(tmp_path, monkeypatch):
    """numpy reports a short write without an error number."""

    def short(file, array):
        raise OSError("512 requested and 100 written")

    monkeypatch.setattr(np, "save", short)
    voxels = np.arange(512, dtype=np.int16).reshape(8, 8, 8)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii")
    with refused("cache-not-writable", names="data.cache"):
        cached(tmp_path / "cache", tmp_path / "a.nii", {"kind": "percentile"}, spacing=None)


@pytest.mark.parametrize("ending", [".nii", ".mhd"])
def test_a_file_replaced_by_one_of_the_same_size_and_time_is_read_again(tmp_path, ending):
    """As by ``cp -p`` of corrected images; of a detached header also if only its data file is replaced."""
    path, found = tmp_path / f"a{ending}", []
    for level in (0, 50):
        volume = Volume(np.arange(512, dtype=np.float32).reshape(8, 8, 8) + level, np.eye(4), np.dtype(np.int16))
        write_volume(path, volume)
        for file in tmp_path.glob("a.*"):
            os.utime(file, ns=(0, 0))
        entry = cached(tmp_path / "cache", path, {"kind": "percentile"}, spacing=None)
        found.append((float(np.mean(entry.data)), content_hashes([path], tmp_path / "cache")[path]))
    assert found[1][0] == found[0][0] + 50 and found[0][1] != found[1][1]


@given(st.tuples(*[st.integers(4, 90)] * 3), st.tuples(*[st.sampled_from([0.7, 1.5, 4.0])] * 3), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_entries_hold_the_volume_and_voxels_of_its_body(tmp_path_factory, shape, spacing, seed):
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("entry")
    data = np.full(shape, -1000, np.int16)
    low = [n // 4 for n in shape]
    inside = tuple(slice(a, n - a) for a, n in zip(low, shape, strict=True))
    data[inside] = rng.integers(0, 100, data[inside].shape)
    if seed % 2:
        data = data[::-1, ::-1]  # RAS+ needs the axes to be turned
    affine = np.diag([*(np.array([-1, -1, 1]) ** (seed % 2) * spacing), 1.0])
    nib.save(nib.Nifti1Image(data, affine), folder / "a.nii.gz")
    entry = cached(folder / "cache", folder / "a.nii.gz", {}, spacing=None)
    expected = nib.as_closest_canonical(nib.load(folder / "a.nii.gz")).get_fdata()
    assert np.array_equal(entry.data, expected) and entry.data.dtype == np.int16 and entry.data.flags.c_contiguous
    assert len(entry.body) and (entry.body >= 0).all() and (entry.body < shape).all()
    # The centres come from voxels at most 5 mm apart.
    near = np.array(low) - 5 / np.array(spacing)
    assert (entry.body >= near).all() and (entry.body < np.array(shape) - near).all()


@pytest.mark.parametrize(("value", "kind"), [(32767, "i2"), (-32768, "i2"), (32768, "f4"), (0.5, "f4"), (3e38, "f4")])
def test_volumes_are_stored_as_int16_where_that_is_lossless(value, kind):
    data = np.zeros((3, 4, 5), np.float32)
    data[1, 2, 3] = value
    stored = _compact(data)
    assert stored.dtype == np.dtype(kind) and np.array_equal(stored, data)


def test_results_of_threads_come_in_order_and_an_error_is_raised():
    assert list(on_threads(lambda n: n * n, range(50))) == [n * n for n in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(on_threads(lambda n: 1 / n, [2, 0, 1]))
