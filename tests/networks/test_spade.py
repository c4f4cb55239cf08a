import pytest
import torch
from torch.nn import functional as nnf

from medgen.networks.spade import SPADEGenerator, SPADENorm, SPADESettings, StyleEncoder

SMALL = dict(filters=4, hidden=4, levels=2, latent=3, style_norm="none", style_grid=1)


def build(spatial_dims=3, **more):
    torch.manual_seed(0)
    shape = {"spatial_dims": spatial_dims, "in_channels": 3, "out_channels": 1}
    return SPADEGenerator(SPADESettings(**{**SMALL, **more}), **shape).eval()


def label_map(*shape, classes=3):
    torch.manual_seed(1)
    return nnf.one_hot(torch.randint(0, classes, (2, *shape)), classes).movedim(-1, 1).float()


@pytest.mark.parametrize("latent", [0, 3])
def test_modulation_is_equation_1(latent):
    torch.manual_seed(0)
    layer = SPADENorm(3, 3, 5, 4, ("instance", {"affine": False}), latent)
    x, m, z = torch.randn(2, 5, 4, 6, 4), label_map(8, 12, 8), torch.randn(2, latent)
    small = m[:, :, ::2, ::2, ::2]  # nearest
    h = nnf.conv3d(small, layer.shared.weight, layer.shared.bias, padding=1)
    if latent:
        h = h + (z @ layer.style.weight.T)[:, :, None, None, None]
    h = h.clamp_min(0)
    weight, bias = layer.gamma_beta.weight, layer.gamma_beta.bias
    gamma, beta = nnf.conv3d(h, weight[:5], bias[:5], padding=1), nnf.conv3d(h, weight[5:], bias[5:], padding=1)
    mean, var = x.mean((2, 3, 4), keepdim=True), x.var((2, 3, 4), keepdim=True, unbiased=False)
    expected = (1 + gamma) * (x - mean) / (var + 1e-5).sqrt() + beta
    torch.testing.assert_close(layer(x, (m, z)), expected, atol=1e-5, rtol=1e-4)
    assert layer.norm.weight is None


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("latent, style", [(0, "head"), (3, "head"), (3, "everywhere")])
def test_spade_generator_works_for_every_size_and_latent(dims, latent, style):
    G = build(spatial_dims=dims, latent=latent, style=style)
    for shape in ((8, 8, 12)[:dims], (16, 12, 8)[:dims]):
        m = label_map(*shape)
        y = G(m)
        assert y.shape == (2, 1, *shape) and y.abs().max() <= 1
        if latent:
            z = torch.randn(2, latent) * 3
            assert torch.equal(y, G(m, torch.zeros(1, latent)))
            assert not torch.allclose(y, G(m, z), atol=1e-7)
            mu, log_var = G.encode(torch.randn(2, 1, *shape))
            assert mu.shape == log_var.shape == (2, latent)


def test_channels_are_the_papers():
    G = build(spatial_dims=2, filters=2, levels=5)
    widths = [(b.in_channels, b.out_channels) for b in (G.coarsest, G.blocks[0], G.second, *G.blocks[1:])]
    assert widths == [(32, 32), (32, 32), (32, 32), (32, 16), (16, 8), (8, 4), (4, 2)]
    assert G.divisor == 32 and G.last.conv.out_channels == 1


def test_blocks_and_encoder_are_spectrally_normed_and_only_if_asked():
    G = build().train()
    for _ in range(30):
        G(label_map(8, 8, 8)), G.encode(torch.randn(2, 1, 8, 8, 8))
    blocks = [G.coarsest, *G.blocks, G.second]
    convolutions = [getattr(b, n).conv for b in blocks for n in ("conv_0", "conv_1", "conv_s") if hasattr(b, n)]
    convolutions += [layer.conv for layer in G.encoder_of_style.layers]
    assert len(convolutions) == 4 * 2 + 2 + 2
    for conv in convolutions:
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)
    assert not any("parametrizations" in name for name, _ in build(spectral_norm=False).named_parameters())


def test_a_label_changes_the_image_where_it_is():
    G = build(latent=0, norm="none", spectral_norm=False, levels=1)
    a = label_map(32, 8, 8)
    b = a.clone()
    b[:, :, :2] = a[:, [1, 2, 0], :2]
    change = (G(a) - G(b)).abs().amax((0, 1, 3, 4))
    assert change[0] > 0 and change[24:].max() == 0


def test_encoder_without_norm_keeps_brightness_that_instance_norm_removes():
    y = torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.5
    moved = {}
    for norm in ("none", "instance"):
        torch.manual_seed(0)
        settings = SPADESettings(**{**SMALL, "style_norm": norm})
        E = StyleEncoder(settings, spatial_dims=3, in_channels=1).eval()
        inner = slice(None), slice(None), *(slice(1, -1),) * 3  # away from the zeros around the image
        a, b = (E.layers(image)[inner] for image in (y, y + 0.4))
        moved[norm] = ((a - b).abs().mean() / a.abs().mean()).item()
    assert moved["none"] > 0.3 and moved["none"] > 2 * moved["instance"], moved
