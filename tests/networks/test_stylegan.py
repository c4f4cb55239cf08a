import pytest
import torch
from torch.nn import functional as nnf

from medgen.networks.stylegan import Linear, StyleGANSettings, StyleGenerator, adain, modulated_convolution


def build(**more):
    torch.manual_seed(0)
    settings = StyleGANSettings(filters=4, levels=2, latent=5, **more)
    return StyleGenerator(settings, channels=1, patch=(8, 8, 12))


def test_adain_gives_each_channel_the_mean_and_deviation_of_the_style():
    torch.manual_seed(0)
    x, scale, shift = torch.randn(2, 3, 4, 5, 6) * 3 + 2, torch.rand(2, 3) + 0.5, torch.randn(2, 3)
    y = adain(x, scale, shift)
    assert torch.allclose(y.mean((2, 3, 4)), shift, atol=1e-4)
    assert torch.allclose(y.std((2, 3, 4), correction=0), scale, atol=1e-3)
    normalised = (x - x.mean((2, 3, 4), keepdim=True)) / x.std((2, 3, 4), correction=0, keepdim=True)
    assert torch.allclose(y, normalised * scale[..., None, None, None] + shift[..., None, None, None], atol=1e-3)


@pytest.mark.parametrize("demodulate", [True, False])
def test_a_modulated_convolution_has_own_weights_for_each_image(demodulate):
    torch.manual_seed(0)
    x, weight, style = torch.randn(2, 3, 4, 4, 4), torch.randn(5, 3, 3, 3, 3), torch.randn(2, 3)
    y = modulated_convolution(x, weight, style, demodulate=demodulate)
    for n in range(2):
        w = weight * style[n][None, :, None, None, None]
        if demodulate:
            w = w / (w.square().sum((1, 2, 3, 4), keepdim=True) + 1e-8).sqrt()
        assert torch.allclose(y[n : n + 1], nnf.conv3d(x[n : n + 1], w, padding=1), atol=1e-4)


def test_a_slow_layer_starts_alike_and_learns_less():
    torch.manual_seed(0)
    x, spread = torch.randn(500, 40), []
    for rate in (1.0, 0.01):
        layer = Linear(40, 30, rate=rate, start=0.7)
        assert torch.allclose(layer.bias * rate, torch.full((30,), 0.7))
        before = layer(x)
        spread.append(before.std().item())
        with torch.no_grad():
            layer.bias.add_(1.0)  # a step of Adam has the same size for any gradient
        assert torch.allclose(layer(x) - before, torch.full((), rate), atol=1e-4)
    assert spread == pytest.approx([1.0, 1.0], rel=0.05)


@pytest.mark.parametrize("style", ["modulation", "adain"])
def test_style_mixing_takes_the_layers_from_the_crossover_on_from_the_other_code(style):
    G, seen = build(style=style), []
    for layer in G.layers:
        layer.register_forward_hook(lambda module, given, out: seen.append(given[1]))
    a, b = torch.randn(2, 5), torch.randn(2, 5)
    G(a, b, 2)
    w_a, w_b = G.styles(a), G.styles(b)
    assert len(seen) == 6 and all(torch.equal(w, w_a if n < 2 else w_b) for n, w in enumerate(seen))


def test_the_mean_style_follows_in_training_alone_and_truncation_goes_towards_it():
    G = build(truncation=0.0)
    for _ in range(3):
        G.styles(torch.randn(4, 5))
    moved = G.mean_style.clone()
    assert moved.abs().max() > 0
    G.eval()
    G.styles(torch.randn(4, 5))
    assert torch.equal(moved, G.mean_style)
    w = moved.expand(1, len(G.layers), -1)
    assert torch.allclose(G.sample(1, (8, 8, 12), torch.Generator()), G.synthesise(w, torch.zeros_like), atol=1e-5)
    G.truncation = 1.0
    a, b = (G.sample(1, (8, 8, 12), torch.Generator().manual_seed(s)) for s in range(2))
    assert not torch.allclose(a, b)


def test_noise_changes_details_by_its_strength():
    G = build().eval()
    w = torch.randn(1, len(G.layers), 5)
    a = G.synthesise(w)
    assert torch.equal(a, G.synthesise(w))  # the strengths start at 0
    torch.nn.init.ones_(G.layers[-1].strength)
    assert not torch.equal(a, G.synthesise(w))
