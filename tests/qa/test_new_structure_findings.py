"""New structures in a patient are found at their position; other renditions of the truth give none."""

import numpy as np
import pytest
from scipy import ndimage

from medgen.phantom.cohort import LABELS, make_patient
from medgen.qa.check import _prepared
from medgen.qa.limits import Thresholds
from medgen.qa.new_structure_findings import new_structure_findings

NAMES = {value: name for name, value in LABELS.items()}
MM = (3.0, 3.0, 3.0)


@pytest.fixture(scope="module")
def patient():
    return make_patient(1000, size=(125, 94, 30), spacing=MM)


def deepest(patient, name):
    """The voxel of a structure farthest from its border, and a ball of 12 mm there."""
    inside = patient.labels == LABELS[name]
    inside[:, :, [0, 1, 2, -3, -2, -1]] = False
    depth = ndimage.distance_transform_edt(inside)
    at = np.array(np.unravel_index(depth.argmax(), depth.shape))
    grid = np.ogrid[tuple(slice(n) for n in inside.shape)]
    return at, sum(((g - c) * 3) ** 2 for g, c in zip(grid, at, strict=True)) < 36


def found(patient, output, truth=None, labels=True):
    given = (patient.labels, NAMES) if labels else (None, {})
    case = _prepared(patient.contrast, output.astype(np.float32), MM, truth, *given, None, Thresholds())
    case.affine = np.diag([*MM, 1.0])
    new_structure_findings(case)
    return case


@pytest.mark.parametrize(("name", "hu"), [("liver", -45), ("spleen", 45), ("muscle", 60), ("fat", 100), ("lung", 180)])
def test_a_ball_of_12_mm_is_found_in_every_tissue_by_the_images_alone(patient, name, hu):
    at, ball = deepest(patient, name)
    case = found(patient, patient.noncontrast + hu * ball, labels=False)
    assert len(case.reasons) == 1 and case.reasons[0].by == "images"
    place = case.reasons[0].place
    assert np.linalg.norm((np.array(place.low) + place.high) / 2 - at * 3) < 6


@pytest.mark.parametrize("seed", range(4))
def test_a_ball_of_12_mm_is_found_4_mm_inside_the_border_of_fat(patient, seed):
    inside = patient.labels == LABELS["fat"]
    depth = ndimage.distance_transform_edt(inside, MM)
    depth[:, :, [0, 1, 2, -3, -2, -1]] = 0
    places = np.argwhere((depth > 10) & (depth < 11))
    at = places[np.random.default_rng(seed).integers(len(places))]
    grid = np.ogrid[tuple(slice(n) for n in inside.shape)]
    ball = sum(((g - c) * 3) ** 2 for g, c in zip(grid, at, strict=True)) < 36
    reasons = found(patient, patient.noncontrast + 100 * ball, labels=False).reasons
    middles = [(np.array(r.place.low) + r.place.high) / 2 for r in reasons]
    assert middles and min(np.linalg.norm(m - at * 3) for m in middles) < 6


def test_structures_in_the_truth_are_not_new(patient):
    output = patient.noncontrast + 100 * deepest(patient, "fat")[1]
    case = found(patient, output, truth=output, labels=False)
    assert not case.reasons and case.excused and case.values["new_structures"] == 0


def test_an_organ_brighter_than_others_is_searched_by_its_label(patient):
    """Without labels a spleen of 170 HU could be a vessel."""
    _, ball = deepest(patient, "spleen")
    spleen = patient.labels == LABELS["spleen"]
    bright = type(patient)(patient.contrast + 60 * spleen, patient.noncontrast, patient.labels, patient.affine, "late")
    case = found(bright, patient.noncontrast - 50 * ball)
    assert [reason.by for reason in case.reasons] == ["labels"]


def test_other_kernels_shifts_and_resampling_give_no_new_structures(patient):
    """They change the borders of lung and stomach gas by hundreds of HU."""
    truth = patient.noncontrast
    coarse = ndimage.zoom(truth, 0.8, order=1, grid_mode=True, mode="nearest")
    back = ndimage.zoom(coarse, np.divide(truth.shape, coarse.shape), order=1, grid_mode=True, mode="nearest")
    for other in (back, ndimage.shift(ndimage.gaussian_filter(truth, 0.3), (0, 0.3, 0), order=1)):
        assert found(patient, other).reasons == []
