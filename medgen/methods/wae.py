"""WAE-MMD: Wasserstein autoencoder (Tolstikhin et al., ICLR 2018).

    min_{E,D}  E[c(x, D(E(x)))] + λ MMD(q(z), p(z))                                              (eq. 4, algorithm 2)

c: squared distance, q(z): codes E(x) of a batch, p(z) = N(0, 1): as many draws of the prior. Unlike in ``vae``, not
each code but all codes together have to look like the prior, so an image has one code without noise. The MMD is the
unbiased estimate with the kernel of the paper (``losses.mmd``).
Differences from the paper: c is the mean over the voxels, not the sum, so λ is smaller.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from medgen.losses.mmd import mmd
from medgen.methods.base import NAME
from medgen.methods.shared.autoencoder import AutoencoderMethod, AutoencoderMethodSettings
from medgen.networks.autoencoder import Autoencoder
from medgen.types import Batch, DataShape, Update, Weight


class Settings(AutoencoderMethodSettings):
    least_batch: ClassVar[int] = 2

    name: Literal["wae"] = Field("wae", description=NAME)
    weight_mmd: Weight = Field(0.1, description="weight of the MMD of codes and prior (λ)")


class WAE(AutoencoderMethod):
    """Generate images from codes of a normal distribution; learns from images alone (``data.sources: []``)."""

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings = settings
        super().__init__(settings, Autoencoder(settings.generator, channels=data.out_channels, patch=data.patch))

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of E and D. ``batch``: "target" x (B, C, X, Y, Z) in [-1, 1]."""
        x, G = batch["target"], self._network
        z = G.encoder(x)
        losses = {
            "G_l2": (x - G.decoder(z)).float().square().mean(),
            "G_mmd": mmd(z, torch.randn_like(z)),
        }
        update("G", losses["G_l2"] + self.settings.weight_mmd * losses["G_mmd"])
        return losses

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """D(z) of z ~ N(0, 1)."""
        return self._network.sample(n, shape, generator)
