"""GLO: generative latent optimization (Bojanowski et al., ICML 2018).

    min_G  1/N Σ_i min_{z_i ∈ Z} d(G(z_i), x_i),   Z = {z: ‖z‖ ≤ 1}                             (eq. 1)
    d(x, x') = Σ_j mean |L_j(x) - L_j(x')|,  L_j: level j of the Laplacian pyramid              (eq. 3)

An autoencoder without an encoder, a GAN without a discriminator: each training image x_i has a code z_i, which learns
by gradient descent together with G and is projected to the unit ball after each step. Samples come from codes of a
normal distribution with the mean and covariance of the learned ones.
The images are the first ``images`` patches of the training, augmentation included, because a code belongs to one image.
Differences from the paper: means, not weighted sums, of the levels; codes learn by Adagrad, which leaves codes without
a gradient where they are, in place of gradient descent.
"""

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adagrad, Optimizer

from medgen.losses.adversary import Adversary, optimizers
from medgen.losses.pyramid import pyramid_vectors
from medgen.methods.base import NAME, GenerativeSettings
from medgen.networks.codebook import CodedGenerator, Codes, ImageBank
from medgen.networks.dcgan import DCGANSettings
from medgen.networks.discriminator import frozen
from medgen.networks.processes import processes
from medgen.types import Batch, Count, DataShape, Update


class GLOSettings(GenerativeSettings):
    generator: DCGANSettings = Field(DCGANSettings(latent=32), description="G, from codes to images")
    images: Count = Field(
        256, description="training images, the first patches of the run; kept in memory and in RUN/last"
    )
    lr: float = Field(1e-3, gt=0, description="learning rate of G")
    lr_codes: float = Field(0.1, gt=0, description="learning rate of the codes, by Adagrad")
    betas: tuple[float, float] = Field((0.9, 0.999), description="betas of Adam, for G")


class Settings(GLOSettings):
    name: Literal["glo"] = Field("glo", description=NAME)


class GLO:
    """Generate images from learned codes, without a discriminator; learns from images alone (``data.sources: []``)."""

    generator = "G"

    def __init__(self, settings: GLOSettings, data: DataShape) -> None:
        self.settings = settings
        self.networks: dict[str, nn.Module] = {
            "G": self.build_generator(settings.generator, data),
            "Z": Codes(settings.images, settings.generator.latent),
        }
        self.memory: dict[str, nn.Module] = {"bank": ImageBank(settings.images, data.out_channels, data.patch)}
        self.adversaries: dict[str, Adversary] = {}

    def build_generator(self, settings: DCGANSettings, data: DataShape) -> CodedGenerator:
        return CodedGenerator(settings, channels=data.out_channels, patch=data.patch)

    def optimizers(self) -> dict[str, Optimizer]:
        s = self.settings
        codes = Adagrad(self.networks["Z"].parameters(), s.lr_codes)
        codes.register_step_post_hook(lambda *_: cast(Codes, self.networks["Z"]).project())
        return optimizers([self._network.images], [], s.lr, s.betas) | {"Z": codes}

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of the codes of some images, then one of G. ``batch``: "target" x (B, C, X, Y, Z) in [-1, 1]."""
        G, Z = self._network, cast(Codes, self.networks["Z"])
        x, rows, known = self._images(batch["target"], batch["step"])
        wanted = pyramid_vectors(x)
        with frozen(G):
            update("Z", (pyramid_vectors(G(Z.weight[rows])) - wanted).abs().sum(1).mean())
        loss = (pyramid_vectors(G(Z.weight.detach()[rows])) - wanted).abs().sum(1).mean()
        update("G", loss)
        return {"G_pyramid": loss, **self.learn_codes(Z.weight.detach()[:known], update)}

    def learn_codes(self, z: Tensor, update: Update) -> dict[str, Tensor]:
        """Learn the distribution of the codes z (m, latent) of all images seen so far."""
        self._network.fit(z)
        return {}

    def _images(self, x: Tensor, step: int) -> tuple[Tensor, Tensor, int]:
        """Training images, their rows among the codes, and the number of codes in use by all processes.

        The first steps store their batch; the later ones take images from the store. Each process has its own images.
        """
        bank, most = cast(ImageBank, self.memory["bank"]).images, self.settings.images
        world, rank = processes()
        n = len(x)
        steps = max(most // (n * world), 1)  # that store a batch
        if n * world > most:
            raise ValueError(f"method.images is {most}, less than a batch of {n * world}; raise it")
        if step < steps:
            local = torch.arange(step * n, (step + 1) * n, device=x.device)
            bank[local] = x.to(bank.dtype)
        else:
            local = torch.randint(steps * n, (n,), device="cpu").to(x.device)
            x = bank[local].to(x.dtype)
        rows = local // n * n * world + rank * n + local % n
        return x, rows, min(step + 1, steps) * n * world

    @property
    def _network(self) -> CodedGenerator:
        return cast(CodedGenerator, self.networks["G"])

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """G(z) of codes like those of the training images."""
        return self._network.sample(n, shape, generator)
