import pytest
import torch

from medgen.losses.pyramid import pyramid_vectors
from medgen.methods.imle import IMLE, Settings
from medgen.types import DataShape


def build(**more):
    torch.manual_seed(0)
    generator = {"filters": 4, "levels": 1, "latent": 3, "norm": "none"}
    return IMLE(Settings(generator=generator, **more), DataShape(in_channels=0, patch=(8, 8, 8)))


def test_the_loss_is_the_distance_to_the_nearest_of_the_candidates():
    method, total = build(candidates=6), {}
    G = method.networks["G"]
    with torch.no_grad():
        x = G(3 * torch.randn(5, 3)) + 0.01 * torch.randn(5, 1, 8, 8, 8)  # images that differ as the candidates do
    torch.manual_seed(5)
    method.step({"target": x, "step": 0}, lambda key, loss: total.update({key: loss.item()}))
    torch.manual_seed(5)
    z = torch.randn(6, 3)
    with torch.no_grad():
        made = pyramid_vectors(G(z))
    distances = torch.stack([torch.stack([(v - m).abs().sum() for m in made]) for v in pyramid_vectors(x)])
    assert len(set(distances.argmin(1).tolist())) > 1
    assert total["G"] == pytest.approx(distances.min(1).values.mean().item(), rel=1e-4)


def test_each_of_two_kinds_of_images_gets_samples():
    """A generator that starts with images of one kind learns to make the other too: no real image is left out."""
    method = build(candidates=8, lr=0.01)
    optimizers = method.optimizers()
    dark, bright = (torch.full((1, 1, 8, 8, 8), value) for value in (-0.7, 0.7))

    def update(key, loss):
        optimizers[key].zero_grad()
        loss.backward()
        optimizers[key].step()

    for n in range(60):
        method.step({"target": torch.cat([dark, bright]), "step": n}, update)
    values = method.sample(20, (8, 8, 8), torch.Generator().manual_seed(0)).mean((1, 2, 3, 4))
    assert (values < -0.4).any() and (values > 0.4).any()
