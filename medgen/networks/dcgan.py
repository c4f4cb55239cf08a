"""The generator of a DCGAN: a decoder of codes, with norms that do not depend on which codes share a batch."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medgen.networks.autoencoder import AutoencoderSettings, Decoder, check_patch
from medgen.types import Count


class DCGANSettings(AutoencoderSettings):
    """Keys of ``method.generator`` of dcgan."""

    norm: Literal["group", "batch", "instance", "none", "reference", "virtual"] = Field(
        "group",
        description="norm before convolutions (paper: batch); reference and virtual: batch norm with the statistics of "
        "a fixed batch of codes (Goodfellow 2016; Salimans 2016), virtual also with those of the image itself",
    )
    reference: Count = Field(8, description="codes of the fixed batch, for norm reference and virtual")


class FixedBatchNorm(nn.Module):
    """Batch norm whose statistics are those of a reference batch, the first ``count`` rows of the input.

    Reference: m and v are mean and variance of the reference batch. Virtual (Salimans 2016, section 3.4), for each
    image, whose own mean is m_x and mean square q_x: m = (m_x + R m_R) / (R + 1) and v = (q_x + R q_R) / (R + 1) - m².
    Reference rows are normalised by their own statistics.
    """

    def __init__(self, channels: int, count: int, *, virtual: bool) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.count, self.virtual = count, virtual

    def forward(self, x: Tensor) -> Tensor:
        """(R + B, C, X, Y, Z) → the same shape."""
        flat = x.float().flatten(2)
        mean, square = flat.mean(2), flat.square().mean(2)  # (R + B, C) of each image
        r, images = self.count, len(x) - self.count
        m, q = mean[:r].mean(0, keepdim=True), square[:r].mean(0, keepdim=True)
        if self.virtual:
            m = torch.cat([m.expand(r, -1), (mean[r:] + r * m.expand(images, -1)) / (r + 1)])
            q = torch.cat([q.expand(r, -1), (square[r:] + r * q.expand(images, -1)) / (r + 1)])
        out = (flat - m[..., None]) * (q - m.square() + 1e-5).rsqrt()[..., None]
        return (out * self.weight[:, None] + self.bias[:, None]).view_as(x).to(x.dtype)


class CodeGenerator(nn.Module):
    """G: z (B, latent) → (B, C, X, Y, Z) in (-1, 1).

    Args:
        settings: its size and norm.
        channels: channels of an image.
        patch: its sides in voxels.
    """

    def __init__(self, settings: DCGANSettings, *, channels: int, patch: tuple[int, ...]) -> None:
        super().__init__()
        self.latent, self.patch, self.divisor = settings.latent, tuple(patch), 2**settings.levels
        count = settings.reference
        virtual = settings.norm == "virtual"
        norms = {"group": None, "batch": nn.BatchNorm3d, "instance": nn.InstanceNorm3d, "none": lambda _: nn.Identity()}
        fixed = settings.norm not in norms
        norm = norms.get(settings.norm, lambda n: FixedBatchNorm(n, count, virtual=virtual))
        self.decoder = Decoder(settings, channels=channels, patch=patch, norm=norm)
        self.reference: Tensor | None
        self.register_buffer("reference", torch.randn(count, settings.latent) if fixed else None)

    def forward(self, z: Tensor) -> Tensor:
        if self.reference is None:
            return self.decoder(z).tanh()
        return self.decoder(torch.cat([self.reference.to(z.dtype), z]))[len(self.reference) :].tanh()

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Images of z ~ N(0, 1). Raises ValueError for images of another shape than in training."""
        check_patch(self.patch, shape)
        return self(torch.randn(n, self.latent, generator=generator).to(next(self.parameters()).device)).float()
