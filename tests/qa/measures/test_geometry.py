import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medgen.qa.measures.geometry import flip_gains, is_uniform, measure_shift, misplaced_slices

MM = (2.5, 2.5, 2.5)


def scene(seed: int = 0, shape: tuple[int, int, int] = (44, 40, 36)) -> np.ndarray:
    """Blobs of several intensities without symmetry."""
    blobs = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    return np.digitize(blobs, np.quantile(blobs, [0.3, 0.6, 0.85])) * 60.0


def seen(image: np.ndarray, seed: int, noise: float = 10.0) -> np.ndarray:
    return image + np.random.default_rng(seed).normal(0, noise, image.shape)


@settings(max_examples=12, deadline=None)
@example(axis=0, way=-2, seed=24)  # looked at alone, its third axis seemed to have moved by half a voxel
@given(axis=st.integers(0, 2), way=st.sampled_from([-2, -1, 1, 2]), seed=st.integers(0, 100))
def test_whole_voxels_are_found_under_noise_and_inverted_contrast(axis, way, seed):
    moved = np.roll(scene(seed), way, axis)
    cut = (slice(3, -3),) * 3
    found = measure_shift(seen(scene(seed), 1)[cut], seen(200 - 0.7 * moved, 2)[cut], MM)
    assert found[axis] == pytest.approx(way, abs=0.15)
    assert np.abs(np.delete(found, axis)).max() < 0.25


def test_a_shift_along_every_axis_is_found():
    image = scene(3)
    moved = np.roll(image, (2, -1, 1), (0, 1, 2))
    cut = (slice(3, -3),) * 3
    assert measure_shift(seen(image, 1)[cut], seen(moved, 2)[cut], MM) == pytest.approx([2, -1, 1], abs=0.15)


def test_a_part_of_a_voxel_is_found():
    image = ndimage.gaussian_filter(scene(), 1)
    found = measure_shift(seen(image, 1, 2), seen(ndimage.shift(image, (0, 0.4, 0), mode="nearest"), 2, 2), MM)
    assert found == pytest.approx([0, 0.4, 0], abs=0.12)


def test_contrast_change_and_noise_are_no_shift():
    image = scene()
    changed = np.where(image == 120, 300, image)  # one tissue enhances
    assert np.abs(measure_shift(seen(image, 1), seen(changed, 2), MM)).max() < 0.15


@pytest.mark.parametrize("seed", range(4))
def test_an_axis_along_which_the_scan_is_uniform_has_no_shift(seed):
    image = np.repeat(scene(seed)[:, :, :1], 36, 2)
    found = measure_shift(seen(image, 1), seen(200 - 0.7 * image, 2, 20.0), MM)
    assert found == pytest.approx([0, 0, 0], abs=0.1)


@pytest.mark.parametrize("noise", [1.0, 10.0])
def test_an_axis_without_structure_is_told_from_one_with_it(noise):
    image = np.repeat(scene(2)[:, :, :1], 36, 2)
    assert [is_uniform(seen(image, 1, noise), axis, MM) for axis in range(3)] == [False, False, True]
    box = np.full((20, 18, 16), -1000.0)  # symmetric, and not uniform
    box[3:17, 3:15, 2:14] = 40
    assert not any(is_uniform(seen(box, 1, noise), axis, MM) for axis in range(3))


def test_shifts_beyond_the_search_range_and_short_axes():
    image = scene()
    assert measure_shift(image, np.roll(image, 3, 0), MM, reach=2)[0] in (2.0, pytest.approx(0, abs=1.5))
    assert measure_shift(image[:, :, :6], image[:, :, 1:7], MM)[2] == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flip_is_reported_with_its_axis(axis):
    image = scene()
    mask = np.ones(image.shape, bool)
    straight = flip_gains(seen(image, 1), seen(300 - image, 2), mask, MM)
    flipped = flip_gains(seen(image, 1), seen(300 - np.flip(image, axis), 2), mask, MM)
    assert straight.max() < -0.3
    assert flipped[axis] > 0.3 and np.delete(flipped, axis).max() < 0.2


def test_gain_is_a_difference_of_correlations():
    image, other = scene(1), scene(2)
    mask = np.ones(image.shape, bool)
    a, b = (ndimage.gaussian_gradient_magnitude(v, 2 / 2.5, mode="nearest") for v in (image, other))
    expected = np.corrcoef(a[::-1].ravel(), b.ravel())[0, 1] - np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert flip_gains(image, other, mask, MM)[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_in_the_wrong_order_are_found_under_noise_and_inverted_contrast(axis):
    spacing = tuple(5.0 if a == axis else 2.0 for a in range(3))
    image = scene()
    body = np.ones(image.shape, bool)
    output = seen(-image, 1)
    assert misplaced_slices(seen(image, 0), output, body, spacing) == (axis, {})
    slices = np.moveaxis(output, axis, 0)
    slices[20] = slices[24].copy()
    assert misplaced_slices(seen(image, 0), output, body, spacing) == (axis, {20: 4})
    slices[8:14] = slices[8:14][::-1].copy()
    _, found = misplaced_slices(seen(image, 0), output, body, spacing)
    assert {8: 5, 13: -5}.items() <= found.items() and set(found) <= {*range(8, 14), 20}


def test_few_slices_and_empty_slices_are_in_order():
    image = scene()
    for z in (2, 5):
        thin = image[:, :, :z].copy()
        thin[:, :, -1] = 0
        assert misplaced_slices(thin, thin, thin > 0, (1.0, 1.0, 3.0)) == (2, {})
