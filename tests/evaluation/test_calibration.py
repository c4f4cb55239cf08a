import numpy as np
import pytest

from medgen.evaluation.calibration import (
    calibration_table,
    coverage,
    expected_calibration_error,
    fitted_scale,
    interval,
)


def drawn(factor=1.0, n=200_000):
    """Errors of normal distributions whose standard deviations are ``factor`` times the stated ones."""
    rng = np.random.default_rng(0)
    stated = rng.uniform(1, 20, n)
    return rng.normal(size=n) * stated * factor, stated


def test_right_deviations_are_the_observed_errors_and_cover_what_they_say():
    errors, stated = drawn()
    table = calibration_table(errors, stated, bins=8)
    assert [row.voxels for row in table] == [25_000] * 8
    for row in table:
        assert row.observed == pytest.approx(row.stated, rel=0.03)
    assert table[0].stated < table[-1].stated
    assert expected_calibration_error(table) < 0.1
    assert coverage(errors, stated) == pytest.approx(0.9, abs=0.005)
    assert fitted_scale(errors, stated) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_a_scale_of_other_patients_corrects_deviations(factor):
    errors, stated = drawn(factor)
    half = len(errors) // 2
    scale = fitted_scale(errors[:half], stated[:half])
    assert scale == pytest.approx(factor, rel=0.02)
    assert coverage(errors[half:], scale * stated[half:]) == pytest.approx(0.9, abs=0.005)
    assert abs(coverage(errors, stated) - 0.9) > 0.05


def test_voxels_without_deviation_are_covered_only_if_exact():
    errors, stated = np.array([0.0, 5.0]), np.zeros(2)
    assert coverage(errors, stated) == 0.5
    assert fitted_scale(errors, stated) == np.inf and fitted_scale(errors[:1], stated[:1]) == 0


def test_interval_is_that_of_the_normal_distribution():
    assert interval(0.9) == pytest.approx(1.6449, abs=1e-4)
