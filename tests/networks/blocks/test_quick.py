"""The faster forms of layers compared with torch's own layers, on random shapes."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medgen.networks.blocks.quick import QUICK, QuickBatchNorm3d, channels_first, quicken
from medgen.networks.generator import GeneratorSettings, build_generator

SIDES = st.tuples(*[st.integers(2, 9)] * 3)
CLOSE = 2e-5  # of values around 1: float32 sums in another order


def assert_same(layer: nn.Module, x: Tensor) -> None:
    """Outputs, gradients of the input and of the parameters, and outputs without gradients."""
    quick = quicken(nn.Sequential(copy.deepcopy(layer)))
    assert type(quick[0]) is QUICK[type(layer)]
    torch.testing.assert_close(quick(x).detach(), layer(x).detach(), rtol=CLOSE, atol=CLOSE)
    with torch.inference_mode():
        torch.testing.assert_close(quick(x), layer(x), rtol=CLOSE, atol=CLOSE)
    gradients = []
    for network in (quick, layer):
        seen = x.clone().requires_grad_()
        y = network(seen)
        y.backward(torch.linspace(-1, 2, y.numel()).view(y.shape))
        gradients.append([seen.grad, *(p.grad for p in network.parameters())])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * (1 + float(b.abs().max())))


def image(batch: int, channels: int, sides: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(batch, channels, *sides, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=15, deadline=None)
@given(sides=SIDES, batch=st.integers(1, 3), channels=st.integers(1, 5), affine=st.booleans(), seed=st.integers(0, 9))
def test_instance_norm(sides, batch, channels, affine, seed):
    x = 3 * image(batch, channels, sides, seed) + 2
    layer = nn.InstanceNorm3d(channels, affine=affine)
    if affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    assert_same(layer, x)


def test_instance_norm_of_a_nearly_constant_image_is_about_as_accurate_as_torchs():
    """Rounding of the input alone changes the output by 1e-3 here; a sum of squares would be wrong by more than 1."""
    x = 100 + 1e-3 * image(1, 4, (32, 32, 32), 0)
    exact = nn.InstanceNorm3d(4)(x.double())
    quick = quicken(nn.Sequential(nn.InstanceNorm3d(4)))(x)
    assert (quick - exact).abs().max() <= 2 * (nn.InstanceNorm3d(4)(x) - exact).abs().max()


def test_instance_norm_refuses_a_single_voxel_as_torch_does():
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        quicken(nn.Sequential(nn.InstanceNorm3d(2)))(torch.zeros(1, 2, 1, 1, 1))


@settings(max_examples=10, deadline=None)
@given(sides=SIDES, batch=st.integers(1, 2), channels=st.integers(1, 5), seed=st.integers(0, 9))
def test_batch_norm_and_its_running_statistics(sides, batch, channels, seed):
    x = 3 * image(batch, channels, sides, seed) + 2
    layer = nn.BatchNorm3d(channels)
    nn.init.normal_(layer.weight)
    assert_same(layer, x)
    quick = quicken(nn.Sequential(copy.deepcopy(layer)))
    for training in (True, True, False):
        for network in (quick, layer):
            network.train(training)
        torch.testing.assert_close(quick(x), layer(x), rtol=CLOSE, atol=CLOSE)
    for name, a in quick[0].state_dict().items():
        torch.testing.assert_close(a, layer.state_dict()[name], rtol=1e-5, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(sides=SIDES, batch=st.integers(1, 2), channels=st.tuples(*[st.integers(1, 5)] * 2), bias=st.booleans())
def test_pointwise_convolution(sides, batch, channels, bias):
    assert_same(nn.Conv3d(*channels, 1, bias=bias), image(batch, channels[0], sides, 0))


@settings(max_examples=15, deadline=None)
@given(
    extra=st.tuples(*[st.integers(0, 6)] * 3),
    kernel=st.sampled_from([5, 7, (5, 7, 5)]),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.sampled_from([0, (0, 2, 1)]),
    bias=st.booleans(),
    seed=st.integers(0, 9),
)
def test_convolution_with_few_outputs(extra, kernel, channels, padding, bias, seed):
    torch.manual_seed(seed)
    layer = nn.Conv3d(*channels, kernel, padding=padding, bias=bias)
    sides = tuple(k + n for k, n in zip(layer.kernel_size, extra, strict=True))
    x = image(1 + seed % 2, channels[0], sides, seed)
    assert QUICK[nn.Conv3d]._is_sum_of_slices(layer)
    assert_same(layer, x)


@settings(max_examples=10, deadline=None)
@given(
    extra=st.tuples(*[st.integers(0, 6)] * 3),
    kernel=st.sampled_from([5, 7, (5, 7, 5)]),
    inputs=st.integers(1, 2),
    padding=st.sampled_from([0, (0, 2, 1)]),
    bias=st.booleans(),
    seed=st.integers(0, 9),
)
def test_convolution_of_few_inputs(extra, kernel, inputs, padding, bias, seed):
    torch.manual_seed(seed)
    layer = nn.Conv3d(inputs, 16, kernel, padding=padding, bias=bias)
    x = image(1 + seed % 2, inputs, tuple(k + n for k, n in zip(layer.kernel_size, extra, strict=True)), seed)
    assert_same(layer, x)


@settings(max_examples=15, deadline=None)
@given(
    extra=st.tuples(*[st.integers(0, 9)] * 3),
    kernel=st.sampled_from([2, 3, (3, 1, 3)]),
    stride=st.sampled_from([1, 2, (2, 1, 3)]),
    padding=st.sampled_from([0, 1, (2, 0, 1)]),
    bias=st.booleans(),
    seed=st.integers(0, 9),
)
def test_convolution_of_one_small_image(extra, kernel, stride, padding, bias, seed):
    torch.manual_seed(seed)
    layer = nn.Conv3d(5, 4, kernel, stride, padding, bias=bias)
    sides = tuple(k + n for k, n in zip(layer.kernel_size, extra, strict=True))
    assert_same(layer, image(1, 5, sides, seed))


def test_only_small_images_are_halved():
    layer = quicken(nn.Sequential(nn.Conv3d(64, 2, 3)))[0]
    assert layer._misses_onednn(torch.zeros(1, 64, 16, 20, 8))
    assert not layer._misses_onednn(torch.zeros(1, 64, 16, 21, 8))
    assert not layer._misses_onednn(torch.zeros(2, 64, 16, 20, 8))


@settings(max_examples=15, deadline=None)
@given(
    sides=st.tuples(*[st.integers(1, 7)] * 3),
    batch=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 6), st.sampled_from([1, 3, 8, 9])),
    kernel=st.sampled_from([3, 4]),
    bias=st.booleans(),
    seed=st.integers(0, 9),
)
def test_transposed_convolution(sides, batch, channels, kernel, bias, seed):
    torch.manual_seed(seed)
    layer = nn.ConvTranspose3d(*channels, kernel, 2, 1, output_padding=4 - kernel, bias=bias)
    assert_same(layer, image(batch, channels[0], sides, seed))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(2, 1, 7, padding=3, padding_mode="reflect"),
        nn.Conv3d(2, 2, 5, stride=2),
        nn.Conv3d(2, 2, 5, groups=2),
        nn.Conv3d(2, 2, 5, padding="same"),
        nn.ConvTranspose3d(2, 2, 4, 2, 1, output_padding=1),
        nn.ConvTranspose3d(2, 2, 4, 2, 0),
        nn.ConvTranspose3d(2, 2, 3, 2, 1),
        nn.ConvTranspose3d(2, 2, 4, 2, 1, groups=2),
    ],
)
def test_layers_with_other_options_stay_right(layer):
    assert_same(layer, image(2, 2, (8, 7, 9), 0))


def test_channels_first_copies_the_values():
    x = image(2, 5, (3, 4, 6), 0)
    y = channels_first(x.contiguous(memory_format=torch.channels_last_3d))
    assert torch.equal(x, y)
    assert y.is_contiguous()


@pytest.mark.parametrize("name", ["unet", "resnet", "residual_unet"])
@pytest.mark.parametrize("upsample", ["deconv", "resize"])
def test_generators_compute_the_same_as_with_torchs_layers_and_in_bfloat16_too(name, upsample):
    torch.manual_seed(0)
    described = GeneratorSettings(
        name=name, filters=4, levels=3, blocks=1, norm="instance", upsample=upsample, pointwise_features=4
    )
    network = build_generator(described, spatial_dims=3, in_channels=1, out_channels=1).eval()
    plain = copy.deepcopy(network)
    for module in plain.modules():
        own = [torchs for torchs, quick in QUICK.items() if type(module) is quick]
        if own:
            module.__class__ = own[0]
    x = image(2, 1, (16, 24, 16), 0)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), plain(x), rtol=0, atol=CLOSE)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(network(x), plain(x))
    assert list(network.state_dict()) == list(plain.state_dict())


def test_batch_norm_of_one_image_may_follow_one_of_two_in_the_same_graph():
    norm = QuickBatchNorm3d(4)
    two, one = torch.randn(2, 4, 3, 3, 3, requires_grad=True), torch.randn(1, 4, 3, 3, 3, requires_grad=True)
    (norm(two).square().mean() + norm(one).sin().mean()).backward()
    assert two.grad is not None and one.grad is not None and norm.num_batches_tracked == 2
