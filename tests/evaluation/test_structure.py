import numpy as np
import pytest
from scipy import ndimage

from medgen.evaluation.structure import edge_correlation

MM = (2.0, 2.0, 2.0)


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.normal(size=(40, 36, 32)), 3)
    return np.where(blobs > 0, 100.0, 0.0) + rng.normal(size=blobs.shape)


def test_any_linear_change_keeps_it_at_one(image):
    mask = np.ones(image.shape, bool)
    assert edge_correlation(image, -3 * image + 7, mask, MM) == pytest.approx(1, abs=1e-5)


def test_equals_numpy_correlation(image):
    mask = np.ones(image.shape, bool)
    inner = (slice(3, -3),) * 3  # what lies more than 6 mm from the mask's rim
    other = image + np.roll(image, 3, 0)
    a, b = (ndimage.gaussian_gradient_magnitude(v, 1.0, mode="nearest")[inner].ravel() for v in (image, other))
    assert edge_correlation(image, other, mask, MM) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-5)


def test_moved_and_invented_structure_lowers_it(image):
    mask = np.ones(image.shape, bool)
    invented = image.copy()
    invented[5:15, 5:15, 5:15] += 300
    moved = edge_correlation(image, np.roll(image, 4, 0), mask, MM)
    assert moved < 0.7 and edge_correlation(image, invented, mask, MM) < 0.9


def test_noise_is_not_structure(image):
    mask = np.ones(image.shape, bool)
    noisy = image + np.random.default_rng(1).normal(0, 5, image.shape)
    assert edge_correlation(image, noisy, mask, MM) > 0.95


def test_the_rim_of_the_mask_does_not_count(image):
    mask = np.zeros(image.shape, bool)
    mask[5:-5, 5:-5, 5:-5] = True
    masked, noise = np.where(mask, image, -500), np.random.default_rng(3).normal(0, 60, image.shape)
    erased = np.where(mask, ndimage.gaussian_filter(noise, 1.5) * 5, -500)
    assert abs(edge_correlation(masked, erased, mask, MM)) < 0.3


def test_flat_image_has_none(image):
    assert edge_correlation(image, np.ones_like(image), image > 0, MM) == 0
