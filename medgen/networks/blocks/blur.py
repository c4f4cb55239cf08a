"""Anti-aliased resampling (Zhang, ICML 2019), as CUT uses it: blur before downsampling, interpolate when upsampling."""

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf


class BlurDown(nn.Module):
    """Halve the grid: filter each axis by [1, 2, 1] / 4, keep every second voxel. (B, C, ...) → (B, C, ⌈.../2⌉)."""

    kernel: Tensor

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        kernel = taps
        for _ in range(spatial_dims - 1):
            kernel = kernel[..., None] * taps
        self.register_buffer("kernel", kernel[None, None])  # saved, because models are loaded via the meta device

    def forward(self, x: Tensor) -> Tensor:
        convolve = nnf.conv3d if self.spatial_dims == 3 else nnf.conv2d
        x = nnf.pad(x, (1, 1) * self.spatial_dims, mode="reflect")
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, *self.kernel.shape[1:])
        return convolve(x, kernel, stride=2, groups=channels)


class BlurUp(nn.Module):
    """Double the grid by linear interpolation: the filter [1, 3, 3, 1] / 4 of the paper's code."""

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        self.mode = "trilinear" if spatial_dims == 3 else "bilinear"

    def forward(self, x: Tensor) -> Tensor:
        return nnf.interpolate(x, scale_factor=2, mode=self.mode, align_corners=False)
