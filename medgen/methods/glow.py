"""Glow: generative flow with invertible 1 × 1 convolutions (Kingma and Dhariwal, NeurIPS 2018).

    log p(x) = log N(z; 0, 1) + log |det ∂z/∂x|,   z = f(x)                                     (eq. 6)
    actnorm                 y = (x + b) · eˢ                 log |det| = XYZ Σ s                (table 1)
    1 × 1 × 1 convolution   y = W x                          log |det| = XYZ log |det W|
    affine coupling         y₁ = x₁, y₂ = x₂ · s(x₁) + t(x₁) log |det| = Σ log s(x₁)

At each level: blocks of 2³ voxels become 8 channels, then some steps of these three layers, then half of the channels
is final. s is sigmoid(a + 2). Samples are drawn at a lower temperature (section 6).
Differences from the paper: the final channels have a fixed prior N(0, 1), not one that a layer computes from the rest;
W is stored as it is, not as its LU decomposition; images are dequantised to 256 grey values in [-1, 1].
"""

from typing import Literal

from pydantic import Field

from medgen.methods.base import NAME
from medgen.methods.shared.flow import FlowMethod, FlowMethodSettings
from medgen.networks.flow import ActNorm, Chain, Coupling, Flow, FlowSettings, Layer, PointwiseConvolution, Squeeze
from medgen.types import DataShape


class Settings(FlowMethodSettings):
    name: Literal["glow"] = Field("glow", description=NAME)
    generator: FlowSettings = Field(FlowSettings(couplings=8), description="f, from images to z (paper: 32 couplings)")
    temperature: float = Field(0.7, gt=0, description="samples: factor of z (1: the density itself; paper: 0.7)")


class Glow(FlowMethod):
    """Generate images, and tell their likelihood exactly; learns from images alone (``data.sources: []``)."""

    def __init__(self, settings: Settings, data: DataShape) -> None:
        s, channels = settings.generator, data.out_channels
        chains = []
        for _ in range(s.levels):
            channels *= 8
            layers: list[Layer] = [Squeeze()]
            for _ in range(s.couplings):
                coupling = Coupling(channels, part="channels", odd=True, scaling="sigmoid", filters=s.filters)
                layers += [ActNorm(channels), PointwiseConvolution(channels), coupling]
            chains.append(Chain(layers))
            channels //= 2
        super().__init__(settings, Flow(chains, levels=s.levels), data.out_channels)
