"""NICE: non-linear independent components estimation, a flow of constant volume (Dinh et al., ICLR 2015 workshop).

    log p(x) = Σ_i log p(z_i) + Σ_i log S_ii,   z = S · f(x)                                    (eq. 3, 12)
    f: additive couplings   y₁ = x₁,   y₂ = x₂ + t(x₁)                                          (eq. 7)

The two parts of a coupling alternate. p(z_i) is logistic, and S a learned diagonal matrix, the only change of volume.
Blocks of voxels are first made channels, and the parts are their even and odd channels.
Differences from the paper: t is convolutional, not dense, and images are dequantised grey values in [-1, 1].
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medgen.methods.base import NAME
from medgen.methods.shared.flow import FlowMethod, FlowMethodSettings
from medgen.networks.autoencoder import check_patch
from medgen.networks.flow import Chain, Coupling, Flow, FlowSettings, Layer, Squeeze
from medgen.types import DataShape


class Settings(FlowMethodSettings):
    name: Literal["nice"] = Field("nice", description=NAME)
    generator: FlowSettings = Field(FlowSettings(levels=2), description="f, from images to z")
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


class NICE(FlowMethod):
    """Generate images, and tell their likelihood exactly; learns from images alone (``data.sources: []``)."""

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.patch = tuple(data.patch)
        s = settings.generator
        channels = data.out_channels * 8**s.levels
        layers: list[Layer] = [Squeeze() for _ in range(s.levels)]
        layers += [
            Coupling(channels, part="interleaved", odd=bool(n % 2), scaling="none", filters=s.filters)
            for n in range(s.couplings)
        ]
        layers.append(Scale((channels, *(n // 2**s.levels for n in data.patch))))
        super().__init__(settings, Flow([Chain(layers)], levels=s.levels, prior="logistic"), data.out_channels)

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        check_patch(self.patch, shape)
        return super().sample(n, shape, generator)
