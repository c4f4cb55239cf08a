"""GANs from codes: networks, optimizers, the adversarial step and samples. A method may draw images otherwise."""

from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, AdversarySettings, optimizers
from medgen.types import Batch, Update


class _Settings(Protocol):
    @property
    def adversary(self) -> AdversarySettings: ...
    @property
    def lr(self) -> float: ...
    @property
    def betas(self) -> tuple[float, float]: ...


class CodeGAN:
    """A method with a generator G of codes and a discriminator D; learns from images alone (``data.sources: []``).

    Args:
        settings: of the method.
        G: from codes of the length ``latent`` to images; with ``sample(n, shape, generator)``.
        channels: of an image.
        outputs: output maps of D.
    """

    generator = "G"

    def __init__(self, settings: _Settings, G: nn.Module, channels: int, outputs: int = 1) -> None:
        D = Adversary(settings.adversary, spatial_dims=3, in_channels=channels, out_channels=outputs)
        self.networks: dict[str, nn.Module] = {"G": G, "D": D.network}
        self.adversaries = {"D": D}
        self.memory: dict[str, nn.Module] = {"pool": D.pool}
        self._rate, self._betas = settings.lr, settings.betas

    def optimizers(self) -> dict[str, Optimizer]:
        return optimizers([self.networks["G"]], list(self.adversaries.values()), self._rate, self._betas)

    def draw(self, x: Tensor) -> Tensor:
        """As many new images as there are in x: G(z) of z ~ N(0, 1)."""
        G = self.networks["G"]
        return G(codes(x, cast(int, G.latent)))

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of D, then one of G. ``batch``: "target" x (B, C, X, Y, Z) in [-1, 1]."""
        x, n, D = batch["target"], batch["step"], self.adversaries["D"]
        fake = self.draw(x)
        losses = {"D": D.discriminator_loss(x, fake, n)}
        update("D", losses["D"])
        if D.generators_turn(n):
            losses["G_gan"] = D.generator_loss(fake)
            update("G", losses["G_gan"])
        return losses

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Images of codes of N(0, 1)."""
        return self.networks["G"].sample(n, shape, generator)  # type: ignore[operator]


def codes(x: Tensor, length: int) -> Tensor:
    """z ~ N(0, 1) (B, length) for a batch x."""
    return torch.randn_like(x.new_empty(len(x), length))
