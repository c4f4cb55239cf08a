"""The verdict judges what the table of regions shows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medgen.evaluation.metrics.voxelwise import label_means
from medgen.phantom.cohort import LABELS, make_patient
from medgen.qa.case import Checked
from medgen.qa.check import check_case
from medgen.qa.limits import Thresholds
from medgen.qa.measures import enhancement
from medgen.qa.measures.enhancement import is_enhancing
from medgen.qa.organ_findings import organ_findings, region_limits

NAMES = {value: name for name, value in LABELS.items()}
MM = (3.0, 3.0, 3.0)
TAKING_UP = [value for value, name in NAMES.items() if is_enhancing(name)]


@pytest.fixture(scope="module")
def patient():
    return make_patient(1040, size=(125, 94, 30), spacing=MM)


def checked(source, output, patient, truth=None):
    """Return the case with only the findings of its labelled structures."""
    labels, body = patient.labels, np.ones(patient.labels.shape, bool)
    case = Checked(source, output, MM, body, truth, labels, NAMES, None, Thresholds(), True, np.zeros(3))
    images = [image for image in (source, output, truth) if image is not None]
    organ_findings(case, enhancement.measure_organs(images, labels, NAMES, MM), "labels")
    return case


def rim(labels, value, width=1):
    inside = labels == value
    return inside & ~ndimage.binary_erosion(inside, iterations=width)


@pytest.mark.parametrize("name", ["portal_vein", "aorta", "kidney_left", "inferior_vena_cava"])
def test_enhancement_left_only_at_the_rim_is_found(patient, name):
    """The core is right; the mean of the region, which the table shows, is not."""
    at_rim = rim(patient.labels, LABELS[name])
    output = np.where(at_rim, patient.noncontrast + 0.9 * (patient.contrast - patient.noncontrast), patient.noncontrast)
    for truth in (None, patient.noncontrast):
        found = checked(patient.contrast, output, patient, truth).reasons
        mine = [reason for reason in found if reason.text.startswith(name.replace("_", " "))]
        assert mine and "still enhanced: its whole region" in mine[0].text
        assert mine[0].by == ("labels" if truth is None else "truth")


def test_by_a_segmenter_the_same_is_found_without_labels(patient):
    at_rim = rim(patient.labels, LABELS["aorta"])
    output = np.where(at_rim, patient.contrast, patient.noncontrast)
    verdict = check_case(patient.contrast, output, MM, segment=lambda _: patient.labels, segment_names=NAMES)
    assert any(r.by == "segmenter" and r.text.startswith("aorta is still enhanced") for r in verdict.reasons)


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_a_region_beyond_its_limit_does_not_pass(patient, data):
    """For any remaining enhancement, a pass means that the mean of every region is within its limits of the truth."""
    value = data.draw(st.sampled_from(TAKING_UP))
    share, where = data.draw(st.floats(0, 1)), data.draw(st.sampled_from(["all", "rim", "core", "half"]))
    inside = patient.labels == value
    half = inside & (np.indices(inside.shape)[2] % 2 == 0)
    chosen = {
        "all": inside,
        "rim": rim(patient.labels, value),
        "core": inside & ~rim(patient.labels, value),
        "half": half,
    }
    output = patient.noncontrast + share * np.where(chosen[where], patient.contrast - patient.noncontrast, 0)
    images = [patient.contrast, output, patient.noncontrast]
    measure_organs = enhancement.measure_organs(images, patient.labels, NAMES, MM)
    means = label_means(patient.labels, {"output": output, "truth": patient.noncontrast})
    for organ in measure_organs:  # the very numbers of the table
        row = means[LABELS[organ.name]]
        assert organ.region[1:] == pytest.approx((row["output"], row["truth"]), abs=1e-3)
    beyond = any(row["output"] - row["truth"] > 12 for label, row in means.items() if label in TAKING_UP)
    case = checked(patient.contrast, output, patient, patient.noncontrast)
    assert case.reasons or not beyond
    for name, (low, high) in case.regions.items():
        assert low <= means[LABELS[name]]["output"] <= high or case.reasons


def test_thin_vessels_of_a_softer_truth_pass(patient):
    """Half a voxel of blur lowers an artery in fat by 6 HU; its limits allow for this."""
    soft = ndimage.gaussian_filter(patient.noncontrast, 0.5)
    for truth in (None, patient.noncontrast):
        case = checked(patient.contrast, soft, patient, truth)
        assert not case.reasons
        low, high = case.regions["arteries"]
        assert high - low > 24 if truth is not None else high < 60


def test_thin_vessels_of_a_resampled_truth_pass_and_dark_ones_do_not(patient):
    """The more a border is blurred, the less partial volume is measured and the lower is the mean."""
    coarse = ndimage.zoom(patient.noncontrast, 0.8, order=1, grid_mode=True, mode="nearest")
    shape = patient.noncontrast.shape
    back = ndimage.zoom(coarse, np.divide(shape, coarse.shape), order=1, grid_mode=True, mode="nearest")
    assert not checked(patient.contrast, back, patient).reasons
    dark = patient.noncontrast - 60.0 * (patient.labels == LABELS["arteries"])
    assert any(
        reason.text.startswith("arteries is too dark") for reason in checked(patient.contrast, dark, patient).reasons
    )


def test_the_lower_limit_falls_by_the_partial_volume_of_input_and_output():
    case = Checked(*[np.zeros((3, 3, 3))] * 2, MM, *[None] * 3, {}, None, Thresholds(), True, np.zeros(3))
    organ = enhancement.Organ("arteries", 300, (0, 0, 0), (100.0, 0.0), None, (-30.0, -4.0))
    assert region_limits(case, organ, False) == (18 - 4 - 30, 60 - 4)
    grey = enhancement.Organ("hepatic_vessels", 300, (0, 0, 0), (150.0, 40.0), None, (-12.0, 5.0))
    assert region_limits(case, grey, False) == (18 - 12, 60)


def test_calcium_in_the_wall_is_no_enhancement(patient):
    wall = rim(patient.labels, LABELS["aorta"]) & (np.indices(patient.labels.shape)[0] % 4 == 0)
    hard = [image + 250.0 * wall for image in (patient.contrast, patient.noncontrast)]
    assert (hard[1][patient.labels == LABELS["aorta"]]).mean() > 60
    assert not checked(*hard, patient).reasons
    assert any(reason.text.startswith("aorta is still") for reason in checked(hard[0], hard[0], patient).reasons)


def test_the_verdict_names_the_limits_of_every_region(patient):
    verdict = check_case(patient.contrast, patient.contrast, MM, labels=patient.labels, names=NAMES)
    assert {"aorta", "arteries", "liver"} <= set(verdict.regions) and verdict.status == "fail"
    assert verdict.values["region_hu_aorta"] > verdict.regions["aorta"][1]


def test_labels_of_another_patient_are_told(patient):
    """Most of each organ overlaps with the right one, so that its mean HU is possible."""
    other = make_patient(78, size=patient.labels.shape, spacing=MM, phase="portal_venous")
    swapped = type(patient)(patient.contrast, patient.noncontrast, other.labels, patient.affine, "portal_venous")
    for truth in (None, patient.noncontrast):
        texts = [r.text for r in checked(patient.contrast, patient.noncontrast, swapped, truth).reasons]
        assert any("does not fit the input" in text and "of the inside of" in text for text in texts)


def test_labels_of_another_place_are_told_and_the_output_is_not_blamed(patient):
    """Mirrored labels: the left kidney lies in fat or bowel, and so on."""
    away = type(patient)(patient.contrast, patient.noncontrast, patient.labels[::-1], patient.affine, "portal_venous")
    for truth in (None, patient.noncontrast):
        reasons = checked(patient.contrast, patient.noncontrast, away, truth).reasons
        assert [r.fault for r in reasons if "does not fit the input" in r.text] == ["anatomy"]
        assert not any("too dark: its" in r.text for r in reasons)
    right = checked(patient.contrast, patient.noncontrast, patient).reasons
    assert not any("does not fit the input" in r.text for r in right)
