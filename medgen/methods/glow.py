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

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, optimizers
from medgen.losses.likelihood import dequantised
from medgen.methods.base import NAME, GenerativeSettings
from medgen.networks.flow import ActNorm, Chain, Coupling, Flow, FlowSettings, Layer, PointwiseConvolution, Squeeze
from medgen.types import Batch, DataShape, Update


class Settings(GenerativeSettings):
    name: Literal["glow"] = Field("glow", description=NAME)
    generator: FlowSettings = Field(FlowSettings(couplings=8), description="f, from images to z (paper: 32 couplings)")
    temperature: float = Field(0.7, gt=0, description="samples: factor of z (1: the density itself; paper: 0.7)")
    lr: float = Field(1e-3, gt=0, description="learning rate (paper: 1e-3)")
    betas: tuple[float, float] = Field((0.9, 0.999), description="betas of Adam")


class Glow:
    """Generate images, and tell their likelihood exactly; learns from images alone (``data.sources: []``)."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings, self.channels = settings, data.out_channels
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
