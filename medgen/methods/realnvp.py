"""RealNVP: a flow of affine couplings at several scales (Dinh et al., ICLR 2017).

    log p(x) = log N(z; 0, 1) + log |det ∂z/∂x|,   z = f(x)                                     (eq. 2)
    affine coupling   y₁ = x₁,   y₂ = x₂ · exp(s(x₁)) + t(x₁),   log |det| = Σ s(x₁)            (eq. 4-6)

At each scale: couplings of a checkerboard of voxels, then blocks of 2³ voxels become 8 channels, then couplings of
channels, then half of the channels is final (section 3.6); at the end couplings of a checkerboard. s is g · tanh with a
learned g.
Differences from the paper: s and t are three convolutions without residual blocks and norm; actnorm (Kingma 2018)
between the couplings in place of batch norm (docs/decisions/norms.md); images are dequantised grey values in [-1, 1]
without a logit.
"""

from typing import Literal

from pydantic import Field

from medgen.methods.base import NAME
from medgen.methods.shared.flow import FlowMethod, FlowMethodSettings
from medgen.networks.flow import ActNorm, Chain, Coupling, Flow, FlowSettings, Layer, Squeeze
from medgen.types import DataShape


class Settings(FlowMethodSettings):
    name: Literal["realnvp"] = Field("realnvp", description=NAME)
    generator: FlowSettings = Field(FlowSettings(couplings=3), description="f, from images to z (paper: 3 couplings)")


class RealNVP(FlowMethod):
    """Generate images, and tell their likelihood exactly; learns from images alone (``data.sources: []``)."""

    def __init__(self, settings: Settings, data: DataShape) -> None:
        s, channels = settings.generator, data.out_channels
        chains = []
        for level in range(s.levels):
            layers = couplings(s, channels, "checkerboard", s.couplings)
            channels *= 8
            layers += [Squeeze(), *couplings(s, channels, "channels", s.couplings)]
            if level == s.levels - 1:
                layers += couplings(s, channels, "checkerboard", s.couplings + 1)
            chains.append(Chain(layers))
            channels //= 2
        super().__init__(settings, Flow(chains, levels=s.levels), data.out_channels)


def couplings(s: FlowSettings, channels: int, part: Literal["checkerboard", "channels"], count: int) -> list[Layer]:
    """Affine couplings whose two parts alternate, each after an actnorm."""
    layers: list[Layer] = []
    for n in range(count):
        layers += [
            ActNorm(channels),
            Coupling(channels, part=part, odd=bool(n % 2), scaling="tanh", filters=s.filters),
        ]
    return layers
