"""The residual U-Net: folding is lossless, the replacing head starts near the identity and only ever lowers values."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from medgen.networks.residual_unet import ResidualUNet, decided, fold, replaced, unfold, without_islands


@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (2, 3, 4, 6, 8)])
def test_unfold_inverts_fold(shape):
    x = torch.randn(shape)
    folded = fold(x)
    assert folded.shape == (2, 3 * 2 ** (len(shape) - 2), *(n // 2 for n in shape[2:]))
    assert torch.equal(unfold(folded, len(shape) - 2), x)


def test_fold_agrees_with_torch_in_2d():
    x = torch.randn(1, 2, 6, 4)
    assert torch.equal(fold(x), torch.nn.functional.pixel_unshuffle(x, 2))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("replace", [None, (-0.02, 0.1)])
def test_keeps_the_grid(dims, replace):
    network = ResidualUNet(
        spatial_dims=dims, in_channels=1, out_channels=1, filters=8, levels=2, windows=[(-0.2, 0.4)], replace=replace
    )
    shape = (2, 1, *(network.divisor * n for n in (2, 3, 4)[:dims]))
    x = torch.rand(shape)
    y = network(x)
    assert y.shape == shape
    if replace:
        same, mask, level = network.with_maps(x)
        assert torch.equal(same, y) and mask.shape == level.shape == shape


def test_replacing_head_subtracts_the_smoothed_excess_over_the_level():
    torch.manual_seed(0)
    network = ResidualUNet(spatial_dims=3, in_channels=1, out_channels=1, filters=8, levels=2, replace=(0.0, 0.1))
    x = torch.rand(1, 1, 16, 16, 16) * 2 - 1
    with torch.no_grad():
        assert (network(x) <= x).all()
        network.last.bias[0] = 20.0  # everywhere inside the mask
        y, level = network(x), network.maps(x)[:, 1:]
        v = network.within(x, x)
    assert torch.allclose(y, x - (v - level).clamp(min=0), atol=1e-4)


def test_a_stage_below_two_or_several_channels_are_refused():
    with pytest.raises(ValueError, match="2 levels"):
        ResidualUNet(spatial_dims=3, in_channels=1, out_channels=1, levels=1)
    with pytest.raises(ValueError, match="replace"):
        ResidualUNet(spatial_dims=3, in_channels=2, out_channels=1, replace=(0.0, 0.1))


def test_maps_give_the_output():
    torch.manual_seed(0)
    network = ResidualUNet(spatial_dims=3, in_channels=1, out_channels=1, filters=8, levels=2, replace=(-0.02, 0.1))
    torch.nn.init.normal_(network.last.weight)
    x = torch.rand(1, 1, 16, 16, 16)
    maps = network.maps(x)
    value = network.within(x, x)
    assert torch.allclose(replaced(x, network.decide(maps, x), value), network(x), atol=1e-5)
    assert maps.shape == (1, 2, 16, 16, 16) and 0 <= maps[:, 0].min() and maps[:, 0].max() <= 1
    assert -0.02 <= maps[:, 1].min() and maps[:, 1].max() <= 0.1


def test_bright_voxels_need_a_surer_mask():
    maps = torch.tensor([torch.sigmoid(torch.tensor(0.5)), 0.04]).reshape(1, 2, 1, 1, 1).expand(1, 2, 1, 1, 3)
    once = torch.tensor([0.08, 0.12, 0.2]).reshape(1, 1, 1, 1, 3)  # 80, 120 and 200 HU
    mask, level = decided(maps, (-0.015, 0.105), once)[0, :, 0, 0]
    assert torch.allclose(mask, torch.sigmoid(3 * (0.5 - torch.tensor([0.0, 0.5, 1.0]))), atol=1e-5)
    assert torch.equal(level, torch.full((3,), 0.04))


@pytest.mark.parametrize("dims", [2, 3])
def test_levels_have_no_islands_within_the_mask(dims):
    """scipy's opening where the mask is everywhere; outside the mask nothing counts and nothing changes."""
    level = torch.from_numpy(np.random.default_rng(0).uniform(-0.1, 0.1, (9,) * dims).astype(np.float32))[None, None]
    everywhere = torch.ones_like(level, dtype=torch.bool)
    found = without_islands(level, everywhere)[0, 0].numpy()
    plain = level[0, 0].numpy()
    eroded = ndimage.minimum_filter(plain, 3, mode="constant", cval=np.inf)
    opened = ndimage.maximum_filter(eroded, 3, mode="constant", cval=-np.inf)
    np.testing.assert_array_equal(found, np.minimum(plain, opened))
    inside = everywhere.clone()
    inside[:, :, :4] = False
    part = without_islands(level, inside)
    assert torch.equal(part[:, :, :4], level[:, :, :4])
    assert torch.equal(part[:, :, 4:], without_islands(level[:, :, 4:], everywhere[:, :, 4:]))
    vessel = torch.full_like(level, 0.02)
    vessel[:, :, 4] = 0.05
    assert torch.equal(without_islands(vessel, everywhere), torch.full_like(level, 0.02))
    assert torch.equal(without_islands(-vessel, everywhere), -vessel), "darker structures stay"
