import copy

import pytest
import torch
from torch import nn

from medgen.networks.precision import guard_small_convolutions


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 2, 2), (8, 8, 2), (8, 8, 8)])
@pytest.mark.parametrize("copied", [False, True])
def test_weight_gradients_in_bfloat16_agree_with_those_in_32_bits(shape, copied):
    """oneDNN reads memory beyond images that are smaller than the kernel; other memory is filled to show it."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(16, 16, 3, padding=1))
    guard_small_convolutions(network)
    network = copy.deepcopy(network) if copied else network
    x, g = torch.randn(2, 16, *shape), torch.randn(2, 16, *shape)
    network(x).backward(g)
    expected = network[0].weight.grad.clone()
    for _ in range(3):
        network.zero_grad()
        dirt = [torch.full((n,), float("inf")) for n in (1000, 3000, 10_000, 30_000, 100_000)]
        del dirt
        with torch.autocast("cpu", torch.bfloat16):
            y = network(x.clone().requires_grad_())
        y.backward(g.to(y.dtype))
        assert (network[0].weight.grad - expected).abs().max() < 0.05 * expected.abs().max()


def test_large_images_stay_in_bfloat16_and_small_ones_do_not():
    network = nn.Sequential(nn.Conv3d(4, 4, 3, padding=1))
    guard_small_convolutions(network)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(torch.randn(1, 4, 8, 8, 8)).dtype == torch.bfloat16
        assert network(torch.randn(1, 4, 2, 8, 8)).dtype == torch.float32
    assert network(torch.randn(1, 4, 2, 8, 8)).dtype == torch.float32
