"""A discriminator of pairs of an image and its code, with scores of the pair and, optionally, of each alone."""

import torch
from torch import Tensor, nn

from medgen.networks.autoencoder import AutoencoderSettings, Encoder
from medgen.networks.blocks.init import CONVOLUTIONS
from medgen.networks.blocks.spectral import add_spectral_norm


class JointDiscriminator(nn.Module):
    """Scores of (x, z): s_xz, and with ``unary`` also s_x and s_z (BigBiGAN, Donahue 2019, figure 1).

    Spectral norm keeps the largest singular value of each layer at 1.

    Args:
        settings: size of the network of images.
        hidden: length of the features of an image and of a code, and units of the dense layers.
        channels: channels of an image.
        patch: its sides in voxels.
        latent: length of a code.
    """

    def __init__(
        self,
        settings: AutoencoderSettings,
        *,
        hidden: int,
        channels: int,
        patch: tuple[int, ...],
        latent: int,
        unary: bool,
    ) -> None:
        super().__init__()
        self.of_image = nn.Sequential(
            Encoder(settings, channels=channels, patch=patch, outputs=hidden), nn.LeakyReLU(0.2)
        )
        self.of_code = nn.Sequential(
            nn.Linear(latent, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2)
        )
        self.of_pair = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1))
        self.unary = nn.ModuleList(nn.Linear(hidden, 1) for _ in range(2 if unary else 0))
        for module in list(self.modules()):
            if isinstance(module, CONVOLUTIONS):
                add_spectral_norm(module)

    def forward(self, x: Tensor, z: Tensor) -> list[Tensor]:
        """Logits (B, 1): s_xz, then s_x and s_z if there are any. x: (B, C, X, Y, Z), z: (B, latent)."""
        features = [self.of_image(x), self.of_code(z)]
        alone = [head(f) for head, f in zip(self.unary, features, strict=False)]
        return [self.of_pair(torch.cat(features, 1)), *alone]
