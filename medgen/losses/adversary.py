"""A discriminator with its objective and stabilisers, so that any of them serves in any GAN method."""

from collections import deque
from collections.abc import Mapping
from itertools import chain
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
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
from medgen.networks.discriminator import Discriminator, frozen
from medgen.networks.generator import Norm
from medgen.types import Count, Weight

REMEMBERED = 16  # outputs whose diversity is measured


class Adversary:
    """One discriminator, what it minimises, and what it makes the generator minimise.

    Args:
        spatial_dims, in_channels: of the images it judges (for a conditional one: condition and image).
        out_channels: maps of its network; more than 1 for ``networks.blocks.branches``.
        objective: see ``losses.adversarial``.
        discriminator_filters, layers, scales, norm, antialias: see ``networks.discriminator``.
        spectral_norm: of every convolution (Miyato 2018); with discriminator_norm none.
        pool: translations kept for D, half of the time shown in place of new ones (Shrivastava 2017).
        critic_steps: updates of D for one of G (Wasserstein paper: 5).
        weight_clip: after each update D's weights are cut to ± this (Arjovsky 2017: 0.01).
        gradient_penalty: λ of the gradient penalty (Gulrajani 2017: 10).
        r1, r1_every: γ of R1 (Mescheder 2018: 10), applied every so many steps with its weight as many times
            as large (StyleGAN2: 16).
        consistency: weight of (D(x) - D(T(x)))² with T flip and translation (Zhang 2020: 10).
        label_smoothing: real images' label is 1 less this (Salimans 2016: 0.1); not for hinge and wasserstein.
        augment: changes made to all that D sees, see ``losses.augment``.
        lr_discriminator: two time scales (Heusel 2017); none: the generator's.
        optimizer: of all networks (Wasserstein with clipping: rmsprop at 5e-5).

    Raises:
        ValueError: settings that contradict each other.
    """

    def __init__(
        self,
        *,
        spatial_dims: Literal[2, 3],
        in_channels: Count,
        objective: Objective,
        out_channels: Count = 1,
        discriminator_filters: Count = 64,
        discriminator_layers: Count = 3,
        discriminator_scales: Count = 1,
        discriminator_norm: Norm = "instance",
        discriminator_antialias: bool = False,
        spectral_norm: bool = False,
        pool: Annotated[int, Field(ge=0)] = 0,
        critic_steps: Count = 1,
        weight_clip: Weight = 0.0,
        gradient_penalty: Weight = 0.0,
        r1: Weight = 0.0,
        r1_every: Count = 16,
        consistency: Weight = 0.0,
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        augment: tuple[Change, ...] = (),
        lr_discriminator: Annotated[float, Field(gt=0)] | None = None,
        optimizer: Literal["adam", "rmsprop"] = "adam",
    ) -> None:
        if label_smoothing and objective not in SMOOTHED:
            raise ValueError(f"objective {objective} has no label to smooth; set label_smoothing to 0")
        if objective == "wasserstein" and not (weight_clip or gradient_penalty or spectral_norm):
            raise ValueError(
                "objective wasserstein needs a bounded critic; set gradient_penalty (paper: 10), weight_clip (0.01) "
                "or spectral_norm"
            )
        self.network: nn.Module = Discriminator(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            filters=discriminator_filters,
            layers=discriminator_layers,
            scales=discriminator_scales,
            norm=discriminator_norm,
            antialias=discriminator_antialias,
            spectral_norm=spectral_norm,
            out_channels=out_channels,
        )
        self.in_channels = in_channels
        self.pool = ImagePool(pool)
        self.objective, self.critic_steps, self.weight_clip = objective, critic_steps, weight_clip
        self.gradient_penalty, self.r1, self.r1_every = gradient_penalty, r1, r1_every
        self.consistency, self.label_smoothing, self.augment = consistency, label_smoothing, augment
        self.lr, self.optimizer = lr_discriminator, optimizer
        self.health: dict[str, Tensor] = {}
        self._seen: dict[str, deque[Tensor]] = {k: deque(maxlen=REMEMBERED) for k in ("real", "fake")}

    def discriminator_loss(self, real: Tensor, fake: Tensor, step: int) -> Tensor:
        """What D minimises at a step, penalties included.

        Args:
            real, fake: (B, C, X, Y[, Z]) in [-1, 1]; no gradient flows to them.
            step: number of the step; decides when the lazy penalty is due.
        """
        D = self.network
        self._remember(real, fake)
        real = augment(real.detach(), self.augment)
        fake = augment(self.pool(fake.detach()), self.augment)
        r, f = D(real), D(fake)
        self.health = health(self.objective, r, f)
        loss = discriminator_loss(self.objective, r, f, smoothing=self.label_smoothing)
        if self.gradient_penalty:
            loss = loss + self.gradient_penalty * gradient_penalty(D, real, fake)
        if self.r1 and step % self.r1_every == 0:
            loss = loss + self.r1 * self.r1_every * r1_penalty(D, real)
        if self.consistency:
            moved = D(augment(real, ("flip", "translate")))
            loss = loss + self.consistency * consistency_penalty(r, moved)
        return loss

    def generator_loss(self, fake: Tensor) -> Tensor:
        """What G minimises: (B, C, X, Y[, Z]) with its gradient → scalar; D collects no gradient."""
        with frozen(self.network):
            return generator_loss(self.objective, self.network(augment(fake, self.augment)))

    def generator_losses(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """``generator_loss`` and feature matching with ``real``, its truth, from one pass: two scalars.

        Both images are augmented by the same draw, or their features would differ for that alone.
        """
        images = augment(torch.cat([real.detach(), fake], 1), self.augment).chunk(2, 1)
        layers = cast(Discriminator, self.network).layers
        with frozen(self.network), torch.no_grad():
            r = layers(images[0])
        torch.clear_autocast_cache()  # or the fake would reuse the real's casts of the weights, without gradient
        with frozen(self.network):
            f = layers(images[1])
        gan = generator_loss(self.objective, [scale[-1] for scale in f])
        return gan, feature_matching_loss([scale[:-1] for scale in r], [scale[:-1] for scale in f])

    def generators_turn(self, step: int) -> bool:
        """Whether G is updated at this step: once in ``critic_steps``."""
        return (step + 1) % self.critic_steps == 0

    def _remember(self, real: Tensor, fake: Tensor) -> None:
        """Small views of the last images: (C, 4, 4[, 4]) each."""
        pool = nn.AdaptiveAvgPool3d(4) if real.ndim == 5 else nn.AdaptiveAvgPool2d(4)
        for key, images in (("real", real), ("fake", fake)):
            self._seen[key].extend(pool(images[:, : self.in_channels].detach().float()))

    def diversity(self) -> float:
        """Mean distance between recent fakes as a part of that between recent reals; → 0: the generator collapsed.

        Of the channels the least, for a condition among them is as diverse as the data; those that do not vary in the
        data (a label that these patches lack) say nothing. 1 until two were seen.
        """
        if len(self._seen["fake"]) < 2:
            return 1.0
        real, fake = (_spread(torch.stack(list(self._seen[k]))) for k in ("real", "fake"))
        varied = real > 1e-6
        return float((fake[varied] / real[varied]).min()) if varied.any() else 1.0


def _spread(images: Tensor) -> Tensor:
    """(N, C, ...) → (C,): mean L1 distance between two images."""
    n = len(images)
    apart = (images[:, None] - images[None]).abs().flatten(3).mean(3)
    return apart.sum((0, 1)) / (n * (n - 1))


def optimizers(
    generators: list[nn.Module],
    adversaries: list[Adversary],
    lr: float,
    betas: tuple[float, float],
    others: Mapping[str, nn.Module] | None = None,
) -> dict[str, Optimizer]:
    """One called G for all that the generator's loss trains, D for all discriminators, and one for each other."""

    def make(networks: list[nn.Module], rate: float) -> Optimizer:
        parameters = chain.from_iterable(n.parameters() for n in networks)
        return RMSprop(parameters, rate) if rmsprop else Adam(parameters, rate, betas)

    rmsprop = any(a.optimizer == "rmsprop" for a in adversaries)
    found = {"G": make(generators, lr)} | {k: make([n], lr) for k, n in (others or {}).items()}
    if adversaries:
        critics: list[nn.Module] = [a.network for a in adversaries]
        found["D"] = make(critics, adversaries[0].lr or lr)
        limit = adversaries[0].weight_clip
        if limit:
            found["D"].register_step_post_hook(lambda *_: _clip(critics, limit))
    return found


@torch.no_grad()
def _clip(networks: list[nn.Module], limit: float) -> None:
    for network in networks:
        for p in network.parameters():
            p.clamp_(-limit, limit)
