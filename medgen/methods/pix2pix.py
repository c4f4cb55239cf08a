"""Pix2Pix: image-to-image translation with conditional adversarial networks (Isola et al., CVPR 2017).

    G* = arg min_G max_D  L_cGAN(G, D) + λ L_L1(G)                                              (eq. 4)

x: source, y: target of the same place, ŷ = G(x). D judges the pairs (x, y) and (x, ŷ).
Departures: noise enters as dropout in training only, so that a conversion is repeatable; D's norm is
instance (docs/decisions/norms.md).
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from medgen.losses.adversarial import Objective, discriminator_loss, generator_loss
from medgen.networks.discriminator import Discriminator, frozen
from medgen.networks.generator import GeneratorName, Norm, build_generator
from medgen.types import Batch, Update

Count = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]


class Pix2Pix:
    """Paired translation.

    Args:
        spatial_dims: 3, or 2 for slices.
        in_channels, out_channels: contrasts in and out.
        generator, filters, levels, blocks, kernel, norm, dropout, upsample, stem: see ``networks.unet`` and ``resnet``.
        residual: G predicts the difference from its input.
        keep_background: what is coded -1 in the source (a masked background) stays -1, and G learns nothing there.
        discriminator_filters, layers, scales, norm: see ``networks.discriminator``.
        objective: adversarial loss (paper: non_saturating).
        weight_gan: 0 leaves L1 regression alone, without a discriminator step.
        weight_l1: λ.
        lr, betas: of Adam, for both networks.
    """

    generator = "G"
    memory: dict[str, nn.Module]

    def __init__(
        self,
        *,
        spatial_dims: Literal[2, 3] = 3,
        in_channels: Count = 1,
        out_channels: Count = 1,
        generator: GeneratorName = "unet",
        filters: Count = 64,
        levels: Count = 8,
        blocks: Count = 9,
        kernel: Count = 7,
        norm: Norm = "batch",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        upsample: Literal["deconv", "resize"] = "deconv",
        stem: Annotated[int, Field(ge=0)] = 0,
        residual: bool = False,
        keep_background: bool = False,
        discriminator_filters: Count = 64,
        discriminator_layers: Count = 3,
        discriminator_scales: Count = 1,
        discriminator_norm: Norm = "instance",
        objective: Objective = "non_saturating",
        weight_gan: Weight = 1.0,
        weight_l1: Weight = 100.0,
        lr: Annotated[float, Field(gt=0)] = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
    ) -> None:
        G = build_generator(
            generator,
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            out_channels=out_channels,
            filters=filters,
            norm=norm,
            residual=residual,
            levels=levels,
            blocks=blocks,
            kernel=kernel,
            dropout=dropout,
            upsample=upsample,
            stem=stem,
        )
        self.networks: dict[str, nn.Module] = {"G": G}
        if weight_gan:
            self.networks["D"] = Discriminator(
                spatial_dims=spatial_dims,
                in_channels=in_channels + out_channels,
                filters=discriminator_filters,
                layers=discriminator_layers,
                scales=discriminator_scales,
                norm=discriminator_norm,
            )
        self.memory = {}
        self.keep_background = keep_background
        self.objective, self.weight_gan, self.weight_l1 = objective, weight_gan, weight_l1
        self.lr, self.betas = lr, betas

    def optimizers(self) -> dict[str, Optimizer]:
        return {k: Adam(n.parameters(), self.lr, self.betas) for k, n in self.networks.items()}

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of D, then one of G. ``batch``: "source", "target" (B, C, X, Y, Z) in [-1, 1]."""
        x, y = batch["source"], batch["target"]
        losses: dict[str, Tensor] = {}
        y_hat = self.translate(x)
        if self.weight_gan:
            D = self.networks["D"]
            real, fake = D(torch.cat([x, y], 1)), D(torch.cat([x, y_hat.detach()], 1))
            # halved, so that D learns slowly relative to G (section 3.3)
            losses["D"] = 0.5 * discriminator_loss(self.objective, real, fake)
            update("D", losses["D"])
            with frozen(D):
                losses["G_gan"] = generator_loss(self.objective, D(torch.cat([x, y_hat], 1)))
        losses["G_l1"] = (y_hat - y).abs().mean()
        gan = self.weight_gan * losses["G_gan"] if self.weight_gan else 0.0
        update("G", gan + self.weight_l1 * losses["G_l1"])
        return losses

    def translate(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) in [-1, 1] → the same grid."""
        y_hat = self.networks["G"](x)
        if self.keep_background:
            y_hat = torch.where(x[:, :1] <= -1, torch.full_like(y_hat, -1), y_hat)
        return y_hat
