"""A discriminator with one output map per domain (StarGAN v2, Choi 2020, arXiv 1912.01865, section 3.1)."""

from typing import cast

import torch
from torch import Tensor, nn


class Branches(nn.Module):
    """Select the output map of the requested domain: is this a real image *of that domain*?

    Args:
        network: (B, C, X, Y[, Z]) → logits (B, domains, x, y[, z]) of every scale.
        domains: number of domains; the requested one is encoded in that many constant channels, see ``with_domain``.
    """

    def __init__(self, network: nn.Module, domains: int) -> None:
        super().__init__()
        self.network, self.domains = network, domains

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C + domains, X, Y[, Z]) → raw logits (B, 1, x, y[, z]) of every scale."""
        images, planes = x[:, : -self.domains], x[:, -self.domains :]
        c = planes.flatten(2).mean(2).argmax(1)  # works even if augmentation shifted or cut the planes
        maps = cast(list[Tensor], self.network(images))
        return [logits[torch.arange(len(c), device=c.device), c][:, None] for logits in maps]
