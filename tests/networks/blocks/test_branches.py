import torch

from medgen.losses.augment import augment
from medgen.networks.blocks.branches import Branches
from medgen.networks.conditional import with_domain
from medgen.networks.discriminator import Discriminator


def test_the_map_of_the_given_domain_is_used_at_every_scale():
    torch.manual_seed(0)
    network = Discriminator(spatial_dims=2, in_channels=1, filters=4, layers=1, scales=2, out_channels=3)
    x, c = torch.randn(3, 1, 32, 32), torch.tensor([2, 0, 1])
    maps, found = network(x), Branches(network, 3)(with_domain(x, c, 3))
    for all_, one in zip(maps, found, strict=True):
        assert one.shape[1] == 1
        assert torch.equal(one[:, 0], torch.stack([all_[i, c[i]] for i in range(3)]))


def test_discriminator_augmentation_does_not_change_the_domain():
    torch.manual_seed(0)
    seen = []
    network = torch.nn.Identity()
    network.forward = lambda x: seen.append(x) or [x.expand(-1, 3, -1, -1) * torch.arange(3.0).view(1, 3, 1, 1)]
    xc = with_domain(torch.ones(8, 1, 16, 16), torch.tensor([2] * 8), 3)
    (logits,) = Branches(network, 3)(augment(xc, ("flip", "translate", "cutout")))
    assert torch.equal(logits, 2 * seen[0])
