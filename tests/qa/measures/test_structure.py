import numpy as np
import pytest
import torch
from monai.metrics import DiceHelper
from scipy import ndimage

from medgen.data.labels.overlap import label_dice
from medgen.losses.structure import mind
from medgen.qa.measures.structure import edge_correlation, gradient_agreement, mind_distance

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


def test_gradient_agreement_is_one_for_any_linear_change_and_a_third_by_chance(image):
    mask = np.ones(image.shape, bool)
    assert gradient_agreement(image, -3 * image + 7, mask, MM) == pytest.approx(1, abs=1e-4)
    first, second = (np.random.default_rng(n).normal(size=(40, 36, 32)) for n in (1, 2))
    assert gradient_agreement(first, second, mask, MM) == pytest.approx(1 / 3, abs=0.03)


def test_gradient_agreement_is_the_squared_cosine():
    x, y, _ = np.meshgrid(*[np.arange(20.0)] * 3, indexing="ij")
    mask = np.zeros(x.shape, bool)
    mask[8:12, 8:12, 8:12] = True  # away from the faces, where the filter mirrors
    turned = np.cos(0.5) * x + np.sin(0.5) * y
    agreement = gradient_agreement(x, turned, mask, (1, 1, 1), sigma_mm=0.5)
    assert agreement == pytest.approx(np.cos(0.5) ** 2, abs=1e-4)
    anisotropic = gradient_agreement(x, x + y, mask, (1, 3, 1), sigma_mm=0.5)  # gradients (1, 0) and (1, 1/3) per mm
    assert anisotropic == pytest.approx(1 / (1 + 1 / 9), abs=1e-4)


def test_descriptor_is_that_of_the_training_loss(image):
    other = image + np.random.default_rng(5).normal(0, 20, image.shape)
    x, y = (torch.from_numpy(v[None, None].astype(np.float32)) for v in (image, other))
    inner = (slice(6, -6),) * 3  # the loss continues the image beyond its border otherwise
    expected = (mind(x, radius=1, dilation=2) - mind(y, radius=1, dilation=2)).abs()[0][:, *inner].mean()
    mask = np.zeros(image.shape, bool)
    mask[inner] = True
    assert mind_distance(image, other, mask) == pytest.approx(float(expected), rel=1e-3)


def test_mind_distance_ignores_contrast_and_sees_what_is_erased(image):
    assert mind_distance(image, -2 * image + 40) < 1e-3
    erased = image.copy()
    erased[10:25, 10:25, 10:25] = 0
    assert mind_distance(image, erased) > 0.02


def test_label_dice_is_monais():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (2, 10, 9, 8))
    hot = [torch.nn.functional.one_hot(torch.from_numpy(v), 4).movedim(-1, 0)[None] for v in (a, b)]
    expected = DiceHelper(include_background=False, reduction="none", get_not_nans=False)(hot[0], hot[1])[0]
    assert list(label_dice(a, b).values()) == pytest.approx(expected.tolist())


def test_label_dice_of_a_structure_that_vanished_is_zero():
    labels = np.zeros((4, 4, 4), int)
    labels[0] = 3
    assert label_dice(labels, np.zeros_like(labels)) == {3: 0.0}


def test_every_second_voxel_of_a_large_image_gives_the_mean_of_all(monkeypatch):
    rng = np.random.default_rng(6)
    x = ndimage.gaussian_filter(rng.normal(size=(60, 56, 50)), 1.5).astype(np.float32)
    y = x + rng.normal(0, 0.02, x.shape).astype(np.float32)
    mask = np.zeros(x.shape, bool)
    mask[2:, 1:-3, 3:] = True
    part = mind_distance(x, y, mask)
    monkeypatch.setattr("medgen.qa.measures.structure.MANY", 10**9)
    assert part == pytest.approx(mind_distance(x, y, mask), abs=0.003) and part > 0.01
