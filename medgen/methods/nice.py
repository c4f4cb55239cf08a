"""NICE: non-linear independent components estimation, a flow of constant volume (Dinh et al., ICLR 2015 workshop).

    log p(x) = Σ_i log p(z_i) + Σ_i log S_ii,   z = S · f(x)                                    (eq. 3, 12)
    f: additive couplings   y₁ = x₁,   y₂ = x₂ + t(x₁)                                          (eq. 7)

The two parts of a coupling alternate. p(z_i) is logistic, and S a learned diagonal matrix, the only change of volume.
Blocks of voxels are first made channels, and the parts are their even and odd channels.
Differences from the paper: t is convolutional, not dense, and images are dequantised grey values in [-1, 1].
"""

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, optimizers
from medgen.losses.likelihood import dequantised
from medgen.methods.base import NAME, GenerativeSettings
from medgen.networks.autoencoder import check_patch
from medgen.networks.flow import Chain, Coupling, Flow, FlowSettings, Layer, Squeeze
from medgen.types import Batch, DataShape, Update


class Settings(GenerativeSettings):
    name: Literal["nice"] = Field("nice", description=NAME)
    generator: FlowSettings = Field(FlowSettings(levels=2), description="f, from images to z")
    temperature: float = Field(1.0, gt=0, description="samples: factor of z (1: the density itself)")
    lr: float = Field(1e-3, gt=0, description="learning rate")
    betas: tuple[float, float] = Field((0.9, 0.999), description="betas of Adam (paper: 0.9 and 0.01)")


class Scale(Layer):
    """S: one factor for each number of an image, stored as its logarithm."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.log_s = nn.Parameter(torch.zeros(1, *shape))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.log_s.exp(), self.log_s.sum() * x.new_ones(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        return y * (-self.log_s).exp()


class NICE:
    """Generate images, and tell their likelihood exactly; learns from images alone (``data.sources: []``)."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings, self.channels, self.patch = settings, data.out_channels, data.patch
        s = settings.generator
        channels = data.out_channels * 8**s.levels
        layers: list[Layer] = [Squeeze() for _ in range(s.levels)]
        layers += [
            Coupling(channels, part="interleaved", odd=bool(n % 2), scaling="none", filters=s.filters)
            for n in range(s.couplings)
        ]
        layers.append(Scale((channels, *(n // 2**s.levels for n in data.patch))))
        flow = Flow([Chain(layers)], levels=s.levels, prior="logistic")
        self.networks: dict[str, nn.Module] = {"G": flow}
        self.memory: dict[str, nn.Module] = {}
        self.adversaries: dict[str, Adversary] = {}

    def optimizers(self) -> dict[str, Optimizer]:
        return optimizers([self.networks["G"]], [], self.settings.lr, self.settings.betas)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of f. ``batch``: "target" x (B, C, X, Y, Z) in [-1, 1]."""
        x = dequantised(batch["target"])
        nll = -self._flow.log_density(x).mean() / x[0].numel()
        update("G", nll)
        return {"nll": nll}

    @property
    def _flow(self) -> Flow:
        return cast(Flow, self.networks["G"])

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        check_patch(tuple(self.patch), shape)
        return self._flow.draw(n, self.channels, shape, generator, self.settings.temperature).clamp(-1, 1)

    def encode(self, x: Tensor) -> Tensor:
        """z (B, C·X·Y·Z)."""
        return torch.cat([z.flatten(1) for z in self._flow(x)[0]], 1)

    def log_likelihood(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """log p (B,) in nats of one dequantisation of each image."""
        return self._flow.log_density(dequantised(x, generator))
