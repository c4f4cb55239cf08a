"""The bound is the density of the image minus the divergences, and β warms up."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from medgen.losses.likelihood import dequantised
from medgen.methods.hierarchical_vae import HierarchicalVAE, Settings
from medgen.types import DataShape

SMALL = {"filters": 4, "levels": 2, "latent": 3, "codes": 3, "channels": 2}


def build(**more):
    torch.manual_seed(0)
    return HierarchicalVAE(Settings(generator=SMALL, **more), DataShape(in_channels=0, patch=(8, 8, 8)))


def divergence(mu, log_var, mu_p, log_var_p):
    return kl_divergence(Normal(mu, (log_var / 2).exp()), Normal(mu_p, (log_var_p / 2).exp())).flatten(1).sum(1)


def test_the_losses_are_the_terms_of_the_bound_and_beta_warms_up():
    method, total = build(weight_kl=3.0, warm_up=10), []
    x = torch.rand(2, 1, 8, 8, 8) * 2 - 1
    torch.manual_seed(5)
    losses = method.step({"target": x, "step": 4}, lambda _, loss: total.append(loss.item()))
    G = method.networks["G"]
    torch.manual_seed(5)
    x = dequantised(x)
    mean, moments = G.infer(x, torch.randn_like)
    nll = -Normal(mean, G.log_s.exp()).log_prob(x).sum((1, 2, 3, 4)).mean() / 512
    terms = [divergence(*each).mean() / 512 for each in moments]
    assert list(losses) == ["nll", "kl_3", "kl_2", "kl_1"]
    assert losses["nll"].item() == pytest.approx(nll.item(), rel=1e-4)
    for name, term in zip(("kl_3", "kl_2", "kl_1"), terms, strict=True):
        assert losses[name].item() == pytest.approx(term.item(), rel=1e-4)
    assert total == [pytest.approx((nll + 1.5 * sum(terms)).item(), rel=1e-4)]


@torch.no_grad()
def test_the_likelihood_is_the_bound():
    method, x = build(), torch.rand(2, 1, 8, 8, 8) * 2 - 1
    bound = method.log_likelihood(x, torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(3)
    x = dequantised(x, g)
    G = method.networks["G"]
    mean, moments = G.infer(x, lambda like: torch.randn(like.shape, generator=g))
    expected = Normal(mean, G.log_s.exp()).log_prob(x).sum((1, 2, 3, 4)) - sum(divergence(*m) for m in moments)
    assert torch.allclose(bound, expected, rtol=1e-4)
