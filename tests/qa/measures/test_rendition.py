import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medgen.qa.measures.rendition import match_rendition

MM = (2.5, 2.5, 3.0)
SHAPE = (40, 36, 24)
EVERYWHERE = np.ones(SHAPE, bool)


def scan(seed=0):
    """Bodies of different HU with soft edges."""
    rough = np.random.default_rng(seed).normal(0, 1, SHAPE)
    return ndimage.gaussian_filter(np.sign(ndimage.gaussian_filter(rough, 3)) * 450.0, 0.8) - 400


def rms(v):
    return float(np.sqrt(np.mean(v[3:-3, 3:-3, 3:-3] ** 2)))


@given(
    st.tuples(*[st.floats(-0.3, 0.3)] * 3),
    st.tuples(st.floats(0, 0.45), st.floats(0, 0.45)),
    st.floats(0.3, 2),
    st.integers(0, 5),
)
@settings(max_examples=12, deadline=None)
def test_a_shift_and_another_kernel_are_followed_at_any_scale(way, blur, scale, seed):
    other = scan(seed)
    moved = ndimage.shift(ndimage.gaussian_filter(other, (blur[0], blur[0], blur[1])), way, order=3, mode="nearest")
    left = rms(match_rendition(scale * moved + 70, other, EVERYWHERE, MM) - moved)
    assert left < 0.35 * rms(other - moved) + 2


def test_what_is_new_is_not_followed():
    other = scan()
    grid = np.ogrid[tuple(slice(n) for n in SHAPE)]
    nodule = 300.0 * (sum(((g - c) * s) ** 2 for g, c, s in zip(grid, (20, 18, 12), MM, strict=True)) < 36)
    left = other + nodule - match_rendition(other + nodule, other, EVERYWHERE, MM)
    assert left[20, 18, 12] == pytest.approx(300, abs=15)
    assert rms(left - nodule) < 5


def test_noise_alone_and_a_small_mask_leave_the_image_as_it_is():
    other = scan().astype(np.float32)
    few = np.zeros(SHAPE, bool)
    few[20, 18] = True
    np.testing.assert_array_equal(match_rendition(other + 5, other, few, MM), other)
    flat = np.full(SHAPE, 40.0, np.float32)
    np.testing.assert_allclose(match_rendition(flat, flat, EVERYWHERE, MM), flat)
