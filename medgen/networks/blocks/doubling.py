"""Nearest-neighbour upsampling and a 3-wide convolution (Odena 2016) in one layer: no checkerboard artefacts.

The cost is that of a deconvolution. After every voxel is repeated along each axis, the taps [a, b, c] cover only two
different voxels: a·x[m-1] + (b + c)·x[m] at even positions, (a + b)·x[m] + c·x[m+1] at odd ones. This equals a
transposed convolution of stride 2 with the taps [c, b + c, a + b, a], so the upsampled input is never stored, and in 3D
each output voxel needs 8 products instead of 27.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from medgen.networks.blocks.quick import FEW, doubled, on_cpu


class DoublingConv2d(nn.Conv2d):
    """(B, C_in, X, Y) → (B, C_out, 2X, 2Y); stores the weights of the 3-wide convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return nnf.conv_transpose2d(x, _transposed(self.weight), self.bias, stride=2, padding=1)


class DoublingConv3d(nn.Conv3d):
    """(B, C_in, X, Y, Z) → (B, C_out, 2X, 2Y, 2Z); stores the weights of the 3-wide convolution."""

    def forward(self, x: Tensor) -> Tensor:
        weight = _transposed(self.weight)
        if on_cpu(x) and self.out_channels <= FEW:
            return doubled(x, weight, self.bias)
        return nnf.conv_transpose3d(x, weight, self.bias, stride=2, padding=1)


def upsampling_conv(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Module:
    """Create the layer for 2D or 3D grids."""
    layer = DoublingConv3d if spatial_dims == 3 else DoublingConv2d
    return layer(in_channels, out_channels, kernel_size=3, padding=1)


def _transposed(weight: Tensor) -> Tensor:
    """Convolution weights (C_out, C_in, 3, ...) → weights (C_in, C_out, 4, ...) of the equal transposed convolution."""
    for axis in range(2, weight.ndim):
        a, b, c = weight.unbind(axis)
        weight = torch.stack([c, b + c, a + b, a], axis)
    return weight.transpose(0, 1)
