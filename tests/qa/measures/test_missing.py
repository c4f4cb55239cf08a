"""Parts of the body that an output does not show are found; correct outputs of the same kind are not."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.ndimage import gaussian_filter

from medgen.phantom.cohort import LABELS, make_patient
from medgen.qa.measures.missing import LOST_TO_FAT_HU, flat_parts, lost_tissue

MM = (2.5, 2.5, 2.5)


@pytest.fixture(scope="module")
def patient():
    return make_patient(1030, size=(150, 112, 40))


FATTY = [("spleen", -90.0), ("kidney_left", -60.0), ("bone", -95.0), ("liver", -800.0)]


@pytest.mark.parametrize(("name", "hu"), FATTY)
def test_organs_that_became_fat_or_air_are_found_without_labels(patient, name, hu):
    body = np.ones(patient.labels.shape, bool)
    assert lost_tissue(patient.contrast, patient.noncontrast, body, MM, below=LOST_TO_FAT_HU) == []
    inside = patient.labels == LABELS[name]
    texture = patient.noncontrast - gaussian_filter(patient.noncontrast, 2)
    found = lost_tissue(
        patient.contrast, np.where(inside, hu + texture, patient.noncontrast), body, MM, below=LOST_TO_FAT_HU
    )
    assert sum(region.volume_ml for region in found) > 4
    assert found[0].source > 20 and found[0].output < -40


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (3.0, 3.0, 3.0)])
def test_vessels_in_fat_do_not_become_fat_by_losing_contrast_medium(spacing):
    """At their borders the HU fall from soft tissue to fat, by partial volume; also for tubes across thick slices."""
    across = np.indices((48, 48, 20)) * np.reshape(spacing, (3, 1, 1, 1))
    middle = np.reshape(spacing, (3, 1, 1)) * np.reshape((24, 24, 10), (3, 1, 1))
    distance = np.hypot(across[0] - middle[0], across[2] - middle[2])
    vessel = np.clip((10 - distance) / 3 + 0.5, 0, 1)  # of the voxel: 3 mm of blur
    noise = np.random.default_rng(0).normal(0, 25, vessel.shape)
    source, output = (-100 + (hu + 100) * vessel + noise for hu in (500.0, 40.0))
    assert lost_tissue(source, output, np.ones(vessel.shape, bool), spacing, below=LOST_TO_FAT_HU) == []


def ml(found):
    return sum(region.volume_ml for region in found)


def brain(rng, *, dark=0.1):
    """A made-up T1 and FLAIR, (64, 64, 40): tissue with folds, ventricles, background 0."""
    grid = np.indices((64, 64, 40)) - np.reshape((32, 32, 20), (3, 1, 1, 1))
    head = (np.square(grid / np.reshape((28, 26, 18), (3, 1, 1, 1))).sum(0)) < 1
    ventricle = np.square(grid / np.reshape((6, 9, 5), (3, 1, 1, 1))).sum(0) < 1
    folds = gaussian_filter(rng.normal(size=head.shape), 2) * 3
    t1 = np.where(ventricle, 0.15, 0.6 + 0.2 * folds) + rng.normal(0, 0.02, head.shape)
    flair = np.where(ventricle, dark, 0.7 - 0.15 * folds)
    return t1 * head, flair * head, head


PLANTED = {
    "top": lambda image, low: image[:, :, 32:].__setitem__(..., low),
    "one slice": lambda image, low: image[:, :, 20].__setitem__(..., low),
    "sagittal slices": lambda image, low: image[20:23].__setitem__(..., low),
    "tile": lambda image, low: image[8:24, 24:40, 12:28].__setitem__(..., low),
    "tile of one value": lambda image, low: image[8:24, 24:40, 12:28].__setitem__(..., 0.5),
}


@pytest.mark.parametrize("noise", [0.0, 0.03])
@pytest.mark.parametrize("name", PLANTED)
def test_parts_of_one_value_are_found_without_units(name, noise):
    rng = np.random.default_rng(0)
    t1, flair, head = brain(rng)
    output = np.where(head, flair + noise * rng.normal(size=flair.shape), 0)
    assert ml(flat_parts(t1, output, head, (2.0,) * 3, hu=False)) == 0
    PLANTED[name](output, 0.0)
    found = flat_parts(t1, output, head, (2.0,) * 3, hu=False)
    assert ml(found) > 2 and found[0].output == pytest.approx(0.5 if name == "tile of one value" else 0, abs=0.02)


def test_what_a_window_cuts_off_is_not_missing():
    """Liquor is 0 in a FLAIR image of a dark T1 liquor, and the brightest voxels of a T2 are cut off at its window."""
    rng = np.random.default_rng(0)
    t1, flair, head = brain(rng, dark=-0.2)
    assert flat_parts(t1, np.clip(flair, 0, 1), head, (2.0,) * 3, hu=False) == []
    t2 = np.clip(1.3 - t1, 0, 1) * head  # bright liquor
    assert ((t2 == 1) & head).sum() > 300
    assert flat_parts(t1, t2, head, (2.0,) * 3, hu=False) == []
    few = np.round(flair * 15)  # an image of 16 values has areas of one value
    assert flat_parts(t1, few, head, (2.0,) * 3, hu=False) == []


def test_a_hole_over_ventricles_and_a_cut_vertex_are_found():
    """Half of the source is dark, or dark and bright: no window cuts off such a part."""
    rng = np.random.default_rng(0)
    t1, flair, head = brain(rng)
    for planted in (np.s_[23:41, 20:44, 14:26], np.s_[:, :, 33:]):
        output = flair.copy()
        output[planted] = 0
        assert ml(flat_parts(t1, output, head, (2.0,) * 3, hu=False)) > 5


@pytest.mark.parametrize("hu", [-1000.0, 0.0, 40.0])
def test_parts_of_one_value_are_found_in_ct(patient, hu):
    body = ndimage.binary_fill_holes(patient.noncontrast > -300)
    clipped = np.clip(np.round(patient.noncontrast), -150, 250)  # a narrow window; integers
    for correct in (
        patient.noncontrast,
        clipped,
        np.clip(clipped, -50, 100),
        np.round(gaussian_filter(patient.noncontrast, 1.5)),
    ):
        assert flat_parts(patient.contrast, correct, body, MM, hu=True) == []
    planted = np.round(patient.noncontrast)
    planted[60:76, 40:56, 12:24] = hu
    assert ml(flat_parts(patient.contrast, planted, body, MM, hu=True)) > 20
    planted = np.round(patient.noncontrast)
    planted[:, :, 20] = hu
    assert ml(flat_parts(patient.contrast, planted, body, MM, hu=True)) > 20


def test_a_part_that_became_air_with_noise_is_found_in_any_ct(patient):
    body = np.ones(patient.labels.shape, bool)
    output = patient.noncontrast.copy()
    output[:, :, 34:] = -1000 + np.random.default_rng(0).normal(0, 20, output[:, :, 34:].shape)
    assert ml(lost_tissue(patient.contrast, output, body, MM)) > 100
    assert lost_tissue(patient.contrast, patient.noncontrast, body, MM) == []
