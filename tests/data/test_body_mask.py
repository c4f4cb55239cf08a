import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from medgen.data.body_mask import _dilated, _eroded, body_mask, foreground_threshold, looks_like_hu


def phantom():
    data = np.full((40, 30, 20), -1000, np.float32)
    data[5:35, 5:20, :] = 40  # body
    data[10:16, 8:14, 4:16] = -800  # lung
    data[4:36, 24:26, :] = 0  # table
    return data


def test_lung_is_inside_and_table_outside():
    mask = body_mask(phantom())
    assert mask[12, 10, 10] and mask[20, 10, 10]
    assert not mask[20, 25, 10] and not mask[1, 1, 1]
    expected = np.zeros_like(mask)
    expected[5:35, 5:20, :] = True
    assert (mask == expected).mean() > 0.99


def test_nothing_above_the_threshold_gives_everything():
    assert body_mask(np.full((5, 6, 7), -1000.0)).all()


def test_foreground_of_skull_stripped_mr():
    data = np.zeros((20, 20, 20), np.float32)
    data[5:15, 5:15, 5:15] = 300
    mask = body_mask(data, threshold=foreground_threshold(data))
    assert not (mask & (data == 0)).any()
    assert mask.sum() >= 1000 - 8  # the opening rounds a cube's corners off


def test_hu_is_recognised_by_air():
    assert looks_like_hu(phantom())
    assert not looks_like_hu(np.array([[-60.0, 900.0]]))


@pytest.mark.parametrize("limit", [4096, 3142])
def test_phase_images_are_not_recognised_as_hu_and_padded_ct_is(limit):
    phase = np.random.default_rng(0).uniform(-limit, limit, (20, 20, 20))
    assert not looks_like_hu(phase)
    masked = np.where(np.indices(phase.shape).sum(0) < 20, phase, 0.0)
    assert not looks_like_hu(masked)
    padded = np.array(phantom(), np.float32)
    padded[:, :3] = -2000
    padded[0, -1, 0] = -3024  # one voxel of a streak
    assert looks_like_hu(padded)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)))
def test_dilation_and_erosion_equal_scipy(mask):
    np.testing.assert_array_equal(_dilated(mask), ndimage.binary_dilation(mask))
    np.testing.assert_array_equal(_eroded(mask), ndimage.binary_erosion(mask))
    np.testing.assert_array_equal(_dilated(mask.T), _dilated(mask).T)


def test_values_that_are_not_finite_are_not_hounsfield_units():
    assert not looks_like_hu(np.full((4, 4, 4), np.nan, np.float32))
