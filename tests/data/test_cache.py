"""The cache of preprocessed volumes."""

import os

import nibabel as nib
import numpy as np
import pytest
from refusal import refused

from medgen.data.cache import cached
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
