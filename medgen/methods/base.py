"""What every translation method has: its settings, and what the training loop and inference ask of it."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol

from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.types import Batch, Section, Update

if TYPE_CHECKING:  # config reads this module, and the networks are slow to import
    from medgen.losses.adversary import Adversary


NAME = "of the method: that of its file in medgen/methods"


class MethodSettings(Section):
    """Keys that the section ``method`` has for every method; ``Settings`` of a method's file adds its own."""

    paired_only: ClassVar[bool] = False  # learns from pairs of one place
    needs_classes: ClassVar[bool] = False  # ``translate`` takes the classes of the labels as a last channel
    needs_domains: ClassVar[bool] = False  # translates between any two of data.domains

    name: str = Field(description=NAME)
    spatial_dims: Literal[2, 3] = Field(3, description="3: volumes; 2: slices, see sampling.patch")
    lr: Annotated[float, Field(gt=0)] = Field(2e-4, description="learning rate of every network without its own")
    betas: tuple[float, float] = Field((0.5, 0.999), description="of Adam, for all networks")


class Method(Protocol):
    """A translation method: one published method, one file in ``medgen/methods``.

    Its class takes its ``Settings`` and a ``types.DataShape``.
    """

    networks: dict[str, nn.Module]  # every network that learns
    memory: dict[str, nn.Module]  # other state of training, e.g. image pools; saved for resume
    adversaries: "dict[str, Adversary]"  # the discriminators' side, by name; the loop logs their health
    generator: str  # key in ``networks`` of the network that ``translate`` runs; the loop keeps its EMA

    def optimizers(self) -> dict[str, Optimizer]: ...

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]: ...

    def translate(self, x: Tensor) -> Tensor: ...
