import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medgen.data.fast_filters import gaussian, gradient_magnitude, interpolate

SHAPES = st.tuples(st.integers(1, 80), st.integers(1, 40), st.integers(1, 40))  # within a block and beyond it
SIGMAS = st.tuples(*[st.sampled_from([0.3, 1.0, 2.4])] * 3)


@settings(max_examples=30, deadline=None)
@given(SHAPES, SIGMAS, st.sampled_from(["reflect", "nearest", "constant"]), st.sampled_from([3.0, 4.0]))
def test_smoothing_equals_scipy(shape, sigma, mode, truncate):
    v = np.random.default_rng(0).normal(0, 100, shape).astype(np.float32)
    expected = ndimage.gaussian_filter(v, sigma, mode=mode, truncate=truncate)
    np.testing.assert_allclose(gaussian(v, sigma, mode=mode, truncate=truncate), expected, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(SHAPES, SIGMAS, st.sampled_from(["reflect", "nearest"]))
def test_gradients_equal_scipy(shape, sigma, mode):
    v = np.random.default_rng(1).normal(0, 100, shape).astype(np.float32)
    expected = ndimage.gaussian_gradient_magnitude(v, sigma, mode=mode)
    np.testing.assert_allclose(gradient_magnitude(v, sigma, mode=mode), expected, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    SHAPES,
    st.tuples(*[st.integers(1, 70)] * 3),
    st.tuples(*[st.floats(-3, 3)] * 3),
    st.tuples(*[st.sampled_from([-2.5, -1.0, 0.31, 1.0, 3.1])] * 3),
    st.sampled_from([(0.0, 0.0, 0.0), (1.3, 0.0, 0.6)]),
)
def test_interpolation_equals_scipy(shape, made, first, step, sigma):
    v = np.random.default_rng(3).normal(0, 100, shape).astype(np.float32)
    first = np.array(first) + np.where(np.array(step) < 0, shape, 0)
    smooth = ndimage.gaussian_filter(v, sigma, mode="nearest")
    expected = ndimage.affine_transform(smooth, step, first, output_shape=made, order=1, mode="nearest")
    found = interpolate(v, first, np.array(step), made, sigma)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert found.shape == made and found.dtype == np.float32


def test_interpolation_at_grid_points_is_exact():
    v = np.random.default_rng(4).normal(0, 1000, (9, 40, 12)).astype(np.float32)
    np.testing.assert_array_equal(interpolate(v, np.zeros(3), np.ones(3), v.shape), v)
    found = interpolate(v, np.array([8.0, 1.0, 0.0]), np.array([-1.0, 3.0, 1.0]), (9, 13, 12))
    np.testing.assert_array_equal(found, v[::-1, 1::3])


@pytest.mark.parametrize("kind", [bool, np.int16, np.float64])
def test_any_dtype_and_memory_order_works_and_the_input_is_unchanged(kind):
    v = np.asfortranarray(np.random.default_rng(2).integers(0, 2, (40, 9, 7)).astype(kind))
    before = v.copy()
    smooth = gaussian(v, (2.0, 1.0, 1.0))
    np.testing.assert_allclose(smooth, ndimage.gaussian_filter(v.astype(np.float64), (2, 1, 1)), atol=1e-6)
    assert smooth.dtype == np.float32 and (v == before).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -1000.3, 7e5])
def test_a_constant_image_stays_exactly_constant(value):
    v = np.full((50, 8, 6), value, np.float32)
    assert (gaussian(v, (2.0, 2.0, 1.0)) == v).all()
    assert (gradient_magnitude(v, (2.0, 2.0, 1.0), mode="nearest") == 0).all()


def test_volumes_in_one_array_are_smoothed_each():
    v = np.random.default_rng(5).normal(0, 100, (20, 17, 9, 3)).astype(np.float32)
    found = gaussian(v, (2.0, 1.0, 0.7))
    for n in range(3):
        np.testing.assert_allclose(found[..., n], gaussian(v[..., n], (2.0, 1.0, 0.7)), atol=1e-3)


def test_products_are_too_small_for_threads_of_blas(monkeypatch):
    sizes, matmul = [], np.matmul

    def recorded(a, b, out):
        sizes.append(a.shape[-2] * a.shape[-1] * b.shape[-1])
        return matmul(a, b, out=out)

    monkeypatch.setattr(np, "matmul", recorded)
    gaussian(np.ones((70, 90, 100), np.float32), (3.0, 3.0, 3.0))
    assert 0 < max(sizes) <= 2**18
