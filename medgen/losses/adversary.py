"""A discriminator with its objective and stabilisers, which can be combined freely in any GAN method."""

from collections import deque
from collections.abc import Mapping
from itertools import chain
from typing import Annotated, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer, RMSprop

from medgen.losses.adversarial import (
    SMOOTHED,
    Objective,
    consistency_penalty,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    health,
    r1_penalty,
)
from medgen.losses.augment import Change, augment
from medgen.losses.feature_matching import feature_matching_loss
from medgen.losses.image_pool import ImagePool
from medgen.networks.blocks.minibatch import Minibatch
from medgen.networks.discriminator import Discriminator, frozen
from medgen.networks.generator import Norm
from medgen.types import Count, Section, Weight

REMEMBERED = 16  # recent images used to measure diversity


class AdversarySettings(Section):
    """Keys of ``method.adversary``: the discriminator, its objective and its stabilisers."""

    objective: Objective = Field("least_squares", description="adversarial loss of discriminator and generator")
    filters: Count = Field(64, description="channels of the discriminator's first layer (papers: 64)")
    layers: Annotated[int, Field(gt=0, le=32)] = Field(
        3, description="layers between its first and last; each doubles the receptive field (3: the 70-voxel PatchGAN)"
    )
    scales: Annotated[int, Field(gt=0, le=16)] = Field(
        1, description="number of discriminators; each sees the image at half the size of the previous one"
    )
    norm: Norm = Field(
        "instance", description="norm after convolutions; instance and group remove absolute values (HU)"
    )
    antialias: bool = Field(
        False, description="convolve at full resolution and blur before each halving (CUT: true; Zhang 2019)"
    )
    spectral_norm: bool = Field(
        False, description="keep each convolution's largest singular value at 1 (Miyato 2018); use with norm none"
    )
    minibatch: Minibatch = Field(
        "none",
        description="what the discriminator sees of the other images of its batch, so that a generator that makes them "
        "all alike is found out: std (Karras 2018) or discrimination (Salimans 2016); needs sampling.batch 2",
    )
    pool: Annotated[int, Field(ge=0)] = Field(
        0,
        description="number of earlier translations kept; with probability ½, the discriminator sees one of them "
        "instead of a new one (Shrivastava 2017; CycleGAN: 50)",
    )
    critic_steps: Count = Field(1, description="discriminator updates per generator update (Wasserstein: 5)")
    weight_clip: Weight = Field(
        0.0,
        description="clip the discriminator's weights to ± this value after each update (Arjovsky 2017: 0.01); 0: off",
    )
    gradient_penalty: Weight = Field(0.0, description="weight of the gradient penalty (Gulrajani 2017: 10)")
    r1: Weight = Field(0.0, description="weight of R1, the gradient penalty on real images (Mescheder 2018: 10)")
    r1_every: Count = Field(
        16, description="apply R1 every this many steps, with its weight multiplied by the same number (StyleGAN2: 16)"
    )
    consistency: Weight = Field(
        0.0, description="weight of (D(x) - D(T(x)))², where T flips and shifts the image (Zhang 2020: 10)"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="label of real images is 1 minus this (Salimans 2016: 0.1); not for hinge and wasserstein",
    )
    augment: tuple[Change, ...] = Field(
        (), description="random augmentation of the discriminator's input: flip, translate, cutout, intensity"
    )
    lr: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="the discriminator's learning rate (two time scales, Heusel 2017); null: that of the generator",
    )
    optimizer: Literal["adam", "rmsprop"] = Field(
        "adam", description="optimizer of all networks (Wasserstein with weight_clip: rmsprop, lr 5e-5)"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "AdversarySettings":
        if self.label_smoothing and self.objective not in SMOOTHED:
            raise ValueError(f"objective {self.objective} does not support label smoothing; set label_smoothing to 0")
        if self.objective == "wasserstein" and not (self.weight_clip or self.gradient_penalty or self.spectral_norm):
            raise ValueError(
                "objective wasserstein needs a constrained critic; set gradient_penalty (paper: 10), weight_clip "
                "(0.01) or spectral_norm"
            )
        return self


class Adversary:
    """One discriminator, its loss, and the adversarial loss of the generator.

    Args:
        settings: settings of the discriminator and its loss.
        spatial_dims, in_channels: dimensions and channels of its input (for a conditional one: condition and image).
        out_channels: output maps of its network; more than 1 for ``networks.blocks.branches``.
    """

    def __init__(
        self, settings: AdversarySettings, *, spatial_dims: int, in_channels: int, out_channels: int = 1
    ) -> None:
        self.network: nn.Module = Discriminator(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            filters=settings.filters,
            layers=settings.layers,
            scales=settings.scales,
            norm=settings.norm,
            antialias=settings.antialias,
            spectral_norm=settings.spectral_norm,
            out_channels=out_channels,
            minibatch=settings.minibatch,
        )
        self.settings, self.in_channels = settings, in_channels
        self.pool = ImagePool(settings.pool)
        self.health: dict[str, Tensor] = {}
        self._seen: dict[str, deque[Tensor]] = {k: deque(maxlen=REMEMBERED) for k in ("real", "fake")}

    def discriminator_loss(self, real: Tensor, fake: Tensor, step: int) -> Tensor:
        """Loss of D at a step, including penalties.

        Args:
            real, fake: (B, C, X, Y[, Z]) in [-1, 1]; no gradient flows to them.
            step: number of the step; R1 is applied at every ``r1_every``-th one.
        """
        D, s = self.network, self.settings
        self._remember(real, fake)
        real = augment(real.detach(), s.augment)
        fake = augment(self.pool(fake.detach()), s.augment)
        r, f = D(real), D(fake)
        self.health = health(s.objective, r, f)
        loss = discriminator_loss(s.objective, r, f, smoothing=s.label_smoothing)
        if s.gradient_penalty:
            loss = loss + s.gradient_penalty * gradient_penalty(D, real, fake)
        if s.r1 and step % s.r1_every == 0:
            loss = loss + s.r1 * s.r1_every * r1_penalty(D, real)
        if s.consistency:
            moved = D(augment(real, ("flip", "translate")))
            loss = loss + s.consistency * consistency_penalty(r, moved)
        return loss

    def generator_loss(self, fake: Tensor) -> Tensor:
        """Adversarial loss of G: (B, C, X, Y[, Z]) with gradient → scalar; D accumulates no gradient."""
        with frozen(self.network):
            return generator_loss(self.settings.objective, self.network(augment(fake, self.settings.augment)))

    def generator_losses(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """``generator_loss`` and feature matching with the target ``real``, from one pass: two scalars.

        Both images get the same random augmentation; otherwise their features would differ because of it.
        """
        images = augment(torch.cat([real.detach(), fake], 1), self.settings.augment).chunk(2, 1)
        layers = cast(Discriminator, self.network).layers
        with frozen(self.network), torch.no_grad():
            r = layers(images[0])
        torch.clear_autocast_cache()  # otherwise the fake pass reuses cast weights without gradient
        with frozen(self.network):
            f = layers(images[1])
        gan = generator_loss(self.settings.objective, [scale[-1] for scale in f])
        return gan, feature_matching_loss([scale[:-1] for scale in r], [scale[:-1] for scale in f])

    def generators_turn(self, step: int) -> bool:
        """Whether G is updated at this step: once every ``critic_steps``."""
        return (step + 1) % self.settings.critic_steps == 0

    def _remember(self, real: Tensor, fake: Tensor) -> None:
        """Store the last images, downsampled to (C, 4, 4[, 4])."""
        pool = nn.AdaptiveAvgPool3d(4) if real.ndim == 5 else nn.AdaptiveAvgPool2d(4)
        for key, images in (("real", real), ("fake", fake)):
            self._seen[key].extend(pool(images[:, : self.in_channels].detach().float()))

    def diversity(self) -> float:
        """Mean distance between recent fakes divided by that between recent reals; near 0: mode collapse.

        Returns the minimum over channels, because a condition among them is as diverse as the data. Channels that are
        constant in the data (a label that these patches lack) are ignored. Returns 1 until two images were stored.
        """
        if len(self._seen["fake"]) < 2:
            return 1.0
        real, fake = (_spread(torch.stack(list(self._seen[k]))) for k in ("real", "fake"))
        varied = real > 1e-6
        return float((fake[varied] / real[varied]).min()) if varied.any() else 1.0


def _spread(images: Tensor) -> Tensor:
    """(N, C, ...) → (C,): mean L1 distance between two images."""
    n = len(images)
    distances = (images[:, None] - images[None]).abs().flatten(3).mean(3)
    return distances.sum((0, 1)) / (n * (n - 1))


def optimizers(
    generators: list[nn.Module],
    adversaries: list[Adversary],
    lr: float,
    betas: tuple[float, float],
    others: Mapping[str, nn.Module] | None = None,
) -> dict[str, Optimizer]:
    """Create the optimizers: G for ``generators``, D for all discriminators, and one for each of ``others``."""

    def make(networks: list[nn.Module], rate: float) -> Optimizer:
        parameters = chain.from_iterable(n.parameters() for n in networks)
        return RMSprop(parameters, rate) if rmsprop else Adam(parameters, rate, betas)

    rmsprop = any(a.settings.optimizer == "rmsprop" for a in adversaries)
    result = {"G": make(generators, lr)} | {k: make([n], lr) for k, n in (others or {}).items()}
    if adversaries:
        critics: list[nn.Module] = [a.network for a in adversaries]
        result["D"] = make(critics, adversaries[0].settings.lr or lr)
        limit = adversaries[0].settings.weight_clip
        if limit:
            result["D"].register_step_post_hook(lambda *_: _clip(critics, limit))
    return result


@torch.no_grad()
def _clip(networks: list[nn.Module], limit: float) -> None:
    for network in networks:
        for p in network.parameters():
            p.clamp_(-limit, limit)
