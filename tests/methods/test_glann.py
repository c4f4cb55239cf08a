import torch

from medgen.methods.glann import GLANN, Settings
from medgen.types import DataShape


def build(**more):
    torch.manual_seed(0)
    generator = {"filters": 4, "levels": 1, "latent": 2}
    return GLANN(Settings(generator=generator, images=4, hidden=16, **more), DataShape(in_channels=0, patch=(8, 8, 8)))


def test_the_mapping_learns_by_the_nearest_drawn_code_of_each_code():
    method, total = build(candidates=5), {}
    z = torch.randn(4, 2)
    torch.manual_seed(5)
    method.learn_codes(z, lambda key, loss: total.update({key: loss.item()}))
    torch.manual_seed(5)
    torch.randperm(4)
    e = torch.randn(5, 2)
    made = method.networks["G"].mapping(e)
    wanted = sum(min((s - m).square().sum().item() for m in made) for s in z) / 4
    assert abs(total["T"] - wanted) < 1e-4 * wanted


def test_drawn_codes_come_near_each_of_the_learned_codes():
    """Codes at four corners: T reaches all of them from the middle."""
    method = build(candidates=128, lr_mapping=0.01)
    optimizer = method.optimizers()["T"]
    corners = 0.6 * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])

    def update(_, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def distances():
        return torch.cdist(method.networks["G"].draw(torch.randn(200, 2)), corners)

    before = distances()
    for _ in range(400):
        method.learn_codes(corners, update)
    after = distances()
    assert (before.min(0).values > 0.3).all() and (after.min(0).values < 0.2).all()
    assert after.min(1).values.mean() < 0.7 * before.min(1).values.mean()
