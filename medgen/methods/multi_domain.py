"""One generator for several domains: StarGAN (Choi et al., CVPR 2018) with the auxiliary classifier of AC-GAN.

    L_D = -L_adv + λ_cls L_cls^r                                                                (eq. 5)
    L_G = L_adv + λ_cls L_cls^f + λ_rec L_rec,  L_rec = ‖x - G(G(x, c), c')‖₁                   (eqs. 4, 6)

x: image of domain c', c: requested domain, ŷ = G(x, c). G gets c as constant channels in addition to x. The classifier
C learns the domains of real images; its loss makes G produce images of domain c.
Differences from the paper: C has its own trunk, so that D's stabilisers (spectral norm, instance norm, R1) do not
remove the HU differences by which C distinguishes contrast phases; D compares ŷ with real images of the requested
domain, not of x's; with ``branches`` D also gets that domain, as in StarGAN v2 (Choi et al., CVPR 2020).
"""

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, AdversarySettings, optimizers
from medgen.losses.preserve import Preserve, PreserveSettings
from medgen.methods.base import NAME, MethodSettings
from medgen.networks.blocks.branches import Branches
from medgen.networks.conditional import Conditional, with_domain
from medgen.networks.discriminator import Discriminator, frozen
from medgen.networks.generator import GeneratorSettings, build_generator
from medgen.types import Batch, Count, DataShape, Update, Weight


class Settings(MethodSettings):
    needs_domains: ClassVar[bool] = True

    name: Literal["multi_domain"] = Field("multi_domain", description=NAME)
    lr: Annotated[float, Field(gt=0)] = Field(1e-4, description="learning rate of all networks (paper: 1e-4)")
    generator: GeneratorSettings = Field(
        GeneratorSettings(blocks=6), description="G, from an image and the requested domain to an image"
    )
    adversary: AdversarySettings = Field(
        AdversarySettings(norm="none"),
        description="D (paper: objective wasserstein, with gradient_penalty 10 and critic_steps 5)",
    )
    preserve: PreserveSettings = Field(PreserveSettings(), description="further losses between input and output")
    branches: bool = Field(
        False,
        description="D has one output per domain, and that of the requested domain is used (paper: a single output)",
    )
    classifier_filters: Count = Field(64, description="channels of the first layer of C, a PatchGAN without norms")
    classifier_layers: Annotated[int, Field(gt=0, le=32)] = Field(
        3, description="layers of C between its first and last"
    )
    weight_gan: Weight = Field(1.0, description="weight of the adversarial loss (paper: 1)")
    weight_class: Weight = Field(
        1.0, description="weight of the classification loss of C on the output (λ_cls, paper: 1)"
    )
    weight_cycle: Weight = Field(
        10.0, description="weight of the cycle loss: L1 distance after translation there and back (λ_rec, paper: 10)"
    )
    weight_identity: Weight = Field(
        0.0,
        description="weight of the L1 distance of output to input if both are of the same domain (not in the paper)",
    )
    weight_l1: Weight = Field(
        0.0,
        description="weight of the L1 distance to the same patient's image of the requested domain, with "
        "data.paired_domains (as in pix2pix, not in the paper)",
    )
    weight_l2: Weight = Field(
        0.0,
        description="weight of the squared distance to the same image: 200 HU in a vessel then outweigh the noise of "
        "unchanged tissue",
    )


class MultiDomain:
    """Unpaired translation between any two of several domains."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        if data.in_channels != data.out_channels:
            raise ValueError(
                "G also translates its own output, so it needs equal numbers of input and output channels; "
                f"got {data.in_channels} and {data.out_channels}"
            )
        n, domains = data.in_channels, data.domains
        dims: dict[str, Any] = {"spatial_dims": settings.spatial_dims}
        G = build_generator(settings.generator, in_channels=n + domains, out_channels=n, **dims)
        C = Discriminator(
            **dims,
            in_channels=n,
            filters=settings.classifier_filters,
            layers=settings.classifier_layers,
            norm="none",
            out_channels=domains,
        )
        D = Adversary(settings.adversary, **dims, in_channels=n, out_channels=domains if settings.branches else 1)
        D.network = Branches(D.network, domains) if settings.branches else D.network
        self.settings, self.domains, self.target = settings, domains, 0
        self.preserve = Preserve(settings.preserve, **dims, data=data)
        self.networks: dict[str, nn.Module] = {
            "G": Conditional(G, domains),
            "D": D.network,
            "C": C,
            **self.preserve.networks,
        }
        self.adversaries = {"D": D}
        self.memory: dict[str, nn.Module] = {"pool": D.pool}

    def optimizers(self) -> dict[str, Optimizer]:
        others = {"C": self.networks["C"], **self.preserve.networks}
        return optimizers(
            [self.networks["G"]], list(self.adversaries.values()), self.settings.lr, self.settings.betas, others
        )

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of D and of C, then one of G.

        ``batch``: "source" x and "target" y (B, C, X, Y, Z) in [-1, 1], their domains "source_domain" c'
        and "target_domain" c (B,) int64, and "paired" (B,) bool, used by ``weight_l1`` and ``weight_l2``.
        """
        x, y, n, s = batch["source"], batch["target"], batch["step"], self.settings
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
        total = s.weight_gan * losses["G_gan"] + s.weight_class * losses["class"]
        if s.weight_cycle:
            losses["cycle"] = (G(y_hat, c_x) - x).abs().mean()
            total = total + s.weight_cycle * losses["cycle"]
        if s.weight_identity:
            losses["identity"] = (G(x, c_x) - x).abs().mean()
            total = total + s.weight_identity * losses["identity"]
        for name, weight, error in (
            ("l1", s.weight_l1, (y_hat - y).abs()),
            ("l2", s.weight_l2, (y_hat - y).square()),
        ):
            if weight:
                losses[name] = (error.flatten(1).mean(1) * batch["paired"]).mean()
                total = total + weight * losses[name]
        preserve_losses, preserve_total = self.preserve(x, y_hat, batch)
        losses |= preserve_losses
        update("G", total + preserve_total)
        return losses

    def judged(self, images: Tensor, c: Tensor) -> Tensor:
        """Input of D: the image, with the requested domain if D has a branch per domain."""
        return with_domain(images, c, self.domains) if self.settings.branches else images

    def class_loss(self, images: Tensor, c: Tensor) -> Tensor:
        """-log C(c | image); the classifier's logits are averaged over its patch map."""
        (patches,) = self.networks["C"](images)
        return nnf.cross_entropy(patches.float().flatten(2).mean(2), c)

    def translate(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) in [-1, 1] → the same grid, in the domain ``self.target``."""
        return self.networks["G"](x, torch.full((x.shape[0],), self.target, device=x.device))
