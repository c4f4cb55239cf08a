"""One generator for several domains: StarGAN (Choi et al., CVPR 2018) with the auxiliary classifier of AC-GAN.

    L_D = -L_adv + λ_cls L_cls^r                                                                (eq. 5)
    L_G = L_adv + λ_cls L_cls^f + λ_rec L_rec,  L_rec = ‖x - G(G(x, c), c')‖₁                   (eqs. 4, 6)

x is an image of domain c', c the domain asked for, ŷ = G(x, c). G gets c as constant channels beside x. The
classifier C learns the domains of real images and asks of ŷ that it be of domain c.
Departures: C has a trunk of its own, so that D's stabilisers (spectral norm, instance norm, R1) do not take from C
the HU that tell a phase; D compares ŷ with real images of the domain asked for, not of x's; with ``branches`` it is
told that domain, as in StarGAN v2 (Choi et al., CVPR 2020).
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.optim import Optimizer

from medgen.arguments import deal
from medgen.losses.adversarial import Objective
from medgen.losses.adversary import Adversary, optimizers
from medgen.losses.preserve import Preserve
from medgen.networks.blocks.branches import Branches
from medgen.networks.conditional import Conditional, with_domain
from medgen.networks.discriminator import Discriminator, frozen
from medgen.networks.generator import GeneratorName, Norm, Start, build_generator
from medgen.types import Batch, Count, Update, Weight


class MultiDomain:
    """Unpaired translation between any two of several domains.

    Args:
        spatial_dims: 3, or 2 for slices.
        in_channels, out_channels: contrasts of an image; as many of both, for G reads its own output.
        domains: how many; given by data.domains.
        generator, filters, levels, blocks, kernel, norm, dropout, upsample, stem, detail: see ``networks``.
        residual: G predicts the difference from its input, or from the input's negative.
        branches: D has an output for every domain, of which that of c counts (paper: one output for all).
        classifier_filters, classifier_layers: of C, a PatchGAN trunk without norms.
        weight_gan: of generator_loss (paper: 1).
        weight_class: λ_cls (paper: 1).
        weight_cycle: λ_rec (paper: 10).
        weight_identity: of ‖G(x, c') - x‖₁ (not in the paper): an image already of the domain stays.
        weight_l1: of ‖G(x, c) - y‖₁ where y is the same patient's (data.same_patient; as pix2pix, not in the paper).
        weight_l2: of ‖G(x, c) - y‖₂² there: the 200 HU of a vessel weigh more than the noise of all that stays.
        objective: adversarial loss (paper: wasserstein, with gradient_penalty 10 and critic_steps 5).
        lr, betas: of Adam, for all networks (paper: 1e-4).
        and those of ``losses.adversary`` and ``losses.preserve``.
    """

    generator = "G"

    def __init__(
        self,
        *,
        spatial_dims: Literal[2, 3] = 3,
        in_channels: Count = 1,
        out_channels: Count = 1,
        domains: Annotated[int, Field(ge=2)] = 2,
        generator: GeneratorName = "resnet",
        filters: Count = 64,
        levels: Count = 8,
        blocks: Count = 6,
        kernel: Count = 7,
        norm: Norm = "instance",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        upsample: Literal["deconv", "resize"] = "deconv",
        stem: Annotated[int, Field(ge=0)] = 0,
        detail: Annotated[int, Field(ge=0)] = 0,
        residual: Start = False,
        branches: bool = False,
        discriminator_norm: Norm = "none",
        classifier_filters: Count = 64,
        classifier_layers: Count = 3,
        weight_gan: Weight = 1.0,
        weight_class: Weight = 1.0,
        weight_cycle: Weight = 10.0,
        weight_identity: Weight = 0.0,
        weight_l1: Weight = 0.0,
        weight_l2: Weight = 0.0,
        objective: Objective = "least_squares",
        lr: Annotated[float, Field(gt=0)] = 1e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        **shared: Annotated[Any, Adversary, Preserve],
    ) -> None:
        if in_channels != out_channels:
            raise ValueError(f"G reads its own output: {in_channels} channels in, but {out_channels} out")
        adversary, preserve = deal(shared, Adversary, Preserve)
        n = in_channels
        G = build_generator(
            generator,
            spatial_dims=spatial_dims,
            in_channels=n + domains,
            out_channels=n,
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
        )
        shape: dict[str, Any] = {"spatial_dims": spatial_dims, "in_channels": n}
        C = Discriminator(
            **shape, filters=classifier_filters, layers=classifier_layers, norm="none", out_channels=domains
        )
        shape |= {"objective": objective, "discriminator_norm": discriminator_norm}
        D = Adversary(**shape, out_channels=domains if branches else 1, **adversary)
        D.network = Branches(D.network, domains) if branches else D.network
        self.preserve = Preserve(spatial_dims=spatial_dims, in_channels=n, out_channels=n, **preserve)
        self.networks: dict[str, nn.Module] = {
            "G": Conditional(G, domains),
            "D": D.network,
            "C": C,
            **self.preserve.networks,
        }
        self.adversaries = {"D": D}
        self.memory: dict[str, nn.Module] = {"pool": D.pool}
        self.target, self.branches, self.domains = 0, branches, domains
        self.weight_gan, self.weight_class = weight_gan, weight_class
        self.weight_cycle, self.weight_identity = weight_cycle, weight_identity
        self.weight_l1, self.weight_l2 = weight_l1, weight_l2
        self.lr, self.betas = lr, betas

    def optimizers(self) -> dict[str, Optimizer]:
        others = {"C": self.networks["C"], **self.preserve.networks}
        return optimizers([self.networks["G"]], list(self.adversaries.values()), self.lr, self.betas, others)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of D and of C, then one of G.

        ``batch``: "source" x and "target" y (B, C, X, Y, Z) in [-1, 1], the domains of both, "source_domain" c'
        and "target_domain" c (B,) int64, and "paired" (B,) bool, of which ``weight_l1`` and ``weight_l2`` ask.
        """
        x, y, n = batch["source"], batch["target"], batch["step"]
        c_x, c = batch["source_domain"], batch["target_domain"]
        G, C, D = self.networks["G"], self.networks["C"], self.adversaries["D"]
        y_hat = G(x, c)
        losses = self.preserve.learn(x, y_hat, batch, update)
        losses["D"] = D.discriminator_loss(self.judged(y, c), self.judged(y_hat, c), n)
        update("D", losses["D"])
        losses["C"] = (self.class_loss(x, c_x) + self.class_loss(y, c)) / 2
        update("C", losses["C"])
        if not D.generators_turn(n):
            return losses
        losses["G_gan"] = D.generator_loss(self.judged(y_hat, c))
        with frozen(C):
            losses["class"] = self.class_loss(y_hat, c)
        total = self.weight_gan * losses["G_gan"] + self.weight_class * losses["class"]
        if self.weight_cycle:
            losses["cycle"] = (G(y_hat, c_x) - x).abs().mean()
            total = total + self.weight_cycle * losses["cycle"]
        if self.weight_identity:
            losses["identity"] = (G(x, c_x) - x).abs().mean()
            total = total + self.weight_identity * losses["identity"]
        for name, weight, error in (
            ("l1", self.weight_l1, (y_hat - y).abs()),
            ("l2", self.weight_l2, (y_hat - y).square()),
        ):
            if weight:
                losses[name] = (error.flatten(1).mean(1) * batch["paired"]).mean()
                total = total + weight * losses[name]
        kept, weighed = self.preserve(x, y_hat, batch)
        losses |= kept
        update("G", total + weighed)
        return losses

    def judged(self, images: Tensor, c: Tensor) -> Tensor:
        """What D sees: the image, with the domain asked for where D has a branch for each."""
        return with_domain(images, c, self.domains) if self.branches else images

    def class_loss(self, images: Tensor, c: Tensor) -> Tensor:
        """-log C(c | image), the classifier's logits the mean of its patch map."""
        (patches,) = self.networks["C"](images)
        return nnf.cross_entropy(patches.float().flatten(2).mean(2), c)

    def translate(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) in [-1, 1] → the same grid, in the domain ``self.target``."""
        return self.networks["G"](x, torch.full((len(x),), self.target, device=x.device))
