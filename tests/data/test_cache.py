"""The cache beside what it is made of."""

import nibabel as nib
import numpy as np
from refusal import refused

from medgen.data.cache import cached


def test_what_a_header_says_in_two_ways_is_told(tmp_path):
    """From the cache, too."""
    header = nib.Nifti1Header()
    header.set_data_shape((8, 8, 8))
    image = nib.Nifti1Image(np.random.default_rng(0).normal(0, 100, (8, 8, 8)).astype(np.int16), None, header)
    nib.save(image, tmp_path / "a.nii")
    for spacing in (None, (2.0, 2.0, 2.0)):
        for _ in range(2):
            entry = cached(tmp_path / "cache", tmp_path / "a.nii", {"kind": "percentile"}, spacing=spacing)
            assert "a.nii: sform_code and qform_code are 0" in entry.warnings[0]


def test_a_disk_that_takes_a_part_is_said_in_words(tmp_path, monkeypatch):
    """numpy tells of a short write without an error number."""

    def short(file, array):
        raise OSError("512 requested and 100 written")

    monkeypatch.setattr(np, "save", short)
    voxels = np.arange(512, dtype=np.int16).reshape(8, 8, 8)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii")
    with refused("cache-not-writable", names="data.cache"):
        cached(tmp_path / "cache", tmp_path / "a.nii", {"kind": "percentile"}, spacing=None)
