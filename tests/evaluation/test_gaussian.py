import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medgen.evaluation.gaussian import gaussian, gradient_magnitude

SHAPES = st.tuples(st.integers(1, 80), st.integers(1, 40), st.integers(1, 40))  # within a block and beyond it
SIGMAS = st.tuples(*[st.sampled_from([0.3, 1.0, 2.4])] * 3)


@settings(max_examples=30, deadline=None)
@given(SHAPES, SIGMAS, st.sampled_from(["reflect", "nearest", "constant"]), st.sampled_from([3.0, 4.0]))
def test_as_scipy_smooths(shape, sigma, mode, truncate):
    v = np.random.default_rng(0).normal(0, 100, shape).astype(np.float32)
    expected = ndimage.gaussian_filter(v, sigma, mode=mode, truncate=truncate)
    np.testing.assert_allclose(gaussian(v, sigma, mode=mode, truncate=truncate), expected, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(SHAPES, SIGMAS, st.sampled_from(["reflect", "nearest"]))
def test_slopes_as_scipy_has_them(shape, sigma, mode):
    v = np.random.default_rng(1).normal(0, 100, shape).astype(np.float32)
    expected = ndimage.gaussian_gradient_magnitude(v, sigma, mode=mode)
    np.testing.assert_allclose(gradient_magnitude(v, sigma, mode=mode), expected, atol=1e-3)


@pytest.mark.parametrize("kind", [bool, np.int16, np.float64])
def test_any_type_in_any_order_and_the_input_stays(kind):
    v = np.asfortranarray(np.random.default_rng(2).integers(0, 2, (40, 9, 7)).astype(kind))
    before = v.copy()
    smooth = gaussian(v, (2.0, 1.0, 1.0))
    np.testing.assert_allclose(smooth, ndimage.gaussian_filter(v.astype(np.float64), (2, 1, 1)), atol=1e-6)
    assert smooth.dtype == np.float32 and (v == before).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -1000.3, 7e5])
def test_a_flat_image_stays_flat_to_the_bit(value):
    v = np.full((50, 8, 6), value, np.float32)
    assert (gaussian(v, (2.0, 2.0, 1.0)) == v).all()
    assert (gradient_magnitude(v, (2.0, 2.0, 1.0), mode="nearest") == 0).all()
