"""NICE, RealNVP and Glow as a whole: inverse, log-determinant, and the bits of known densities."""

import math

import pytest
import torch

from medgen.losses.likelihood import WIDTH, bits_per_dimension
from medgen.methods import method_class, settings_class
from medgen.types import DataShape

NAMES = ["nice", "realnvp", "glow"]
SIDES = (4, 4, 8)


def build(name, patch=SIDES, moved=True, channels=1, lr=1e-3, **generator):
    torch.manual_seed(0)
    settings = settings_class(name)(generator={"filters": 6, "levels": 2, "couplings": 2, **generator}, lr=lr)
    method = method_class(name)(settings, DataShape(in_channels=0, out_channels=channels, patch=patch))
    for p in method.networks["G"].parameters():
        p.data.add_(torch.randn_like(p) * 0.05 * moved)
    return method


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_flow_inverts_and_its_determinant_is_that_of_autograd(name):
    flow = build(name).networks["G"].eval()
    x = torch.rand(2, 1, *SIDES) * 2 - 1
    parts, log_det = flow(x)
    assert sum(z[0].numel() for z in parts) == 128
    assert (flow.inverse(parts) - x).abs().max() < 1e-5

    def z_of(v):
        return torch.cat([z.flatten() for z in flow(v[None])[0]])

    with torch.enable_grad():
        jacobian = torch.autograd.functional.jacobian(z_of, x[0]).flatten(1)
    assert torch.linalg.slogdet(jacobian).logabsdet.item() == pytest.approx(log_det[0].item(), abs=1e-3)


@pytest.mark.parametrize("name", ["realnvp", "glow"])
@torch.no_grad()
def test_bits_of_a_normal_density_are_its_entropy(name):
    """Actnorm makes the flow of independent normal voxels exact with the first batch."""
    method, sd = build(name, patch=(8, 8, 8), moved=False), 0.15
    x = torch.randn(64, 1, 8, 8, 8) * sd + 0.2
    method.networks["G"].train()
    log_p = method.log_likelihood(x, torch.Generator().manual_seed(0))
    entropy = 0.5 * math.log2(2 * math.pi * math.e * sd**2) - math.log2(WIDTH)
    assert bits_per_dimension(log_p, 512).mean().item() == pytest.approx(entropy, rel=0.01)


@torch.no_grad()
def test_bits_of_a_logistic_density_are_its_entropy():
    method, scale = build("nice", patch=(8, 8, 8), moved=False), 0.05
    method.networks["G"].chains[0].layers[-1].log_s.fill_(-math.log(scale))
    x = torch.logit(torch.rand(64, 1, 8, 8, 8, dtype=torch.float64)).float() * scale
    log_p = method.log_likelihood(x, torch.Generator().manual_seed(0))
    entropy = (math.log(scale) + 2) / math.log(2) - math.log2(WIDTH)
    assert bits_per_dimension(log_p, 512).mean().item() == pytest.approx(entropy, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_bits_of_correlated_voxels(name):
    """Neighbours that are equal but for a little noise: what one costs, the other does not."""
    method = build(name, moved=False, lr=0.02)
    generator, optimizer = torch.Generator().manual_seed(0), method.optimizers()["G"]

    def update(_, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    losses = []
    for _ in range(25):
        coarse = torch.rand(8, 1, 1, 1, 2, generator=generator) - 0.5
        x = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
        x = x + 0.02 * torch.randn(x.shape, generator=generator)
        losses.append(method.step({"target": x}, update)["nll"].item())
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.3


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_two_contrasts_and_temperature(name):
    method = build(name, channels=2)
    method.networks["G"].eval()
    x = torch.rand(1, 2, *SIDES) * 2 - 1
    assert method.encode(x).shape == (1, 256) and method.log_likelihood(x, torch.Generator()).isfinite().all()
    hot, cold = (
        method.networks["G"].draw(4, 2, SIDES, torch.Generator().manual_seed(0), heat).std() for heat in (1.0, 0.1)
    )
    assert cold < hot
    assert method.sample(1, SIDES, torch.Generator()).shape == (1, 2, *SIDES)
