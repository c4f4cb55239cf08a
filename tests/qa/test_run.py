"""The verdict of a case, and the report of checks that cannot run."""

import numpy as np
import pytest
from refusal import refused

from medgen.io.volume import Volume
from medgen.phantom.cohort import LABELS, make_patient
from medgen.qa.limits import Thresholds, load_thresholds
from medgen.qa.run import Checks, judge, named_checks
from medgen.segmentation.load import NamedSegmenter

NAMES = {value: name for name, value in LABELS.items()}
MM = 2.5


def volume(data):
    return Volume(np.asarray(data, np.float32), np.diag([MM, MM, MM, 1.0]))


@pytest.fixture(scope="module")
def patient():
    return make_patient(1040, size=(150, 112, 24))


@pytest.fixture
def volumes(patient):
    return {role: volume(data) for role, data in {
        "source": patient.contrast, "prediction": patient.noncontrast, "labels": patient.labels}.items()}  # fmt: skip


def test_lesions_come_from_masks_else_from_the_names_of_labels(patient, volumes):
    checks = named_checks("ct_contrast")
    by_name, warnings = judge(volumes, NAMES, checks)
    assert by_name["status"] == "pass" and not warnings and by_name["values"]["lesions"] >= 1
    empty = volumes | {"lesions": volume(np.zeros(patient.labels.shape))}
    assert judge(empty, NAMES, checks)[0]["values"]["lesions"] == 0
    assert "lesions" not in judge(volumes, {1: "body"}, checks)[0]["values"]


def test_general_checks_do_not_judge_contrast(volumes):
    added = volumes | {"source": volumes["prediction"], "prediction": volumes["source"]}
    assert judge(added, NAMES, Checks())[0]["status"] == "pass"
    same = volumes | {"prediction": volumes["source"]}
    assert judge(same, NAMES, Checks())[0]["status"] == "pass"
    assert judge(same, NAMES, named_checks("ct_contrast"))[0]["status"] == "fail"


def test_mr_is_not_checked_for_hu_and_wrong_units_are_reported(volumes):
    mr = volume(400 - np.clip(volumes["source"].data, -200, 200))
    found, warnings = judge({"source": volumes["source"], "prediction": mr, "reference": mr}, {}, Checks())
    assert "change_fat" not in found["values"] and found["status"] == "pass" and not warnings
    assert "HU could not be checked" in judge({"source": volumes["source"], "prediction": mr}, {}, Checks())[1][0]
    truth = {"reference": volumes["prediction"], "prediction": mr}
    assert any("HU are offset" in text for text in judge(volumes | truth, {}, Checks())[0]["reasons"])


def test_the_truths_own_position_and_hu_are_not_findings(volumes):
    away = volume(np.roll(volumes["prediction"].data, 1, 1) + 15)
    alone = judge(volumes | {"prediction": away}, {}, Checks())[0]
    assert alone["status"] == "fail" and "off the input" in alone["reasons"][0]
    given = {"source": volumes["source"], "prediction": away, "reference": away}
    assert judge(given, {}, Checks())[0]["status"] == "pass"


@pytest.mark.parametrize("shape", [(1, 1, 1), (6, 5, 1), (2, 3, 4)])
def test_checks_that_cannot_run_are_reported(shape):
    image = volume(np.random.default_rng(0).normal(0, 100, shape))
    found, warnings = judge({"source": image, "prediction": image}, {}, Checks())
    assert found["status"] in ("pass", "review")
    assert bool(warnings) == any("could not be done" in text for text in found["reasons"])
    assert not any("edge_order" in text for text in found["reasons"])


def test_a_failing_segmenter_needs_review(volumes):
    def broken(_):
        raise RuntimeError("out of memory")

    found, warnings = judge(volumes, NAMES, Checks(segmenter=NamedSegmenter("x", broken, {})))
    assert found["status"] == "review" and "out of memory" in found["reasons"][0] and warnings


def test_a_segmenter_is_a_detector_where_no_masks_are_given(patient, volumes):
    """The segmenter returns the true labels; in the prediction one lesion is absent and one is added."""
    cyst = LABELS["cyst"]
    lesions = np.where(patient.labels == LABELS["liver"], 1, 0)
    lesions[20:26, 20:26, 10:16], lesions[40:46, 20:26, 10:16] = cyst, cyst
    other = lesions.copy()
    other[40:46, 20:26, 10:16], other[60:66, 20:26, 10:16] = 0, cyst
    drawn = {"source": lesions, "prediction": other}

    def segment(image):
        role = next(role for role in drawn if (volumes[role].data == image.data).all())
        return drawn[role]

    checks = Checks(load_thresholds("ct_contrast"), NamedSegmenter("x", segment, {1: "liver", cyst: "kidney_cyst"}))
    given = {role: volumes[role] for role in drawn}
    found, _ = judge(given, {}, checks)
    values = found["values"]
    assert (values["lesions_kept"], values["lesions_lost"], values["lesions_new"]) == (1, 1, 1)
    assert values["lesion_sensitivity"] == 0.5 and values["dice_liver"] == 1 and "dice_kidney_cyst" not in values
    assert found["status"] == "review" and any("1 of 2 lesions" in text for text in found["reasons"])


def test_limits_by_name():
    assert load_thresholds("ct_contrast") == Thresholds() and not load_thresholds().contrast_removed
    with refused("limits-unreadable", names="ct_contrast, general"):
        named_checks("ct_contrst")


def test_findings_carry_their_place_in_the_scanner(patient, volumes):
    """A new ball, an erased lesion and a bright organ: each box contains its finding, on a shifted grid."""
    affine = np.diag([MM, MM, MM, 1.0])
    affine[:3, 3] = (-100, 50, 7)
    at = np.stack(np.meshgrid(*map(np.arange, patient.labels.shape), indexing="ij"), -1)
    prediction = patient.noncontrast.copy()
    liver = np.argwhere(patient.labels == LABELS["liver"]).mean(0).round()
    ball = ((at - liver) ** 2).sum(-1) <= 9
    prediction[ball] += 150
    spleen = patient.labels == LABELS["spleen"]
    prediction[spleen] = patient.contrast[spleen]
    made = {"source": patient.contrast, "prediction": prediction, "labels": patient.labels}
    given = {role: Volume(np.asarray(data, np.float32), affine) for role, data in made.items()}
    found, _ = judge(given, {k: v for k, v in NAMES.items() if "lesion" not in v}, named_checks("ct_contrast"))
    assert [one["text"] for one in found["findings"]] == found["reasons"] and found["status"] == "fail"
    blob = next(one["place"] for one in found["findings"] if one["fault"] == "lesion_new")
    where = liver * MM + affine[:3, 3]
    assert (np.array(blob["low"]) < where).all() and (where < blob["high"]).all()
    assert max(np.subtract(blob["high"], blob["low"])) < 40
    organ = next(one["place"] for one in found["findings"] if one["text"].startswith("spleen"))
    voxels = np.argwhere(spleen) * MM + affine[:3, 3]
    assert np.allclose(organ["low"], voxels.min(0), atol=2 * MM) and np.allclose(
        organ["high"], voxels.max(0), atol=2 * MM
    )


def test_a_truth_of_another_scan_needs_review(patient):
    x, y = (volume(image[20:90, 20:80]) for image in (patient.contrast, patient.noncontrast))
    other = volume(patient.noncontrast[60:130, 45:105])
    for given in ((x, y, other), (other, y, y)):
        roles = dict(zip(("source", "prediction", "reference"), given, strict=True))
        found = judge(roles, {}, Checks())[0]
        first, *others = found["reasons"] if found["status"] == "review" else reversed(found["reasons"])
        assert found["status"] != "pass" and "does not show what the input shows" in first
        assert not any("off the truth" in reason for reason in others)


@pytest.mark.parametrize("shape, mm", [((2, 30, 30), 1.0), ((30, 30, 30), 0.01), ((30, 1, 30), 1.0)])
def test_a_volume_too_thin_for_edges_is_reported(shape, mm):
    x = Volume(np.where(np.indices(shape)[2] < 9, 900.0, -900).astype(np.float32), np.diag([mm, mm, mm, 1.0]))
    (text,) = judge({"source": x, "prediction": x}, {}, Checks())[0]["reasons"]
    assert ("thinner than two steps" in text or "one voxel thick" in text) and "gradient" not in text
