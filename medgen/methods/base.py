"""The protocol of a translation method: what the training loop and inference ask of it."""

from typing import Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary
from medgen.types import Batch, Update


class Method(Protocol):
    """A translation method: one published method, one file in ``medgen/methods``."""

    networks: dict[str, nn.Module]  # every network that learns
    memory: dict[str, nn.Module]  # other state of training, e.g. image pools; saved for resume
    adversaries: dict[str, Adversary]  # the discriminators' side, by name; the loop logs their health
    generator: str  # key in ``networks`` of the network that ``translate`` runs; the loop keeps its EMA

    def optimizers(self) -> dict[str, Optimizer]: ...

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]: ...

    def translate(self, x: Tensor) -> Tensor: ...
