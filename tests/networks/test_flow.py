"""Every invertible layer: its inverse, its log-determinant beside autograd's, and its definition."""

import pytest
import torch

from medgen.networks.flow import ActNorm, Chain, Coupling, Flow, PointwiseConvolution, Squeeze, log_prior

SHAPE = (2, 4, 4, 2, 4)


def layers():
    torch.manual_seed(0)
    found = {"squeeze": Squeeze(), "actnorm": ActNorm(4), "pointwise": PointwiseConvolution(4)}
    for part in ("checkerboard", "channels", "interleaved"):
        for scaling in ("none", "tanh", "sigmoid"):
            for odd in (False, True):
                found[f"{part} {scaling} {odd}"] = Coupling(4, part=part, odd=odd, scaling=scaling, filters=6)
    for layer in found.values():
        layer.eval()
        for p in layer.parameters():
            p.data.add_(torch.randn_like(p) * 0.1)
    return found


LAYERS = layers()


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@torch.no_grad()
def test_the_inverse_and_the_log_determinant(layer):
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    y, log_det = layer(x)
    assert (layer.inverse(y) - x).abs().max() < 1e-5
    for n in range(2):
        with torch.enable_grad():
            jacobian = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0].flatten(), x[n]).flatten(1)
        assert torch.linalg.slogdet(jacobian).logabsdet.item() == pytest.approx(log_det[n].item(), abs=1e-4)
    assert log_det.shape == (2,)


@pytest.mark.parametrize("part", ["checkerboard", "channels", "interleaved"])
@torch.no_grad()
def test_two_couplings_change_every_voxel_and_each_one_its_own_half(part):
    x = torch.randn(SHAPE)
    changed = []
    for odd in (False, True):
        layer = Coupling(4, part=part, odd=odd, scaling="tanh", filters=4)
        assert torch.equal(layer(x)[0], x)  # starts as the identity
        torch.nn.init.normal_(layer.network[-1].bias)
        changed.append(layer(x)[0] != x)
    assert torch.equal(changed[0], ~changed[1]) and 0.49 < changed[0].float().mean() < 0.51
    if part == "checkerboard":
        assert not changed[0][0, 0, 0, 0, 1] and changed[0][0, 0, 0, 1, 1] and changed[0][0, 0, 0, 0, 0]


def test_squeezing_makes_channels_of_the_voxels_of_a_block():
    x = torch.arange(64.0).view(1, 1, 4, 4, 4)
    y, _ = Squeeze()(x)
    assert y.shape == (1, 8, 2, 2, 2)
    assert torch.equal(y[0, :, 1, 0, 1], x[0, 0, 2:4, 0:2, 2:4].flatten())


def test_actnorm_standardises_its_first_batch_only():
    layer = ActNorm(4)
    x = torch.randn(3, 4, 2, 2, 2) * torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1, 1, 1) + 5
    layer.eval()
    assert torch.equal(layer(x)[0], x)  # not in evaluation
    layer.train()
    y, _ = layer(x)
    assert torch.allclose(y.mean((0, 2, 3, 4)), torch.zeros(4), atol=1e-5)
    assert torch.allclose(y.var((0, 2, 3, 4), unbiased=False), torch.ones(4), atol=1e-4)
    kept = layer.b.clone()
    layer(x * 7)
    assert torch.equal(kept, layer.b)
    resumed = ActNorm(4).train()
    resumed.load_state_dict(layer.state_dict())
    resumed(x * 7)
    assert torch.equal(kept, resumed.b)


@pytest.mark.parametrize("prior", ["normal", "logistic"])
def test_the_prior_is_a_density_and_samples_follow_it(prior):
    z = torch.linspace(-30, 30, 20001)[:, None]
    density = log_prior(z, prior).exp()
    assert torch.trapezoid(density, z[:, 0]).item() == pytest.approx(1, abs=1e-4)
    flow = Flow([Chain([Squeeze(), ActNorm(8)])], levels=1, prior=prior).eval()
    x = flow.draw(4, 1, (8, 8, 16), torch.Generator().manual_seed(0), 1.0)
    variance = {"normal": 1.0, "logistic": torch.pi**2 / 3}[prior]
    assert x.mean().abs() < 0.1 and x.var().item() == pytest.approx(variance, rel=0.1)
    with pytest.raises(ValueError, match="multiples of 2"):
        flow.draw(1, 1, (8, 7, 8), torch.Generator(), 1.0)


@torch.no_grad()
def test_parts_of_several_scales_are_those_of_the_definition():
    torch.manual_seed(0)
    chains = [Chain([Squeeze(), PointwiseConvolution(8)]), Chain([Squeeze(), PointwiseConvolution(32)])]
    flow, x = Flow(chains, levels=2), torch.randn(2, 1, 4, 8, 4)
    (first, second), log_det = flow(x)
    h, a = chains[0](x)
    final, b = chains[1](h[:, :4])
    assert torch.equal(first, h[:, 4:]) and torch.equal(second, final) and torch.allclose(log_det, a + b)
    assert [tuple(z.shape[1:]) for z in (first, second)] == flow.sizes(1, (4, 8, 4))
    assert (flow.inverse([first, second]) - x).abs().max() < 1e-5
