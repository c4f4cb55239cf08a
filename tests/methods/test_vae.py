"""ELBO and KL equal closed forms; with a linear decoder the bound is compared with the exact likelihood."""

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from medgen.losses.likelihood import dequantised
from medgen.methods.vae import VAE, Settings
from medgen.types import DataShape

SMALL = {"filters": 4, "levels": 2, "latent": 3}


def build(patch=(8, 8, 8), **more):
    torch.manual_seed(0)
    return VAE(Settings(generator=SMALL, **more), DataShape(in_channels=0, patch=patch))


def images(n=2, patch=(8, 8, 8)):
    return torch.rand(n, 1, *patch, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_losses_equal_the_closed_forms():
    method, x, total = build(weight_kl=4.0, free_bits=0.2), images(), []
    torch.manual_seed(5)
    losses = method.step({"target": x}, lambda _, loss: total.append(loss.item()))
    G = method.networks["G"]
    torch.manual_seed(5)
    x = dequantised(x)
    mu, log_var = G.encoder(x).chunk(2, 1)
    q = Normal(mu, (log_var / 2).exp())
    z = mu + torch.randn_like(mu) * q.scale
    nll = -Normal(G.decoder(z), G.log_s.exp()).log_prob(x).sum((1, 2, 3, 4)).mean() / 512
    kl = kl_divergence(q, Normal(0.0, 1.0)).mean(0).clamp(min=0.2).sum() / 512
    assert losses["nll"].item() == pytest.approx(nll.item(), rel=1e-4)
    assert losses["kl"].item() == pytest.approx(kl.item(), rel=1e-4)
    assert total == [pytest.approx((nll + 4 * kl).item(), rel=1e-4)]


class Linear(nn.Module):
    """Decoder W z, whose marginal N(0, W Wᵀ + s²) and posterior are known."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, z):
        return (z @ self.weight.T).unflatten(1, (1, 2, 2, 2))


def test_with_the_true_posterior_the_bound_is_the_exact_likelihood():
    """log p(x) = E_q[log p(x|z)] - KL(q ‖ p) if q is the posterior; here both are normal."""
    method = VAE(Settings(generator={**SMALL, "levels": 1, "latent": 2}), DataShape(in_channels=0, patch=(2, 2, 2)))
    G, s = method.networks["G"], 0.5
    # Orthogonal columns: the posterior has independent units, as q has.
    weight = torch.linalg.qr(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))[0] * torch.tensor([1, 0.5])
    G.decoder = Linear(weight)
    G.log_s.data.fill_(torch.tensor(s).log())
    variance = 1 / (1 + weight.square().sum(0) / s**2)
    x = images(1, (2, 2, 2))

    class Posterior(nn.Module):
        def forward(self, x):
            mu = variance * (x.flatten(1) @ weight) / s**2
            return torch.cat([mu, variance.log().expand_as(mu)], 1)

    G.encoder = Posterior()
    marginal = MultivariateNormal(torch.zeros(8), weight @ weight.T + s**2 * torch.eye(8))
    exact, bounds = [], []
    for seed in range(200):
        bounds.append(method.log_likelihood(x, torch.Generator().manual_seed(seed)))
        exact.append(marginal.log_prob(dequantised(x, torch.Generator().manual_seed(seed)).flatten(1)))
    assert torch.stack(bounds).mean().item() == pytest.approx(torch.stack(exact).mean().item(), abs=0.1)
    variance = variance * 3  # another q: a lower bound
    looser = torch.stack([method.log_likelihood(x, torch.Generator().manual_seed(s)) for s in range(200)]).mean()
    assert looser < torch.stack(exact).mean() - 0.3


def test_samples_have_the_shape_of_the_patch_only():
    method = build()
    with pytest.raises(ValueError, match=r"\[8, 8, 8\] voxels only"):
        method.sample(1, (8, 8, 16), torch.Generator())
