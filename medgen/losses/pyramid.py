"""Distances of images by the levels of their Laplacian pyramids, and the nearest of several images."""

import torch
from torch import Tensor
from torch.nn import functional as nnf

LEVELS = 4  # of a pyramid, if the sides allow


def laplacian_pyramid(x: Tensor, levels: int = LEVELS) -> list[Tensor]:
    """x = Σ of its levels, each interpolated to the grid of the level before: details first, the coarsest image last.

    Each level is the difference of an image and the interpolation of its half-size average (Burt and Adelson 1983). An
    image with an odd side or a side of 2 is not halved further.

    Args:
        x: (B, C, X, Y, Z).
        levels: at most.
    """
    found: list[Tensor] = []
    while len(found) < levels - 1 and all(n % 2 == 0 and n > 2 for n in x.shape[2:]):
        coarse = nnf.avg_pool3d(x, 2)
        found.append(x - nnf.interpolate(coarse, scale_factor=2, mode="trilinear", align_corners=False))
        x = coarse
    return [*found, x]


def pyramid_vectors(x: Tensor) -> Tensor:
    """Vectors (B, d) whose L1 distances are the mean absolute differences of all levels, summed over the levels.

    Bojanowski 2018 (after Ling and Okada 2006) weights the sum of level j by 2^2j, which is the mean but for a factor.
    """
    return torch.cat([level.float().flatten(1) / level[0].numel() for level in laplacian_pyramid(x)], 1)


def nearest(real: Tensor, made: Tensor, p: float = 1.0) -> Tensor:
    """For each row of ``real`` (B, d) the number of the nearest row of ``made`` (M, d), by the Lp distance."""
    return torch.cdist(real, made, p=p).argmin(1)
