"""WAE-MMD: Wasserstein autoencoder (Tolstikhin et al., ICLR 2018).

    min_{E,D}  E[c(x, D(E(x)))] + λ MMD(q(z), p(z))                                              (eq. 4, algorithm 2)

c: squared distance, q(z): codes E(x) of a batch, p(z) = N(0, 1): as many draws of the prior. Unlike in ``vae``, not
each code but all codes together have to look like the prior, so an image has one code without noise. The MMD is the
unbiased estimate with the kernel of the paper (``losses.mmd``).
Differences from the paper: c is the mean over the voxels, not the sum, so λ is smaller.
"""

from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, optimizers
from medgen.losses.mmd import mmd
from medgen.methods.base import NAME, GenerativeSettings
from medgen.networks.autoencoder import Autoencoder, AutoencoderSettings
from medgen.types import Batch, DataShape, Update, Weight


class Settings(GenerativeSettings):
    least_batch: ClassVar[int] = 2

    name: Literal["wae"] = Field("wae", description=NAME)
    generator: AutoencoderSettings = Field(AutoencoderSettings(), description="encoder and decoder")
    weight_mmd: Weight = Field(0.1, description="weight of the MMD of codes and prior (λ)")
    lr: float = Field(1e-3, gt=0, description="learning rate")
    betas: tuple[float, float] = Field((0.9, 0.999), description="betas of Adam")


class WAE:
    """Generate images from codes of a normal distribution; learns from images alone (``data.sources: []``)."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings = settings
        network = Autoencoder(settings.generator, channels=data.out_channels, patch=data.patch)
        self.networks: dict[str, nn.Module] = {"G": network}
        self.memory: dict[str, nn.Module] = {}
        self.adversaries: dict[str, Adversary] = {}

    def optimizers(self) -> dict[str, Optimizer]:
        return optimizers([self.networks["G"]], [], self.settings.lr, self.settings.betas)

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

    @property
    def _network(self) -> Autoencoder:
        return cast(Autoencoder, self.networks["G"])

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """D(z) of z ~ N(0, 1)."""
        return self._network.decoder(self._network.draw(n, shape, generator)).float().clamp(-1, 1)

    def encode(self, x: Tensor) -> Tensor:
        """z (B, latent)."""
        return self._network.encoder(x)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self._network.decoder(self.encode(x)).float().clamp(-1, 1)
