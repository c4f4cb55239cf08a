import pytest
import torch
from torch.distributions import Normal, kl_divergence

from medgen.losses.kl import kl_loss


def test_kl_equals_the_closed_form():
    torch.manual_seed(0)
    mu, log_var = torch.randn(5, 7), torch.randn(5, 7)
    expected = kl_divergence(Normal(mu, (0.5 * log_var).exp()), Normal(0.0, 1.0)).sum(1).mean()
    assert kl_loss(mu, log_var).item() == pytest.approx(expected.item(), rel=1e-5)
    assert kl_loss(torch.zeros(2, 3), torch.zeros(2, 3)).item() == 0
