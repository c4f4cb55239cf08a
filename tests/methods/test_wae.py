import pytest
import torch
from refusal import refused
from small import small_settings

from medgen.losses.mmd import mmd
from medgen.methods.wae import WAE, Settings
from medgen.types import DataShape

SMALL = {"filters": 4, "levels": 2, "latent": 3}


def test_the_losses_equal_the_paper():
    torch.manual_seed(0)
    method = WAE(Settings(generator=SMALL, weight_mmd=2.0), DataShape(in_channels=0, patch=(8, 8, 8)))
    x, total = torch.rand(4, 1, 8, 8, 8) * 2 - 1, []
    torch.manual_seed(5)
    losses = method.step({"target": x}, lambda _, loss: total.append(loss.item()))
    torch.manual_seed(5)
    z = method.encode(x)
    l2 = (method.networks["G"].decoder(z) - x).square().mean()
    distance = mmd(z, torch.randn_like(z))
    assert losses["G_l2"].item() == pytest.approx(l2.item())
    assert losses["G_mmd"].item() == pytest.approx(distance.item(), rel=1e-4)
    assert total == [pytest.approx((l2 + 2 * distance).item(), rel=1e-4)]


def test_a_batch_of_one_is_refused():
    with refused("config-invalid-value", names="sampling.batch to 2"):
        small_settings(method={"name": "wae", "generator": SMALL}, data={"sources": []}, intensity={})
