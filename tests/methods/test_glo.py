import pytest
import torch

from medgen.losses.pyramid import pyramid_vectors
from medgen.methods.glo import GLO, Settings
from medgen.networks.codebook import CodedGenerator, in_ball
from medgen.networks.dcgan import DCGANSettings
from medgen.types import DataShape

SMALL = {"filters": 4, "levels": 1, "latent": 3}


def build(**more):
    torch.manual_seed(0)
    return GLO(Settings(generator=SMALL, **more), DataShape(in_channels=0, patch=(8, 8, 8)))


def trained(method, steps, x):
    optimizers = method.optimizers()

    def update(key, loss):
        optimizers[key].zero_grad()
        loss.backward()
        optimizers[key].step()

    return [method.step({"target": x(n), "step": n}, update)["G_pyramid"].item() for n in range(steps)]


def images(n):
    return torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(n)) * 2 - 1


def test_the_loss_is_the_pyramid_distance_of_each_image_to_that_of_its_code():
    method, total, x = build(images=6), {}, images(0)
    method.step({"target": x, "step": 1}, lambda key, loss: total.update({key: loss.item()}))
    G, Z = method.networks["G"], method.networks["Z"]
    wanted = (pyramid_vectors(G(Z.weight[2:4])) - pyramid_vectors(x)).abs().sum(1).mean().item()
    assert total == {"Z": pytest.approx(wanted, rel=1e-4), "G": pytest.approx(wanted, rel=1e-4)}


def test_images_are_stored_first_and_then_shown_with_their_own_codes():
    method = build(images=4)
    bank = method.memory["bank"].images
    trained(method, 2, images)
    assert torch.allclose(bank.float(), torch.cat([images(0), images(1)]), atol=1e-3)
    for step in range(2, 6):
        x, rows, known = method._images(images(step), step)
        assert torch.allclose(x, bank[rows].float()) and known == 4  # one process: rows of codes are those of the bank
    assert torch.allclose(bank.float(), torch.cat([images(0), images(1)]), atol=1e-3)


def test_two_processes_share_the_codes_but_no_image(monkeypatch):
    rows = {}
    for rank in range(2):
        monkeypatch.setattr("medgen.methods.glo.processes", lambda rank=rank: (2, rank))
        method = build(images=9)
        rows[rank] = [method._images(images(n), n)[1].tolist() for n in range(2)]
        later = {row for n in range(2, 30) for row in method._images(images(n), n)[1].tolist()}
        assert later <= {row for each in rows[rank] for row in each}
    assert sorted(sum(rows[0] + rows[1], [])) == list(range(8))


def test_codes_stay_in_the_unit_ball_and_the_images_are_learnt():
    method = build(images=4, lr=0.01, lr_codes=0.3)
    losses = trained(method, 60, images)
    assert method.networks["Z"].weight.norm(dim=1).max() <= 1 + 1e-5
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_batch_larger_than_the_store_is_refused():
    with pytest.raises(ValueError, match=r"method\.images is 1"):
        build(images=1).step({"target": images(0), "step": 0}, lambda key, loss: None)


def test_drawn_codes_have_the_mean_and_covariance_of_the_learned_ones():
    torch.manual_seed(0)
    G = CodedGenerator(DCGANSettings(**SMALL), channels=1, patch=(8, 8, 8))
    z = 0.2 * torch.randn(5000, 3) @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.3, 0.2], [0.0, 0.0, 0.6]]) + 0.1
    G.fit(z)
    drawn = G.draw(torch.randn(20000, 3))
    assert torch.allclose(drawn.mean(0), z.mean(0), atol=0.01) and torch.allclose(drawn.T.cov(), z.T.cov(), atol=0.005)
    assert torch.allclose(in_ball(torch.tensor([[3.0, 4.0], [0.3, 0.4]])), torch.tensor([[0.6, 0.8], [0.3, 0.4]]))
