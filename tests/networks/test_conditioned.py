import torch

from medgen.networks.conditioned import REMEMBERED, Auxiliary, ConditionedGenerator
from medgen.networks.dcgan import DCGANSettings
from medgen.networks.discriminator import Discriminator


def build(bins=0):
    torch.manual_seed(0)
    settings = DCGANSettings(filters=4, levels=1, latent=3)
    return ConditionedGenerator(settings, structures=2, bins=bins, channels=1, patch=(8, 8, 8))


def test_numbers_are_standardised_by_the_last_images():
    G, volumes = build(), torch.randint(100, 900, (700, 2)).float()
    for part in volumes.split(50):
        G.remember(part)
    last = volumes[-REMEMBERED:]
    c = G.condition(last)
    wanted = (last - last.mean(0)) / (last.var(0, correction=0) + 1).sqrt()
    assert torch.allclose(c, wanted, atol=1e-3)


def test_few_images_are_known_alone():
    G = build()
    G.remember(torch.tensor([[100.0, 50.0], [300.0, 50.0]]))
    c = G.condition(torch.tensor([[200.0, 50.0], [300.0, 50.0]]))
    assert torch.allclose(c, torch.tensor([[0.0, 0.0], [1.0, 0.0]]), atol=1e-3)


def test_classes_hold_equally_many_images_from_small_to_large():
    G, volumes = build(bins=3), torch.arange(1.0, 61).repeat(2, 1).T
    G.remember(volumes[torch.randperm(60)])
    assert torch.equal(G.condition(volumes).argmax(1), torch.arange(3).repeat_interleave(20))


def test_samples_have_the_volumes_of_training_images_or_the_given_ones():
    G, given = build(), []
    G.remember(torch.tensor([[100.0, 50.0], [300.0, 70.0]]))
    G.condition = lambda volumes: given.append(volumes) or torch.zeros(len(volumes), 2)
    G.sample(20, (8, 8, 8), torch.Generator().manual_seed(0))
    assert {tuple(row) for row in given[-1].tolist()} == {(100.0, 50.0), (300.0, 70.0)}
    G.sample(1, (8, 8, 8), torch.Generator(), torch.tensor([[5.0, 6.0]]))
    assert given[-1].tolist() == [[5.0, 6.0]]


def test_one_map_tells_real_from_fake_and_the_others_the_condition():
    torch.manual_seed(0)
    network = Discriminator(spatial_dims=3, in_channels=1, filters=4, layers=1, out_channels=3, scales=2, norm="none")
    D, x = Auxiliary(network), torch.randn(2, 1, 32, 32, 32)
    maps = network(x)
    assert all(torch.equal(a, b[:, :1]) for a, b in zip(D(x), maps, strict=True))
    assert torch.allclose(D.told(x), sum(m[:, 1:].mean((2, 3, 4)) for m in maps) / 2, atol=1e-6)
