import pytest
import torch

from medgen.networks.blocks.minibatch import DEPTH, KERNELS, MinibatchDiscrimination, MinibatchStd
from medgen.networks.discriminator import Discriminator


def test_the_added_channel_is_the_mean_standard_deviation_over_the_batch():
    x = torch.randn(5, 3, 4, 2, 3, generator=torch.Generator().manual_seed(0))
    y = MinibatchStd()(x)
    assert y.shape == (5, 4, 4, 2, 3) and torch.equal(y[:, :3], x)
    assert torch.allclose(y[:, 3], x.std(0, correction=0).mean().expand(5, 4, 2, 3), atol=1e-5)
    assert MinibatchStd()(x[:1].expand(5, -1, -1, -1, -1))[:, 3].abs().max() < 1e-3


def test_minibatch_discrimination_equals_its_sums_over_pairs():
    torch.manual_seed(0)
    layer, x = MinibatchDiscrimination(3), torch.randn(4, 3, 2, 2, 2)
    y = layer(x)
    T = layer.T.view(3, KERNELS, DEPTH)
    for i in range(4):
        for b in range(KERNELS):
            M = [torch.tensordot(x[j].mean((1, 2, 3)), T[:, b], 1) for j in range(4)]
            o = sum(torch.exp(-(M[i] - M[j]).abs().sum()) for j in range(4))
            assert torch.allclose(y[i, 3 + b], o.expand(2, 2, 2), rtol=1e-4)


@pytest.mark.parametrize("kind", ["std", "discrimination"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_discriminator_sees_the_other_images_of_its_batch(kind, dims):
    torch.manual_seed(0)
    options = dict(spatial_dims=dims, in_channels=1, filters=4, layers=1, norm="none")
    plain, seeing = Discriminator(**options), Discriminator(**options, minibatch=kind)
    x = torch.randn(2, 1, *(16,) * dims)
    other = torch.cat([x[:1], x[:1]])
    for network, same in ((plain, True), (seeing, False)):
        a, b = (network(batch)[0][0] for batch in (x, other))
        assert torch.allclose(a, b, atol=1e-6) == same
    assert seeing(x)[0].shape == plain(x)[0].shape
