"""Convolutional encoder and decoder with a dense code, for patches of one size.

The code has no spatial axes: a sample of its prior is a whole patch, and neighbouring voxels cannot disagree. The
decoder doubles the grid by trilinear interpolation before it convolves, which leaves no lattice of bright voxels.
"""

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from medgen.types import Count, Section

WIDEST = 8  # channels grow up to this many times ``filters``


class AutoencoderSettings(Section):
    """Keys of ``method.generator`` of autoencoders."""

    filters: Count = Field(16, description="channels of the first layer; doubled at each level, up to 8 times")
    levels: Annotated[int, Field(gt=0, le=8)] = Field(
        3, description="halvings of the grid; patch sides must be multiples of 2^levels"
    )
    latent: Count = Field(64, description="length of the code z")


class Encoder(nn.Module):
    """(B, C, X, Y, Z) → (B, outputs): a convolution of stride 2 for each level, then a dense layer."""

    def __init__(self, settings: AutoencoderSettings, *, channels: int, patch: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        widths, coarse = sizes(settings, patch)
        layers: list[nn.Module] = [nn.Conv3d(channels, widths[0], 3, padding=1)]
        for a, b in zip(widths, widths[1:], strict=False):
            layers += [*normed(a), nn.Conv3d(a, b, 4, stride=2, padding=1)]
        self.convolutions = nn.Sequential(*layers, *normed(widths[-1]))
        self.dense = nn.Linear(widths[-1] * coarse.numel(), outputs)
        self.patch = tuple(patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.convolutions(x).flatten(1))


class Decoder(nn.Module):
    """(B, latent) → (B, C, X, Y, Z), unbounded.

    Args:
        settings: its size.
        channels: channels of an image.
        patch: its sides in voxels.
        norm: makes the norm of a number of channels; None: group norm.
    """

    def __init__(
        self,
        settings: AutoencoderSettings,
        *,
        channels: int,
        patch: tuple[int, ...],
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        widths, self.coarse = sizes(settings, patch)
        self.dense = nn.Linear(settings.latent, widths[-1] * self.coarse.numel())
        layers: list[nn.Module] = []
        for a, b in zip(widths[::-1], widths[-2::-1], strict=False):
            upsample = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False)
            layers += [*normed(a, norm), upsample, nn.Conv3d(a, b, 3, padding=1)]
        last = normed(widths[0], norm)
        self.convolutions = nn.Sequential(*layers, *last, nn.Conv3d(widths[0], channels, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        return self.convolutions(self.dense(z).unflatten(1, (-1, *self.coarse)))


class Autoencoder(nn.Module):
    """Encoder and decoder.

    Args:
        settings: their size.
        channels: channels of an image.
        patch: its sides in voxels.
        outputs: numbers that the encoder returns for each unit of the code: 1, or 2 for mean and log variance.

    Raises:
        ValueError: a side of ``patch`` is no multiple of ``divisor``.
    """

    def __init__(
        self, settings: AutoencoderSettings, *, channels: int, patch: tuple[int, ...], outputs: int = 1
    ) -> None:
        super().__init__()
        self.divisor, self.latent, self.patch = 2**settings.levels, settings.latent, tuple(patch)
        self.encoder = Encoder(settings, channels=channels, patch=patch, outputs=outputs * settings.latent)
        self.decoder = Decoder(settings, channels=channels, patch=patch)

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Decoded draws of N(0, 1): (n, C, X, Y, Z) in [-1, 1]. Raises the same as ``draw``."""
        return self.decoder(self.draw(n, shape, generator)).float().clamp(-1, 1)

    def draw(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """z ~ N(0, 1) (n, latent). Raises ValueError for images of another shape than in training."""
        check_patch(self.patch, shape)
        z = torch.randn(n, self.latent, generator=generator)
        return z.to(next(self.parameters()).device)


def check_patch(patch: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raises ValueError unless ``shape`` is the shape of the patches that a network was made for."""
    if tuple(shape) != patch:
        raise ValueError(f"this model generates images of {list(patch)} voxels only, not {list(shape)}")


def sizes(settings: AutoencoderSettings, patch: tuple[int, ...]) -> tuple[list[int], torch.Size]:
    """Channels of each level, the finest first, and the sides of the coarsest grid."""
    divisor = 2**settings.levels
    if any(n % divisor for n in patch):
        raise ValueError(f"sampling.patch={list(patch)}: sides must be multiples of {divisor}, 2^generator.levels")
    widths = [settings.filters * min(2**level, WIDEST) for level in range(settings.levels + 1)]
    return widths, torch.Size(n // divisor for n in patch)


def normed(channels: int, norm: Callable[[int], nn.Module] | None = None) -> list[nn.Module]:
    """A norm and its activation; None: group norm, with the most groups up to 8."""
    if norm is not None:
        return [norm(channels), nn.SiLU()]
    groups = max(n for n in range(1, 9) if channels % n == 0)
    return [nn.GroupNorm(groups, channels), nn.SiLU()]
