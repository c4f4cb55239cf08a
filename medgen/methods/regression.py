"""Paired translation by regression: a generator trained on the distance to the target, without a discriminator.

    G* = arg min_G  λ₁ E[w |G(x) - y|] + λ_c E|pool₄(G(x) - y)| + λ_m BCE(m, t/(t + s)) + λ_l E_c|l - v(y)|/r

w is 1, and 1 + λ_w where |x - y| exceeds a threshold, times λ_b where y is masked; the means over blocks of the coarse
term are weighted by λ_b as well. m is the mask of a generator with ``replace``, t ≥ 0 by how much
a voxel falls, and s a small difference: whether a voxel changes is learned as in a segmentation, which converges faster
than the L1 distance alone. l is its level, v(y) the target smoothed within structures, r the range of levels, and E_c
the mean over the voxels with t above the threshold or m above 1/2, of which those beside fat or air count less: without
this term one level for all organs was learned, which also erased lesions. t is x - y, or v(x) - v(y) where that is at
most s: the noise of two scans differs, and half of it would be learned as a fall.

The winner of SynthRAD2025 is a regression with a residual-encoder U-Net (Longuefosse et al., nnsyn, 2025). The network
is `networks.residual_unet` by default. Where a target has one true value for each voxel, regression has the lowest
error; where it has not (noise, texture), it returns the mean, and ``pix2pix`` draws a sharper image.
"""

from typing import ClassVar, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.optim import AdamW, Optimizer

from medgen.losses.adversary import Adversary
from medgen.methods.base import NAME, MethodSettings
from medgen.networks.blocks.background import keep_background
from medgen.networks.generator import GeneratorSettings, build_generator
from medgen.networks.residual_unet import ResidualUNet
from medgen.types import Batch, DataShape, Update, Weight

COARSE = 4  # voxels; side of the blocks that the coarse term averages
SMALL = 0.008  # encoded difference that is half a change: 8 HU in a window of 2000 HU
BELOW = 0.3  # encoded distance below the range of ``replace`` from which voxels (fat, air) do not count
BESIDE = 0.25  # weight of the level beside fat and air, see `away_from_lower`
BRIGHT = 4.0  # additional weight of voxels above that range: enhanced, or bone


class Settings(MethodSettings):
    paired_only: ClassVar[bool] = True

    name: Literal["regression"] = Field("regression", description=NAME)
    generator: GeneratorSettings = Field(
        GeneratorSettings(name="residual_unet", filters=32, levels=4),
        description="G, from source to target",
    )
    weight_l1: Weight = Field(1.0, description="weight of the L1 distance to the target (λ₁)")
    weight_coarse: Weight = Field(
        0.5,
        description="weight of the L1 distance between means over blocks of 4³ voxels, in which noise cancels (λ_c)",
    )
    weight_changed: Weight = Field(
        0.0, description="additional weight of voxels whose source and target differ by more than changed_above (λ_w)"
    )
    changed_above: float = Field(0.02, ge=0, description="that difference, in encoded units; see intensity")
    weight_mask: Weight = Field(
        0.0, description="weight of the cross-entropy of the mask of a generator with replace (λ_m)"
    )
    weight_level: Weight = Field(
        0.0, description="weight of the L1 distance of the level of a generator with replace to the target (λ_l)"
    )
    weight_background: Weight = Field(
        1.0,
        description="weight of voxels that are masked in the target (encoded as -1), relative to others (λ_b); below 1 "
        "where a mask leaves out tissue, as the noise threshold of ADC maps does",
    )
    keep_background: bool = Field(
        False,
        description="keep voxels encoded as -1 in the source (a masked background) at -1 in the same output channel, "
        "without training G there",
    )
    weight_decay: Weight = Field(1e-4, description="weight decay of AdamW")
    betas: tuple[float, float] = Field((0.9, 0.99), description="betas of AdamW")
    lr: float = Field(1e-3, gt=0, description="learning rate")

    @model_validator(mode="after")
    def _mask_exists(self) -> "Settings":
        if self.keep_background and self.generator.replace:
            raise ValueError(
                "keep_background does not apply to a generator with replace, which leaves low values alone"
            )
        for name in ("weight_mask", "weight_level"):
            if getattr(self, name) and not self.generator.replace:
                raise ValueError(f"{name} needs a mask and a level; set generator.replace, or {name} to 0")
        return self


class Regression:
    """Paired translation without a discriminator."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        if settings.keep_background and data.out_channels > data.in_channels:
            raise ValueError(
                f"keep_background needs a source channel for each of the {data.out_channels} output channels"
            )
        self.settings = settings
        self.networks: dict[str, nn.Module] = {
            "G": build_generator(
                settings.generator,
                spatial_dims=settings.spatial_dims,
                in_channels=data.in_channels,
                out_channels=data.out_channels,
            )
        }
        self.memory: dict[str, nn.Module] = {}
        self.adversaries: dict[str, Adversary] = {}

    def optimizers(self) -> dict[str, Optimizer]:
        s = self.settings
        return {"G": AdamW(self.networks["G"].parameters(), s.lr, betas=s.betas, weight_decay=s.weight_decay)}

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of G. ``batch``: "source", "target" (B, C, X, Y, Z) in [-1, 1]."""
        x, y, s = batch["source"], batch["target"], self.settings
        by_maps = s.weight_mask or s.weight_level
        y_hat, of_maps = self._with_map_losses(x, y) if by_maps else (self.translate(x), {})
        error = (y_hat - y).float()
        changed = (x[:, :1] - y[:, :1]).abs() > s.changed_above
        weight = 1 + s.weight_changed * changed
        background = torch.where(y == -1, s.weight_background, 1.0) if s.weight_background != 1 else None
        losses = {"G_l1": _mean(error.abs() * weight, background)}
        total = s.weight_l1 * losses["G_l1"]
        if s.weight_coarse:
            pool = nnf.avg_pool3d if s.spatial_dims == 3 else nnf.avg_pool2d
            of_blocks = None if background is None else pool(background, COARSE)
            means = pool(error if background is None else error * background, COARSE).abs()
            losses["G_coarse"] = means.mean() if of_blocks is None else means.sum() / of_blocks.sum().clamp(min=1e-6)
            total = total + s.weight_coarse * losses["G_coarse"]
        for name, weight in (("G_level", s.weight_level), ("G_mask", s.weight_mask)):
            if weight:
                losses[name] = of_maps[name]
                total = total + weight * losses[name]
        update("G", total)
        return losses

    def _with_map_losses(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Output of a generator with ``replace``, and the losses of its level and its mask."""
        network = cast(ResidualUNet, self.networks["G"])
        levels = cast(tuple[float, float], self.settings.generator.replace)
        v, v_y = network.within(torch.cat([x, y], 1), x).chunk(2, 1)
        y_hat, mask, level = network.with_maps(x, v)
        fall = fallen(x, y, v, v_y)
        used = (fall > self.settings.changed_above) | (mask > 0)
        used = used * torch.where(away_from_lower(v_y, levels[0]), 1.0, BESIDE)
        return y_hat, {"G_level": level_loss(level, v_y, used, levels), "G_mask": mask_loss(mask, x, fall, levels)}

    def translate(self, x: Tensor) -> Tensor:
        """Translate x (B, C, X, Y, Z) in [-1, 1] on the same grid."""
        y_hat = self.networks["G"](x)
        return keep_background(x, y_hat) if self.settings.keep_background else y_hat


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    return values.mean() if weight is None else (values * weight).sum() / weight.sum().clamp(min=1e-6)


def fallen(x: Tensor, y: Tensor, v: Tensor, v_y: Tensor) -> Tensor:
    """t ≥ 0: by how much each voxel falls, without the noise in which two scans differ.

    Args:
        x, y: source and target (B, 1, X, Y, Z), encoded.
        v, v_y: both smoothed within structures.
    """
    return torch.where(v - v_y > SMALL, x - y, v - v_y).clamp(min=0)


def mask_loss(mask: Tensor, x: Tensor, fall: Tensor, replace: tuple[float, float]) -> Tensor:
    """Cross-entropy between the logits of a mask and the share t/(t + s) by which each voxel has to fall.

    Args:
        mask: logits (B, 1, X, Y, Z).
        x: source (B, 1, X, Y, Z), encoded.
        fall: t (B, 1, X, Y, Z) ≥ 0, encoded.
        replace: (low, high), see `ResidualUNet`.
    """
    low, high = replace
    weight = (x > low - BELOW).float() * (1 + BRIGHT * (x > high))
    entropy = nnf.binary_cross_entropy_with_logits(mask.float(), fall / (fall + SMALL), reduction="none")
    return (entropy * weight).sum() / weight.sum().clamp(min=1)


def away_from_lower(v_y: Tensor, low: float) -> Tensor:
    """Voxels (B, 1, X, Y[, Z]) without a neighbour of the smoothed target clearly below ``low``, such as fat or air.

    Beside fat, partial volume makes a bright structure darker in both scans. From these voxels a network learned that
    darker means a lower level, which is wrong inside an organ: there the brighter voxels are blood.
    """
    pool = nnf.max_pool3d if v_y.ndim == 5 else nnf.max_pool2d
    return -pool(-v_y, 3, stride=1, padding=1) > low - SMALL * 2


def level_loss(level: Tensor, target: Tensor, used: Tensor, replace: tuple[float, float]) -> Tensor:
    """Mean distance of the level to the target in the voxels where it is used, relative to the range of levels.

    Args:
        level, target: (B, 1, X, Y, Z), encoded.
        used: weights (B, 1, X, Y, Z), above 0 in the voxels that fall, and in those whose mask says so. There, a wrong
            mask changes little if the level is right.
        replace: (low, high), see `ResidualUNet`.
    """
    low, high = replace
    distance = (level - target.clamp(low, high)).abs() / (high - low)
    return (distance * used).sum() / used.sum().clamp(min=1)
