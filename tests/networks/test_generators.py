import pytest
import torch

from medgen.networks.generator import GeneratorSettings, build_generator
from medgen.networks.residual import Residual
from medgen.networks.unet import UNet


def build(spatial_dims=3, in_channels=1, out_channels=1, **settings):
    shape = {"spatial_dims": spatial_dims, "in_channels": in_channels, "out_channels": out_channels}
    return build_generator(GeneratorSettings(**settings), **shape)


@pytest.mark.parametrize("name", ["unet", "resnet"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_keeps_the_grid(name, dims, residual):
    network = build(dims, name=name, filters=4, residual=residual, levels=3, blocks=1, kernel=3)
    shape = (1, 1, *[network.divisor * n for n in (2, 3, 4)[:dims]])
    y = network(torch.randn(shape))
    assert y.shape == shape
    if not residual:
        assert y.abs().max() <= 1


def test_stem_carries_single_voxels_to_the_output():
    torch.manual_seed(0)
    network = UNet(
        spatial_dims=3, in_channels=1, out_channels=2, filters=4, levels=2, norm=None, full_resolution_filters=3
    )
    x = torch.randn(1, 1, 8, 12, 8)
    y = network(x)
    assert y.shape == (1, 2, 8, 12, 8)
    for layer in network.down:
        torch.nn.init.zeros_(layer.conv.weight)  # the coarse levels contribute nothing now
    moved = x.clone()
    moved[0, 0, 4, 6, 4] += 1
    changed = (network(moved) - network(x)).abs().sum(1)[0] > 0
    assert changed[4, 6, 4] and changed.nonzero().min(0).values.tolist() == [3, 5, 3]


def test_detail_branch_depends_on_each_voxels_own_intensity():
    """Without coarse levels, each output voxel is a non-linear function of its own input voxel."""
    torch.manual_seed(0)
    network = UNet(spatial_dims=3, in_channels=2, out_channels=1, filters=4, levels=2, norm=None, pointwise_features=3)
    x = torch.randn(1, 2, 8, 12, 8)
    assert network(x).shape == (1, 1, 8, 12, 8)
    for layer in network.down:
        torch.nn.init.zeros_(layer.conv.weight)
    moved = x.clone()
    moved[0, 1, 4, 6, 4] += 1
    changed = (network(moved) - network(x)).abs()[0, 0] > 0
    assert changed.nonzero().tolist() == [[4, 6, 4]]
    with pytest.raises(ValueError, match="full_resolution_filters"):
        UNet(spatial_dims=3, in_channels=1, out_channels=1, full_resolution_filters=2, pointwise_features=2)


def test_channels_may_differ():
    network = build(in_channels=2, out_channels=3, name="unet", filters=4, norm="none", levels=2)
    assert network(torch.randn(1, 2, 8, 8, 8)).shape == (1, 3, 8, 8, 8)


@pytest.mark.parametrize("name", ["unet", "resnet"])
def test_residual_starts_as_the_identity_and_learns(name):
    torch.manual_seed(0)
    network = build(name=name, filters=4, norm="batch", residual=True, levels=2, blocks=1, kernel=3)
    x = torch.randn(1, 1, 8, 8, 8) * 3
    assert torch.equal(network(x), x)
    network(x).pow(2).sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_residual_refuses_more_channels_out_than_in():
    with pytest.raises(ValueError, match=r"more output channels \(2\) than input channels \(1\)"):
        build(out_channels=2, name="unet", filters=4, norm="none", residual=True)


def test_unet_layers_are_the_papers():
    # C64-C128-C256-C512-C512-C512-C512-C512 for 256², section 6.1.1 of Isola 2017: 54.4 million weights
    network = UNet(spatial_dims=2, in_channels=3, out_channels=3)
    widths = [layer.conv.out_channels for layer in network.down]
    assert widths == [64, 128, 256, 512, 512, 512, 512, 512]
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    assert millions == pytest.approx(54.4, abs=0.1)


def test_resnet_has_the_size_of_the_reference():
    # The authors' ResNet with 9 blocks and instance norm has 11.378 million weights
    network = build(2, 3, 3, name="resnet")
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    assert millions == pytest.approx(11.378, abs=0.01)


def weights(norm):
    torch.manual_seed(0)
    network = build(2, name="unet", filters=32, norm=norm, levels=4)
    return [p for name, p in network.named_parameters() if name.endswith("weight") and p.ndim > 1]


def test_initialisation_is_normal_with_gain():
    flat = torch.cat([w.flatten() for w in weights("instance")])
    assert flat.std().item() == pytest.approx(0.02, rel=0.02)
    assert abs(flat.mean().item()) < 1e-3


def test_without_norms_signals_keep_their_size():
    # He 2015, eq. 15 with slope 0.2: std = sqrt(2 / (1.04 · fan_in))
    second = weights("none")[1]
    assert second.std().item() == pytest.approx((2 / (1.04 * 32 * 16)) ** 0.5, rel=0.02)


def test_residual_adds_to_the_first_channels():
    inner = torch.nn.Conv3d(3, 2, 1)
    inner.divisor = inner.smallest = 1
    network = Residual(inner, in_channels=3, out_channels=2)
    x = torch.randn(1, 3, 3, 3, 3)
    assert torch.equal(network(x), x[:, :2])


def test_a_negative_start_changes_bright_and_dark():
    torch.manual_seed(0)
    network = build(in_channels=2, name="unet", filters=4, norm="none", levels=2, residual="negative")
    x = torch.randn(1, 2, 8, 8, 8)
    assert torch.equal(network(x), -x[:, :1])
