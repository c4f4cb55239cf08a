import pytest
import torch

from medgen.methods.cyclegan import CycleGAN, Settings
from medgen.types import DataShape


def build(data=DataShape(), **more):  # noqa: B008
    generator, adversary = dict(filters=4, blocks=1, kernel=3), dict(filters=4, layers=1, pool=0)
    return CycleGAN(Settings(generator=generator, adversary=adversary, **more), data)


def test_losses_are_equation_3():
    torch.manual_seed(0)
    method = build()
    x, y = torch.randn(1, 1, 16, 16, 16), torch.randn(1, 1, 16, 16, 16)
    seen = {}
    method.step({"source": x, "target": y, "step": 0}, lambda k, loss: seen.update({k: loss.detach()}))
    G, F, D_X, D_Y = (method.networks[k] for k in ("G", "F", "D_X", "D_Y"))
    l1, mse = torch.nn.functional.l1_loss, torch.nn.functional.mse_loss
    gan = sum(mse(d, torch.ones_like(d)) for d in (D_Y(G(x))[0], D_X(F(y))[0]))
    cycle = l1(F(G(x)), x) + l1(G(F(y)), y)
    identity = l1(G(y), y) + l1(F(x), x)
    assert seen["G"].item() == pytest.approx((gan + 10 * cycle + 5 * identity).item(), rel=1e-4)
    d = 0.0
    for D, real, fake in ((D_Y, y, G(x)), (D_X, x, F(y))):
        r, f = D(real)[0], D(fake)[0]
        d += 0.5 * (mse(r, torch.ones_like(r)) + mse(f, torch.zeros_like(f)))  # section 7.1: D is halved
    assert seen["D"].item() == pytest.approx(d.item(), rel=1e-4)


def test_identity_needs_equal_channels():
    with pytest.raises(ValueError, match="weight_identity"):
        build(DataShape(in_channels=2))
    build(DataShape(in_channels=2), weight_identity=0.0)


def test_gradients_are_those_of_the_whole_loss():
    """The cycles and the identity are backpropagated one after the other; the sum is the gradient of equation 3."""
    torch.manual_seed(0)
    method = build()
    x, y = torch.randn(1, 1, 16, 16, 16), torch.randn(1, 1, 16, 16, 16)
    seen = {}

    def update(key, loss):
        if key == "G":
            parameters = [p for n in "GF" for p in method.networks[n].parameters()]
            seen["G"] = torch.autograd.grad(loss, parameters)

    method.step({"source": x, "target": y, "step": 0}, update)
    G, F, D_X, D_Y = (method.networks[k] for k in ("G", "F", "D_X", "D_Y"))
    l1, mse = torch.nn.functional.l1_loss, torch.nn.functional.mse_loss
    gan = sum(mse(d, torch.ones_like(d)) for d in (D_Y(G(x))[0], D_X(F(y))[0]))
    whole = gan + 10 * (l1(F(G(x)), x) + l1(G(F(y)), y)) + 5 * (l1(G(y), y) + l1(F(x), x))
    expected = torch.autograd.grad(whole, [p for n in "GF" for p in method.networks[n].parameters()])
    largest = max(float(g.abs().max()) for g in expected)  # that of a bias before an instance norm is 0
    for a, b in zip(seen["G"], expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * largest)
