import pytest
import torch
from torch.nn import functional as nnf

from medgen.methods.aae import AAE, Settings
from medgen.types import DataShape

SMALL = {"filters": 4, "levels": 2, "latent": 3}


def build(**more):
    torch.manual_seed(0)
    return AAE(Settings(generator=SMALL, hidden=8, **more), DataShape(in_channels=0, patch=(8, 8, 8)))


def test_the_losses_equal_the_paper():
    method, total = build(weight_l2=3.0, weight_gan=0.5), {}
    x = torch.rand(4, 1, 8, 8, 8) * 2 - 1
    torch.manual_seed(5)
    losses = method.step({"target": x}, lambda k, loss: total.update({k: loss.item()}))
    torch.manual_seed(5)
    G, D = method.networks["G"], method.networks["D"]
    z = G.encoder(x)
    prior, codes = D(torch.randn_like(z)), D(z)
    d = -nnf.logsigmoid(prior).mean() - nnf.logsigmoid(-codes).mean()
    assert losses["D"].item() == pytest.approx(d.item(), rel=1e-4) or losses["D"].item() == pytest.approx(d.item() / 2)
    gan, l2 = -nnf.logsigmoid(codes).mean(), (x - G.decoder(z)).square().mean()
    assert losses["G_gan"].item() == pytest.approx(gan.item(), rel=1e-4)
    assert total["G"] == pytest.approx((3 * l2 + 0.5 * gan).item(), rel=1e-4)


def test_the_codes_move_to_the_prior():
    """Codes of an encoder that starts far away; D and E play for some steps."""
    method = build(weight_l2=0.0, weight_gan=1.0, lr=0.02, lr_discriminator=0.02)
    method.networks["G"].encoder.dense.bias.data.fill_(4.0)
    optimizers, x = method.optimizers(), torch.rand(4, 1, 8, 8, 8) * 2 - 1

    def update(key, loss):
        optimizers[key].zero_grad()
        loss.backward()
        optimizers[key].step()

    before = method.encode(x).mean().item()
    for _ in range(20):
        method.step({"target": x}, update)
    assert abs(method.encode(x).mean().item()) < 0.8 * before
