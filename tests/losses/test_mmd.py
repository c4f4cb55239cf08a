import pytest
import torch

from medgen.losses.mmd import SCALES, inverse_multiquadratic, mmd


def k(a, b):
    return sum(2 * len(a) * s / (2 * len(a) * s + ((a - b) ** 2).sum()) for s in SCALES)


def test_the_kernel_and_the_estimate_equal_their_definitions():
    torch.manual_seed(0)
    x, y = torch.randn(4, 3), torch.randn(5, 3) + 1
    assert inverse_multiquadratic(x, y)[1, 2].item() == pytest.approx(k(x[1], y[2]).item(), rel=1e-5)
    xx = sum(k(x[i], x[j]) for i in range(4) for j in range(4) if i != j) / 12
    yy = sum(k(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / 20
    xy = sum(k(a, b) for a in x for b in y) / 20
    assert mmd(x, y).item() == pytest.approx((xx + yy - 2 * xy).item(), rel=1e-4)


def test_the_estimate_is_unbiased():
    """Of two sets of one distribution it is 0 on average; including i = j it would be above 0.5."""
    generator = torch.Generator().manual_seed(0)
    values = torch.stack([mmd(*torch.randn(2, 8, 4, generator=generator)) for _ in range(300)])
    assert abs(values.mean()) < 3 * values.std() / 300**0.5 and values.min() < 0


def test_the_gradient_moves_codes_towards_the_prior():
    torch.manual_seed(0)
    x = (torch.randn(16, 2) * 0.1 + 3).requires_grad_()
    mmd(x, torch.randn(64, 2)).backward()
    assert (x.grad.mean(0) > 0).all()  # a step against the gradient lowers the codes
