import pytest
import torch

from medgen.losses.diversity import mode_seeking_loss


def test_equals_inverse_ratio():
    y1, y2, z1, z2 = (torch.randn(2, 1, 4, 4) for _ in range(4))
    ratio = (y1 - y2).abs().mean() / (z1 - z2).abs().mean()
    assert mode_seeking_loss(y1, y2, z1, z2).item() == pytest.approx((1 / (ratio + 1e-5)).item())


def test_ignored_noise_costs_much_and_stays_finite():
    y, z1, z2 = torch.zeros(1, 1, 4, 4, requires_grad=True), torch.zeros(1, 2), torch.ones(1, 2)
    loss = mode_seeking_loss(y, y.detach(), z1, z2)
    loss.backward()
    assert loss.item() == pytest.approx(1e5, rel=1e-3) and torch.isfinite(y.grad).all()
