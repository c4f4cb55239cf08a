"""A generator with noise in addition to its input, for tasks with several valid outputs."""

import torch
from torch import Tensor, nn


class Noisy(nn.Module):
    """y = net([x, z]); z defaults to 0, so that a conversion is reproducible.

    Args:
        network: (B, C + channels, ...) → (B, C_out, ...).
        channels: number of channels of z.
    """

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network, self.channels = network, channels
        self.divisor, self.smallest = network.divisor, network.smallest

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        if z is None:
            z = x.new_zeros(len(x), self.channels, *(1,) * (x.ndim - 2))
        return self.network(torch.cat([x, z.expand(-1, -1, *x.shape[2:])], 1))


def draw_noise(x: Tensor, channels: int) -> Tensor:
    """z ~ N(0, 1) of shape (B, channels, 1, ...) for a batch x (B, C, X, ...): constant over each image."""
    return torch.randn(len(x), channels, *(1,) * (x.ndim - 2), device=x.device, dtype=x.dtype)
