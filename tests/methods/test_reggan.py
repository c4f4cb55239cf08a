"""RegGAN: the losses are those of the paper, and R absorbs a displacement that G cannot."""

import pytest
import torch

from medgen.methods.reggan import RegGAN, Settings
from medgen.networks.registration import roughness, warp
from medgen.types import DataShape

SMALL = dict(
    generator=dict(name="residual_unet", filters=4, levels=2),
    adversary=dict(filters=4, layers=1),
    registration_filters=4,
)


def test_losses_equal_their_formulas():
    torch.manual_seed(0)
    method = RegGAN(Settings(**SMALL), DataShape())
    torch.nn.init.normal_(method.networks["R"].network.last.weight)
    x, y = torch.rand(2, 1, 1, 16, 16, 16)
    seen = {}
    losses = method.step({"source": x, "target": y, "step": 0}, lambda k, loss: seen.update({k: loss.detach()}))
    y_hat = method.translate(x)
    field = method.networks["R"](y_hat, y)
    corr = (warp(y_hat, field) - y).abs().mean().item()
    assert losses["G_corr"].item() == pytest.approx(corr, rel=1e-5)
    assert losses["G_smooth"].item() == pytest.approx(roughness(field).item(), rel=1e-5)
    expected = losses["G_gan"].item() + 20 * corr + 10 * roughness(field).item()
    assert seen["G"].item() == pytest.approx(expected, rel=1e-5)


def test_r_learns_a_displacement():
    """The target is the source moved by two voxels: with G fixed, registration alone removes most of the error."""
    torch.manual_seed(0)
    method = RegGAN(Settings(**SMALL, weight_gan=0.0, weight_smooth=0.1, lr=3e-3), DataShape())
    grid = torch.stack(torch.meshgrid(*[torch.linspace(0, 9, 16)] * 3, indexing="ij")).sum(0)[None, None]
    x = torch.sin(grid)
    y = x.roll(2, 2)
    R = method.networks["R"]
    optimizer = torch.optim.Adam(R.parameters(), 3e-3)
    first = (x - y)[..., 2:, :, :].abs().mean()
    for _ in range(60):
        optimizer.zero_grad()
        loss = (warp(x, R(x, y)) - y)[..., 2:, :, :].abs().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.4 * first
