"""A generator that fills a hole in an image; a map sets the kind of content, noise its variation."""

import torch
from torch import Tensor, nn


class Inpainter(nn.Module):
    """y = net([x, m, z]); m and z default to 0: no hole to fill.

    Args:
        network: (B, channels + planes + noise, ...) → (B, C_out, ...).
        channels: channels of the image; further channels of x (the classes in a validation) are ignored.
        planes: channels of m: the mask of the hole, and masks of the content to insert.
        noise: number of channels of z.
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
