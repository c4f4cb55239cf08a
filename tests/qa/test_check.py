import numpy as np
import pytest
import torch
from refusal import refused
from scipy import ndimage

from medgen.phantom.cohort import LABELS, make_patient
from medgen.qa import check as safety
from medgen.qa.check import check_case
from medgen.qa.limits import Thresholds, load_thresholds

NAMES = {value: name for name, value in LABELS.items()}
MM = (2.5, 2.5, 2.5)


@pytest.fixture(scope="module")
def patient():
    return make_patient(1040, size=(150, 112, 24))


def faults(verdict):
    return {reason.fault for reason in verdict.reasons}


def lesion_mask(patient):
    return np.isin(patient.labels, [v for n, v in LABELS.items() if n == "cyst" or n.startswith("lesion")])


def test_the_truth_passes_with_and_without_labels(patient):
    plain = check_case(patient.contrast, patient.noncontrast, MM)
    full = check_case(
        patient.contrast,
        patient.noncontrast,
        MM,
        labels=patient.labels,
        names=NAMES,
        lesions=lesion_mask(patient),
        truth=patient.noncontrast,
    )
    assert plain.status == full.status == "pass" and plain.reasons == full.reasons == ()
    assert full.values["phase_source"] == "portal_venous" and full.values["phase_output"] == "none"


@pytest.mark.parametrize(("offset", "found"), [(0, False), (4, False), (20, True), (1000, True), (-150, True)])
@pytest.mark.parametrize("known", [False, True])
def test_an_offset_of_a_body_without_fat_is_found_in_its_soft_tissue(patient, offset, found, known):
    lean, truth = (np.where(v < -20, np.where(v < -500, v, 40), v) for v in (patient.contrast, patient.noncontrast))
    verdict = check_case(lean, truth + offset, MM, truth=truth if known else None)
    assert ("offset" in faults(verdict)) == found and "change_fat" not in verdict.values
    if found:
        assert any("soft tissue changed by" in r.text for r in verdict.reasons) and verdict.status != "pass"


@pytest.mark.parametrize("mm", [2.5, 1.0])  # 1 mm: the check averages 2 x 2 x 2 voxels
@pytest.mark.parametrize("segmented", [False, True])
def test_the_truth_passes_in_a_wide_field_of_view(patient, mm, segmented):
    """The check works on the box of the body; organs are measured on the volume's own grid."""
    margin = ((21, 9), (6, 17), (0, 0))
    scan, truth = (np.pad(v, margin, constant_values=-1000.0) for v in (patient.contrast, patient.noncontrast))
    labels = np.pad(patient.labels, margin)
    how = {"segment": lambda _: labels, "segment_names": NAMES} if segmented else {"labels": labels, "names": NAMES}
    assert check_case(scan, truth, (mm,) * 3, truth=truth, **how).reasons == ()
    bright = truth + 25 * (labels == LABELS["spleen"])
    reasons = check_case(scan, bright, (mm,) * 3, truth=truth, **how).reasons
    assert any("spleen is still enhanced" in r.text for r in reasons) and all("aorta" not in r.text for r in reasons)


@pytest.mark.parametrize(
    ("fault", "plant"),
    [
        ("flip", lambda v: v[::-1]),
        ("shift", lambda v: np.roll(v, 1, 1)),
        ("offset", lambda v: v + 15),
        ("scale", lambda v: v * 1.08 + 8),
        ("structure", lambda v: ndimage.gaussian_filter(v, 4)),
    ],
)
def test_each_fault_is_named_with_its_number_limit_and_unit(patient, fault, plant):
    verdict = check_case(patient.contrast, plant(patient.noncontrast), MM)
    assert verdict.status in ("review", "fail") and fault in faults(verdict)
    text = next(str(r) for r in verdict.reasons if r.fault == fault)
    assert any(c.isdigit() for c in text) and text.endswith(".")
    assert "limit" in text or "below" in text or "above" in text


def test_an_unconverted_scan_is_reported_as_enhanced(patient):
    plain = check_case(patient.contrast, patient.contrast, MM)
    assert "enhancement" in faults(plain) and "ml" in plain.reasons[0].text
    full = check_case(patient.contrast, patient.contrast, MM, labels=patient.labels, names=NAMES)
    assert full.status == "fail" and any("aorta is still enhanced" in r.text for r in full.reasons)
    other = Thresholds(contrast_removed=False)
    assert check_case(patient.contrast, patient.contrast, MM, thresholds=other).status == "pass"


def test_positions_refer_to_the_input_volume(patient):
    """The check uses a crop and averages fine grids; positions still refer to the input volume."""
    ball = ball_in_liver(patient)
    at = np.argwhere(ball).mean(0)
    verdict = check_case(patient.contrast, patient.noncontrast + 50 * ball, MM)
    text = next(r.text for r in verdict.reasons if r.fault == "lesion_new")
    place = [float(p) for p in text.split("(")[1].split(")")[0].split(",")]
    assert np.linalg.norm(np.subtract(place, at * 2.5)) < 8


def test_values_of_the_truth_are_not_findings(patient):
    liver = patient.labels == LABELS["liver"]
    bright = patient.noncontrast + 30 * liver  # iron or amiodarone: the patient's own liver is so
    given = {"labels": patient.labels, "names": NAMES}
    assert "enhancement" in faults(check_case(patient.contrast, bright, MM, **given))
    assert "enhancement" not in faults(check_case(patient.contrast, bright, MM, truth=bright, **given))


def test_a_scan_that_is_uniform_along_an_axis_is_not_called_flipped_or_moved():
    """As a test phantom: along z, neither can be seen."""
    rng = np.random.default_rng(0)
    blobs = np.repeat(ndimage.gaussian_filter(rng.normal(size=(48, 44, 1)), (3, 3, 0)), 40, axis=2)
    t1 = np.digitize(blobs, np.quantile(blobs, [0.3, 0.7])) * 200.0 + 50
    for seed in range(1, 5):
        noise = np.random.default_rng(seed).normal(0, 5, (2, *t1.shape))
        verdict = check_case(t1 + noise[0], 700 - t1 + 2 * noise[1], (1.0, 1.0, 1.0))
        assert not any(word in reason.text for reason in verdict.reasons for word in ("flipped", "off the input"))


def test_images_without_units_are_checked_only_for_structure():
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.normal(size=(48, 44, 40)), 3)
    t1 = np.digitize(blobs, np.quantile(blobs, [0.3, 0.7])) * 200.0 + 50
    x, y = (v + rng.normal(0, 5, v.shape) for v in (t1, 700 - t1))
    good, bad = check_case(x, y, (1.0, 1.0, 1.0)), check_case(x, np.flip(y, 0), (1.0, 1.0, 1.0))
    assert "HU" not in " ".join(map(str, (*good.reasons, *bad.reasons))) and "change_fat" not in good.values
    assert "flip" in faults(bad) and not faults(good) & {"flip", "shift", "offset", "enhancement"}


@pytest.mark.parametrize(
    ("level", "noise", "status"), [(0, 0, "pass"), (30, 0, "pass"), (300, 0, "fail"), (0, 200, "fail")]
)
def test_a_haze_around_a_masked_brain_is_found(level, noise, status):
    rng, shape = np.random.default_rng(0), (56, 52, 40)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    brain = (x / 0.7) ** 2 + (y / 0.75) ** 2 + (z / 0.8) ** 2 < 1
    blobs = ndimage.gaussian_filter(rng.normal(size=shape), 3)
    tissue = 200 + 200.0 * np.digitize(blobs, np.quantile(blobs, [0.3, 0.7])) + rng.normal(0, 5, shape)
    source, truth = np.where(brain, tissue, 0.0), np.where(brain, 150 + 0.7 * tissue, 0.0)
    output = np.where(brain, truth, level + rng.normal(0, 1, shape) * noise)
    for known in (None, truth):
        verdict = check_case(source, output, (1.0, 1.0, 1.0), truth=known, thresholds=load_thresholds())
        assert verdict.status == status, verdict.reasons
        assert ("Around the body" in " ".join(map(str, verdict.reasons))) == (status == "fail")


def test_padding_of_another_value_around_the_body_is_no_haze(patient):
    source, output = patient.contrast.copy(), patient.noncontrast.copy()
    outside = ~ndimage.binary_dilation(source > -850, iterations=2)
    source[outside], output[outside] = -3024, -1024
    verdict = check_case(source, output, MM)
    assert not any("Around the body" in str(reason) for reason in verdict.reasons)


@pytest.mark.parametrize("fault", ["haze", "noise", "ball"])
def test_what_an_output_shows_in_the_air_around_the_body_is_found(patient, fault):
    source, truth = patient.contrast, patient.noncontrast
    air = ~ndimage.binary_dilation(source > -850, iterations=3)
    output = truth.astype(np.float32).copy()
    rng = np.random.default_rng(0)
    if fault == "haze":
        output[air] += 200
    elif fault == "noise":
        output[air] += rng.normal(0, 200, air.sum())
    else:
        centre = np.unravel_index(ndimage.distance_transform_edt(air).argmax(), air.shape)
        places = np.indices(air.shape).T - centre
        output[((places**2).sum(-1) < 30).T & air] = 100
    for known, limits in ((None, Thresholds()), (truth, Thresholds()), (truth, load_thresholds())):
        verdict = check_case(source, output, MM, truth=known, thresholds=limits)
        assert verdict.status != "pass" and any("Around the body" in str(reason) for reason in verdict.reasons)


@pytest.mark.parametrize("fault", ["none", "last slices", "side"])
def test_a_haze_in_a_small_part_of_the_air_is_found(patient, fault):
    source, output = patient.contrast, patient.noncontrast.astype(np.float32)
    air = ~ndimage.binary_dilation(source > -850, iterations=3)
    part = np.zeros(air.shape, bool)
    if fault == "last slices":
        part[:, :, -air.shape[2] // 8 :] = True
    elif fault == "side":
        part[:, -max(3, air.shape[1] // 8) :] = True
    output[part & air] += 250
    verdict = check_case(source, output, MM)
    assert any("Around the body" in str(reason) for reason in verdict.reasons) == (fault != "none")


@pytest.mark.parametrize(("change", "found"), [(0, False), (200, True), (-1000, True)])
def test_an_arm_apart_from_the_trunk_is_looked_at(change, found):
    x, y, _ = np.mgrid[:60, :40, :20]
    trunk = ((x - 36) / 18) ** 2 + ((y - 20) / 16) ** 2 < 1
    arm = ((x - 7) / 6) ** 2 + ((y - 20) / 7) ** 2 < 1
    table = (y == 38) & (x > 2)
    noise = np.random.default_rng(0).normal(0, 8, x.shape)
    source = np.where(trunk | arm, 40.0, np.where(table, -100.0, -1000.0)) + noise
    output = source + change * arm - 900 * table
    verdict = check_case(source, output, (3.0, 3.0, 4.0), thresholds=load_thresholds())
    assert any("apart from the trunk" in str(reason) for reason in verdict.reasons) == found, verdict.reasons


def test_a_segmenter_that_finds_an_organ_elsewhere(patient):
    def half(v):
        return (v > (0 if v is patient.contrast else 1000)).astype(int)

    verdict = check_case(patient.contrast, patient.noncontrast, MM, segment=half)
    assert faults(verdict) == {"anatomy"} and verdict.status == "fail"


def test_inputs_are_untouched(patient):
    before = patient.contrast.copy(), patient.noncontrast.copy()
    check_case(patient.contrast, patient.noncontrast, MM)
    assert (before[0] == patient.contrast).all() and (before[1] == patient.noncontrast).all()


def test_pairs_that_cannot_be_checked_are_refused(patient):
    with refused("pair-shapes-differ"):
        check_case(patient.contrast, patient.noncontrast[1:], MM)
    with refused("volume-not-finite"):
        check_case(patient.contrast, np.full_like(patient.contrast, np.nan), MM)
    with refused("volume-spacing-invalid"):
        check_case(patient.contrast, patient.noncontrast, (2.5, 0, 2.5))


def test_a_lesion_that_only_the_truth_shows_asks_for_review_if_it_is_lost(patient):
    ball = ball_in_liver(patient)
    true = patient.noncontrast - 35.0 * ball
    given = {"lesions": ball, "truth": true}
    assert check_case(patient.contrast, true, MM, **given).values["lesions_lost"] == 0
    found = next(r for r in check_case(patient.contrast, patient.noncontrast, MM, **given).reasons)
    assert (found.fault, found.status) == ("lesion_lost", "review") and "The input hardly shows it" in found.text


def test_with_the_truth_a_lesion_keeps_half_of_its_true_contrast_and_its_sign(patient):
    """An erased dark lesion that comes out bright, or faint but above the noise, is lost."""
    ball = ball_in_liver(patient)
    before, true = patient.contrast - 60 * ball, patient.noncontrast - 60 * ball
    given = {"lesions": ball, "truth": true}
    assert check_case(before, true, MM, **given).values["lesions_lost"] == 0
    for left in (-15, 40):
        verdict = check_case(before, patient.noncontrast + left * ball, MM, **given)
        assert verdict.status == "fail" and verdict.values["lesions_lost"] == 1
        text = next(r.text for r in verdict.reasons if r.fault == "lesion_lost")
        assert "in the true image" in text
    alone = check_case(before, patient.noncontrast + 40 * ball, MM, lesions=ball)
    assert any("inverted" in r.text for r in alone.reasons)


def test_places_are_scanner_coordinates_with_their_side(patient):
    ball = ball_in_liver(patient)
    affine = np.diag([2.5, 2.5, 2.5, 1.0])
    affine[:3, 3] = -1000, 50, -20
    verdict = check_case(patient.contrast, patient.noncontrast + 50 * ball, MM, affine=affine)
    text = next(r.text for r in verdict.reasons if r.fault == "lesion_new")
    x, y, z = np.argwhere(ball).mean(0) * 2.5 + affine[:3, 3]
    found = [part.split() for part in text.split(" at ")[1].split(" mm is")[0].split(", ")]
    assert [side for side, _ in found] == ["L", "A", "S" if z > 0 else "I"]
    assert np.linalg.norm(np.subtract([float(mm) for _, mm in found], [abs(x), abs(y), abs(z)])) < 8


def test_with_the_truth_remaining_enhancement_is_reported(patient):
    given = {"labels": patient.labels, "names": NAMES, "truth": patient.noncontrast}
    verdict = check_case(patient.contrast, patient.contrast, MM, **given)
    assert any("aorta is still enhanced" in r.text and "off the truth" in r.text for r in verdict.reasons)


def ball_in_liver(patient):
    at = np.argwhere(ndimage.distance_transform_edt(patient.labels == LABELS["liver"]) > 5)
    at = at[len(at) // 2]
    grids = np.ogrid[tuple(slice(n) for n in patient.labels.shape)]
    return sum(((g - a) * 2.5) ** 2 for g, a in zip(grids, at, strict=True)) <= 81


@pytest.mark.parametrize("factor", [(2, 2, 2), (2, 1, 3), (4, 4, 1)])
def test_labels_and_lesions_lie_on_the_averaged_image(factor):
    """Blocks of an even number of voxels have no middle voxel: taking one moved labels by half a voxel."""
    shape = (41, 40, 42)
    middle = np.array([18.6, 20.3, 21.0])
    ball = ((np.indices(shape) - middle.reshape(3, 1, 1, 1)) ** 2).sum(0) < 14**2
    case = safety._prepared(
        ball * 1000.0 - 1000, ball * 1000.0 - 1000, (2 / factor[0], 2 / factor[1], 2 / factor[2]),
        None, ball * 7, {7: "ball"}, ball * 1, Thresholds(),
    )  # fmt: skip
    weight = case.source + 1000
    at = [(i * weight).sum() / weight.sum() for i in np.indices(weight.shape)]
    for labels in (case.labels == 7, case.lesions > 0):
        assert np.abs(np.argwhere(labels).mean(0) - at).max() < 0.1


def test_an_output_of_one_value_is_reported_as_empty_and_not_as_shifted(patient):
    verdict = check_case(patient.contrast, np.full_like(patient.contrast, -1000), MM)
    assert verdict.status == "fail" and "shift" not in faults(verdict) and "flip" not in faults(verdict)
    assert any("has the value -1000 in the whole body and shows nothing" in r.text for r in verdict.reasons)


def test_a_truth_in_another_unit_does_not_switch_the_checks_of_hu_off(patient):
    scaled = (np.clip(patient.noncontrast, -1000, 1000) + 1000) / 2000
    good = check_case(patient.contrast, patient.noncontrast, MM, truth=scaled)
    assert [(r.fault, r.status) for r in good.reasons] == [("truth", "review")] and "not in HU" in good.reasons[0].text
    bad = check_case(patient.contrast, patient.contrast, MM, truth=scaled)
    assert bad.status == "fail" and "enhancement" in faults(bad)


def test_findings_do_not_depend_on_the_number_of_threads(patient):
    """Checks that run at the same time add to the verdict in a fixed order."""
    threads = torch.get_num_threads()
    bright = patient.contrast + 30.0
    try:
        verdicts = []
        for count in (1, 3):
            torch.set_num_threads(count)
            verdicts.append(check_case(patient.contrast, bright, MM, affine=np.diag([*MM, 1.0])))
    finally:
        torch.set_num_threads(threads)
    assert len(verdicts[0].reasons) > 1 and verdicts[0].reasons == verdicts[1].reasons
    assert list(verdicts[0].values.items()) == list(verdicts[1].values.items())


def test_an_error_in_one_of_several_checks_is_raised(patient, monkeypatch):
    def fails(_):
        raise ValueError("here")

    monkeypatch.setattr(safety.findings, "darkened_findings", fails)
    with pytest.raises(ValueError, match="here"):
        check_case(patient.contrast, patient.noncontrast, MM)
