"""R1, gradient and consistency penalties against closed formulas for critics with a known gradient."""

import pytest
import torch

from medgen.losses.adversarial import consistency_penalty, gradient_penalty, health, r1_penalty

torch.manual_seed(0)
SHAPE = (3, 2, 5, 4, 3)
A, B = torch.randn(2, *SHAPE[1:], dtype=torch.float32)


def linear(x):
    """A patch map of two values, a·x and 3 a·x: D(x) = 2 a·x, whose gradient is 2a everywhere."""
    s = (x * A).flatten(1).sum(1)
    return [torch.stack([s, 3 * s], 1)]


def two_scales(x):
    return [*linear(x), (x * B).flatten(1).sum(1)[:, None]]


def quadratic(x):
    """D(x) = ½ Σ a x², gradient a x, which depends on a: the penalty can be differentiated again."""
    return [(0.5 * A * x**2).flatten(1).sum(1)[:, None]]


def test_r1_equals_closed_form():
    x = torch.randn(SHAPE)
    assert r1_penalty(linear, x).item() == pytest.approx(0.5 * (2 * A).square().sum().item(), rel=1e-5)
    both = 0.5 * ((2 * A).square().sum() + B.square().sum()) / 2
    assert r1_penalty(two_scales, x).item() == pytest.approx(both.item(), rel=1e-5)
    expected = 0.5 * (A * x).square().flatten(1).sum(1).mean()
    assert r1_penalty(quadratic, x).item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradient_penalty_equals_closed_form():
    x, y = torch.randn(SHAPE), torch.randn(SHAPE)
    norm = (2 * A).square().sum().sqrt()
    assert gradient_penalty(linear, x, y).item() == pytest.approx((norm - 1).square().item(), rel=1e-4)
    both = ((norm - 1).square() + (B.square().sum().sqrt() - 1).square()) / 2
    assert gradient_penalty(two_scales, x, y).item() == pytest.approx(both.item(), rel=1e-4)


def test_gradient_penalty_looks_between_real_and_fake():
    x, y = torch.randn(SHAPE), torch.randn(SHAPE)
    torch.manual_seed(5)
    value = gradient_penalty(quadratic, x, y)
    torch.manual_seed(5)
    eps = torch.rand(3, 1, 1, 1, 1)
    norms = (A * (eps * x + (1 - eps) * y)).square().flatten(1).sum(1).sqrt()
    assert value.item() == pytest.approx((norms - 1).square().mean().item(), rel=1e-4)
    assert torch.unique(eps).numel() == 3, "one ε for each image"


@pytest.mark.parametrize("penalty", [r1_penalty, lambda D, x: gradient_penalty(D, x, x)])
def test_second_derivative_equals_finite_differences(penalty):
    """Double backward through a small convolutional critic, in double precision."""
    torch.manual_seed(1)
    convolution = torch.nn.Conv3d(1, 2, 3).double()
    x = torch.randn(2, 1, 4, 4, 4, dtype=torch.float64)

    def value(weight):
        def D(images):
            return [torch.nn.functional.conv3d(images.double(), weight, convolution.bias).tanh()]

        return penalty(D, x)

    weight = convolution.weight.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(weight), weight)
    direction = torch.randn_like(weight)
    h = 1e-3
    numeric = (value(weight + h * direction) - value(weight - h * direction)).item() / (2 * h)
    assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=2e-2)


def test_consistency_is_squared_change_of_the_mean_logit():
    a, b = torch.randn(2, 3, 1, 4, 4), torch.randn(2, 3, 1, 2, 2)
    expected = [(s[0].flatten(1).mean(1) - s[1].flatten(1).mean(1)).square().mean() for s in (a, b)]
    value = consistency_penalty([a[0], b[0]], [a[1], b[1]])
    assert value.item() == pytest.approx((sum(expected) / 2).item(), rel=1e-5)


def test_health_counts_right_answers_and_saturation():
    real, fake = [torch.tensor([5.0, 1.0, -1.0, 6.0])], [torch.tensor([-9.0, -1.0, 2.0, 1.0])]
    found = health("non_saturating", real, fake)
    assert found["real_accuracy"] == 0.75 and found["fake_accuracy"] == 0.5
    assert found["saturated"] == 0  # computed so that G keeps its gradient when D is certain
    found = health("minimax", real, fake)
    assert found["saturated"] == 0.25  # σ(-9) lies below 0.01
    found = health("least_squares", [torch.tensor([0.6, 0.4])], [torch.tensor([0.4, 0.45])])
    assert found["real_accuracy"] == 0.5 and found["fake_accuracy"] == 1.0
    found = health("least_squares", [torch.tensor([0.6])], [torch.tensor([1.001, 0.0])])
    assert found["saturated"] == 0.5
    found = health("wasserstein", [torch.tensor([5.0, 5.0])], [torch.tensor([4.0, 4.0])])
    assert found["real_accuracy"] == 1 and found["fake_accuracy"] == 1 and found["saturated"] == 0
