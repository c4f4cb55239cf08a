"""Pix2Pix: image-to-image translation with conditional adversarial networks (Isola et al., CVPR 2017).

    G* = arg min_G max_D  L_cGAN(G, D) + λ L_L1(G)                                              (eq. 4)

x: source, y: target of the same place, ŷ = G(x). D judges the pairs (x, y) and (x, ŷ).
Departures: noise enters as dropout (and as channels, if asked for) in training only, so that a conversion is
repeatable; D's norm is instance (docs/decisions/norms.md).
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversarial import Objective
from medgen.losses.adversary import Adversary, optimizers
from medgen.losses.diversity import mode_seeking_loss
from medgen.networks.blocks.background import background_kept
from medgen.networks.generator import GeneratorName, Norm, Start, build_generator
from medgen.networks.noise import draw_noise
from medgen.types import Batch, Count, Update, Weight


class Pix2Pix:
    """Paired translation.

    Args:
        spatial_dims: 3, or 2 for slices.
        in_channels, out_channels: contrasts in and out.
        generator, filters, levels, blocks, kernel, norm, dropout, upsample, stem, detail: see ``networks``.
        residual: G predicts the difference from its input, or from the input's negative.
        noise: channels of noise beside x, for tasks with more than one right answer.
        keep_background: what is coded -1 in the source (a masked background) stays -1 in the same channel, and G
            learns nothing there.
        objective: adversarial loss (paper: non_saturating).
        weight_gan: 0 leaves L1 regression alone, without a discriminator step.
        weight_l1: λ.
        weight_diversity: of the mode-seeking term, which keeps G from ignoring its noise (Mao 2019: 1).
        lr, betas: of Adam, for both networks.
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
        generator: GeneratorName = "unet",
        filters: Count = 64,
        levels: Count = 8,
        blocks: Count = 9,
        kernel: Count = 7,
        norm: Norm = "batch",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        upsample: Literal["deconv", "resize"] = "deconv",
        stem: Annotated[int, Field(ge=0)] = 0,
        detail: Annotated[int, Field(ge=0)] = 0,
        residual: Start = False,
        noise: Annotated[int, Field(ge=0)] = 0,
        keep_background: bool = False,
        objective: Objective = "non_saturating",
        weight_gan: Weight = 1.0,
        weight_l1: Weight = 100.0,
        weight_diversity: Weight = 0.0,
        lr: Annotated[float, Field(gt=0)] = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        **adversary: Annotated[Any, Adversary],
    ) -> None:
        if keep_background and out_channels > in_channels:
            raise ValueError(f"keep_background needs a source channel for each of the {out_channels} outputs")
        if weight_diversity and residual:
            raise ValueError(
                "weight_diversity has no gradient where a residual generator starts; leave one of them out"
            )
        if weight_diversity and not noise:
            raise ValueError("weight_diversity compares outputs of different noise; set noise to a number of channels")
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
            detail=detail,
            noise=noise,
        )
        self.networks: dict[str, nn.Module] = {"G": G}
        self.memory: dict[str, nn.Module] = {}
        self.adversaries: dict[str, Adversary] = {}
        if weight_gan:
            n = in_channels + out_channels
            D = Adversary(spatial_dims=spatial_dims, in_channels=n, objective=objective, **adversary)
            self.networks["D"], self.adversaries["D"], self.memory["pool"] = D.network, D, D.pool
        self.noise, self.keep_background = noise, keep_background
        self.weight_gan, self.weight_l1, self.weight_diversity = weight_gan, weight_l1, weight_diversity
        self.lr, self.betas = lr, betas

    def optimizers(self) -> dict[str, Optimizer]:
        return optimizers([self.networks["G"]], list(self.adversaries.values()), self.lr, self.betas)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of D, then one of G. ``batch``: "source", "target" (B, C, X, Y, Z) in [-1, 1]."""
        x, y, n = batch["source"], batch["target"], batch["step"]
        z = draw_noise(x, self.noise) if self.noise else None
        y_hat = self.translate(x, z)
        losses: dict[str, Tensor] = {}
        total: Tensor | float = 0.0
        if self.weight_gan:
            D = self.adversaries["D"]
            # halved, so that D learns slowly relative to G (section 3.3)
            losses["D"] = 0.5 * D.discriminator_loss(torch.cat([x, y], 1), torch.cat([x, y_hat], 1), n)
            update("D", losses["D"])
            if not D.generators_turn(n):
                return losses
            losses["G_gan"] = D.generator_loss(torch.cat([x, y_hat], 1))
            total = self.weight_gan * losses["G_gan"]
        losses["G_l1"] = (y_hat - y).abs().mean()
        total = total + self.weight_l1 * losses["G_l1"]
        if z is not None and self.weight_diversity:
            other = draw_noise(x, self.noise)
            losses["diversity"] = mode_seeking_loss(y_hat, self.translate(x, other), z, other)
            total = total + self.weight_diversity * losses["diversity"]
        update("G", total)
        return losses

    def translate(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """(B, C, X, Y, Z) in [-1, 1], and noise (B, K, 1, 1, 1) if not G's own → the same grid."""
        G = self.networks["G"]
        y_hat = G(x) if z is None else G(x, z)
        return background_kept(x, y_hat) if self.keep_background else y_hat
