"""AC-GAN: conditional generation with an auxiliary classifier (Odena et al., ICML 2017), in 3D.

    L_S = E[log P(S = real | x)] + E[log P(S = fake | G(z, c))]                                 (eq. 2)
    L_C = E[log P(C = c | x)] + E[log P(C = c | G(z, c))]                                       (eq. 3)
    D: max L_S + λ L_C,   G: max λ L_C - L_S

The condition c comes from the label maps of the images (``data.labels``): the volumes of their structures in the patch.
``condition: volume`` takes them as numbers, which D estimates with a squared error (the log density of a normal
distribution); ``condition: class`` sorts the images by their sum into ``classes`` equal parts.
Differences from the paper: conditions that are numbers; D and G as in ``dcgan``, with G's loss as
``method.adversary.objective`` says.
"""

from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as nnf

from medgen.losses.adversary import AdversarySettings
from medgen.methods.base import NAME, GenerativeSettings
from medgen.methods.shared.gan import CodeGAN, codes
from medgen.networks.conditioned import Auxiliary, ConditionedGenerator
from medgen.networks.dcgan import DCGANSettings
from medgen.networks.discriminator import frozen
from medgen.types import Batch, DataShape, Update, Weight


class Settings(GenerativeSettings):
    needs_labels: ClassVar[bool] = True

    name: Literal["ac_gan"] = Field("ac_gan", description=NAME)
    generator: DCGANSettings = Field(DCGANSettings(), description="G, from codes and conditions to images")
    adversary: AdversarySettings = Field(
        AdversarySettings(objective="non_saturating", filters=16, layers=3, norm="none", spectral_norm=True),
        description="D, the discriminator of images, which also tells the condition, and the objective of both",
    )
    condition: Literal["volume", "class"] = Field(
        "volume", description="volume of each structure, or class of their sum, from small to large"
    )
    classes: int = Field(3, ge=2, description="condition class: number of classes, with equally many images")
    weight_gan: Weight = Field(1.0, description="weight of the adversarial loss (paper: 1)")
    weight_condition: Weight = Field(1.0, description="weight of the loss of the condition (λ; paper: 1)")
    lr: float = Field(2e-4, gt=0, description="learning rate (paper: 2e-4)")
    betas: tuple[float, float] = Field((0.5, 0.999), description="betas of Adam, for both networks (paper: 0.5, 0.999)")


class ACGAN(CodeGAN):
    """Generate images with given volumes of structures; learns from images and their label maps."""

    def __init__(self, settings: Settings, data: DataShape) -> None:
        if data.classes is None:
            raise ValueError("the condition comes from label maps; set data.labels to true and data.classes")
        self.settings, self.structures = settings, data.classes - 1
        bins = settings.classes if settings.condition == "class" else 0
        G = ConditionedGenerator(
            settings.generator,
            structures=self.structures,
            bins=bins,
            channels=data.out_channels,
            patch=data.patch,
        )
        super().__init__(settings, G, data.out_channels, 1 + G.length)
        D = self.adversaries["D"]
        D.network = self.networks["D"] = Auxiliary(D.network)

    def volumes(self, labels: Tensor) -> Tensor:
        """Voxels (B, structures) of each class but the background, of labels (B, 1, X, Y, Z)."""
        return torch.stack([(labels == n + 1).flatten(1).sum(1) for n in range(self.structures)], 1).float()

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of D, then one of G. ``batch``: "target" x (B, C, X, Y, Z) in [-1, 1], "labels" of x."""
        x, n, s, D = batch["target"], batch["step"], self.settings, self.adversaries["D"]
        G, told = cast(ConditionedGenerator, self.networks["G"]), cast(Auxiliary, D.network).told
        volumes = self.volumes(batch["labels"])
        G.remember(volumes)
        c = G.condition(volumes)
        fake = G(codes(x, G.noise), c)
        losses = {
            "D": D.discriminator_loss(x, fake, n),
            "D_condition": self._error(told(x), c) + self._error(told(fake.detach()), c),
        }
        update("D", s.weight_gan * losses["D"] + s.weight_condition * losses["D_condition"])
        if not D.generators_turn(n):
            return losses
        losses["G_gan"] = D.generator_loss(fake)
        with frozen(D.network):
            losses["condition"] = self._error(told(fake), c)
        update("G", s.weight_gan * losses["G_gan"] + s.weight_condition * losses["condition"])
        return losses

    def _error(self, told: Tensor, c: Tensor) -> Tensor:
        if self.settings.condition == "class":
            return nnf.cross_entropy(told, c.argmax(1))
        return (told - c).square().mean()

    def sample(
        self, n: int, shape: tuple[int, ...], generator: torch.Generator, condition: Tensor | None = None
    ) -> Tensor:
        """n images; ``condition``: volumes (n, structures) in voxels, None: those of training images at random."""
        return cast(ConditionedGenerator, self.networks["G"]).sample(n, shape, generator, condition)
