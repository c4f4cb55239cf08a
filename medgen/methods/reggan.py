"""RegGAN: paired translation of misaligned pairs (Kong et al., NeurIPS 2021, arXiv 2110.06465).

    min over G, R:  λ_gan L_adv(G) + λ_corr E|y - T(ŷ, R(ŷ, y))| + λ_smooth E‖∇R(ŷ, y)‖²

x: source, y: target of the same patient, which may have moved in between, ŷ = G(x). The registration network R finds
the displacement from ŷ to y and T applies it, so that G is not trained to move anatomy, or to blur what has moved. Only
G translates; R is discarded. D judges y against ŷ without x, with which y is not aligned.

Differences from the paper: the field is computed on points 4 voxels apart, and the generator is a residual U-Net.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, AdversarySettings, optimizers
from medgen.methods.base import NAME, MethodSettings
from medgen.networks.generator import GeneratorSettings, build_generator
from medgen.networks.registration import Registration, roughness, warp
from medgen.types import Batch, DataShape, Update, Weight


class Settings(MethodSettings):
    paired_only: ClassVar[bool] = True

    name: Literal["reggan"] = Field("reggan", description=NAME)
    generator: GeneratorSettings = Field(
        GeneratorSettings(name="residual_unet", filters=32, levels=4), description="G, from source to target"
    )
    adversary: AdversarySettings = Field(AdversarySettings(), description="D, the discriminator of the target")
    registration_filters: Annotated[int, Field(gt=0)] = Field(16, description="channels of R's first layer")
    weight_gan: Weight = Field(1.0, description="weight of the adversarial loss (paper: 1); 0: no discriminator")
    weight_corr: Weight = Field(20.0, description="weight of the L1 distance after registration (paper: 20)")
    weight_smooth: Weight = Field(10.0, description="weight of the roughness of the displacement (paper: 10)")


class RegGAN:
    """Paired translation with a registration network."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings = settings
        dims, channels = settings.spatial_dims, data.out_channels
        self.networks: dict[str, nn.Module] = {
            "G": build_generator(
                settings.generator, spatial_dims=dims, in_channels=data.in_channels, out_channels=channels
            ),
            "R": Registration(spatial_dims=dims, channels=channels, filters=settings.registration_filters),
        }
        self.memory: dict[str, nn.Module] = {}
        self.adversaries: dict[str, Adversary] = {}
        if settings.weight_gan:
            D = Adversary(settings.adversary, spatial_dims=dims, in_channels=channels)
            self.networks["D"], self.adversaries["D"], self.memory["pool"] = D.network, D, D.pool

    def optimizers(self) -> dict[str, Optimizer]:
        generators = [self.networks["G"], self.networks["R"]]
        return optimizers(generators, list(self.adversaries.values()), self.settings.lr, self.settings.betas)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of D, then one of G and R when it is due. ``batch``: "source", "target" (B, C, ...) in [-1, 1]."""
        x, y, n, s = batch["source"], batch["target"], batch["step"], self.settings
        y_hat = self.translate(x)
        losses: dict[str, Tensor] = {}
        total: Tensor | float = 0.0
        if s.weight_gan:
            D = self.adversaries["D"]
            losses["D"] = D.discriminator_loss(y, y_hat, n)
            update("D", losses["D"])
            if not D.generators_turn(n):
                return losses
            losses["G_gan"] = D.generator_loss(y_hat)
            total = s.weight_gan * losses["G_gan"]
        field = self.networks["R"](y_hat, y)
        losses["G_corr"] = (warp(y_hat, field) - y).abs().mean()
        losses["G_smooth"] = roughness(field)
        update("G", total + s.weight_corr * losses["G_corr"] + s.weight_smooth * losses["G_smooth"])
        return losses

    def translate(self, x: Tensor) -> Tensor:
        """Translate x (B, C, X, Y, Z) in [-1, 1] on the same grid."""
        return self.networks["G"](x)
