"""AAE: adversarial autoencoder (Makhzani et al., arXiv 1511.05644, 2015).

    min_{E,G} max_D  λ₂ E[(x - G(E(x)))²] + λ_gan (E_{z~N(0,1)}[log D(z)] + E_x[log(1 - D(E(x)))])

E: encoder, G: decoder, D: discriminator of codes, which tells draws of the prior from codes of images. When it cannot,
the codes are distributed as the prior, and G makes images of its draws.
Differences from the paper: D is updated before E, as in the other methods; E maximises log D(E(x)), the non-saturating
form (Goodfellow 2014); both terms of E and G are one update.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from medgen.losses.adversarial import discriminator_loss, generator_loss
from medgen.methods.base import NAME
from medgen.methods.shared.autoencoder import AutoencoderMethod, AutoencoderMethodSettings
from medgen.networks.autoencoder import Autoencoder
from medgen.networks.discriminator import frozen
from medgen.types import Batch, Count, DataShape, Update, Weight


class Settings(AutoencoderMethodSettings):
    name: Literal["aae"] = Field("aae", description=NAME)
    hidden: Count = Field(128, description="units of the two hidden layers of D (paper: 1000)")
    weight_l2: Weight = Field(1.0, description="weight of the squared error of the restored image (λ₂)")
    weight_gan: Weight = Field(0.01, description="weight of the adversarial loss of codes (λ_gan)")
    lr: float = Field(1e-3, gt=0, description="learning rate of E and G")
    lr_discriminator: float = Field(2e-4, gt=0, description="learning rate of D")
    betas: tuple[float, float] = Field((0.5, 0.999), description="betas of Adam, for all networks")


class AAE(AutoencoderMethod):
    """Generate images from codes of a normal distribution; learns from images alone (``data.sources: []``)."""

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings = settings
        super().__init__(settings, Autoencoder(settings.generator, channels=data.out_channels, patch=data.patch))
        n = settings.hidden
        D = nn.Sequential(
            nn.Linear(self._network.latent, n), nn.LeakyReLU(0.2), nn.Linear(n, n), nn.LeakyReLU(0.2), nn.Linear(n, 1)
        )
        self.networks["D"] = D

    def optimizers(self) -> dict[str, Optimizer]:
        s = self.settings
        D = Adam(self.networks["D"].parameters(), s.lr_discriminator, s.betas)
        return super().optimizers() | {"D": D}

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of D, then one of E and G. ``batch``: "target" x (B, C, X, Y, Z) in [-1, 1]."""
        x, s, G, D = batch["target"], self.settings, self._network, self.networks["D"]
        z = G.encoder(x)
        losses = {"D": discriminator_loss("non_saturating", [D(torch.randn_like(z))], [D(z.detach())])}
        update("D", losses["D"])
        losses["G_l2"] = (x - G.decoder(z)).float().square().mean()
        with frozen(D):
            losses["G_gan"] = generator_loss("non_saturating", [D(z)])
        update("G", s.weight_l2 * losses["G_l2"] + s.weight_gan * losses["G_gan"])
        return losses

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """G(z) of z ~ N(0, 1)."""
        return self._network.sample(n, shape, generator)
