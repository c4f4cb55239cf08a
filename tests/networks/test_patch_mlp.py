import torch

from medgen.networks.patch_mlp import PatchMLP


def test_patch_mlp_gives_unit_vectors_at_the_given_positions():
    torch.manual_seed(0)
    features = [torch.randn(2, 1, 4, 4, 4), torch.randn(2, 5, 2, 2, 2)]
    H = PatchMLP([1, 5], width=8)
    places = [torch.tensor([0, 63, 7]), torch.tensor([1])]
    found = H(features, places)
    assert [tuple(f.shape) for f in found] == [(2, 3, 8), (2, 1, 8)]
    assert all(torch.allclose(f.norm(dim=2), torch.ones(())) for f in found)
    here = features[1][:, :, 0, 0, 1]
    expected = torch.nn.functional.normalize(H.layers[1](here), dim=1)
    assert torch.allclose(found[1][:, 0], expected, atol=1e-6)
