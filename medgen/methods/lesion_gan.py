"""Lesions painted into healthy tissue, and taken out of it: one conditional inpainting GAN.

    y = (1 - m) ∘ x + m ∘ G(h(x, m), m, k, z)

x: patch, m: the lesion's mask, k: its kind or "healthy", z: noise, h: x with what lies under m hidden. Putting a
lesion of kind k into the hole and filling it with healthy tissue are two answers to one question, so G learns both
in one batch: it takes each lesion out of sight and puts it back, and fills holes of the lesions' shapes in healthy
host tissue, where the truth is known (self-supervised). After training ``remove`` gives the pseudo-healthy image of
a patient, and ``paint`` a lesion anywhere. As the hole is hidden in both, G never sees at training what it will not
see later (pseudo-healthy input, as CycleGAN-like pairs have it, is smoother than healthy tissue, and G would learn
that).

    L_G = λ_gan L_gan(D(y, m, k)) + λ_lesion L_gan(D_L(y ∘ m', m, k))
        + λ_out ‖G - x‖₁ outside m + λ_remove ‖A(y - x)‖₁ in healthy holes
        + λ_paint (‖A(y - x)‖₁ + Σ_l |mean_l(y - x)|) in lesions
        + λ_div L_div(z₁, z₂)

D sees the whole patch, D_L the lesion and its rim m' alone (global and local critic as Iizuka, SIGGRAPH 2017); A
averages neighbours, so that noise, which cannot be foretold, is the critics' business alone; l are the lesion's
outermost layer of voxels, the next, and its core: over each the noise averages out, so that how steep the edge is,
which A cannot see, is told without it. h fills the hole with the mean of the tissue around and with the grain (noise
of the scan) of healthy tissue elsewhere: lesions get the scanner's own noise, and G need not invent it. L_div is
DSGAN's bounded mode-seeking term (Yang 2019).
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, AdversarySettings, optimizers
from medgen.losses.diversity import diversity_sensitive_loss
from medgen.methods.base import NAME, MethodSettings
from medgen.networks.generator import GeneratorSettings, build_generator
from medgen.networks.inpainter import Inpainter
from medgen.networks.noise import draw_noise
from medgen.types import Batch, DataShape, Update, Weight

HOST, FIRST_KIND = 1, 2  # classes; 0 is all else
SHIFTS = 4  # places elsewhere in the patch that are tried for a healthy hole
GRAIN, RIM, NEAR = 5, 5, 9  # voxels across: of the mean that grain is the rest of, of D_L's rim, of the tissue around


class Settings(MethodSettings):
    paired_only: ClassVar[bool] = True  # data.targets are data.sources: the truth is the patch itself
    needs_classes: ClassVar[bool] = True

    name: Literal["lesion_gan"] = Field("lesion_gan", description=NAME)
    generator: GeneratorSettings = Field(
        GeneratorSettings(name="unet", filters=32, levels=4, blocks=6, upsample="resize", residual=True),
        description="G, which fills holes; residual: it predicts the difference from the hidden image",
    )
    adversary: AdversarySettings = Field(
        AdversarySettings(), description="D, which sees the patch, and D_L, which sees the lesion and its rim"
    )
    noise: Annotated[int, Field(ge=0)] = Field(4, description="channels of noise, which gives each lesion its look")
    weight_gan: Weight = Field(1.0, description="of the adversarial loss of D (λ_gan); 0: without D")
    weight_gan_lesion: Weight = Field(1.0, description="of the adversarial loss of D_L (λ_lesion); 0: without D_L")
    weight_outside: Weight = Field(10.0, description="of the L1 distance to the image outside the hole (λ_out)")
    weight_paint: Weight = Field(
        5.0, description="of the distance to the lesion that was there (λ_paint); small, for many lesions are right"
    )
    weight_remove: Weight = Field(10.0, description="of the distance to the healthy tissue that was there (λ_remove)")
    weight_diversity: Weight = Field(1.0, description="of the difference that noise must make (λ_div)")
    diversity: Annotated[float, Field(gt=0)] = Field(
        0.05, description="bound of that term (τ): how much two lesions need to differ, in code units"
    )

    @model_validator(mode="after")
    def _residual_of_the_image(self) -> "Settings":
        if self.generator.residual == "negative":
            raise ValueError("lesions are painted into the image, not into its negative; set residual to true or false")
        return self


class LesionGAN:
    """Lesions of the classes 2, 3, ... in a host of class 1; where no voxel has class 1, in any tissue."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        n, classes = data.in_channels, data.classes or 0
        if n != data.out_channels:
            raise ValueError(f"lesions are painted into the image itself: {n} channels in, {data.out_channels} out")
        if classes < FIRST_KIND + 1:
            raise ValueError(f"{classes} classes have no lesion: data.class_groups needs a host and a lesion")
        dims, noise = settings.spatial_dims, settings.noise
        self.settings, self.channels, self.kinds, self.noise = settings, n, classes - FIRST_KIND, noise
        planes = 1 + self.kinds
        network = build_generator(settings.generator, spatial_dims=dims, in_channels=n + planes + noise, out_channels=n)
        self.networks: dict[str, nn.Module] = {"G": Inpainter(network, n, planes, noise)}
        self.memory: dict[str, nn.Module] = {}
        self.adversaries: dict[str, Adversary] = {}
        self.weights = {"D": settings.weight_gan, "D_L": settings.weight_gan_lesion}
        for name in [k for k, weight in self.weights.items() if weight]:
            critic = Adversary(settings.adversary, spatial_dims=dims, in_channels=n + planes)
            self.adversaries[name], self.networks[name] = critic, critic.network
            self.memory[f"pool_{name}"] = critic.pool

    def optimizers(self) -> dict[str, Optimizer]:
        return optimizers([self.networks["G"]], list(self.adversaries.values()), self.settings.lr, self.settings.betas)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of D and D_L, then one of G.

        ``batch``: "source" x (B, C, X, Y[, Z]) in [-1, 1] and its "labels" (B, 1, X, Y[, Z]).
        """
        x, labels, n = batch["source"], batch["labels"], batch["step"]
        lesion, healthy = (labels >= FIRST_KIND).to(x.dtype), self.healthy(x, labels)
        elsewhere, grain = borrowed(x, lesion, healthy, n)
        xx, maps = torch.cat([x, x]), torch.cat([self.maps(labels), self.maps(labels * 0, elsewhere)])
        hidden = hide(xx, maps[:, :1], healthy.repeat(2, *(1,) * (x.ndim - 1)), grain.repeat(2, *(1,) * (x.ndim - 1)))
        z = draw_noise(xx, self.noise) if self.noise else None
        out = self.networks["G"](hidden, maps, z)
        y = torch.lerp(xx, out, maps[:, :1])
        losses = self.learn_critics(xx, y, maps, n, update)
        if not all(critic.generators_turn(n) for critic in self.adversaries.values()):
            return losses
        losses |= self.losses(xx, out, y, maps)
        if z is not None and self.settings.weight_diversity:
            B, other = len(x), draw_noise(x, self.noise)
            again = self.networks["G"](hidden[:B], maps[:B], other)
            losses["diversity"] = diversity_sensitive_loss(
                out[:B], again, z[:B], other, lesion, self.settings.diversity
            )
        update("G", self.total(losses))
        return losses

    def learn_critics(self, x: Tensor, y: Tensor, maps: Tensor, n: int, update: Update) -> dict[str, Tensor]:
        losses = {
            name: critic.discriminator_loss(seen(name, x, maps), seen(name, y, maps), n)
            for name, critic in self.adversaries.items()
        }
        if losses:
            update("D", torch.stack(list(losses.values())).sum())
        return losses

    def losses(self, x: Tensor, out: Tensor, y: Tensor, maps: Tensor) -> dict[str, Tensor]:
        """G's losses, diversity aside; the batch's first half paints lesions, its second removes them."""
        hole = maps[:, :1]
        error = mean_of(y - x, 3).abs().mean(1, keepdim=True)
        (painted, removed), (lesion, healthy) = error.chunk(2), hole.chunk(2)
        found = {f"G_{name}": critic.generator_loss(seen(name, y, maps)) for name, critic in self.adversaries.items()}
        return found | {
            "outside": ((out - x).abs() * (1 - hole)).mean(),
            "paint": inside(painted, lesion) + layered(y[: len(lesion)] - x[: len(lesion)], lesion),
            "remove": inside(removed, healthy),
        }

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        weights = {f"G_{name}": weight for name, weight in self.weights.items()}
        s = self.settings
        weights |= {"outside": s.weight_outside, "paint": s.weight_paint, "remove": s.weight_remove}
        weights["diversity"] = s.weight_diversity
        return torch.stack([weights[k] * loss for k, loss in losses.items() if k in weights]).sum()

    def healthy(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, 1, ...): the host, or in samples without it all tissue (code above -1), without lesions."""
        tissue = ((labels < FIRST_KIND) & (x > -1).any(1, keepdim=True)).to(x.dtype)
        host = (labels == HOST).to(x.dtype)
        known = host.flatten(1).amax(1).view(-1, *(1,) * (x.ndim - 1))
        return torch.lerp(tissue, host, known)

    def maps(self, labels: Tensor, hole: Tensor | None = None) -> Tensor:
        """(B, 1 + kinds, ...): the hole, by default all lesions of ``labels``, and where which kind is asked for."""
        kinds = [(labels == FIRST_KIND + k) for k in range(self.kinds)]
        whole = labels >= FIRST_KIND if hole is None else hole
        return torch.cat([whole, *kinds], 1).to(torch.get_default_dtype())

    def paint(self, x: Tensor, labels: Tensor, z: Tensor | None = None, *, fresh: bool = False) -> Tensor:
        """x (B, C, ...) with lesions where ``labels`` (B, 1, ...) say so, of the look that z (B, K, 1, ...) gives.

        ``fresh``: what lies there is healthy tissue, whose grain then stays; else it is borrowed from elsewhere.
        """
        healthy = self.healthy(x, labels)
        hole = (labels >= FIRST_KIND).to(x.dtype)
        tissue = (healthy + hole).clamp_max(1)
        grain = x - local_mean(x, tissue) if fresh else borrowed(x, hole, healthy, 0)[1]
        return self._filled(x, self.maps(labels), healthy, grain, z)

    def remove(self, x: Tensor, labels: Tensor) -> Tensor:
        """Pseudo-healthy: x (B, C, ...) with the lesions of ``labels`` (B, 1, ...) filled as healthy tissue."""
        healthy, hole = self.healthy(x, labels), (labels >= FIRST_KIND).to(x.dtype)
        return self._filled(x, self.maps(labels * 0, hole), healthy, borrowed(x, hole, healthy, 0)[1], None)

    def _filled(self, x: Tensor, maps: Tensor, healthy: Tensor, grain: Tensor, z: Tensor | None) -> Tensor:
        return torch.lerp(x, self.networks["G"](hide(x, maps[:, :1], healthy, grain), maps, z), maps[:, :1])

    def translate(self, x: Tensor) -> Tensor:
        """(B, C + 1, X, Y[, Z]), classes last → images with the lesions taken out of sight and painted anew.

        Without classes, (B, C, ...) → what G makes of an image without a hole: the image.
        """
        C = self.channels
        if x.shape[1] > C and not (x[:, C:] >= FIRST_KIND).any():
            return x[:, :C]
        return self.paint(x[:, :C], x[:, C:].round().long()) if x.shape[1] > C else self.networks["G"](x)


def seen(critic: str, images: Tensor, maps: Tensor) -> Tensor:
    """What a critic is shown: images and maps, for D_L black beyond the hole's rim."""
    if critic == "D_L":
        pool = nnf.max_pool3d if images.ndim == 5 else nnf.max_pool2d
        images = images * pool(maps[:, :1], RIM, stride=1, padding=RIM // 2)
    return torch.cat([images, maps], 1)


def hide(x: Tensor, hole: Tensor, healthy: Tensor, grain: Tensor) -> Tensor:
    """h(x, m): in the hole the mean of healthy tissue around it and the grain given; elsewhere x."""
    pool = nnf.max_pool3d if x.ndim == 5 else nnf.max_pool2d
    around = pool(hole, NEAR, stride=1, padding=NEAR // 2) * healthy * (1 - hole)
    weight = around + 1e-3 * healthy * (1 - hole) + 1e-9  # where there is none around, any of the patch
    space = tuple(range(2, x.ndim))
    mean = (x * weight).sum(space, keepdim=True) / weight.sum(space, keepdim=True)
    return torch.lerp(x, mean + grain, hole)


def borrowed(x: Tensor, hole: Tensor, healthy: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """The part of the hole's shape that lies on healthy tissue elsewhere, and that place's grain brought to the hole.

    Of a few shifts, the same for all samples and processes, each sample takes that of most healthy tissue.
    """
    grain = (x - local_mean(x, healthy)) * healthy
    random = torch.Generator("cpu").manual_seed(step)
    holes, grains = [], []
    axes = tuple(range(2, x.ndim))
    for _ in range(SHIFTS):
        shift = [int(torch.randint(n // 4, n - n // 4, (), generator=random, device="cpu")) for n in x.shape[2:]]
        holes.append(torch.roll(hole, shift, axes) * healthy)
        grains.append(torch.roll(grain, [-s for s in shift], axes))
    most = torch.stack([h.flatten(1).sum(1) for h in holes]).argmax(0)
    each = torch.arange(len(x), device=x.device)
    return torch.stack(holes)[most, each], torch.stack(grains)[most, each]


def local_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the voxels of the mask within 5 voxels across; 0 where there is none."""
    return mean_of(x * mask, GRAIN) / mean_of(mask, GRAIN).clamp_min(1e-6)


def mean_of(x: Tensor, across: int) -> Tensor:
    """A: the mean over ``across`` voxels along each axis."""
    pool = nnf.avg_pool3d if x.ndim == 5 else nnf.avg_pool2d
    return pool(x, across, stride=1, padding=across // 2, count_include_pad=False)


def layered(error: Tensor, mask: Tensor) -> Tensor:
    """Σ_l |mean_l(error)| over the mask's outermost layer, the next and the rest; a layer without voxels counts 0."""
    pool = nnf.max_pool3d if error.ndim == 5 else nnf.max_pool2d
    total, rest = error.new_zeros(()), mask
    for last in (False, False, True):
        inner = rest * 0 if last else 1 - pool(1 - rest, 3, stride=1, padding=1)
        layer = rest - inner
        mean = (error * layer).flatten(2).sum(2) / layer.flatten(2).sum(2).clamp_min(1)
        total, rest = total + mean.abs().mean(), inner
    return total


def inside(error: Tensor, mask: Tensor) -> Tensor:
    """Mean over each sample's mask, then over samples; a sample with an empty one counts 0."""
    return ((error * mask).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)).mean()
