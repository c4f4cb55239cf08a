"""Norm of the channels of each voxel: no statistics over space, so that a window and a whole volume are the same to it.

In the manner of ProGAN's pixelwise normalisation (Karras et al., ICLR 2018, section 4.2), with a scale and a shift for
each channel as the other norms have.
"""

import torch
from monai.networks.layers.factories import Norm
from torch import Tensor, nn


class PixelNorm(nn.Module):
    """y = γ x / √(mean over channels of x² + ε) + β, voxel by voxel.

    Args:
        num_features: channels.
        affine: with γ and β; else γ = 1, β = 0.
        eps: ε.
    """

    def __init__(self, num_features: int, affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y[, Z]) → the same shape."""
        scale = torch.rsqrt(x.float().square().mean(1, keepdim=True) + self.eps).to(x.dtype)
        if self.weight is None or self.bias is None:
            return x * scale
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return torch.addcmul(self.bias.view(shape), x * scale, self.weight.view(shape))


Norm.add_factory_callable("pixel", lambda dim: PixelNorm)  # so that MONAI's blocks take it by name
