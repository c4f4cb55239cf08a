import pytest
import torch

from medgen.methods.autoencoder import Autoencoder, Settings
from medgen.types import DataShape

DATA = DataShape(in_channels=0, patch=(8, 16, 8))
SMALL = {"filters": 4, "levels": 2, "latent": 3}


def test_the_loss_is_the_squared_error_of_the_restored_image():
    torch.manual_seed(0)
    method, x = Autoencoder(Settings(generator=SMALL), DATA), torch.rand(2, 1, 8, 16, 8) * 2 - 1
    losses = method.step({"target": x, "step": 0}, lambda *_: None)
    z = method.encode(x)
    assert z.shape == (2, 3)
    expected = (method.networks["G"].decoder(z) - x).square().mean()
    assert losses["G_l2"].item() == pytest.approx(expected.item())


def test_an_image_is_learnt():
    torch.manual_seed(0)
    method = Autoencoder(Settings(generator=SMALL, lr=0.01), DATA)
    x = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, n) for n in DATA.patch), indexing="ij")).mean(0)[None, None]
    x = torch.cat([x, -x])
    optimizer = method.optimizers()["G"]

    def update(_, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    errors = [method.step({"target": x}, update)["G_l2"].item() for _ in range(60)]
    assert errors[-1] < 0.1 * errors[0]


def test_a_patch_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="multiples of 4"):
        Autoencoder(Settings(generator=SMALL), DataShape(in_channels=0, patch=(8, 10, 8)))
