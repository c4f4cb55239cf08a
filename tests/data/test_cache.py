"""The cache beside what it is made of."""

import nibabel as nib
import numpy as np

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
