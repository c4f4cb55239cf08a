"""GLANN: non-adversarial image synthesis with generative latent nearest neighbors (Hoshen et al., CVPR 2019).

    min_{G,Z}  Σ_i d(G(z_i), x_i),   ‖z_i‖ ≤ 1                                                  (GLO, see ``glo``)
    min_T      Σ_i min_j ‖z_i - T(e_j)‖²,   e_j ~ N(0, 1)                                       (IMLE, see ``imle``)

GLO gives sharp images but no distribution of codes; IMLE covers all images but blurs in voxels. GLANN learns the codes
by the first and, among codes, the mapping T by the second. Samples are G(T(e)).
Differences from the paper: T learns beside G, from the codes as they are at the time; d as in ``glo`` in place of a
perceptual loss, for which there is no network for 3D scans.
"""

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import optimizers
from medgen.losses.pyramid import nearest
from medgen.methods.base import NAME
from medgen.methods.glo import GLO, GLOSettings
from medgen.networks.codebook import CodedGenerator, in_ball
from medgen.networks.dcgan import DCGANSettings
from medgen.types import Count, DataShape, Update

CODES = 64  # codes of images in a step of T, at most


class Settings(GLOSettings):
    name: Literal["glann"] = Field("glann", description=NAME)
    hidden: Count = Field(128, description="units of the two hidden layers of T")
    candidates: Count = Field(256, description="codes drawn in a step, of which the nearest are trained")
    lr_mapping: float = Field(1e-3, gt=0, description="learning rate of T")


class MappedGenerator(CodedGenerator):
    """G, and T from noise to codes."""

    def __init__(self, settings: DCGANSettings, hidden: int, *, channels: int, patch: tuple[int, ...]) -> None:
        super().__init__(settings, channels=channels, patch=patch)
        n = settings.latent
        self.mapping = nn.Sequential(
            nn.Linear(n, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, n)
        )

    def draw(self, e: Tensor) -> Tensor:
        return in_ball(self.mapping(e))


class GLANN(GLO):
    """Generate images from codes near learned ones; learns from images alone (``data.sources: []``)."""

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.hidden, self.candidates, self.rate = settings.hidden, settings.candidates, settings.lr_mapping
        super().__init__(settings, data)

    def build_generator(self, settings: DCGANSettings, data: DataShape) -> MappedGenerator:
        return MappedGenerator(settings, self.hidden, channels=data.out_channels, patch=data.patch)

    def optimizers(self) -> dict[str, Optimizer]:
        T = optimizers([cast(MappedGenerator, self._network).mapping], [], self.rate, self.settings.betas)["G"]
        return super().optimizers() | {"T": T}

    def learn_codes(self, z: Tensor, update: Update) -> dict[str, Tensor]:
        """One update of T. ``z``: the codes (m, latent) of all images seen so far."""
        T = cast(MappedGenerator, self._network).mapping
        z = z[torch.randperm(len(z), device="cpu")[:CODES].to(z.device)]
        e = torch.randn_like(z.new_empty(self.candidates, z.shape[1]))
        made = T(e).float()
        loss = (made[nearest(z, made.detach(), 2.0)] - z).square().sum(1).mean()
        update("T", loss)
        return {"T": loss}
