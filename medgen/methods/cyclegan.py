"""CycleGAN: unpaired translation with cycle-consistent adversarial networks (Zhu et al., ICCV 2017).

    L(G, F, D_X, D_Y) = L_GAN(G, D_Y) + L_GAN(F, D_X) + λ L_cyc(G, F)                           (eq. 3)

x ∈ X: source, y ∈ Y: target, of different patients. G: X → Y, F: Y → X. L_cyc = ‖F(G(x)) − x‖₁ +
‖G(F(y)) − y‖₁ (eq. 2). The identity loss of section 5.2, ‖G(y) − y‖₁ + ‖F(x) − x‖₁, has the weight
λ · weight_identity. The discriminators see a pool of the last 50 translations (section 4).

Two methods of the same year and form are configs of this one (``*_disco_cyclegan.yaml``, ``*_dual_cyclegan.yaml``):

    DiscoGAN (Kim et al., ICML 2017)   reconstruction l2 or cosine, non-saturating L_GAN, no identity loss, no pool
    DualGAN (Yi et al., ICCV 2017)     reconstruction l1, Wasserstein L_GAN (clipped weights, RMSprop), no identity loss

Differences from these papers: D is trained after G and F in each step; DualGAN's noise is left out (its dropout is
``generator.dropout``); DiscoGAN's feature matching, in its code alone, is left out.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, AdversarySettings, optimizers
from medgen.losses.distance import Distance, distance
from medgen.losses.parts import Parts
from medgen.losses.preserve import Preserve, PreserveSettings
from medgen.methods.base import NAME, MethodSettings
from medgen.networks.generator import GeneratorSettings, build_generator
from medgen.types import Batch, DataShape, Update, Weight


class Settings(MethodSettings):
    name: Literal["cyclegan"] = Field("cyclegan", description=NAME)
    generator: GeneratorSettings = Field(
        GeneratorSettings(), description="G and F, the translations in both directions"
    )
    adversary: AdversarySettings = Field(
        AdversarySettings(pool=50), description="D_X and D_Y, the discriminators of source and target images"
    )
    preserve: PreserveSettings = Field(PreserveSettings(), description="further losses between input and output")
    weight_gan: Weight = Field(
        2.0,
        description="weight of both adversarial losses; 2 equals the paper, where the least-squares loss of G has no ½",
    )
    weight_cycle: Weight = Field(
        10.0, description="weight of the cycle loss: distance after both translations (paper: 10)"
    )
    reconstruction: Distance = Field(
        "l1", description="distance of the cycle loss (CycleGAN, DualGAN: l1; DiscoGAN: l2 or cosine)"
    )
    weight_identity: Weight = Field(
        0.5,
        description="weight of the L1 distance of G(y) to y and F(x) to x, relative to weight_cycle (paper: 0.5 where "
        "used); needs equal numbers of input and output channels",
    )


class CycleGAN:
    """Unpaired translation."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        n_x, n_y = data.in_channels, data.out_channels
        if settings.weight_identity and n_x != n_y:
            raise ValueError(
                "the identity loss needs equal numbers of input and output channels; set weight_identity to 0"
            )
        dims: dict[str, Any] = {"spatial_dims": settings.spatial_dims}
        D_X, D_Y = (Adversary(settings.adversary, in_channels=n, **dims) for n in (n_x, n_y))
        self.settings = settings
        self.preserve = Preserve(settings.preserve, data=data, **dims)
        self.networks: dict[str, nn.Module] = {
            "G": build_generator(settings.generator, in_channels=n_x, out_channels=n_y, **dims),
            "F": build_generator(settings.generator, in_channels=n_y, out_channels=n_x, **dims),
            "D_X": D_X.network,
            "D_Y": D_Y.network,
            **self.preserve.networks,
        }
        self.adversaries = {"D_X": D_X, "D_Y": D_Y}
        self.memory: dict[str, nn.Module] = {"X": D_X.pool, "Y": D_Y.pool}

    def optimizers(self) -> dict[str, Optimizer]:
        learn = [self.networks["G"], self.networks["F"]]
        return optimizers(
            learn, list(self.adversaries.values()), self.settings.lr, self.settings.betas, self.preserve.networks
        )

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of G and F, then one of both D. ``batch``: "source" x, "target" y (B, C, X, Y, Z) in [-1, 1]."""
        x, y, n, s = batch["source"], batch["target"], batch["step"], self.settings
        G, F = self.networks["G"], self.networks["F"]
        D_X, D_Y = self.adversaries["D_X"], self.adversaries["D_Y"]
        turn = D_Y.generators_turn(n)
        with torch.set_grad_enabled(turn):
            y_hat = G(x)
        losses = self.preserve.learn(x, y_hat, batch, update)
        if turn:
            parts = Parts([G, F])
            cycle_x, losses["G_gan"] = distance(s.reconstruction, F(y_hat), x), D_Y.generator_loss(y_hat)
            preserve_losses, preserve_total = self.preserve(x, y_hat, batch)
            parts.add(s.weight_gan * losses["G_gan"] + s.weight_cycle * cycle_x + preserve_total)
            x_hat = F(y)
            cycle_y, losses["F_gan"] = distance(s.reconstruction, G(x_hat), y), D_X.generator_loss(x_hat)
            parts.add(s.weight_gan * losses["F_gan"] + s.weight_cycle * cycle_y)
            losses["cycle"] = cycle_x.detach() + cycle_y.detach()
            weight_identity = s.weight_identity * s.weight_cycle
            if weight_identity:
                identity = [(network(image) - image).abs().mean() for network, image in ((G, y), (F, x))]
                parts.add(weight_identity * torch.stack(identity).sum())
                losses["identity"] = torch.stack(identity).sum().detach()
            update("G", parts.total())
            losses |= preserve_losses
        else:
            with torch.no_grad():
                x_hat = F(y)

        losses["D_Y"] = D_Y.discriminator_loss(y, y_hat, n)
        losses["D_X"] = D_X.discriminator_loss(x, x_hat, n)
        update("D", losses["D_Y"] + losses["D_X"])
        return losses

    def translate(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) in [-1, 1] → the same grid."""
        return self.networks["G"](x)
