"""IMLE: implicit maximum likelihood estimation (Li and Malik, arXiv 1809.09087, 2018).

    min_G  Σ_i min_j d(x_i, G(z_j)),   z_j ~ N(0, 1)                                            (algorithm 1)

Each real image has to be near some generated one. (A GAN asks the reverse, that each generated image looks real, and
may leave out real ones.) In each step, ``candidates`` images are drawn, and G brings the nearest one of each image of
the batch nearer to it.
Differences from the paper: new candidates in every step; d is the L1 distance of Laplacian pyramids (as in ``glo``) in
place of the Euclidean distance, which blurs.
"""

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, optimizers
from medgen.losses.pyramid import nearest, pyramid_vectors
from medgen.methods.base import NAME, GenerativeSettings
from medgen.networks.dcgan import CodeGenerator, DCGANSettings
from medgen.types import Batch, Count, DataShape, Update


class Settings(GenerativeSettings):
    name: Literal["imle"] = Field("imle", description=NAME)
    generator: DCGANSettings = Field(DCGANSettings(), description="G, from codes to images")
    candidates: Count = Field(16, description="images drawn in a step, of which the nearest are trained")
    lr: float = Field(1e-3, gt=0, description="learning rate")
    betas: tuple[float, float] = Field((0.9, 0.999), description="betas of Adam")


class IMLE:
    """Generate images near all real ones, without a discriminator; learns from images alone (``data.sources: []``)."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings = settings
        self.networks: dict[str, nn.Module] = {
            "G": CodeGenerator(settings.generator, channels=data.out_channels, patch=data.patch)
        }
        self.memory: dict[str, nn.Module] = {}
        self.adversaries: dict[str, Adversary] = {}

    def optimizers(self) -> dict[str, Optimizer]:
        return optimizers([self.networks["G"]], [], self.settings.lr, self.settings.betas)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of G. ``batch``: "target" x (B, C, X, Y, Z) in [-1, 1]."""
        x, G = batch["target"], self._network
        wanted = pyramid_vectors(x)
        z = torch.randn_like(x.new_empty(self.settings.candidates, G.latent))
        with torch.no_grad():
            made = torch.cat([pyramid_vectors(G(part)) for part in z.split(len(x))])
        torch.clear_autocast_cache()  # otherwise the next pass reuses cast weights without gradient
        chosen = G(z[nearest(wanted, made)])
        loss = (pyramid_vectors(chosen) - wanted).abs().sum(1).mean()
        update("G", loss)
        return {"G_pyramid": loss}

    @property
    def _network(self) -> CodeGenerator:
        return cast(CodeGenerator, self.networks["G"])

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """G(z) of z ~ N(0, 1)."""
        return self._network.sample(n, shape, generator)
