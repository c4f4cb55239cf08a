"""Flows: settings, training by maximum likelihood, sampling and codes. A method adds the layers of its flow."""

from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, optimizers
from medgen.losses.likelihood import dequantised
from medgen.methods.base import GenerativeSettings
from medgen.networks.flow import Flow, FlowSettings
from medgen.types import Batch, Update


class FlowMethodSettings(GenerativeSettings):
    generator: FlowSettings = Field(FlowSettings(), description="f, from images to z")
    temperature: float = Field(1.0, gt=0, description="samples: factor of z (1: the density itself)")
    lr: float = Field(1e-3, gt=0, description="learning rate (papers: 1e-3)")
    betas: tuple[float, float] = Field((0.9, 0.999), description="betas of Adam")


class FlowMethod:
    """Generate images, and tell their likelihood exactly; learns from images alone (``data.sources: []``).

    Args:
        settings: of the method.
        flow: f.
        channels: of an image.
    """

    generator = "G"

    def __init__(self, settings: FlowMethodSettings, flow: Flow, channels: int) -> None:
        self.settings, self.channels = settings, channels
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
        return self._flow.draw(n, self.channels, shape, generator, self.settings.temperature).clamp(-1, 1)

    def encode(self, x: Tensor) -> Tensor:
        """z (B, C·X·Y·Z)."""
        return torch.cat([z.flatten(1) for z in self._flow(x)[0]], 1)

    def log_likelihood(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """log p (B,) in nats of one dequantisation of each image."""
        return self._flow.log_density(dequantised(x, generator))
