"""Memorisation: copies are found, new patients of the embedded cohort pass, and the chance of a false alarm."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medgen.data.body import body_mask
from medgen.data.phantom import make_patient
from medgen.evaluation.memorisation import memorisation_test, volume_descriptor
from medgen.types import InputError

SIZE, SPACING = (40, 32, 24), 10.0


def rows(n, seed, d=20):
    return np.random.default_rng(seed).normal(size=(n, d))


def test_false_alarms_are_as_rare_as_alpha_says():
    alarms = [memorisation_test(rows(20, 3 * s), rows(10, 3 * s + 1)).memorised for s in range(150)]
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


def test_exact_copies_and_one_synthetic_volume():
    assert memorisation_test(rows(8, 0), rows(8, 0)[:1]).copies[0].distance == 0
    assert not memorisation_test(rows(8, 0), rows(1, 1)).memorised


@pytest.fixture(scope="module")
def patients():
    return [make_patient(seed, size=SIZE, spacing=SPACING).noncontrast for seed in range(12)]


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


def test_a_descriptor_knows_form_and_not_scale(patients):
    row = describe(patients[0])
    assert row.shape == (16**3,) and np.linalg.norm(row) == pytest.approx(1) and row.mean() == pytest.approx(0)
    mask = body_mask(patients[0])
    scaled = volume_descriptor(patients[0] * 3 + 7, (SPACING,) * 3, mask=mask)
    assert np.linalg.norm(scaled - row) < 1e-4
    assert not volume_descriptor(np.ones((5, 5, 5)), (1, 1, 1)).any()


def test_too_few_or_equal_volumes_are_refused():
    for training, synthetic, message in (
        (rows(3, 0), rows(3, 1), "4 training"),
        (rows(5, 0), rows(3, 1)[:, :2], "must be"),
        (rows(5, 0), rows(5, 1)[:0], "1 synthetic"),
        (np.ones((5, 3)), np.ones((2, 3)), "all the same"),
        (rows(5, 0) * np.nan, rows(3, 1), "NaN"),
    ):
        with pytest.raises(InputError, match=message):
            memorisation_test(training, synthetic)
