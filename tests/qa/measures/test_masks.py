import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medgen.qa.measures.masks import closed, deeper, dilated, eroded, opened, within

SHAPES = st.tuples(*[st.integers(1, 14)] * 3)


def some(shape: tuple[int, int, int], share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.sampled_from([0.1, 0.5, 0.9]), st.integers(0, 99), st.integers(1, 3))
def test_face_neighbours_equal_scipy(shape, share, seed, times):
    mask = some(shape, share, seed)
    before = mask.copy()
    np.testing.assert_array_equal(dilated(mask, times), ndimage.binary_dilation(mask, iterations=times))
    np.testing.assert_array_equal(eroded(mask, times), ndimage.binary_erosion(mask, iterations=times))
    bordered = ndimage.binary_erosion(mask, iterations=times, border_value=1)
    np.testing.assert_array_equal(eroded(mask, times, border=True), bordered)
    np.testing.assert_array_equal(opened(mask), ndimage.binary_opening(mask))
    np.testing.assert_array_equal(closed(mask, times), ndimage.binary_closing(mask, iterations=times))
    assert (mask == before).all()


@settings(max_examples=40, deadline=None)
@given(
    SHAPES,
    st.sampled_from([0.01, 0.1, 0.9]),
    st.integers(0, 99),
    st.sampled_from([0.5, 2.0, 6.0, 7.3]),
    st.tuples(*[st.sampled_from([1.0, 2.0, 2.25, 3.1])] * 3),
)
def test_balls_equal_thresholds_of_distances(shape, share, seed, mm, spacing):
    mask = some(shape, share, seed)
    if not mask.any():
        assert not within(mask, mm, spacing).any()
        return
    distance = ndimage.distance_transform_edt(~mask, spacing)
    np.testing.assert_array_equal(within(mask, mm, spacing), distance <= mm)
    np.testing.assert_array_equal(deeper(~mask, mm, spacing), distance > mm)


@pytest.mark.parametrize("mm", [3.0, 7.0])
def test_discs_in_each_slice(mm):
    mask = some((20, 17, 3), 0.02, 1)
    found = within(mask, mm, (1.5, 2.0, np.inf))
    for k in range(3):
        expected = ndimage.distance_transform_edt(~mask[:, :, k], (1.5, 2.0)) <= mm
        np.testing.assert_array_equal(found[:, :, k], expected)
