"""A generator with the volumes of structures as input, and a discriminator that estimates them."""

from typing import cast

import torch
from torch import Tensor, nn

from medgen.networks.autoencoder import check_patch
from medgen.networks.dcgan import CodeGenerator, DCGANSettings
from medgen.networks.processes import rows_of_processes

REMEMBERED = 512  # volumes of the last training images, for their mean, deviation and ranks


class ConditionedGenerator(CodeGenerator):
    """G(z, c), with c made from the volumes of structures.

    Without ``bins``, c is the volumes, standardised by the mean and deviation of the last training images. With
    ``bins``, it is a class (one-hot): the rank of the sum of the volumes among those images, in so many equal parts.

    Args:
        settings: size and norm; ``latent``: length of z.
        structures: number of volumes.
        bins: number of classes; 0: numbers.
        channels: channels of an image.
        patch: its sides in voxels.
    """

    def __init__(
        self, settings: DCGANSettings, *, structures: int, bins: int, channels: int, patch: tuple[int, ...]
    ) -> None:
        length = bins or structures
        inputs = settings.model_copy(update={"latent": settings.latent + length})
        super().__init__(inputs, channels=channels, patch=patch)
        self.noise, self.length, self.bins = settings.latent, length, bins
        self.seen: Tensor
        self.count: Tensor
        self.register_buffer("seen", torch.zeros(REMEMBERED, structures))
        self.register_buffer("count", torch.tensor(0))

    @torch.no_grad()
    def remember(self, volumes: Tensor) -> None:
        """Store the volumes (B, structures) in voxels of training images, of all processes, in place of the oldest."""
        volumes = rows_of_processes(volumes)
        rows = (self.count + torch.arange(len(volumes), device=volumes.device)) % REMEMBERED
        self.seen[rows] = volumes.float()
        self.count.add_(len(volumes))

    def remembered(self) -> tuple[Tensor, Tensor]:
        """Least and largest volume of each structure (structures,) in voxels, of the training images in memory."""
        seen = self.seen[: int(self.count.clamp(1, REMEMBERED))]
        return seen.amin(0), seen.amax(0)

    def condition(self, volumes: Tensor) -> Tensor:
        """c (B, length) of volumes (B, structures) in voxels."""
        known = self.count.clamp(1, REMEMBERED)
        used = (torch.arange(REMEMBERED, device=volumes.device) < known)[:, None]
        if self.bins:
            less = (self.seen.sum(1) < volumes.sum(1, keepdim=True)) & used.T
            rank = (less.sum(1) / known * self.bins).long().clamp(max=self.bins - 1)
            return nn.functional.one_hot(rank, self.bins).float()
        mean = (self.seen * used).sum(0) / known
        variance = ((self.seen - mean).square() * used).sum(0) / known
        return (volumes - mean) / (variance + 1).sqrt()  # 1: a structure that is never there divides by no zero

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Images of z (B, noise) and c (B, length), or of both in one tensor."""
        return super().forward(z if c is None else torch.cat([z, c.to(z.dtype)], 1))

    def sample(
        self, n: int, shape: tuple[int, ...], generator: torch.Generator, volumes: Tensor | None = None
    ) -> Tensor:
        """n images with the volumes (n, structures) in voxels; None: those of training images drawn at random."""
        check_patch(self.patch, shape)
        z = torch.randn(n, self.noise, generator=generator).to(self.seen.device)
        if volumes is None:
            known = max(min(int(self.count), REMEMBERED), 1)
            volumes = self.seen[torch.randint(known, (n,), generator=generator).to(self.seen.device)]
        return self(z, self.condition(volumes.to(self.seen))).float()


class Auxiliary(nn.Module):
    """D with further output maps that tell the condition of an image.

    Args:
        network: (B, C, X, Y, Z) → maps (B, 1 + length, x, y, z) of every scale.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        """Raw logits (B, 1, x, y, z) of every scale: is the image real?"""
        return [maps[:, :1] for maps in cast(list[Tensor], self.network(x))]

    def told(self, x: Tensor) -> Tensor:
        """The condition (B, length): numbers, or logits of classes, averaged over places and scales."""
        maps = cast(list[Tensor], self.network(x))
        return torch.stack([each[:, 1:].float().flatten(2).mean(2) for each in maps]).mean(0)
