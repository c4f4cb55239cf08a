"""The generator of SRGAN: residual blocks on a coarse grid and a sub-pixel convolution (Ledig et al., CVPR 2017)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from medgen.networks.residual import Residual
from medgen.types import Count, Section


class SRResNetSettings(Section):
    """Keys of ``method.generator`` of srgan."""

    filters: Count = Field(32, description="channels of the residual blocks (paper: 64, in 2D)")
    blocks: Count = Field(8, description="residual blocks (paper: 16)")
    levels: Annotated[int, Field(ge=0, le=4)] = Field(
        1, description="halvings of the grid that the blocks work on; patch sides must be multiples of 2^levels"
    )


class SRResNet(nn.Module):
    """x → difference: blocks of r³ voxels as channels, residual blocks, and back by a sub-pixel convolution.

    The input lies on the grid of the output already, interpolated, so that one network serves every slice distance.
    Folding r³ voxels into channels is lossless and gives the blocks the coarse grid of the paper, where they are r³
    times cheaper. No batch norm, which costs contrast and leaves artefacts (Lim 2017; Wang 2018, ESRGAN).
    """

    def __init__(self, settings: SRResNetSettings, *, in_channels: int, out_channels: int) -> None:
        super().__init__()
        r, filters = 2**settings.levels, settings.filters
        self.divisor = self.smallest = r
        self.r, self.out_channels = r, out_channels
        self.first = nn.Sequential(nn.Conv3d(in_channels * r**3, filters, 3, padding=1), nn.PReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(filters, filters, 3, padding=1), nn.PReLU(), nn.Conv3d(filters, filters, 3, padding=1)
            )
            for _ in range(settings.blocks)
        )
        self.middle = nn.Conv3d(filters, filters, 3, padding=1)
        self.last = nn.Conv3d(filters, out_channels * r**3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) → (B, C_out, X, Y, Z); sides are multiples of ``divisor``."""
        start = h = self.first(fold(x, self.r))
        for block in self.blocks:
            h = h + block(h)
        return unfold(self.last(start + self.middle(h)), self.r)


def build_srresnet(settings: SRResNetSettings, *, in_channels: int, out_channels: int) -> Residual:
    """The network, added to its input; training starts at the identity."""
    network = SRResNet(settings, in_channels=in_channels, out_channels=out_channels)
    return Residual(network, in_channels=in_channels, out_channels=out_channels)


def fold(x: Tensor, r: int) -> Tensor:
    """Blocks of r³ voxels as channels: (B, C, X, Y, Z) → (B, C r³, X/r, Y/r, Z/r)."""
    b, c, *sides = x.shape
    blocks = x.reshape(b, c, sides[0] // r, r, sides[1] // r, r, sides[2] // r, r)
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, c * r**3, *(n // r for n in sides))


def unfold(x: Tensor, r: int) -> Tensor:
    """Inverse of `fold`, the sub-pixel step in 3D (Shi et al., CVPR 2016): (B, C r³, X, Y, Z) → (B, C, rX, rY, rZ)."""
    b, c, *sides = x.shape
    blocks = x.reshape(b, c // r**3, r, r, r, *sides)
    return blocks.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // r**3, *(n * r for n in sides))
