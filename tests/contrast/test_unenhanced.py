"""The unenhanced twin: labelled structures come to their usual HU, with the scan's noise; the rest stays as it is."""

import json

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from medgen.cli import app
from medgen.contrast.unenhanced import unenhanced
from medgen.errors import InputError
from medgen.phantom.cohort import LABELS, make_patient

NAMES = {1: "aorta", 2: "liver", 3: "vertebrae_L1", 4: "stomach", 5: "liver_tumor", 6: "kidney_cyst_left"}
MM = (2.0, 2.0, 2.0)


def scan():
    """Boxes in soft tissue in air, with noise of 8 HU; a calcification in the aorta, and a bright box without label."""
    hu = np.full((48, 40, 32), -1000, np.float32)
    hu[4:-4, 4:-4, 2:-2] = 40
    labels = np.zeros(hu.shape, np.int32)
    for value, box, level in (
        (1, (slice(8, 16), slice(8, 16), slice(4, -4)), 300),
        (2, (slice(20, 40), slice(8, 20), slice(4, -4)), 110),
        (3, (slice(8, 14), slice(20, 28), slice(4, -4)), 250),
        (4, (slice(28, 40), slice(24, 34), slice(8, -8)), 60),
        (5, (slice(28, 34), slice(11, 17), slice(12, 20)), 70),
        (6, (slice(18, 24), slice(26, 32), slice(8, -8)), 5),
    ):
        hu[box], labels[box] = level, value
    hu[11:13, 11:13, 14:18] = 900
    hu[8:14, 30:34, 8:-8] = 160
    return hu + np.random.default_rng(0).normal(0, 8, hu.shape).astype(np.float32), labels


def test_structures_come_to_their_level_and_keep_the_noise():
    hu, labels = scan()
    twin = unenhanced(hu, labels, NAMES, MM)
    inner = np.zeros(hu.shape, bool)
    inner[9:11, 9:15, 6:-6] = True
    assert twin.plain[inner].mean() == pytest.approx(41, abs=3)
    liver = (labels == 2) & (np.indices(hu.shape)[0] < 26)
    assert twin.plain[liver].mean() == pytest.approx(57, abs=3)
    assert twin.plain[liver].std() > 0.7 * hu[liver].std()
    assert np.allclose(hu - twin.removed, twin.plain)


def test_what_is_not_known_is_unchanged_or_recorded():
    hu, labels = scan()
    twin = unenhanced(hu, labels, NAMES, MM)
    for value in (3, 4, 6):
        inside = np.zeros(hu.shape, bool)
        inside[1:-1, 1:-1, 1:-1] = (labels == value)[1:-1, 1:-1, 1:-1]
        assert np.abs(twin.removed[inside]).mean() < 1, NAMES[value]
    assert (twin.removed[hu < -500] == 0).all()
    calcified = (slice(11, 13), slice(11, 13), slice(14, 18))
    np.testing.assert_array_equal(twin.plain[calcified], hu[calcified])
    record = twin.record
    assert set(record["removed"]) == {"aorta", "liver", "liver_tumor"}
    assert record["unchanged"] == ["stomach", "vertebrae_L1"] and record["assumed"] == ["liver_tumor"]
    assert record["unlabelled_bright_ml"] == pytest.approx(6 * 4 * 16 * 8 / 1000, rel=0.5)
    assert 0 < record["calcium_ml"] < 1
    with pytest.raises(ValueError, match="one shape"):
        unenhanced(hu, labels[1:], NAMES, MM)


def test_command_writes_the_pair_and_says_what_is_not_known(tmp_path):
    hu, labels = scan()
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    nib.save(nib.Nifti1Image(np.rint(hu).astype(np.int16), affine), tmp_path / "ct.nii.gz")
    nib.save(nib.Nifti1Image(labels.astype(np.uint8), affine), tmp_path / "map.nii.gz")
    (tmp_path / "labels.json").write_text(json.dumps({name: value for value, name in NAMES.items()}))
    given = ["simulate-contrast", str(tmp_path / "ct.nii.gz"), str(tmp_path / "map.nii.gz"), str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*given, "--reverse"])
    assert result.exit_code == 0 and "twin of 3 structures; unchanged: stomach" in result.output
    source, target = (nib.load(tmp_path / "out" / part / "ct.nii.gz").get_fdata() for part in ("source", "target"))
    assert np.array_equal(source, np.rint(hu)) and (source - target).max() > 200
    (operation,) = json.loads((tmp_path / "out" / "provenance.json").read_text())["real"]["ct"]["operations"]
    assert operation["name"] == "unenhanced" and operation["assumed"] == ["liver_tumor"]
    for more in (["--oral"], ["--phase", "late"]):
        result = CliRunner().invoke(app, [*given[:-1], str(tmp_path / "other"), "--reverse", *more])
        assert isinstance(result.exception, InputError) and "omit them with --reverse" in str(result.exception)


def test_half_filled_veins_are_lowered_and_stones_and_neighbouring_bone_stay():
    hu = np.full((40, 40, 24), 40, np.float32)
    labels = np.zeros(hu.shape, np.int32)
    labels[4:12, 4:20, 2:-2], hu[4:12, 4:20, 2:-2] = 1, 45  # a cava, of which less than half is enhanced
    hu[4:12, 13:20, 2:-2] = 180
    labels[16:30, 4:20, 2:-2], hu[16:30, 4:20, 2:-2] = 2, 180  # kidney with a stone
    hu[20:23, 8:11, 10:13] = 800
    labels[30:38, 4:20, 2:-2], hu[30:38, 4:20, 2:-2] = 3, 250  # a bone that touches it
    names = {1: "inferior_vena_cava", 2: "kidney_left", 3: "bone_metastasis"}
    twin = unenhanced(hu, labels, names, MM)
    assert twin.plain[6:10, 14:19, 4:-4].max() < 60
    assert twin.plain[21, 9, 11] > 400 and twin.record["calcium_ml"] > 0
    assert np.median(twin.plain[labels == 2]) == pytest.approx(33, abs=3)
    assert np.array_equal(twin.plain[labels == 3], hu[labels == 3]) and "bone_metastasis" in twin.record["unchanged"]


@pytest.mark.parametrize("mm", [0.8, 2.5, 5.0])
def test_the_noise_of_any_spacing_stays(mm):
    noise = np.random.default_rng(0).normal(0, 8, (40, 40, 40)).astype(np.float32)
    hu, labels = np.full(noise.shape, 50, np.float32), np.zeros(noise.shape, np.int32)
    hu[6:34, 6:34, 6:34], labels[6:34, 6:34, 6:34] = 110, 2
    inner = (slice(10, 30),) * 3
    plain = unenhanced(hu + noise, labels, NAMES, (mm,) * 3).plain[inner]
    assert plain.mean() == pytest.approx(57, abs=1) and plain.std() > 0.95 * noise[inner].std()


@pytest.mark.parametrize("mm", [2.5, 5.0])
def test_veins_in_the_liver_lose_their_contrast_medium(mm):
    """Their edge against the liver is low, and they are a few voxels wide."""
    patient = make_patient(1030, size=(round(375 / mm), round(280 / mm), round(100 / mm)), spacing=mm)
    names = {value: name for name, value in LABELS.items() if value}
    twin = unenhanced(patient.contrast, patient.labels, names, (mm,) * 3)
    for name in ("portal_vein", "hepatic_vessels", "liver", "aorta"):
        inside = patient.labels == LABELS[name]
        assert (twin.plain - patient.noncontrast)[inside].mean() == pytest.approx(0, abs=9), name
