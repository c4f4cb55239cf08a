"""Memorisation: copies are found, new patients of the embedded cohort pass, and the chance of a false alarm."""

import numpy as np
import pytest
from patients import SPACING, coarse_patient
from refusal import refused
from scipy.ndimage import gaussian_filter

from medgen.data.body_mask import body_mask
from medgen.evaluation.distribution import memorisation
from medgen.evaluation.distribution.memorisation import memorisation_test, volume_descriptor


def rows(n, seed, d=20):
    return np.random.default_rng(seed).normal(size=(n, d))


def test_the_false_alarm_rate_is_alpha():
    alarms = [memorisation_test(rows(20, 3 * s), rows(10, 3 * s + 1)).memorised for s in range(150)]
    more = [memorisation_test(rows(10, 3 * s), rows(150, 3 * s + 1)).p_value <= 0.025 for s in range(150)]
    assert np.mean(more) <= 0.05  # nominal 0.025 and two standard errors, with many more made than trained on
    held = [
        memorisation_test(rows(20, 3 * s), rows(10, 3 * s + 1), held_out=rows(12, 3 * s + 2)).memorised
        for s in range(150)
    ]
    assert np.mean(alarms) <= 0.09 and np.mean(held) <= 0.09  # 0.05 and 2.2 standard errors


def test_a_generator_that_copies_is_found_and_its_pairs_named():
    training = rows(20, 0)
    synthetic = training[5:11] + 0.3 * rows(6, 1)
    found = memorisation_test(training, synthetic, training_names=[f"t{i}" for i in range(20)])
    assert found.memorised and found.p_value < 1e-3 and len(found.copies) == 6
    assert {(p.synthetic, p.training) for p in found.pairs} == {(str(i), f"t{i + 5}") for i in range(6)}
    assert list(found.pairs) == sorted(found.pairs, key=lambda p: p.distance)
    first = found.pairs[0]
    assert first.distance == pytest.approx(np.linalg.norm(synthetic - training[5:11], axis=1).min(), rel=1e-12)


def test_one_copy_among_new_images_is_found():
    training = rows(20, 0)
    synthetic = np.vstack([rows(11, 1), training[3] + 0.05 * rows(1, 2)])
    found = memorisation_test(training, synthetic)
    assert found.memorised and [p.synthetic for p in found.copies] == ["11"] and found.copies[0].training == "3"


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_training_volume_twice_does_not_blind_the_test(noise):
    """Byte by byte, or a second scan of the patient."""
    found = 0
    for seed in range(20):
        training = rows(20, 3 * seed)
        training[-1] = training[0] + noise * rows(1, 3 * seed + 2)
        made = memorisation_test(training, np.vstack([rows(11, 3 * seed + 1), training[5]]))
        assert made.repeated == (("19", "0"),)
        found += [pair.training for pair in made.copies] == ["5"]
    assert found == 20


def test_held_out_volumes_that_were_trained_on_do_not_count():
    training, fresh = rows(20, 0), rows(8, 1)
    copies = training[:8] + 0.05 * rows(8, 2)
    for held_out, left in ((training, 0), (np.vstack([training[:4], fresh]), 8), (np.vstack([training, fresh[:2]]), 0)):
        made = memorisation_test(training, copies, held_out=held_out)
        assert made.memorised and len(made.copies) == 8
        assert (made.held_out, made.dropped) == (left, len(held_out) - len(fresh[: left or len(held_out) - 20]))
    assert not memorisation_test(training, rows(8, 3), held_out=np.vstack([training[:4], fresh])).memorised


def test_the_descriptors_box_is_that_of_the_masks_indices():
    mask = np.random.default_rng(0).random((9, 7, 5)) > 0.6
    places = np.stack(np.nonzero(mask))
    for axis in range(3):
        assert memorisation._moments(mask, axis) == pytest.approx((places[axis].mean(), places[axis].std()))


def test_exact_copies_and_one_synthetic_volume():
    assert memorisation_test(rows(8, 0), rows(8, 0)[:1]).copies[0].distance == 0
    assert not memorisation_test(rows(8, 0), rows(1, 1)).memorised


@pytest.fixture(scope="module")
def patients():
    return [coarse_patient(seed).noncontrast for seed in range(12)]


def describe(volume):
    return volume_descriptor(volume, (SPACING,) * 3, mask=body_mask(volume))


def test_on_the_embedded_cohort_copies_are_flagged_and_new_patients_pass(patients):
    training = np.array([describe(v) for v in patients[:8]])
    new = np.array([describe(v) for v in patients[8:]])
    rng = np.random.default_rng(0)
    assert not memorisation_test(training, new).memorised
    noisy = np.array([describe(v + rng.normal(0, 30, v.shape)) for v in patients[:6]])
    assert len(memorisation_test(training, noisy).copies) == 6
    moved = np.array([describe(np.roll(v * 1.1 - 20, 1, axis=1)) for v in patients[:6]])
    assert memorisation_test(training, moved).memorised


def test_new_patients_pass_also_when_blurred(patients):
    training = np.array([describe(v) for v in patients[:8]])
    blurred = np.array([describe(gaussian_filter(v, 0.7)) for v in patients[8:]])
    assert not memorisation_test(training, blurred).memorised


def test_a_descriptor_depends_on_shape_and_not_on_intensity_scale(patients):
    row = describe(patients[0])
    assert row.shape == (16**3,) and np.linalg.norm(row) == pytest.approx(1) and row.mean() == pytest.approx(0)
    mask = body_mask(patients[0])
    scaled = volume_descriptor(patients[0] * 3 + 7, (SPACING,) * 3, mask=mask)
    assert np.linalg.norm(scaled - row) < 1e-4
    assert not volume_descriptor(np.ones((5, 5, 5)), (1, 1, 1)).any()


def test_too_few_or_equal_volumes_are_refused():
    for training, synthetic, code, names in (
        (rows(3, 0), rows(3, 1), "features-too-few-volumes", "4 training"),
        (rows(5, 0), rows(3, 1)[:, :2], "features-not-rows", "(3, 2)"),
        (rows(5, 0), rows(5, 1)[:0], "features-too-few-volumes", "1 synthetic"),
        (np.ones((5, 3)), np.ones((2, 3)), "features-all-same", ()),
        (np.repeat(rows(3, 0), 2, axis=0), rows(3, 1), "metric-too-few-training-volumes", "4 different training"),
        (rows(5, 0) * np.nan, rows(3, 1), "features-not-finite", "training"),
    ):
        with refused(code, names=names):
            memorisation_test(training, synthetic)
