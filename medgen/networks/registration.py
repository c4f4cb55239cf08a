"""Registration network: a smooth displacement field that moves one image onto another."""

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from medgen.networks.residual_unet import ResidualUNet

HALF = 2  # the network sees images of half the resolution, in an eighth of the time
COARSE = 4  # voxels between the points of the field, which is interpolated linearly: no deformation of single voxels


class Registration(nn.Module):
    """(moving, fixed) → displacement in voxels along each axis, so that moving(p + field(p)) matches fixed(p).

    Args:
        spatial_dims: 3 or 2.
        channels: of each image.
        filters, levels: of the `ResidualUNet`; its last layer starts at zero, so training starts without displacement.
    """

    def __init__(self, *, spatial_dims: int, channels: int, filters: int = 16, levels: int = 2) -> None:
        super().__init__()
        self.network = ResidualUNet(
            spatial_dims=spatial_dims,
            in_channels=2 * channels,
            out_channels=spatial_dims,
            filters=filters,
            levels=levels,
            tanh=False,
        )
        nn.init.zeros_(self.network.last.weight)
        nn.init.zeros_(self.network.last.bias)  # type: ignore[arg-type]

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """(B, C, X, Y[, Z]) twice, sides multiples of 2^(levels + 1) → (B, dims, X, Y[, Z])."""
        three = moving.ndim == 5
        pool = nnf.avg_pool3d if three else nnf.avg_pool2d
        points = pool(self.network(pool(torch.cat([moving, fixed], 1), HALF)).float(), COARSE // HALF)
        return nnf.interpolate(points, size=moving.shape[2:], mode="trilinear" if three else "bilinear")


def warp(image: Tensor, field: Tensor) -> Tensor:
    """Sample the image at p + field(p), linearly; values outside are those of the border.

    Args:
        image: (B, C, X, Y[, Z]).
        field: (B, dims, X, Y[, Z]), voxels.
    """
    sides = image.shape[2:]
    axes = [torch.arange(n, device=image.device, dtype=torch.float32) for n in sides]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")) + field.float()
    ends = torch.tensor([max(n - 1, 1) for n in sides], device=image.device).view(1, -1, *[1] * len(sides))
    grid = (2 * places / ends - 1).movedim(1, -1).flip(-1)  # grid_sample takes the last axis first
    return nnf.grid_sample(image.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)


def roughness(field: Tensor) -> Tensor:
    """Mean squared difference of neighbouring displacements, summed over the axes; voxels²."""
    return torch.stack([field.diff(dim=axis).square().mean() for axis in range(2, field.ndim)]).sum()
