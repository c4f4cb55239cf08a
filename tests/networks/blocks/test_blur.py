import numpy as np
import pytest
import torch
from scipy.ndimage import convolve

from medgen.networks.blocks.blur import BlurDown, BlurUp


@pytest.mark.parametrize("dims", [2, 3])
def test_blur_down_is_binomial_filter_then_every_second(dims):
    x = np.random.default_rng(0).normal(size=(9, 8, 7)[:dims])
    kernel = np.array([1, 2, 1]) / 4
    full = kernel
    for _ in range(dims - 1):
        full = np.multiply.outer(full, kernel)
    expected = convolve(x, full, mode="mirror")[(slice(None, None, 2),) * dims]
    found = BlurDown(dims)(torch.tensor(x, dtype=torch.float32)[None, None].repeat(1, 3, *(1,) * dims))
    assert found.shape[1] == 3
    np.testing.assert_allclose(found[0, 2].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_constant_stays_and_grid_doubles(dims):
    x = torch.full((1, 2, *(6,) * dims), 3.0)
    assert torch.allclose(BlurDown(dims)(x), torch.full((1, 2, *(3,) * dims), 3.0))
    assert torch.allclose(BlurUp(dims)(x), torch.full((1, 2, *(12,) * dims), 3.0))
