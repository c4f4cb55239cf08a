"""CycleGAN: unpaired translation with cycle-consistent adversarial networks (Zhu et al., ICCV 2017).

    L(G, F, D_X, D_Y) = L_GAN(G, D_Y) + L_GAN(F, D_X) + λ L_cyc(G, F)                           (eq. 3)

x ∈ X: source, y ∈ Y: target, of different patients. G: X → Y, F: Y → X. L_cyc = ‖F(G(x)) − x‖₁ +
‖G(F(y)) − y‖₁ (eq. 2); the identity loss of section 5.2, ‖G(y) − y‖₁ + ‖F(x) − x‖₁, weighs
λ · weight_identity. D sees a pool of the last 50 translations (section 4).
"""

from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.arguments import deal
from medgen.losses.adversarial import Objective
from medgen.losses.adversary import Adversary, optimizers
from medgen.losses.preserve import Preserve
from medgen.networks.generator import GeneratorName, Norm, Start, build_generator
from medgen.types import Batch, Count, Update, Weight


class CycleGAN:
    """Unpaired translation.

    Args:
        spatial_dims: 3, or 2 for slices.
        in_channels, out_channels: contrasts of X and of Y.
        generator, filters, levels, blocks, kernel, norm, dropout, upsample, stem, detail: see ``networks``.
        residual: G and F predict the difference from their input, or from its negative.
        objective: adversarial loss (paper: least_squares).
        pool: translations kept for D (paper: 50).
        weight_gan: of generator_loss; 2 is the paper's balance, whose least squares for G have no ½.
        weight_cycle, weight_identity: the last as a part of the cycle's (paper: 0.5 where used;
            needs as many channels in as out).
        lr, betas: of Adam, for all networks.
        and those of ``losses.adversary``, the same for both D, and of ``losses.preserve``.
    """

    generator = "G"

    def __init__(
        self,
        *,
        spatial_dims: Literal[2, 3] = 3,
        in_channels: Count = 1,
        out_channels: Count = 1,
        generator: GeneratorName = "resnet",
        filters: Count = 64,
        levels: Count = 8,
        blocks: Count = 9,
        kernel: Count = 7,
        norm: Norm = "instance",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        upsample: Literal["deconv", "resize"] = "deconv",
        stem: Annotated[int, Field(ge=0)] = 0,
        detail: Annotated[int, Field(ge=0)] = 0,
        residual: Start = False,
        objective: Objective = "least_squares",
        pool: Annotated[int, Field(ge=0)] = 50,
        weight_gan: Weight = 2.0,
        weight_cycle: Weight = 10.0,
        weight_identity: Weight = 0.5,
        lr: Annotated[float, Field(gt=0)] = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        **shared: Annotated[Any, Adversary, Preserve],
    ) -> None:
        if weight_identity and in_channels != out_channels:
            raise ValueError("the identity loss needs as many channels in as out; set weight_identity to 0")
        shape: dict[str, Any] = {"spatial_dims": spatial_dims, "filters": filters, "norm": norm, "residual": residual}
        depth: dict[str, Any] = {
            "levels": levels,
            "blocks": blocks,
            "kernel": kernel,
            "dropout": dropout,
            "upsample": upsample,
            "stem": stem,
            "detail": detail,
        }
        adversary, preserve = deal(shared, Adversary, Preserve)
        judge: dict[str, Any] = {"spatial_dims": spatial_dims, "objective": objective, "pool": pool, **adversary}
        n_x, n_y = in_channels, out_channels
        D_X, D_Y = Adversary(in_channels=n_x, **judge), Adversary(in_channels=n_y, **judge)
        self.preserve = Preserve(spatial_dims=spatial_dims, in_channels=n_x, out_channels=n_y, **preserve)
        self.networks: dict[str, nn.Module] = {
            "G": build_generator(generator, in_channels=n_x, out_channels=n_y, **shape, **depth),
            "F": build_generator(generator, in_channels=n_y, out_channels=n_x, **shape, **depth),
            "D_X": D_X.network,
            "D_Y": D_Y.network,
            **self.preserve.networks,
        }
        self.adversaries = {"D_X": D_X, "D_Y": D_Y}
        self.memory: dict[str, nn.Module] = {"X": D_X.pool, "Y": D_Y.pool}
        self.weight_gan = weight_gan
        self.weight_cycle, self.weight_identity = weight_cycle, weight_identity * weight_cycle
        self.lr, self.betas = lr, betas

    def optimizers(self) -> dict[str, Optimizer]:
        learn = [self.networks["G"], self.networks["F"]]
        return optimizers(learn, list(self.adversaries.values()), self.lr, self.betas, self.preserve.networks)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of G and F, then one of both D. ``batch``: "source" x, "target" y (B, C, X, Y, Z) in [-1, 1]."""
        x, y, n = batch["source"], batch["target"], batch["step"]
        G, F = self.networks["G"], self.networks["F"]
        D_X, D_Y = self.adversaries["D_X"], self.adversaries["D_Y"]
        y_hat, x_hat = G(x), F(y)
        losses = self.preserve.learn(x, y_hat, batch, update)
        if D_Y.generators_turn(n):
            losses["cycle"] = (F(y_hat) - x).abs().mean() + (G(x_hat) - y).abs().mean()
            losses["G_gan"], losses["F_gan"] = D_Y.generator_loss(y_hat), D_X.generator_loss(x_hat)
            total = self.weight_gan * (losses["G_gan"] + losses["F_gan"]) + self.weight_cycle * losses["cycle"]
            if self.weight_identity:
                losses["identity"] = (G(y) - y).abs().mean() + (F(x) - x).abs().mean()
                total = total + self.weight_identity * losses["identity"]
            kept, weighed = self.preserve(x, y_hat, batch)
            losses |= kept
            update("G", total + weighed)

        losses["D_Y"] = D_Y.discriminator_loss(y, y_hat, n)
        losses["D_X"] = D_X.discriminator_loss(x, x_hat, n)
        update("D", losses["D_Y"] + losses["D_X"])
        return losses

    def translate(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) in [-1, 1] → the same grid."""
        return self.networks["G"](x)
