"""Learned codes of single images, the images themselves, and a generator with the distribution of the codes."""

import torch
from torch import Tensor, nn

from medgen.networks.autoencoder import check_patch
from medgen.networks.dcgan import CodeGenerator, DCGANSettings


def in_ball(z: Tensor) -> Tensor:
    """z (B, n), projected to the unit ball: z / max(1, ‖z‖)."""
    return z / z.norm(dim=1, keepdim=True).clamp(min=1)


class Codes(nn.Module):
    """One code (n,) in the unit ball for each of ``count`` images."""

    def __init__(self, count: int, length: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(in_ball(torch.randn(count, length)))

    @torch.no_grad()
    def project(self) -> None:
        self.weight.copy_(in_ball(self.weight))


class ImageBank(nn.Module):
    """The first patches of a training, in 16 bits; has no weights, so that checkpoints of a run include the images."""

    def __init__(self, count: int, channels: int, patch: tuple[int, ...]) -> None:
        super().__init__()
        self.images: Tensor
        self.register_buffer("images", torch.zeros(count, channels, *patch, dtype=torch.float16))


class CodedGenerator(nn.Module):
    """G, and the normal distribution of the codes of its training images.

    Args:
        settings: its size and norm.
        channels: channels of an image.
        patch: its sides in voxels.
    """

    def __init__(self, settings: DCGANSettings, *, channels: int, patch: tuple[int, ...]) -> None:
        super().__init__()
        n = settings.latent
        self.images = CodeGenerator(settings, channels=channels, patch=patch)
        self.divisor, self.latent, self.patch = 2**settings.levels, n, tuple(patch)
        self.mean: Tensor
        self.factor: Tensor
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("factor", torch.eye(n) * n**-0.5)

    def forward(self, z: Tensor) -> Tensor:
        """Images in (-1, 1) of codes (B, latent)."""
        return self.images(z)

    @torch.no_grad()
    def fit(self, z: Tensor) -> None:
        """Set mean and covariance to those of the codes z (m, latent)."""
        mean = z.mean(0)
        covariance = (z - mean).T @ (z - mean) / len(z)
        self.mean.copy_(mean)
        self.factor.copy_(torch.linalg.cholesky(covariance + 1e-6 * torch.eye(self.latent, device=z.device)))

    def draw(self, e: Tensor) -> Tensor:
        """Codes (B, latent) of e ~ N(0, 1) (B, latent)."""
        return in_ball(self.mean + e @ self.factor.T)

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Images of drawn codes. Raises ValueError for images of another shape than in training."""
        check_patch(self.patch, shape)
        return self(self.draw(torch.randn(n, self.latent, generator=generator).to(self.mean.device))).float()
