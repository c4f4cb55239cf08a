import numpy as np
import pytest
from scipy import ndimage

from medgen.data.body_mask import body_mask
from medgen.phantom.cohort import LABELS, make_patient
from medgen.qa.check import check_case
from medgen.qa.measures.trunk_wall import lost_in_wall, ribs_taken_for_vessels, wall_depth

MM = (2.5, 2.5, 2.5)


@pytest.fixture(scope="module")
def patient():
    return make_patient(1030, size=(150, 112, 40))


@pytest.fixture(scope="module")
def ribs(patient):
    """Bone of the wall, without the spine."""
    depth = wall_depth(patient.contrast, MM)
    bone = (patient.labels == LABELS["bone"]) & (patient.noncontrast > 150) & (depth < 18)
    middle = np.indices(bone.shape)[0] - bone.shape[0] / 2
    return bone & (np.abs(middle * MM[0]) > 60)


def lost(patient, output):
    return lost_in_wall(patient.contrast, output, body_mask(patient.contrast), MM)


def test_ribs_that_became_soft_tissue_are_found(patient, ribs):
    erased = np.where(ndimage.binary_dilation(ribs, iterations=2), np.minimum(patient.noncontrast, 50), 0)
    output = np.where(ndimage.binary_dilation(ribs, iterations=2), erased, patient.noncontrast)
    found = lost(patient, output)
    assert sum(region.volume_ml for region in found) > 5
    assert found[0].source > 140 > 90 > found[0].output
    kinds = {reason.fault for reason in check_case(patient.contrast, output, MM).reasons}
    assert "bone" in kinds


@pytest.mark.parametrize("change", ["none", "shift", "blur"])
def test_a_correct_conversion_loses_nothing(patient, change):
    truth = patient.noncontrast
    output = {
        "none": truth,
        "shift": ndimage.shift(truth, (0.3, 0.3, 0.3), order=1, mode="nearest"),
        "blur": ndimage.gaussian_filter(truth, 0.7),
    }[change]
    assert lost(patient, output) == []


def test_organs_are_deep_also_in_a_cropped_field_of_view(patient):
    """Aorta and kidneys are below the wall; cropping at the side does not bring them to a surface."""
    whole = wall_depth(patient.contrast, MM)
    deep = np.isin(patient.labels, [LABELS["aorta"], LABELS["kidney_left"], LABELS["kidney_right"]])
    assert whole[deep].min() > 20
    part = wall_depth(patient.contrast[30:120], MM)
    assert part[deep[30:120]].min() > 20


def test_without_a_body_nothing_is_found():
    air = np.full((20, 20, 5), -1000.0, np.float32)
    assert lost_in_wall(air, air, np.ones(air.shape, bool), MM) == []
    assert not wall_depth(air, MM).any()


def test_some_slices_have_the_depth_that_all_have(patient):
    some = wall_depth(patient.contrast, MM, [7])
    np.testing.assert_array_equal(some[:, :, 7], wall_depth(patient.contrast, MM)[:, :, 7])
    assert some[:, :, 7].any() and not some[:, :, :7].any() and not some[:, :, 8:].any()


def test_ribs_that_a_conversion_darkened_are_spared(patient, ribs):
    """With the muscle beside them; organs and vessels that lost contrast medium are not."""
    wide = ndimage.binary_dilation(ribs, iterations=1)
    output = np.where(wide, np.minimum(patient.noncontrast, 50), patient.noncontrast)
    spared = ribs_taken_for_vessels(patient.contrast, output, MM)
    dark = ribs & (patient.noncontrast - output > 60)
    assert spared[dark].mean() > 0.9
    enhancing = patient.contrast - patient.noncontrast > 20
    assert not spared[enhancing & ~ndimage.binary_dilation(ribs, iterations=4)].any()
    assert not ribs_taken_for_vessels(patient.contrast, patient.noncontrast, MM).any()


def test_a_vessel_that_runs_along_the_body_is_no_rib():
    """Two tubes below the surface of a soft-tissue body, one upright, one slanting around it like a rib."""
    x, y, z = np.indices((120, 100, 60)) * 2.0
    body = ((x - 120) / 100) ** 2 + ((y - 100) / 80) ** 2 < 1
    angle = np.deg2rad(200 + z * 0.9)
    rib = np.hypot(x - 120 - 90 * np.cos(angle), y - 100 - 70 * np.sin(angle)) < 5
    rib &= (z > 20) & (z < 70)
    vessel = np.hypot(x - 120 - 90 * np.cos(0.3), y - 100 - 70 * np.sin(0.3)) < 5
    output = np.where(body, 40.0, -1000.0)
    source = np.where((rib | vessel) & body, 300.0, output)
    spared = ribs_taken_for_vessels(source, output, (2.0, 2.0, 2.0))
    assert spared[rib & body].mean() > 0.9
    assert not spared[vessel].any()


@pytest.mark.parametrize(("level", "spared"), [(150.0, False), (250.0, True)])
def test_noise_of_an_organ_at_the_wall_is_no_rib(level, spared):
    """A spot of 150 HU in an organ of 120 HU, and one of a rib's brightness."""
    x, y, z = np.indices((120, 100, 30)) * 2.0
    body = ((x - 120) / 100) ** 2 + ((y - 100) / 80) ** 2 < 1
    source = np.where(body, np.where(x > 180, 120.0, 40.0), -1000.0)
    spot = np.hypot(np.hypot(x - 206, y - 100), z - 30) < 5
    source[spot] = level
    output = np.where(body, 40.0, -1000.0)
    found = ribs_taken_for_vessels(source, output, (2.0, 2.0, 2.0))
    assert found[spot].all() if spared else not found.any()
