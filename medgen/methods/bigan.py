"""BiGAN: bidirectional GAN (Donahue et al., ICLR 2017), with the unary terms of BigBiGAN (NeurIPS 2019) as an option.

    min_{G,E} max_D  E_x[log D(x, E(x))] + E_z[log(1 - D(G(z), z))],   z ~ N(0, 1)              (eq. 3)

G: generator, E: encoder, D: discriminator of pairs. For fixed G and E, the best D has the odds p_E(x, z) / p_G(x, z),
and when the two joint distributions are equal, E inverts G. So the codes of an image are those from which G makes it,
without any loss between an image and its reconstruction. With ``unary``, D also scores x alone and z alone, which makes
sure that both marginals are matched; the scores are averaged.
Differences from the papers: each of G and E makes its pairs look like those of the other (non-saturating form,
Donahue 2017, section 3.4) by default; E returns one code, not a distribution; D is updated before G and E.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from medgen.losses.adversarial import discriminator_loss, generator_loss
from medgen.losses.adversary import optimizers
from medgen.methods.base import NAME
from medgen.methods.shared.autoencoder import AutoencoderMethod, AutoencoderMethodSettings
from medgen.networks.autoencoder import Autoencoder, AutoencoderSettings
from medgen.networks.discriminator import frozen
from medgen.networks.joint_discriminator import JointDiscriminator
from medgen.types import Batch, Count, DataShape, Update, Weight


class Settings(AutoencoderMethodSettings):
    name: Literal["bigan"] = Field("bigan", description=NAME)
    discriminator: AutoencoderSettings = Field(
        AutoencoderSettings(), description="the part of D that sees the image; latent has no meaning"
    )
    hidden: Count = Field(128, description="length of D's features of an image and of a code")
    unary: bool = Field(False, description="D also scores images and codes alone (BigBiGAN: true)")
    objective: Literal["non_saturating", "minimax", "hinge"] = Field(
        "non_saturating", description="adversarial loss (BigBiGAN: hinge)"
    )
    weight_l1: Weight = Field(0.0, description="weight of E|x - G(E(x))| in the loss of G and E (papers: 0)")
    lr: float = Field(2e-4, gt=0, description="learning rate of G and E (paper: 2e-4)")
    lr_discriminator: float = Field(2e-4, gt=0, description="learning rate of D")
    betas: tuple[float, float] = Field((0.5, 0.999), description="betas of Adam, for all networks")


class BiGAN(AutoencoderMethod):
    """Generate images, and find the codes of images, by one game; learns from images alone (``data.sources: []``)."""

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings = settings
        super().__init__(settings, Autoencoder(settings.generator, channels=data.out_channels, patch=data.patch))
        self.networks["D"] = JointDiscriminator(
            settings.discriminator,
            hidden=settings.hidden,
            channels=data.out_channels,
            patch=data.patch,
            latent=settings.generator.latent,
            unary=settings.unary,
        )

    def optimizers(self) -> dict[str, Optimizer]:
        s = self.settings
        return super().optimizers() | {"D": optimizers([self.networks["D"]], [], s.lr_discriminator, s.betas)["G"]}

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of D, then one of G and E. ``batch``: "target" x (B, C, X, Y, Z) in [-1, 1]."""
        x, s, G, D = batch["target"], self.settings, self._network, self.networks["D"]
        code = G.encoder(x)
        z = torch.randn_like(code)
        made = G.decoder(z)
        losses = {"D": discriminator_loss(s.objective, D(x, code.detach()), D(made.detach(), z))}
        update("D", losses["D"])
        with frozen(D):
            losses["G_gan"] = generator_loss(s.objective, D(made, z))
            losses["E_gan"] = generator_loss(s.objective, [-score for score in D(x, code)])
        total = losses["G_gan"] + losses["E_gan"]
        if s.weight_l1:
            losses["G_l1"] = (x - G.decoder(code)).abs().mean()
            total = total + s.weight_l1 * losses["G_l1"]
        update("G", total)
        return losses

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """G(z) of z ~ N(0, 1)."""
        return self._network.sample(n, shape, generator)
