"""SPADE: semantic image synthesis with spatially-adaptive normalization (Park et al., CVPR 2019).

    γ(m) · (h - μ) / σ + β(m)                                                                   (eq. 1)

m: semantic map (one-hot labels), y: its image, ŷ = G(m, z). In every norm of G the scale γ and shift β come from m,
voxel by voxel, so that no norm washes the labels out. z ~ N(μ, σ²) is the style that the encoder E finds in y, held
near N(0, 1) by KL; later it is drawn, or taken from an image whose look is wanted. D judges (m, y) and (m, ŷ) at two
scales: hinge loss, feature matching of its layers, spectral norm in both, two time scales (Heusel 2017).
Departures: no perceptual loss, for there is no VGG of 3D scans (``weight_l1`` can stand in); D is updated before G, as
in the other methods; norm is instance, for batch norm differs between training and use (docs/decisions/norms.md).
"""

from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversarial import Objective
from medgen.losses.adversary import Adversary, optimizers
from medgen.losses.kl import kl_loss
from medgen.networks.generator import Norm
from medgen.networks.spade import SPADEGenerator, Style
from medgen.types import Batch, Count, Update, Weight


class SPADE:
    """Label maps (``codec.source.kind: labels``), or any map of the same place, to images.

    Args:
        spatial_dims: 3, or 2 for slices.
        in_channels, out_channels: of m and of y; given by the data.
        filters, hidden, levels, norm, generator_spectral_norm: of G, see ``networks.spade``.
        latent: length of z (paper: 256); 0: one image a map, no E.
        texture: channels of noise beside m, drawn for each voxel (paper: 0; OASIS, Sushko 2021: 64): without it G has
            nothing to make grain of where a label is the same all around. D does not see it.
        style, style_norm, style_grid: how z enters G and how E finds it, see ``networks.spade``.
        objective: adversarial loss (paper: hinge).
        discriminator_scales: (paper: 2); discriminator_layers 3 is the paper's 4, which counts the first.
        weight_gan: of generator_loss (paper: 1).
        weight_features: of feature matching (paper: 10).
        weight_kl: (paper: 0.05).
        weight_l1: of ‖ŷ - y‖₁ (paper: none, but a perceptual loss of weight 10).
        lr, lr_discriminator: two time scales (paper: 1e-4 and 4e-4).
        betas: of Adam (paper: 0 and 0.9).
        and those of ``losses.adversary``.
    """

    generator = "G"
    paired_only = True

    def __init__(
        self,
        *,
        spatial_dims: Literal[2, 3] = 3,
        in_channels: Count = 1,
        out_channels: Count = 1,
        filters: Count = 64,
        hidden: Count = 128,
        levels: Count = 5,
        norm: Norm = "instance",
        generator_spectral_norm: bool = True,
        latent: Annotated[int, Field(ge=0)] = 256,
        texture: Annotated[int, Field(ge=0)] = 0,
        style: Style = "head",
        style_norm: Norm = "instance",
        style_grid: Count = 4,
        objective: Objective = "hinge",
        discriminator_scales: Count = 2,
        spectral_norm: bool = True,
        weight_gan: Weight = 1.0,
        weight_features: Weight = 10.0,
        weight_kl: Weight = 0.05,
        weight_l1: Weight = 0.0,
        lr: Annotated[float, Field(gt=0)] = 1e-4,
        lr_discriminator: Annotated[float, Field(gt=0)] | None = 4e-4,
        betas: tuple[float, float] = (0.0, 0.9),
        **adversary: Annotated[Any, Adversary],
    ) -> None:
        G = SPADEGenerator(
            spatial_dims=spatial_dims,
            in_channels=in_channels + texture,
            out_channels=out_channels,
            filters=filters,
            hidden=hidden,
            levels=levels,
            norm=norm,
            spectral_norm=generator_spectral_norm,
            latent=latent,
            style=style,
            style_norm=style_norm,
            style_grid=style_grid,
        )
        D = Adversary(
            spatial_dims=spatial_dims,
            in_channels=in_channels + out_channels,
            objective=objective,
            discriminator_scales=discriminator_scales,
            spectral_norm=spectral_norm,
            lr_discriminator=lr_discriminator,
            **adversary,
        )
        self.networks: dict[str, nn.Module] = {"G": G, "D": D.network}
        self.adversaries = {"D": D}
        self.memory: dict[str, nn.Module] = {"pool": D.pool}
        self.latent, self.texture, self.in_channels = latent, texture, in_channels
        self.weight_gan, self.weight_features = weight_gan, weight_features
        self.weight_kl, self.weight_l1 = weight_kl, weight_l1
        self.lr, self.betas = lr, betas
        self.z: Tensor | None = None  # (1, latent), the style of what ``translate`` makes; none: 0, the middle one

    def optimizers(self) -> dict[str, Optimizer]:
        return optimizers([self.networks["G"]], list(self.adversaries.values()), self.lr, self.betas)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of D, then one of G and E. ``batch``: "source" m, "target" y (B, C, X, Y, Z) in [-1, 1]."""
        m, y, n = batch["source"], batch["target"], batch["step"]
        G, D = cast(SPADEGenerator, self.networks["G"]), self.adversaries["D"]
        losses: dict[str, Tensor] = {}
        total: Tensor | float = 0.0
        z = None
        if self.latent:
            mu, log_var = G.encode(y)
            z = mu + torch.randn_like(mu) * (0.5 * log_var).exp()
            losses["kl"] = kl_loss(mu, log_var)
            total = self.weight_kl * losses["kl"]
        grain = torch.randn(len(m), self.texture, *m.shape[2:], device=m.device, dtype=m.dtype)
        y_hat = G(torch.cat([m, grain], 1), z)
        real, fake = torch.cat([m, y], 1), torch.cat([m, y_hat], 1)
        losses["D"] = D.discriminator_loss(real, fake, n)
        update("D", losses["D"])
        if not D.generators_turn(n):
            return losses
        losses["G_gan"], losses["features"] = D.generator_losses(real, fake)
        losses["G_l1"] = (y_hat - y).abs().mean()
        total = total + self.weight_gan * losses["G_gan"] + self.weight_features * losses["features"]
        update("G", total + self.weight_l1 * losses["G_l1"])
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

        Channels of texture may come after those of m (``inference.style.Grain``); without them it is 0.
        """
        missing = self.in_channels + self.texture - x.shape[1]
        grain = x.new_zeros(len(x), missing, *x.shape[2:])
        return self.networks["G"](torch.cat([x, grain], 1), self.z)
