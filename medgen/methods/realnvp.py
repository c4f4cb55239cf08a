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

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, optimizers
from medgen.losses.likelihood import dequantised
from medgen.methods.base import NAME, GenerativeSettings
from medgen.networks.flow import ActNorm, Chain, Coupling, Flow, FlowSettings, Layer, Squeeze
from medgen.types import Batch, DataShape, Update


class Settings(GenerativeSettings):
    name: Literal["realnvp"] = Field("realnvp", description=NAME)
    generator: FlowSettings = Field(FlowSettings(couplings=3), description="f, from images to z (paper: 3 couplings)")
    temperature: float = Field(1.0, gt=0, description="samples: factor of z (1: the density itself)")
    lr: float = Field(1e-3, gt=0, description="learning rate (paper: 1e-3)")
    betas: tuple[float, float] = Field((0.9, 0.999), description="betas of Adam")


class RealNVP:
    """Generate images, and tell their likelihood exactly; learns from images alone (``data.sources: []``)."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings, self.channels = settings, data.out_channels
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
        self.networks: dict[str, nn.Module] = {"G": Flow(chains, levels=s.levels)}
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
        return self._flow.draw(n, self.channels, shape, generator, self.settings.temperature).clamp(-1, 1)

    def encode(self, x: Tensor) -> Tensor:
        """z (B, C·X·Y·Z)."""
        return torch.cat([z.flatten(1) for z in self._flow(x)[0]], 1)

    def log_likelihood(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """log p (B,) in nats of one dequantisation of each image."""
        return self._flow.log_density(dequantised(x, generator))


def couplings(s: FlowSettings, channels: int, part: Literal["checkerboard", "channels"], count: int) -> list[Layer]:
    """Affine couplings whose two parts alternate, each after an actnorm."""
    layers: list[Layer] = []
    for n in range(count):
        layers += [
            ActNorm(channels),
            Coupling(channels, part=part, odd=bool(n % 2), scaling="tanh", filters=s.filters),
        ]
    return layers
