"""VAE-GAN: autoencoding beyond pixels using a learned similarity metric (Larsen et al., ICML 2016).

    min_{E,G}  λ_kl KL(q(z|x) ‖ N(0, 1)) + λ_f L_features(x, G(z)) + λ₁ E|x - G(z)| + λ_gan L_GAN    (eq. 8)
    max_D      log D(x) + log(1 - D(G(z))) + log(1 - D(G(z_p)))                                 (eq. 9)

E: encoder, z ~ q(z|x): code, G: decoder, D: discriminator of images, z_p ~ N(0, 1). The layers of D measure how alike
an image and its reconstruction are (L_features), which keeps texture that a distance of voxels averages away. D also
sees reconstructions and samples. E gets no gradient of L_GAN (section 3.2).
Differences from the paper: the distance of layers is L1 (``losses.feature_matching``) with one weight for E and G; a
small L1 term of voxels, without which three-dimensional training starts slowly; D is updated first.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from medgen.losses.adversary import Adversary, AdversarySettings
from medgen.losses.kl import kl_loss
from medgen.methods.base import NAME
from medgen.methods.shared.autoencoder import AutoencoderMethod, AutoencoderMethodSettings
from medgen.networks.autoencoder import Autoencoder, AutoencoderSettings
from medgen.types import Batch, DataShape, Update, Weight


class Settings(AutoencoderMethodSettings):
    name: Literal["vae_gan"] = Field("vae_gan", description=NAME)
    generator: AutoencoderSettings = Field(AutoencoderSettings(), description="E and G")
    adversary: AdversarySettings = Field(
        AdversarySettings(objective="hinge", filters=16, layers=2, spectral_norm=True, norm="none"),
        description="D, the discriminator of images",
    )
    weight_kl: Weight = Field(0.01, description="weight of the KL divergence of codes from N(0, 1) (λ_kl)")
    weight_features: Weight = Field(1.0, description="weight of feature matching (λ_f)")
    weight_l1: Weight = Field(1.0, description="weight of the L1 distance to the image (λ₁; paper: 0)")
    weight_gan: Weight = Field(0.1, description="weight of the adversarial loss (λ_gan)")
    lr: float = Field(5e-4, gt=0, description="learning rate of E and G")
    betas: tuple[float, float] = Field((0.5, 0.999), description="betas of Adam, for all networks")


class VAEGAN(AutoencoderMethod):
    """Generate images from codes of a normal distribution; learns from images alone (``data.sources: []``)."""

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings = settings
        network = Autoencoder(settings.generator, channels=data.out_channels, patch=data.patch, outputs=2)
        super().__init__(settings, network)
        D = Adversary(settings.adversary, spatial_dims=3, in_channels=data.out_channels)
        self.networks["D"], self.memory["pool"], self.adversaries["D"] = D.network, D.pool, D

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of D, then one of E and G. ``batch``: "target" x (B, C, X, Y, Z) in [-1, 1]."""
        x, n, s = batch["target"], batch["step"], self.settings
        G, D = self._network, self.adversaries["D"]
        mu, log_var = self._code(x)
        z = mu + torch.randn_like(mu) * (0.5 * log_var).exp()
        fakes = G.decoder(torch.cat([z.detach(), torch.randn_like(z)]))  # of codes without gradient to E, and samples
        losses = {"D": D.discriminator_loss(torch.cat([x, x]), fakes, n)}
        update("D", losses["D"])
        if not D.generators_turn(n):
            return losses
        x_hat = G.decoder(z)
        losses["G_gan"] = D.generator_loss(fakes)
        losses["features"] = D.generator_losses(x, x_hat)[1]
        losses["G_l1"] = (x_hat - x).abs().mean()
        losses["kl"] = kl_loss(mu, log_var)
        total = s.weight_gan * losses["G_gan"] + s.weight_features * losses["features"]
        update("G", total + s.weight_l1 * losses["G_l1"] + s.weight_kl * losses["kl"])
        return losses

    def _code(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ² (B, latent), in 32 bits."""
        mu, log_var = self._network.encoder(x).float().chunk(2, 1)
        return mu, log_var.clamp(-20, 10)

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """G(z) of z ~ N(0, 1)."""
        return self._network.sample(n, shape, generator)

    def encode(self, x: Tensor) -> Tensor:
        """μ (B, latent)."""
        return self._code(x)[0]
