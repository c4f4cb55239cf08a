import pytest
import torch
from torch import nn

from medgen.losses.parts import Parts


def networks():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), nn.Linear(3, 3), nn.Linear(3, 3)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_value_and_gradients_are_those_of_the_sum(dtype):
    """Also where a part does not use a network, where both use one, and under autocast."""
    G, F, unused = networks()
    x = torch.randn(5, 3)
    parameters = [p for network in (G, F, unused) for p in network.parameters()]
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        losses = [(F(G(x)) - x).abs().mean(), (G(x) + 1).square().mean()]
    expected = torch.autograd.grad(3 * sum(losses), parameters, allow_unused=True)
    parts = Parts([G, F, unused])
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        parts.add((F(G(x)) - x).abs().mean())
        parts.add((G(x) + 1).square().mean())
        total = parts.total()
    assert total.item() == pytest.approx(sum(losses).item(), rel=1e-5)
    (3 * total).backward()
    for p, g in zip(parameters, expected, strict=True):
        assert (p.grad is None) == (g is None)
        if g is not None:
            rounding = 1e-5 if dtype is None else 0.02  # 16 bits: the gradients of both parts are rounded first
            torch.testing.assert_close(p.grad, g, rtol=0, atol=rounding * float(g.abs().max()))


def test_a_part_is_freed_before_the_next_one():
    G, _, _ = networks()
    loss = G(torch.randn(5, 3)).abs().mean()
    Parts([G]).add(loss)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_a_loss_without_parts_is_an_error():
    with pytest.raises(ValueError, match="at least one part"):
        Parts(networks()).total()
