import pytest
import torch
from torch.distributions import Normal, kl_divergence

from medgen.losses.kl import free_bits, kl_loss, kl_of_normals


def test_kl_equals_the_closed_form():
    torch.manual_seed(0)
    mu, log_var = torch.randn(5, 7), torch.randn(5, 7)
    expected = kl_divergence(Normal(mu, (0.5 * log_var).exp()), Normal(0.0, 1.0)).sum(1).mean()
    assert kl_loss(mu, log_var).item() == pytest.approx(expected.item(), rel=1e-5)
    assert kl_loss(torch.zeros(2, 3), torch.zeros(2, 3)).item() == 0


def test_free_bits_press_only_units_above_the_limit():
    kl = torch.tensor([[0.1, 2.0], [0.3, 4.0]], requires_grad=True)
    assert free_bits(kl, 0.5).item() == pytest.approx(0.5 + 3.0)
    free_bits(kl, 0.5).backward()
    assert kl.grad.tolist() == [[0, 0.5], [0, 0.5]]
    assert free_bits(kl.detach(), 0.0).item() == pytest.approx(0.2 + 3.0)


def test_kl_of_two_normals_equals_the_closed_form():
    torch.manual_seed(0)
    mu, log_var, mu_p, log_var_p = torch.randn(4, 5, 7)
    expected = kl_divergence(Normal(mu, (log_var / 2).exp()), Normal(mu_p, (log_var_p / 2).exp()))
    assert torch.allclose(kl_of_normals(mu, log_var, mu_p, log_var_p), expected, atol=1e-5)
