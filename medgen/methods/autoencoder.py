"""Autoencoder: a code from which a decoder restores the image (Hinton and Salakhutdinov, Science 2006).

    min_{E,D}  E[(x - D(E(x)))²]

E: encoder, D: decoder, z = E(x): code. The codes have no known distribution, so nothing can be sampled: an autoencoder
compresses images, and its error tells how unusual an image is. ``vae``, ``wae`` and ``aae`` give the codes a prior.
Differences from the paper: convolutions, and no layer-wise pretraining, which networks with norms do not need.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from medgen.methods.base import NAME
from medgen.methods.shared.autoencoder import AutoencoderMethod, AutoencoderMethodSettings
from medgen.networks.autoencoder import Autoencoder as Network
from medgen.types import Batch, DataShape, Update


class Settings(AutoencoderMethodSettings):
    name: Literal["autoencoder"] = Field("autoencoder", description=NAME)


class Autoencoder(AutoencoderMethod):
    """Compress images to a code and restore them; learns from images alone (``data.sources: []``)."""

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings = settings
        super().__init__(settings, Network(settings.generator, channels=data.out_channels, patch=data.patch))

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of E and D. ``batch``: "target" x (B, C, X, Y, Z) in [-1, 1]."""
        x = batch["target"]
        loss = (x - self._network.decoder(self.encode(x))).float().square().mean()
        update("G", loss)
        return {"G_l2": loss}
