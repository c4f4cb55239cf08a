import pytest
import torch
from torch.distributions import Normal, kl_divergence

from medgen.methods.vae_gan import VAEGAN, Settings
from medgen.types import DataShape

SMALL = {
    "generator": {"filters": 4, "levels": 2, "latent": 3},
    "adversary": {"objective": "hinge", "filters": 4, "layers": 1, "norm": "none", "spectral_norm": False},
}


def build(**more):
    torch.manual_seed(0)
    return VAEGAN(Settings(**SMALL, **more), DataShape(in_channels=0, patch=(16, 16, 16)))


def test_the_losses_equal_the_paper():
    weights = {"weight_kl": 2.0, "weight_features": 3.0, "weight_l1": 4.0, "weight_gan": 5.0}
    method, total = build(**weights), {}
    x = torch.rand(2, 1, 16, 16, 16) * 2 - 1
    torch.manual_seed(5)
    losses = method.step({"target": x, "step": 0}, lambda k, loss: total.update({k: loss.item()}))
    torch.manual_seed(5)
    G, D = method.networks["G"], method.networks["D"]
    mu, log_var = G.encoder(x).chunk(2, 1)
    q = Normal(mu, (log_var / 2).exp())
    z = mu + q.scale * torch.randn_like(mu)
    x_hat, x_p = G.decoder(z), G.decoder(torch.randn_like(z))
    real, fake, new = (D.layers(v)[0] for v in (x, x_hat, x_p))
    d = (1 - real[-1]).relu().mean() + ((1 + fake[-1]).relu().mean() + (1 + new[-1]).relu().mean()) / 2
    gan = -(fake[-1].mean() + new[-1].mean()) / 2
    features = torch.stack([(r - f).abs().mean() for r, f in zip(real[:-1], fake[:-1], strict=True)]).sum()
    kl = kl_divergence(q, Normal(0.0, 1.0)).sum(1).mean()
    l1 = (x_hat - x).abs().mean()
    assert losses["D"].item() == pytest.approx(d.item(), rel=1e-4)
    for name, value in {"G_gan": gan, "features": features, "kl": kl, "G_l1": l1}.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-3), name
    assert total["G"] == pytest.approx((2 * kl + 3 * features + 4 * l1 + 5 * gan).item(), rel=1e-3)


def test_the_encoder_learns_nothing_from_the_adversarial_loss():
    method = build(weight_kl=0.0, weight_features=0.0, weight_l1=0.0)
    G = method.networks["G"]

    def update(key, loss):
        if key == "G":
            loss.backward()

    method.step({"target": torch.rand(2, 1, 16, 16, 16), "step": 0}, update)
    reached = [float(p.grad.abs().max()) if p.grad is not None else 0.0 for p in G.encoder.parameters()]
    assert max(reached) == 0 and all(p.grad is not None for p in G.decoder.parameters())
