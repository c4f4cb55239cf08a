import torch
from torch.nn import functional as nnf

from medgen.losses.pyramid import laplacian_pyramid, nearest, pyramid_vectors


def test_the_levels_of_a_pyramid_restore_the_image():
    x = torch.randn(2, 1, 16, 8, 32, generator=torch.Generator().manual_seed(0))
    levels = laplacian_pyramid(x)
    assert [tuple(level.shape[2:]) for level in levels] == [(16, 8, 32), (8, 4, 16), (4, 2, 8)]
    restored = levels[-1]
    for level in levels[-2::-1]:
        restored = level + nnf.interpolate(restored, scale_factor=2, mode="trilinear", align_corners=False)
    assert torch.allclose(restored, x, atol=1e-5)
    assert len(laplacian_pyramid(x, 2)) == 2


def test_distances_of_the_vectors_are_those_of_the_levels():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(3, 2, 8, 8, 8, generator=generator) for _ in range(2))
    pairs = zip(laplacian_pyramid(x), laplacian_pyramid(y), strict=True)
    wanted = sum((a - b).abs().mean((1, 2, 3, 4)) for a, b in pairs)
    assert torch.allclose((pyramid_vectors(x) - pyramid_vectors(y)).abs().sum(1), wanted, atol=1e-5)


def test_the_nearest_equals_brute_force():
    generator = torch.Generator().manual_seed(0)
    real, made = torch.randn(7, 5, generator=generator), torch.randn(9, 5, generator=generator)
    for p in (1.0, 2.0):
        distances = [[float((r - m).abs().pow(p).sum()) for m in made] for r in real]
        assert nearest(real, made, p).tolist() == [row.index(min(row)) for row in distances]
