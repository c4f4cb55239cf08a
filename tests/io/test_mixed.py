"""A folder with both DICOM and volumes is refused by every command that searches for volumes."""

import nibabel as nib
import numpy as np
import pytest
from dicom_series import stored, write_ct
from refusal import refused

from medgen.data.cohort.read import read_cohort
from medgen.evaluation.distribution.sections import volume_files
from medgen.evaluation.folders import match_folders
from medgen.inference.inputs import find_inputs
from medgen.io.read import find_volumes, read_geometry, read_volume


@pytest.fixture
def both(tmp_path):
    folder = tmp_path / "source"
    write_ct(folder, stored(2, 4, 4))
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 2), np.int16), np.eye(4)), folder / "mask.nii.gz")
    return folder


@pytest.mark.parametrize(
    "look",
    [
        find_volumes,
        find_inputs,
        volume_files,
        read_volume,
        read_geometry,
        lambda folder: match_folders({"prediction": folder}),
        lambda folder: match_folders({"prediction": folder / "mask.nii.gz", "source": folder}),
        lambda folder: read_cohort(folder.parent),
        lambda folder: read_cohort(folder.parent, domains=("source",)),
    ],
)
def test_mixed_folder_is_refused_and_both_kinds_are_named(both, look):
    with refused("folder-mixed-kinds", names=("source", "000.dcm", "mask.nii.gz")):
        look(both)


def test_chosen_kind_in_a_mixed_folder_is_read(both):
    assert find_volumes(both, beside_dicom=True) == [both / "mask.nii.gz"]
    assert read_volume(both / "mask.nii.gz").frames is None
    assert read_volume(both / "000.dcm").frames and read_volume(both, series="1").frames
