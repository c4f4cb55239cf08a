import pytest
import torch
from torch.nn import functional as nnf

from medgen.methods.srgan import SRGAN, Settings
from medgen.types import DataShape

SMALL = dict(generator=dict(filters=4, blocks=1), adversary=dict(filters=4, layers=1, objective="non_saturating"))


def build(**more):
    torch.manual_seed(0)
    return SRGAN(Settings(**SMALL, **more), DataShape())


def test_losses_are_those_of_the_paper():
    method = build(weight_content=2.0, weight_features=0.5, weight_gan=0.25)
    torch.nn.init.normal_(method.networks["G"].network.last.weight, 0, 0.05)
    x, y = torch.randn(2, 1, 16, 16, 16), torch.randn(2, 1, 16, 16, 16)
    seen = {}
    losses = method.step({"source": x, "target": y, "step": 0}, lambda k, loss: seen.update({k: loss.detach()}))
    G, D = method.networks["G"], method.networks["D"]
    y_hat = G(x)
    real, fake = (torch.sigmoid(D(v)[0]) for v in (y, y_hat))  # D sees images alone
    assert losses["D"].item() == pytest.approx(-(real.log().mean() + (1 - fake).log().mean()).item(), rel=1e-4)
    pairs = zip(D.layers(y)[0][:-1], D.layers(y_hat)[0][:-1], strict=True)
    features = sum((a - b).abs().mean() for a, b in pairs)
    expected = 2 * nnf.mse_loss(y_hat, y) + 0.5 * features - 0.25 * fake.log().mean()
    assert seen["G"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_without_adversarial_terms_it_is_a_regression():
    method = build(weight_features=0.0, weight_gan=0.0, content="l1")
    assert set(method.networks) == {"G"} and set(method.optimizers()) == {"G"}
    x, y = torch.randn(1, 1, 16, 16, 16), torch.randn(1, 1, 16, 16, 16)
    losses = method.step({"source": x, "target": y, "step": 0}, lambda k, loss: None)
    assert set(losses) == {"G_content"}
    assert losses["G_content"].item() == pytest.approx((x - y).abs().mean().item(), rel=1e-5)
