"""Conditional inpainting GAN that inserts lesions into healthy tissue and removes them.

    y = (1 - m) ∘ x + m ∘ G(h(x, m), m, k, z)

x: patch, m: lesion mask, k: lesion kind or "healthy", z: noise, h: x with the voxels under m hidden. Filling the hole
with a lesion of kind k and filling it with healthy tissue are variants of one task, so G learns both in each batch: it
reconstructs each hidden lesion, and it fills holes of the lesions' shapes in healthy host tissue, where the truth is
known (self-supervised). After training, ``remove`` gives the pseudo-healthy image of a patient, and ``paint`` inserts a
lesion anywhere. The hole is hidden in both tasks, so the input in use is like that in training. (Methods like CycleGAN
pair lesions with pseudo-healthy input. This is smoother than healthy tissue, and G would learn the difference.)

    L_G = λ_gan L_gan(D(y, m, k)) + λ_lesion L_gan(D_L(y ∘ m', m, k))
        + λ_out ‖G - x‖₁ outside m + λ_remove ‖A(y - x)‖₁ in healthy holes
        + λ_paint (‖A(y - x)‖₁ + Σ_l |mean_l(y - x)|) in lesions
        + λ_div L_div(z₁, z₂)

D sees the whole patch; D_L sees only the lesion and its rim m' (global and local critic as in Iizuka, SIGGRAPH 2017).
A averages neighbouring voxels, so that only the critics judge noise, which is unpredictable. The layers l are the
lesion's outermost layer of voxels, the next layer and the core. Noise averages out over each layer, so these terms
constrain the steepness of the edge, which A blurs. h fills the hole with the mean of the surrounding tissue plus the
grain (noise of the scan) of healthy tissue elsewhere: lesions get the scanner's own noise, and G need not generate it.
L_div is DSGAN's bounded mode-seeking term (Yang 2019).
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

TERMS = {"D": "G_gan", "D_L": "G_gan_lesion"}  # the generator's loss of each discriminator
HOST, FIRST_KIND = 1, 2  # class of the host and first class of lesions; class 0 is everything else
SHIFTS = 4  # shifts of the hole that are tried to find healthy tissue elsewhere in the patch
# Filter widths in voxels: mean that is subtracted to get the grain; rim that D_L sees; surrounding tissue.
GRAIN_WIDTH, RIM_WIDTH, NEAR_WIDTH = 5, 5, 9


class Settings(MethodSettings):
    paired_only: ClassVar[bool] = True  # data.targets equal data.sources: the patch itself is the truth
    needs_classes: ClassVar[bool] = True

    name: Literal["lesion_gan"] = Field("lesion_gan", description=NAME)
    generator: GeneratorSettings = Field(
        GeneratorSettings(name="unet", filters=32, levels=4, blocks=6, upsample="resize", residual=True),
        description="G, which fills holes; residual: it predicts the difference from the image with the hole",
    )
    adversary: AdversarySettings = Field(
        AdversarySettings(), description="D, which sees the patch, and D_L, which sees the lesion and its rim"
    )
    noise: Annotated[int, Field(ge=0)] = Field(
        4, description="channels of noise, which varies the appearance of lesions"
    )
    weight_gan: Weight = Field(1.0, description="weight of the adversarial loss of D (λ_gan); 0: without D")
    weight_gan_lesion: Weight = Field(
        1.0, description="weight of the adversarial loss of D_L (λ_lesion); 0: without D_L"
    )
    weight_outside: Weight = Field(10.0, description="weight of the L1 distance to the image outside the hole (λ_out)")
    weight_paint: Weight = Field(
        5.0,
        description="weight of the distance to the original lesion (λ_paint); small, as many lesions are plausible",
    )
    weight_remove: Weight = Field(10.0, description="weight of the distance to the original healthy tissue (λ_remove)")
    weight_diversity: Weight = Field(
        1.0, description="weight of the diversity term, which makes noise change the output (λ_div)"
    )
    diversity: Annotated[float, Field(gt=0)] = Field(
        0.05, description="bound τ of the diversity term: sufficient difference of two lesions, in encoded intensity"
    )

    @model_validator(mode="after")
    def _residual_of_the_image(self) -> "Settings":
        if self.generator.residual == "negative":
            raise ValueError(
                "lesions are inserted into the image, not its negative; set generator.residual to true or false"
            )
        return self


class LesionGAN:
    """Lesions of classes 2, 3, ... in a host of class 1; in images without class 1, in any tissue."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        n, classes = data.in_channels, data.classes or 0
        if n != data.out_channels:
            raise ValueError(
                "lesions are inserted into the image itself, which needs equal numbers of input and output channels; "
                f"got {n} and {data.out_channels}"
            )
        if classes < FIRST_KIND + 1:
            raise ValueError(f"{classes} classes contain no lesion; define a host and a lesion in data.class_groups")
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
        healthy_hole, grain = find_healthy_hole(x, lesion, healthy, n)
        repeated, maps = torch.cat([x, x]), torch.cat([self.maps(labels), self.maps(labels * 0, healthy_hole)])
        hidden = hide(
            repeated, maps[:, :1], healthy.repeat(2, *(1,) * (x.ndim - 1)), grain.repeat(2, *(1,) * (x.ndim - 1))
        )
        z = draw_noise(repeated, self.noise) if self.noise else None
        out = self.networks["G"](hidden, maps, z)
        y = torch.lerp(repeated, out, maps[:, :1])
        losses = self.learn_critics(repeated, y, maps, n, update)
        if not all(critic.generators_turn(n) for critic in self.adversaries.values()):
            return losses
        losses |= self.losses(repeated, out, y, maps)
        if z is not None and self.settings.weight_diversity:
            B, second_z = len(x), draw_noise(x, self.noise)
            second_out = self.networks["G"](hidden[:B], maps[:B], second_z)
            losses["diversity"] = diversity_sensitive_loss(
                out[:B], second_out, z[:B], second_z, lesion, self.settings.diversity
            )
        update("G", self.total(losses))
        return losses

    def learn_critics(self, x: Tensor, y: Tensor, maps: Tensor, n: int, update: Update) -> dict[str, Tensor]:
        losses = {
            name: critic.discriminator_loss(critic_input(name, x, maps), critic_input(name, y, maps), n)
            for name, critic in self.adversaries.items()
        }
        if losses:
            update("D", torch.stack(list(losses.values())).sum())
        return losses

    def losses(self, x: Tensor, out: Tensor, y: Tensor, maps: Tensor) -> dict[str, Tensor]:
        """G's losses except diversity; the first half of the batch inserts lesions, the second removes them."""
        hole = maps[:, :1]
        error = mean_of(y - x, 3).abs().mean(1, keepdim=True)
        (painted, removed), (lesion, healthy) = error.chunk(2), hole.chunk(2)
        found = {
            TERMS[name]: critic.generator_loss(critic_input(name, y, maps)) for name, critic in self.adversaries.items()
        }
        return found | {
            "outside": ((out - x).abs() * (1 - hole)).mean(),
            "paint": masked_mean(painted, lesion) + layer_error(y[: len(lesion)] - x[: len(lesion)], lesion),
            "remove": masked_mean(removed, healthy),
        }

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        weights = {TERMS[name]: weight for name, weight in self.weights.items()}
        s = self.settings
        weights |= {"outside": s.weight_outside, "paint": s.weight_paint, "remove": s.weight_remove}
        weights["diversity"] = s.weight_diversity
        return torch.stack([weights[k] * loss for k, loss in losses.items() if k in weights]).sum()

    def healthy(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, 1, ...): the host without lesions; in samples without host, all tissue (above -1) without lesions."""
        tissue = ((labels < FIRST_KIND) & (x > -1).any(1, keepdim=True)).to(x.dtype)
        host = (labels == HOST).to(x.dtype)
        has_host = host.flatten(1).amax(1).view(-1, *(1,) * (x.ndim - 1))
        return torch.lerp(tissue, host, has_host)

    def maps(self, labels: Tensor, hole: Tensor | None = None) -> Tensor:
        """(B, 1 + kinds, ...): mask of the hole (default: all lesions of ``labels``), then one mask per lesion kind."""
        kinds = [(labels == FIRST_KIND + k) for k in range(self.kinds)]
        whole = labels >= FIRST_KIND if hole is None else hole
        return torch.cat([whole, *kinds], 1).to(torch.get_default_dtype())

    def paint(self, x: Tensor, labels: Tensor, z: Tensor | None = None, *, fresh: bool = False) -> Tensor:
        """Insert the lesions of ``labels`` (B, 1, ...) into x (B, C, ...); z (B, K, 1, ...) varies their appearance.

        ``fresh``: x is healthy there, and its grain is kept; otherwise grain is taken from elsewhere.
        """
        healthy = self.healthy(x, labels)
        hole = (labels >= FIRST_KIND).to(x.dtype)
        tissue = (healthy + hole).clamp_max(1)
        grain = x - local_mean(x, tissue) if fresh else find_healthy_hole(x, hole, healthy, 0)[1]
        return self._filled(x, self.maps(labels), healthy, grain, z)

    def remove(self, x: Tensor, labels: Tensor) -> Tensor:
        """Pseudo-healthy image: replace the lesions of ``labels`` (B, 1, ...) in x (B, C, ...) by healthy tissue."""
        healthy, hole = self.healthy(x, labels), (labels >= FIRST_KIND).to(x.dtype)
        return self._filled(x, self.maps(labels * 0, hole), healthy, find_healthy_hole(x, hole, healthy, 0)[1], None)

    def _filled(self, x: Tensor, maps: Tensor, healthy: Tensor, grain: Tensor, z: Tensor | None) -> Tensor:
        return torch.lerp(x, self.networks["G"](hide(x, maps[:, :1], healthy, grain), maps, z), maps[:, :1])

    def translate(self, x: Tensor) -> Tensor:
        """(B, C + 1, X, Y[, Z]), classes last → images whose lesions are hidden and inserted again.

        Without classes, (B, C, ...) → G's output for an image without a hole, which should equal the image.
        """
        C = self.channels
        if x.shape[1] > C and not (x[:, C:] >= FIRST_KIND).any():
            return x[:, :C]
        return self.paint(x[:, :C], x[:, C:].round().long()) if x.shape[1] > C else self.networks["G"](x)


def critic_input(critic: str, images: Tensor, maps: Tensor) -> Tensor:
    """Input of a critic: images and maps; for D_L the images are 0 outside the hole and its rim."""
    if critic == "D_L":
        pool = nnf.max_pool3d if images.ndim == 5 else nnf.max_pool2d
        images = images * pool(maps[:, :1], RIM_WIDTH, stride=1, padding=RIM_WIDTH // 2)
    return torch.cat([images, maps], 1)


def hide(x: Tensor, hole: Tensor, healthy: Tensor, grain: Tensor) -> Tensor:
    """h(x, m): replace the hole by the mean of the surrounding healthy tissue plus ``grain``."""
    pool = nnf.max_pool3d if x.ndim == 5 else nnf.max_pool2d
    around = pool(hole, NEAR_WIDTH, stride=1, padding=NEAR_WIDTH // 2) * healthy * (1 - hole)
    weight = around + 1e-3 * healthy * (1 - hole) + 1e-9  # if none is near, healthy tissue of the whole patch
    space = tuple(range(2, x.ndim))
    mean = (x * weight).sum(space, keepdim=True) / weight.sum(space, keepdim=True)
    return torch.lerp(x, mean + grain, hole)


def find_healthy_hole(x: Tensor, hole: Tensor, healthy: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Shift the hole onto healthy tissue elsewhere, and copy the grain from there into the hole.

    Of a few random shifts, which are the same for all samples and processes, each sample uses the one with the most
    healthy tissue.

    Returns:
        The part of the shifted hole that lies on healthy tissue (B, 1, ...), and the grain shifted into the hole
        (B, C, ...).
    """
    grain = (x - local_mean(x, healthy)) * healthy
    random = torch.Generator("cpu").manual_seed(step)
    holes, grains = [], []
    axes = tuple(range(2, x.ndim))
    for _ in range(SHIFTS):
        shift = [int(torch.randint(n // 4, n - n // 4, (), generator=random, device="cpu")) for n in x.shape[2:]]
        holes.append(torch.roll(hole, shift, axes) * healthy)
        grains.append(torch.roll(grain, [-s for s in shift], axes))
    best = torch.stack([h.flatten(1).sum(1) for h in holes]).argmax(0)
    each = torch.arange(len(x), device=x.device)
    return torch.stack(holes)[best, each], torch.stack(grains)[best, each]


def local_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the mask in a window of 5 voxels along each axis; 0 where the window contains no mask voxel."""
    return mean_of(x * mask, GRAIN_WIDTH) / mean_of(mask, GRAIN_WIDTH).clamp_min(1e-6)


def mean_of(x: Tensor, width: int) -> Tensor:
    """A: mean filter of ``width`` voxels along each axis."""
    pool = nnf.avg_pool3d if x.ndim == 5 else nnf.avg_pool2d
    return pool(x, width, stride=1, padding=width // 2, count_include_pad=False)


def layer_error(error: Tensor, mask: Tensor) -> Tensor:
    """Σ_l |mean_l(error)| over the mask's outermost layer, the next layer and the rest; an empty layer counts 0."""
    pool = nnf.max_pool3d if error.ndim == 5 else nnf.max_pool2d
    total, rest = error.new_zeros(()), mask
    for last in (False, False, True):
        inner = rest * 0 if last else 1 - pool(1 - rest, 3, stride=1, padding=1)
        layer = rest - inner
        mean = (error * layer).flatten(2).sum(2) / layer.flatten(2).sum(2).clamp_min(1)
        total, rest = total + mean.abs().mean(), inner
    return total


def masked_mean(error: Tensor, mask: Tensor) -> Tensor:
    """Mean over each sample's mask, then over samples; a sample with an empty mask counts 0."""
    return ((error * mask).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)).mean()
