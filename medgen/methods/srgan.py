"""SRGAN: restoration with content, feature and adversarial losses (Ledig et al., CVPR 2017), in 3D.

    min_G  λ_c ‖y - ŷ‖ + λ_f Σ_i E|D_i(y) - D_i(ŷ)| - λ_gan E[log D(ŷ)],   ŷ = G(x)              (section 2.2)
    max_D  E[log D(y)] + E[log(1 - D(ŷ))]                                                         (eq. 2)

x is a poor scan on the grid of the good one y, as ``data.degradation`` makes it: thick slices, interpolated, or CT of
low dose. ``weight_gan: 0`` and ``weight_features: 0`` leave the regression, SRResNet, which has the lower error; the
adversarial loss makes edges sharper and invents texture.
Differences from the paper: 3D; x is interpolated first, so that one network restores every slice distance, and G adds a
difference to it; no batch norm (`networks.srresnet`); the features are those of D, because there is no VGG of volumes;
the content loss stays beside them (paper: either) and may be L1; D is a PatchGAN (docs/decisions/adversary.md).
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, AdversarySettings, optimizers
from medgen.methods.base import NAME, MethodSettings
from medgen.networks.srresnet import SRResNetSettings, build_srresnet
from medgen.types import Batch, DataShape, Update, Weight


class Settings(MethodSettings):
    paired_only: ClassVar[bool] = True

    name: Literal["srgan"] = Field("srgan", description=NAME)
    spatial_dims: Literal[3] = Field(3, description="3: volumes")
    generator: SRResNetSettings = Field(SRResNetSettings(), description="G, from the poor to the good image")
    adversary: AdversarySettings = Field(
        AdversarySettings(objective="non_saturating", filters=16, norm="none", spectral_norm=True),
        description="D, the discriminator of good images",
    )
    content: Literal["mse", "l1"] = Field("mse", description="distance of the content loss (paper: mse)")
    weight_content: Weight = Field(1.0, description="weight of the content loss (λ_c; paper: 1, or 0 with features)")
    weight_features: Weight = Field(0.006, description="weight of the feature loss (λ_f; paper: 0.006, of VGG)")
    weight_gan: Weight = Field(1e-3, description="weight of the adversarial loss (λ_gan; paper: 1e-3)")
    lr: float = Field(1e-4, gt=0, description="learning rate (paper: 1e-4)")
    betas: tuple[float, float] = Field((0.9, 0.999), description="betas of Adam (paper: 0.9)")


class SRGAN:
    """Restoration of poor scans, paired."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings = settings
        G = build_srresnet(settings.generator, in_channels=data.in_channels, out_channels=data.out_channels)
        self.networks: dict[str, nn.Module] = {"G": G}
        self.memory: dict[str, nn.Module] = {}
        self.adversaries: dict[str, Adversary] = {}
        if settings.weight_gan or settings.weight_features:
            D = Adversary(settings.adversary, spatial_dims=3, in_channels=data.out_channels)
            self.networks["D"], self.adversaries["D"], self.memory["pool"] = D.network, D, D.pool

    def optimizers(self) -> dict[str, Optimizer]:
        return optimizers([self.networks["G"]], list(self.adversaries.values()), self.settings.lr, self.settings.betas)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of D, then one of G when it is due. ``batch``: "source", "target" (B, C, X, Y, Z) in [-1, 1]."""
        x, y, n, s = batch["source"], batch["target"], batch["step"], self.settings
        y_hat = self.translate(x)
        losses: dict[str, Tensor] = {}
        total: Tensor | float = 0.0
        if self.adversaries:
            D = self.adversaries["D"]
            losses["D"] = D.discriminator_loss(y, y_hat, n)
            update("D", losses["D"])
            if not D.generators_turn(n):
                return losses
            losses["G_gan"], losses["G_features"] = D.generator_losses(y, y_hat)
            total = s.weight_gan * losses["G_gan"] + s.weight_features * losses["G_features"]
        error = (y_hat - y).float()
        losses["G_content"] = error.square().mean() if s.content == "mse" else error.abs().mean()
        update("G", total + s.weight_content * losses["G_content"])
        return losses

    def translate(self, x: Tensor) -> Tensor:
        """Restore x (B, C, X, Y, Z) in [-1, 1] on the same grid."""
        return self.networks["G"](x)
