"""Structure losses: equal to a numpy reference, invariant to a·x + b, sensitive to moved or erased edges."""

from itertools import product

import numpy as np
import pytest
import torch
from refusal import refused
from scipy import ndimage

from medgen.losses.structure import gradient_correlation_loss, mind, mind_loss

SHAPES = [(2, 2, 9, 7), (2, 2, 7, 5, 6)]
LOSSES = [gradient_correlation_loss, mind_loss]


def images(shape, seed=0, sigma=1.0):
    """Two smooth random images, float64, intensities of order 1."""
    rng = np.random.default_rng(seed)
    axes = (0, 0, *[sigma] * (len(shape) - 2))
    return [torch.tensor(ndimage.gaussian_filter(rng.normal(0, 1, shape), axes)) for _ in range(2)]


# Plain references: numpy and scipy, one sample and channel at a time


def reference_gradient_correlation_loss(x, y):
    values = []
    for b, c, axis in product(range(x.shape[0]), range(x.shape[1]), range(x.ndim - 2)):
        inside = tuple(slice(1, -1) if a == axis else slice(None) for a in range(x.ndim - 2))
        edges = [ndimage.correlate1d(image[b, c].numpy(), [-0.5, 0, 0.5], axis=axis)[inside] for image in (x, y)]
        values.append(abs(np.corrcoef(edges[0].ravel(), edges[1].ravel())[0, 1]))
    return 1 - np.mean(values)


def reference_mind(image, radius, dilation):
    """(P, X, Y[, Z]) of one image, voxel by voxel and patch by patch."""
    dims, reach = image.ndim, radius + dilation
    big = np.pad(image, reach, mode="edge")
    steps = [sign * dilation * np.eye(dims, dtype=int)[a] for a in range(dims) for sign in (-1, 1)]
    pairs = [(p, q) for i, p in enumerate(steps) for q in steps[i + 1 :] if np.linalg.norm(p - q) < 1.5 * dilation]
    distance = np.zeros((len(pairs), *image.shape))
    for voxel in np.ndindex(image.shape):

        def patch(step, centre=voxel):
            corner = np.array(centre) + reach + step - radius
            return big[tuple(slice(k, k + 2 * radius + 1) for k in corner)]

        for k, (p, q) in enumerate(pairs):
            distance[(k, *voxel)] = np.mean((patch(p) - patch(q)) ** 2)
    variance = distance.mean(0)
    return np.exp(-distance / np.maximum(variance, 1e-3 * variance.mean()))


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_correlation_equals_the_reference(shape):
    x, y = images(shape)
    expected = reference_gradient_correlation_loss(x, y)
    assert gradient_correlation_loss(x, y).item() == pytest.approx(expected, abs=1e-5)
    assert 0.5 < expected < 1


@pytest.mark.parametrize("radius, dilation", [(0, 1), (1, 2), (2, 1)])
@pytest.mark.parametrize("shape, pairs", [((1, 2, 6, 5), 4), ((1, 2, 4, 5, 3), 12)])
def test_mind_equals_the_reference(shape, pairs, radius, dilation):
    x, y = images(shape)
    made = mind(x, radius=radius, dilation=dilation)
    assert made.shape == (1, 2 * pairs, *shape[2:])
    expected = [np.concatenate([reference_mind(channel.numpy(), radius, dilation) for channel in v[0]]) for v in (x, y)]
    np.testing.assert_allclose(made[0].numpy(), expected[0], rtol=1e-9, atol=1e-12)
    difference = np.abs(expected[0] - expected[1]).mean()
    assert mind_loss(x, y, radius=radius, dilation=dilation).item() == pytest.approx(difference, rel=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(1, 1, 5, 4), (1, 2, 4, 3, 4)])
def test_the_gradient_is_that_of_finite_differences(loss, shape):
    x, y = (v.requires_grad_() for v in images(shape, seed=3))
    assert torch.autograd.gradcheck(loss, (x, y), atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale, shift", [(1, 0), (0.5, 0.3), (3, -1), (-1, 0), (-0.4, 0.7)])
def test_an_affine_change_of_intensity_has_zero_loss(loss, shape, scale, shift):
    x, other = images(shape)
    assert loss(x, scale * x + shift).item() < 1e-5 < 0.01 < loss(x, scale * other + shift).item()


def phantom(dims, centre=(12, 12, 10), organ=0.3, lesion=0.6, noise=0.01):
    """A body with an organ and, inside it, a lesion of radius 3, (1, 1, 24, 24[, 20]) with noise of its own."""
    grid = np.indices((24, 24, 20)[:dims])
    at = [g - c for g, c in zip(grid, centre, strict=False)]
    image = np.where(np.abs(grid[0] - 11.5) < 10, 0.0, -1.0)
    image[sum((g - 11) ** 2 for g in grid[:2]) < 64] = organ
    image[sum(a**2 for a in at) < 10] = lesion
    image += np.random.default_rng(dims).normal(0, noise, image.shape)
    return torch.tensor(image, dtype=torch.float32)[None, None]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dims", [2, 3])
def test_moved_or_erased_lesions_raise_the_loss_and_lesion_contrast_does_not(loss, dims):
    x = phantom(dims)
    kept = loss(x, phantom(dims, lesion=0.45)).item()  # half its enhancement gone, the lesion still there
    displaced = loss(x, phantom(dims, centre=(9, 12, 10), lesion=0.45)).item()
    erased = loss(x, phantom(dims, lesion=0.3)).item()
    assert 1.5 * kept < min(displaced, erased)


def test_inversion_inside_an_organ_is_invisible_to_mind_but_not_to_gradient_correlation():
    x, inverted = phantom(3, organ=0.0, lesion=0.3), phantom(3, organ=0.0, lesion=-0.3)
    assert mind_loss(x, inverted).item() < 0.005
    assert gradient_correlation_loss(x, inverted).item() > 0.02


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 1, 8, 8, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_constant_images_give_finite_values_and_gradients(loss, shape, dtype):
    flat = torch.full(shape, -1.0)
    for first, second in ((flat, flat), (flat, torch.randn(shape)), (torch.randn(shape), flat)):
        x, y = (v.clone().to(dtype).requires_grad_() for v in (first, second))
        value = loss(x, y)
        value.backward()
        assert value.dtype == torch.float32 and torch.isfinite(value)
        assert torch.isfinite(x.grad).all() and torch.isfinite(y.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_changes_nothing(loss):
    x, y = (v.float() for v in images((1, 1, 8, 8, 8)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(x, y)
    assert inside.dtype == torch.float32 and inside.item() == loss(x, y).item()


@pytest.mark.parametrize("loss", LOSSES)
def test_samples_of_a_batch_are_independent(loss):
    x, y = images((3, 1, 8, 9))
    alone = [loss(x[i : i + 1], y[i : i + 1]).item() for i in range(3)]
    assert loss(x, y).item() == pytest.approx(np.mean(alone))


def test_images_that_cannot_be_compared_are_refused():
    x = torch.zeros(1, 1, 8, 8)
    for loss in LOSSES:
        for y in (x[..., :-1], x[0], torch.zeros(0, 1, 8, 8)):
            with refused("loss-shapes-differ"):
                loss(x if len(y) else y, y)
    with refused("loss-image-too-small"):
        gradient_correlation_loss(x[..., :2], x[..., :2])
    for bad in ({"radius": -1}, {"dilation": 0}):
        with refused("loss-radius-range", names=next(iter(bad))):
            mind(x, **bad)
