"""Features of a batch for a discriminator, which tell it whether the images of the batch differ from each other."""

from typing import Literal

import torch
from torch import Tensor, nn

Minibatch = Literal["none", "std", "discrimination"]
KERNELS, DEPTH = 16, 8  # B and C of minibatch discrimination


class MinibatchStd(nn.Module):
    """Add one channel: the standard deviation over the batch, averaged over channels and places (Karras 2018, 3)."""

    added = 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) → (B, C + 1, ...)."""
        spread = (x.float().var(0, unbiased=False) + 1e-8).sqrt().mean().to(x.dtype)
        return torch.cat([x, spread.expand_as(x[:, :1])], 1)


class MinibatchDiscrimination(nn.Module):
    """Add ``KERNELS`` channels that tell how near the other images of the batch are (Salimans 2016, section 3.2):

        M_i = f(x_i) T,   c_b(i, j) = exp(-‖M_ib - M_jb‖₁),   o_b(i) = Σ_j c_b(i, j)

    f is the mean over the places, T (C, B, DEPTH) is learned, and o is the same at all places.
    """

    added = KERNELS

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.T = nn.Parameter(torch.randn(channels, KERNELS * DEPTH) * channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) → (B, C + KERNELS, ...)."""
        o = closeness((x.float().flatten(2).mean(2) @ self.T).unflatten(1, (KERNELS, DEPTH))).to(x.dtype)
        return torch.cat([x, o.view(*o.shape, *(1,) * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])], 1)


def closeness(M: Tensor) -> Tensor:
    """o (n, B) of M (n, B, C)."""
    return (-(M[:, None] - M[None]).abs().sum(3)).exp().sum(1)


def minibatch_features(kind: Minibatch, channels: int) -> MinibatchStd | MinibatchDiscrimination:
    """The layer of a kind other than "none"; ``channels``: of its input."""
    return MinibatchStd() if kind == "std" else MinibatchDiscrimination(channels)
