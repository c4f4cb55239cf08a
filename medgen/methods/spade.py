"""SPADE: semantic image synthesis with spatially-adaptive normalization (Park et al., CVPR 2019).

    γ(m) · (h - μ) / σ + β(m)                                                                   (eq. 1)

m: semantic map (one-hot labels), y: its image, ŷ = G(m, z). In every norm of G, the scale γ and shift β are computed
from m for each voxel, so that normalisation does not remove the labels. z ~ N(μ, σ²) is the style, encoded from y by
the encoder E and kept near N(0, 1) by a KL term; at inference it is drawn at random or encoded from an example image. D
distinguishes (m, y) and (m, ŷ) at two scales, with hinge loss and feature matching of its layers. G and D use spectral
norm and separate learning rates (two time scales, Heusel 2017).
Differences from the paper: no perceptual loss, because there is no VGG for 3D scans (``weight_l1`` can replace it); D
is updated before G, as in the other methods; instance norm, because batch norm differs between training and inference
(docs/decisions/norms.md).
"""

from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, AdversarySettings, optimizers
from medgen.losses.kl import kl_loss
from medgen.methods.base import NAME, MethodSettings
from medgen.networks.spade import SPADEGenerator, SPADESettings
from medgen.types import Batch, DataShape, Update, Weight


class Settings(MethodSettings):
    paired_only: ClassVar[bool] = True

    name: Literal["spade"] = Field("spade", description=NAME)
    lr: Annotated[float, Field(gt=0)] = Field(1e-4, description="learning rate of G and E (paper: 1e-4)")
    betas: tuple[float, float] = Field((0.0, 0.9), description="betas of Adam, for all networks (paper: 0 and 0.9)")
    generator: SPADESettings = Field(
        SPADESettings(), description="G, from a map and a style to an image, and its style encoder E"
    )
    adversary: AdversarySettings = Field(
        AdversarySettings(objective="hinge", scales=2, spectral_norm=True, lr=4e-4),
        description="D, the discriminator of pairs of map and image; layers: 3 corresponds to 4 in the paper, "
        "which also counts the first layer",
    )
    texture: Annotated[int, Field(ge=0)] = Field(
        0,
        description="channels of voxelwise noise in addition to the map (paper: 0; OASIS, Sushko 2021: 64); without it "
        "G cannot generate grain inside large regions of one label; D does not see the noise",
    )
    weight_gan: Weight = Field(1.0, description="weight of the adversarial loss (paper: 1)")
    weight_features: Weight = Field(10.0, description="weight of feature matching (paper: 10)")
    weight_kl: Weight = Field(0.05, description="weight of the KL divergence of the style from N(0, 1) (paper: 0.05)")
    weight_l1: Weight = Field(
        0.0, description="weight of the L1 distance to the image (paper: 0, but a perceptual loss of weight 10)"
    )


class SPADE:
    """Translate label maps (``intensity.source.kind: labels``), or other aligned maps, to images."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        dims, n = settings.spatial_dims, data.in_channels
        G = SPADEGenerator(
            settings.generator, spatial_dims=dims, in_channels=n + settings.texture, out_channels=data.out_channels
        )
        D = Adversary(settings.adversary, spatial_dims=dims, in_channels=n + data.out_channels)
        self.settings, self.in_channels = settings, n
        self.latent, self.texture = settings.generator.latent, settings.texture
        self.networks: dict[str, nn.Module] = {"G": G, "D": D.network}
        self.adversaries = {"D": D}
        self.memory: dict[str, nn.Module] = {"pool": D.pool}
        self.z: Tensor | None = None  # (1, latent), style used by ``translate``; None: 0, the mean style

    def optimizers(self) -> dict[str, Optimizer]:
        return optimizers([self.networks["G"]], list(self.adversaries.values()), self.settings.lr, self.settings.betas)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of D, then one of G and E. ``batch``: "source" m, "target" y (B, C, X, Y, Z) in [-1, 1]."""
        m, y, n, s = batch["source"], batch["target"], batch["step"], self.settings
        G, D = cast(SPADEGenerator, self.networks["G"]), self.adversaries["D"]
        losses: dict[str, Tensor] = {}
        total: Tensor | float = 0.0
        z = None
        if self.latent:
            mu, log_var = G.encode(y)
            z = mu + torch.randn_like(mu) * (0.5 * log_var).exp()
            losses["kl"] = kl_loss(mu, log_var)
            total = s.weight_kl * losses["kl"]
        grain = torch.randn(len(m), self.texture, *m.shape[2:], device=m.device, dtype=m.dtype)
        y_hat = G(torch.cat([m, grain], 1), z)
        real, fake = torch.cat([m, y], 1), torch.cat([m, y_hat], 1)
        losses["D"] = D.discriminator_loss(real, fake, n)
        update("D", losses["D"])
        if not D.generators_turn(n):
            return losses
        losses["G_gan"], losses["features"] = D.generator_losses(real, fake)
        losses["G_l1"] = (y_hat - y).abs().mean()
        total = total + s.weight_gan * losses["G_gan"] + s.weight_features * losses["features"]
        update("G", total + s.weight_l1 * losses["G_l1"])
        return losses

    def draw_style(self, generator: torch.Generator) -> Tensor:
        """z ~ N(0, 1) (1, latent), drawn on the CPU, so that a seed gives the same style on every device."""
        device = next(self.networks["G"].parameters()).device
        return torch.randn(1, self.latent, generator=generator, device="cpu").to(device)

    def style_of(self, y: Tensor) -> Tensor:
        """The style μ (1, latent) of an image (1, C, X, Y[, Z]) in [-1, 1], of any size."""
        return cast(SPADEGenerator, self.networks["G"]).encode(y)[0]

    def translate(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) in [-1, 1] → the same grid, in the style ``self.z``.

        Channels of noise (``inference.style.Grain``) may follow those of m; without them the noise is 0.
        """
        missing = self.in_channels + self.texture - x.shape[1]
        grain = x.new_zeros(len(x), missing, *x.shape[2:])
        return self.networks["G"](torch.cat([x, grain], 1), self.z)
