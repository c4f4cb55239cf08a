import pytest
import torch

from medgen.networks.discriminator import Discriminator, frozen


@pytest.mark.parametrize("dims", [2, 3])
def test_one_patch_map_per_scale(dims):
    network = Discriminator(spatial_dims=dims, in_channels=2, filters=4, layers=2, scales=2)
    shape = (1, 2, *(48,) * dims)
    maps = network(torch.randn(shape))
    assert [m.shape[1] for m in maps] == [1, 1]
    assert maps[0].shape[2] > maps[1].shape[2]


def test_receptive_field_is_70_voxels():
    network = Discriminator(spatial_dims=2, in_channels=1, filters=4, layers=3, norm="none")
    x = torch.zeros(1, 1, 160, 160, requires_grad=True)
    logits = network(x)[0]
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    seen = (x.grad[0, 0].abs() > 0).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [70, 70]


def test_logits_are_raw():
    network = Discriminator(spatial_dims=3, in_channels=1, filters=4, layers=2)
    for p in network.parameters():
        p.data *= 50
    logits = network(torch.randn(2, 1, 32, 32, 32))[0]
    assert logits.max() > 1 and logits.min() < -1


def test_frozen_collects_no_gradient_but_passes_it_on():
    network = Discriminator(spatial_dims=2, in_channels=1, filters=4, layers=1)
    x = torch.randn(1, 1, 16, 16, requires_grad=True)
    with frozen(network):
        network(x)[0].sum().backward()
    assert x.grad.abs().max() > 0
    assert all(p.grad is None for p in network.parameters())
    assert all(p.requires_grad for p in network.parameters())


def test_frozen_keeps_parameters_that_were_frozen_before():
    network = torch.nn.Linear(2, 2)
    network.bias.requires_grad_(False)
    with frozen(network):
        pass
    assert network.weight.requires_grad and not network.bias.requires_grad
