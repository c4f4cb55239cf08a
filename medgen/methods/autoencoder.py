"""Autoencoder: a code from which a decoder restores the image (Hinton and Salakhutdinov, Science 2006).

    min_{E,D}  E[(x - D(E(x)))²]

E: encoder, D: decoder, z = E(x): code. The codes have no known distribution, so nothing can be sampled: an autoencoder
compresses images, and its error tells how unusual an image is. ``vae``, ``wae`` and ``aae`` give the codes a prior.
Differences from the paper: convolutions, and no layer-wise pretraining, which networks with norms do not need.
"""

from typing import Literal, cast

from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, optimizers
from medgen.methods.base import NAME, GenerativeSettings
from medgen.networks.autoencoder import Autoencoder as Network
from medgen.networks.autoencoder import AutoencoderSettings
from medgen.types import Batch, DataShape, Update


class Settings(GenerativeSettings):
    name: Literal["autoencoder"] = Field("autoencoder", description=NAME)
    generator: AutoencoderSettings = Field(AutoencoderSettings(), description="encoder and decoder")
    lr: float = Field(1e-3, gt=0, description="learning rate")
    betas: tuple[float, float] = Field((0.9, 0.999), description="betas of Adam")


class Autoencoder:
    """Compress images to a code and restore them; learns from images alone (``data.sources: []``)."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings = settings
        network = Network(settings.generator, channels=data.out_channels, patch=data.patch)
        self.networks: dict[str, nn.Module] = {"G": network}
        self.memory: dict[str, nn.Module] = {}
        self.adversaries: dict[str, Adversary] = {}

    def optimizers(self) -> dict[str, Optimizer]:
        return optimizers([self.networks["G"]], [], self.settings.lr, self.settings.betas)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of E and D. ``batch``: "target" x (B, C, X, Y, Z) in [-1, 1]."""
        x = batch["target"]
        loss = (x - self.reconstruct(x)).float().square().mean()
        update("G", loss)
        return {"G_l2": loss}

    def encode(self, x: Tensor) -> Tensor:
        """z (B, latent)."""
        return cast(Network, self.networks["G"]).encoder(x)

    def reconstruct(self, x: Tensor) -> Tensor:
        return cast(Network, self.networks["G"]).decoder(self.encode(x))
