import numpy as np
import pytest
import torch
from scipy import ndimage

from medgen.methods.pix2pix import Pix2Pix, Settings
from medgen.types import DataShape

SMALL = dict(generator=dict(filters=4, levels=2, norm="instance", dropout=0.0), adversary=dict(filters=4, layers=1))


def build(**more):
    return Pix2Pix(Settings(**SMALL, **more), DataShape())


def test_losses_are_equation_4():
    torch.manual_seed(0)
    method = build(weight_l1=7.0)
    x, y = torch.randn(2, 1, 16, 16, 16), torch.randn(2, 1, 16, 16, 16)
    seen = {}
    losses = method.step({"source": x, "target": y, "step": 0}, lambda k, loss: seen.update({k: loss.detach()}))
    G, D = method.networks["G"], method.networks["D"]
    y_hat = G(x)
    real, fake = torch.sigmoid(D(torch.cat([x, y], 1))[0]), torch.sigmoid(D(torch.cat([x, y_hat], 1))[0])
    assert losses["D"].item() == pytest.approx((-(real.log().mean() + (1 - fake).log().mean()) / 2).item(), rel=1e-4)
    l1 = torch.nn.functional.l1_loss(y_hat, y)
    assert seen["G"].item() == pytest.approx((-fake.log().mean() + 7 * l1).item(), rel=1e-4)


def test_kept_background_is_unchanged_and_has_no_gradient():
    torch.manual_seed(0)
    method = build(keep_background=True, weight_gan=0.0)
    x, y = torch.rand(1, 1, 16, 16, 16), torch.rand(1, 1, 16, 16, 16)
    x[..., :8] = -1
    assert (method.translate(x)[..., :8] == -1).all() and (method.translate(x)[..., 8:] != -1).all()
    y[..., :8] = -1
    losses = method.step({"source": x, "target": y, "step": 0}, lambda k, loss: None)
    inside = (method.translate(x) - y)[..., 8:].abs().mean()
    assert losses["G_l1"].item() == pytest.approx(inside.item() / 2, rel=1e-5)


def test_without_gan_there_is_no_discriminator():
    method = build(weight_gan=0.0)
    assert set(method.networks) == {"G"} and set(method.optimizers()) == {"G"}


def test_d_sees_the_scaled_difference():
    torch.manual_seed(0)
    method = build(adversary_input="difference", difference_scale=5.0)
    x, y = torch.randn(2, 1, 16, 16, 16), torch.randn(2, 1, 16, 16, 16)
    losses = method.step({"source": x, "target": y, "step": 0}, lambda k, loss: None)
    D, y_hat = method.networks["D"], method.translate(x)
    real, fake = (torch.sigmoid(D(torch.cat([x, 5 * (v - x)], 1))[0]) for v in (y, y_hat))
    assert losses["D"].item() == pytest.approx((-(real.log().mean() + (1 - fake).log().mean()) / 2).item(), rel=1e-4)


def test_the_difference_is_blurred():
    method = build(adversary_input="difference", difference_scale=5.0, difference_blur=1.5)
    x, y = torch.randn(1, 1, 24, 24, 24), torch.randn(1, 1, 24, 24, 24)
    shown = method.judged(x, y)
    expected = ndimage.gaussian_filter((5 * (y - x))[0, 0].numpy(), 1.5, mode="constant", radius=5)
    assert torch.equal(shown[:, :1], x)
    np.testing.assert_allclose(shown[0, 1, 8:-8, 8:-8, 8:-8], expected[8:-8, 8:-8, 8:-8], atol=1e-5)


def test_a_difference_needs_a_source_for_each_target():
    with pytest.raises(ValueError, match="set it to pair"):
        Pix2Pix(Settings(**SMALL, adversary_input="difference"), DataShape(in_channels=1, out_channels=2))
