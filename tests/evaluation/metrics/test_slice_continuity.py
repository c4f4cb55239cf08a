import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.evaluation.metrics.slice_continuity import relative_slice_jump, slice_jump


def noise(seed=0, shape=(12, 14, 10)):
    return np.random.default_rng(seed).normal(0, 20, shape).astype(np.float32)


def test_closed_forms():
    x, y, z = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (5, 6, 7)), indexing="ij")
    volume = 2 * x + 3 * y + 6 * z
    assert [slice_jump(volume, axis) for axis in range(3)] == pytest.approx([2 / 4.5, 3 / 4, 6 / 2.5])
    assert slice_jump(noise(shape=(60, 60, 60)), 1) == pytest.approx(1, abs=0.02)
    mask = np.zeros(volume.shape, bool)
    mask[1:3, 1:4, 2:5] = True
    outside = np.where(mask, volume, noise(1, volume.shape))
    assert slice_jump(outside, 2, mask) == pytest.approx(6 / 2.5)


@given(st.integers(0, 100), st.integers(1, 99))
@settings(max_examples=30, deadline=None)
def test_a_real_scan_has_1_and_nothing_less_whatever_its_gain(seed, other):
    real = noise(seed)
    assert relative_slice_jump(real * 7 + 3, real) == pytest.approx(1, abs=1e-4)
    made = noise(seed + other) * np.random.default_rng(seed).uniform(0.1, 2, (12, 1, 1)).astype(np.float32)
    assert relative_slice_jump(made, real) >= 1 - 1e-6


def test_brightness_that_differs_from_slice_to_slice_is_seen_on_its_axis():
    real = np.cumsum(np.cumsum(np.cumsum(noise() / 20, 0), 1), 2)
    for axis in range(3):
        flicker = np.moveaxis(np.zeros_like(real), axis, 0)
        flicker[::2] = 10
        made = real + np.moveaxis(flicker, 0, axis)
        assert relative_slice_jump(made, real) == pytest.approx(slice_jump(made, axis) / slice_jump(real, axis))
        assert relative_slice_jump(made, real) > 1.5


def test_nothing_to_compare():
    flat = np.zeros((4, 4, 4), np.float32)
    assert np.isnan(slice_jump(flat, 0)) and np.isnan(relative_slice_jump(noise(shape=(4, 4, 4)), flat))
    assert np.isnan(relative_slice_jump(flat, flat, np.zeros(flat.shape, bool)))
    single = noise(shape=(6, 6, 1))
    assert np.isnan(slice_jump(single, 2))
