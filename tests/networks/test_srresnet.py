import pytest
import torch

from medgen.networks.srresnet import SRResNetSettings, build_srresnet, fold, unfold


@pytest.mark.parametrize("r", [1, 2, 4])
def test_folding_is_lossless_and_local(r):
    x = torch.randn(2, 3, 8, 4, 12)
    folded = fold(x, r)
    assert folded.shape == (2, 3 * r**3, 8 // r, 4 // r, 12 // r)
    assert torch.equal(unfold(folded, r), x)
    assert set(folded[0, : r**3, 0, 0, 0].tolist()) == set(x[0, 0, :r, :r, :r].flatten().tolist())


def test_a_plane_unfolds_as_the_pixel_shuffle_of_torch():
    x = torch.randn(1, 4, 5, 6)
    doubled = torch.stack([x, x], 2).reshape(1, 8, 5, 6)  # both voxels across the plane alike: order (z, y, x) → (y, x)
    volume = unfold(doubled.reshape(1, 4, 2, 5, 6).transpose(1, 2).reshape(1, 8, 1, 5, 6), 2)
    torch.testing.assert_close(volume[:, 0, 0], torch.pixel_shuffle(x, 2)[:, 0])


def test_training_starts_at_the_interpolated_image():
    network = build_srresnet(SRResNetSettings(filters=4, blocks=2, levels=1), in_channels=1, out_channels=1)
    x = torch.randn(1, 1, 8, 8, 8)
    assert torch.equal(network(x), x)
