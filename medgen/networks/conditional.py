"""A generator conditioned on a requested domain (StarGAN, Choi 2018, section 3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf


class Conditional(nn.Module):
    """y = net([x, c]), c one-hot in channels that are constant over the image.

    Args:
        network: (B, C + classes, ...) → (B, C_out, ...).
        classes: number of values of c.
    """

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network, self.classes = network, classes
        self.divisor, self.smallest = network.divisor, network.smallest

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Images (B, C, X, Y[, Z]) and classes (B,) int64, default 0."""
        if c is None:
            c = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return self.network(with_domain(x, c, self.classes))


def with_domain(x: Tensor, c: Tensor, domains: int) -> Tensor:
    """(B, C, ...) and c (B,) int64 → (B, C + domains, ...): one-hot c in channels that are constant over the image."""
    planes = nnf.one_hot(c, domains).to(x.dtype)
    planes = planes[(...,) + (None,) * (x.ndim - 2)].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, planes], 1)
