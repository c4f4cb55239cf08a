"""Pix2Pix: image-to-image translation with conditional adversarial networks (Isola et al., CVPR 2017).

    G* = arg min_G max_D  L_cGAN(G, D) + λ L_L1(G)                                              (eq. 4)

x: source, y: aligned target, ŷ = G(x). D distinguishes the pairs (x, y) and (x, ŷ).
Differences from the paper: noise enters as dropout (and, with ``noise``, as channels) in training only, so that a
conversion is reproducible; D uses instance norm (docs/decisions/norms.md).
"""

import math
from typing import Annotated, ClassVar, Literal

import torch
from monai.networks.layers import separable_filtering
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, AdversarySettings, optimizers
from medgen.losses.diversity import mode_seeking_loss
from medgen.methods.base import NAME, MethodSettings
from medgen.networks.blocks.background import keep_background
from medgen.networks.generator import GeneratorSettings, build_generator
from medgen.networks.noise import draw_noise
from medgen.types import Batch, DataShape, Update, Weight


class Settings(MethodSettings):
    paired_only: ClassVar[bool] = True

    name: Literal["pix2pix"] = Field("pix2pix", description=NAME)
    generator: GeneratorSettings = Field(
        GeneratorSettings(name="unet", norm="batch", dropout=0.5), description="G, from source to target"
    )
    adversary: AdversarySettings = Field(
        AdversarySettings(objective="non_saturating"), description="D, the discriminator of pairs of source and target"
    )
    adversary_input: Literal["pair", "difference"] = Field(
        "pair",
        description="what D sees beside the source. pair: the target (paper); difference: difference_scale times "
        "target - source, for targets that differ little from the source, such as contrast removal",
    )
    difference_scale: Annotated[float, Field(gt=0)] = Field(8.0, description="see adversary_input")
    difference_blur: Weight = Field(
        0.0,
        description="standard deviation in voxels of a Gaussian on that difference, which removes independent noise of "
        "source and target (about 1.5); with it, D stayed at chance in contrast removal",
    )
    noise: Annotated[int, Field(ge=0)] = Field(
        0, description="channels of noise in addition to the source, for tasks with several valid outputs"
    )
    keep_background: bool = Field(
        False,
        description="keep voxels encoded as -1 in the source (a masked background) at -1 in the same output channel, "
        "without training G there",
    )
    weight_gan: Weight = Field(
        1.0, description="weight of the adversarial loss; 0: L1 regression only, without a discriminator"
    )
    weight_l1: Weight = Field(100.0, description="weight of the L1 distance to the target (λ)")
    weight_diversity: Weight = Field(
        0.0, description="weight of the mode-seeking term, which prevents G from ignoring its noise (Mao 2019: 1)"
    )

    @model_validator(mode="after")
    def _diversity_can_be_learned(self) -> "Settings":
        if self.weight_diversity and self.generator.residual:
            raise ValueError(
                "weight_diversity has no gradient at the start of a residual generator; set weight_diversity to 0 or "
                "residual to false"
            )
        if self.weight_diversity and not self.noise:
            raise ValueError(
                "weight_diversity compares outputs for different noise; set noise to a positive number of channels"
            )
        return self


class Pix2Pix:
    """Paired translation."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        if settings.keep_background and data.out_channels > data.in_channels:
            raise ValueError(
                f"keep_background needs a source channel for each of the {data.out_channels} output channels"
            )
        if settings.adversary_input == "difference" and data.out_channels > data.in_channels:
            raise ValueError(
                f"adversary_input difference needs a source channel for each of the {data.out_channels} output "
                "channels; set it to pair"
            )
        G = build_generator(
            settings.generator,
            spatial_dims=settings.spatial_dims,
            in_channels=data.in_channels,
            out_channels=data.out_channels,
            noise=settings.noise,
        )
        self.settings = settings
        self.networks: dict[str, nn.Module] = {"G": G}
        self.memory: dict[str, nn.Module] = {}
        self.adversaries: dict[str, Adversary] = {}
        if settings.weight_gan:
            n = data.in_channels + data.out_channels
            D = Adversary(settings.adversary, spatial_dims=settings.spatial_dims, in_channels=n)
            self.networks["D"], self.adversaries["D"], self.memory["pool"] = D.network, D, D.pool

    def optimizers(self) -> dict[str, Optimizer]:
        return optimizers([self.networks["G"]], list(self.adversaries.values()), self.settings.lr, self.settings.betas)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of D, then one of G when it is due. ``batch``: "source", "target" (B, C, X, Y, Z) in [-1, 1]."""
        x, y, n, s = batch["source"], batch["target"], batch["step"], self.settings
        z = draw_noise(x, s.noise) if s.noise else None
        y_hat = self.translate(x, z)
        losses: dict[str, Tensor] = {}
        total: Tensor | float = 0.0
        if s.weight_gan:
            D = self.adversaries["D"]
            # halved, so that D learns slowly relative to G (section 3.3)
            losses["D"] = 0.5 * D.discriminator_loss(self.judged(x, y), self.judged(x, y_hat), n)
            update("D", losses["D"])
            if not D.generators_turn(n):
                return losses
            losses["G_gan"] = D.generator_loss(self.judged(x, y_hat))
            total = s.weight_gan * losses["G_gan"]
        losses["G_l1"] = (y_hat - y).abs().mean()
        total = total + s.weight_l1 * losses["G_l1"]
        if z is not None and s.weight_diversity:
            second_z = draw_noise(x, s.noise)
            losses["diversity"] = mode_seeking_loss(y_hat, self.translate(x, second_z), z, second_z)
            total = total + s.weight_diversity * losses["diversity"]
        update("G", total)
        return losses

    def judged(self, x: Tensor, y: Tensor) -> Tensor:
        """What D sees: x and y, or x and the scaled difference y - x, (B, C + C_out, X, Y, Z).

        With x and y over a window of 2000 HU, D does not learn to compare the two within a training: its accuracy
        stays at 0.5 although ŷ has no contrast removed. The difference has no anatomy that hides it.
        """
        if self.settings.adversary_input == "difference":
            y = self.settings.difference_scale * (y - x[:, : y.shape[1]])
            if sigma := self.settings.difference_blur:
                reach = math.ceil(3 * sigma)
                weights = [math.exp(-(n**2) / (2 * sigma**2)) for n in range(-reach, reach + 1)]
                y = separable_filtering(y, [y.new_tensor(weights) / sum(weights)] * (y.ndim - 2))
        return torch.cat([x, y], 1)

    def translate(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Translate x (B, C, X, Y, Z) in [-1, 1] on the same grid; z: noise (B, K, 1, 1, 1), or None for zeros."""
        G = self.networks["G"]
        y_hat = G(x) if z is None else G(x, z)
        return keep_background(x, y_hat) if self.settings.keep_background else y_hat
