"""Autoencoders with a dense code: settings, optimizer, codes and reconstructions. A method adds its losses."""

from typing import cast

from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, optimizers
from medgen.methods.base import GenerativeSettings
from medgen.networks.autoencoder import Autoencoder, AutoencoderSettings


class AutoencoderMethodSettings(GenerativeSettings):
    generator: AutoencoderSettings = Field(AutoencoderSettings(), description="encoder and decoder")
    lr: float = Field(1e-3, gt=0, description="learning rate of encoder and decoder")
    betas: tuple[float, float] = Field((0.9, 0.999), description="betas of Adam, for all networks")


class AutoencoderMethod:
    """A method whose network G is an ``Autoencoder``; learns from images alone (``data.sources: []``)."""

    generator = "G"

    def __init__(self, settings: AutoencoderMethodSettings, network: Autoencoder) -> None:
        self.networks: dict[str, nn.Module] = {"G": network}
        self.memory: dict[str, nn.Module] = {}
        self.adversaries: dict[str, Adversary] = {}
        self._rate, self._betas = settings.lr, settings.betas

    def optimizers(self) -> dict[str, Optimizer]:
        return optimizers([self.networks["G"]], list(self.adversaries.values()), self._rate, self._betas)

    @property
    def _network(self) -> Autoencoder:
        return cast(Autoencoder, self.networks["G"])

    def encode(self, x: Tensor) -> Tensor:
        """z (B, latent)."""
        return self._network.encoder(x)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self._network.decoder(self.encode(x)).float().clamp(-1, 1)
