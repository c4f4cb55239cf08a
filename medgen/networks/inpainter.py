"""A generator that fills a hole in an image: with what, a map tells, and which of many such, the noise."""

import torch
from torch import Tensor, nn


class Inpainter(nn.Module):
    """y = net([x, m, z]); without m and z, which are then 0, there is nothing to fill.

    Args:
        network: (B, channels + planes + noise, ...) → (B, C_out, ...).
        channels: of the image; what x has beyond them, the classes in a validation, is not looked at.
        planes: channels of m, the map of the hole and of what comes into it.
        noise: channels of z.
    """

    def __init__(self, network: nn.Module, channels: int, planes: int, noise: int) -> None:
        super().__init__()
        self.network, self.channels, self.planes, self.noise = network, channels, planes, noise
        self.divisor, self.smallest = network.divisor, network.smallest

    def forward(self, x: Tensor, m: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        """Images (B, C, X, Y[, Z]), maps (B, planes, X, Y[, Z]), noise (B, K, 1, 1[, 1])."""
        space = x.shape[2:]
        if m is None:
            m = x.new_zeros(len(x), self.planes, *space)
        if z is None:
            z = x.new_zeros(len(x), self.noise, *(1 for _ in space))
        return self.network(torch.cat([x[:, : self.channels], m, z.expand(-1, -1, *space)], 1))
