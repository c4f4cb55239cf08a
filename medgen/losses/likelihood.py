"""Likelihoods of images: dequantisation, bits per dimension, and the Gaussian likelihood of a decoder.

Scans have few grey values, so a density can put a spike of any height on each of them. Images are therefore read as
`LEVELS` grey values with uniform noise between them (Uria et al., NeurIPS 2013): the log density of such an image is a
lower bound of the log probability of its grey values (Theis et al., ICLR 2016).
"""

import math

import torch
from torch import Tensor

LEVELS = 256  # grey values of an image in [-1, 1]
WIDTH = 2 / LEVELS  # encoded width of one of them


def dequantised(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Round images in [-1, 1] to grey values k and return (k + u) · width - 1, with u uniform in [0, 1).

    Args:
        x: any shape.
        generator: of the noise, on the CPU; None: torch's global one.
    """
    x = x.float()
    noise = torch.rand_like(x) if generator is None else torch.rand(x.shape, generator=generator).to(x.device)
    return (((x + 1) / WIDTH).floor().clamp(0, LEVELS - 1) + noise) * WIDTH - 1


def bits_per_dimension(log_density: Tensor, dimensions: int) -> Tensor:
    """Bits that the grey value of a voxel needs: -log₂(p(x) · width^D) / D.

    Args:
        log_density: log p(x) in nats, of images in [-1, 1].
        dimensions: D, voxels times channels of an image.
    """
    return -(log_density / dimensions + math.log(WIDTH)) / math.log(2)


def gaussian_log_density(x: Tensor, mean: Tensor, log_sd: Tensor) -> Tensor:
    """log N(x; mean, sd²) = -½ ((x - mean) / sd)² - log sd - ½ log 2π, elementwise, in 32 bits."""
    x, mean, log_sd = x.float(), mean.float(), log_sd.float()
    return -0.5 * ((x - mean) * (-log_sd).exp()).square() - log_sd - 0.5 * math.log(2 * math.pi)
