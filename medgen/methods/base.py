"""Interfaces of translation and generative methods: common settings, and the members that others use."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.types import Batch, Section, Update

if TYPE_CHECKING:  # config imports this module, and importing the networks is slow
    from medgen.losses.adversary import Adversary


NAME = "name of the method: its file name in medgen/methods"


class MethodSettings(Section):
    """Keys of the section ``method`` for every method; ``Settings`` in a method's file adds its own."""

    paired_only: ClassVar[bool] = False  # needs aligned pairs of source and target
    needs_classes: ClassVar[bool] = False  # ``translate`` takes the label classes as last channel
    needs_domains: ClassVar[bool] = False  # translates between any two domains of data.domains
    least_batch: ClassVar[int] = 1  # smallest sampling.batch
    needs_labels: ClassVar[bool] = False  # a ``GenerativeMethod`` that also learns from the images' label maps
    # True: needs data.sources; False: a ``GenerativeMethod``, which needs it empty; None: the one or the other.
    translates: ClassVar[bool | None] = True

    name: str = Field(description=NAME)
    spatial_dims: Literal[2, 3] = Field(3, description="3: volumes; 2: slices, see sampling.patch")
    lr: Annotated[float, Field(gt=0)] = Field(
        2e-4, description="learning rate of all networks that have no own learning rate"
    )
    betas: tuple[float, float] = Field((0.5, 0.999), description="betas of Adam, for all networks")


class Method(Protocol):
    """Interface of the classes in ``medgen/methods``, created from their ``Settings`` and a ``types.DataShape``."""

    networks: dict[str, nn.Module]  # all trainable networks
    memory: dict[str, nn.Module]  # other training state, e.g. image pools; saved for resume
    adversaries: "dict[str, Adversary]"  # discriminators by name; the training loop logs their health
    generator: str  # key in ``networks`` of the network that ``translate`` runs and that has an EMA

    def optimizers(self) -> dict[str, Optimizer]: ...

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]: ...

    def translate(self, x: Tensor) -> Tensor: ...


class GenerativeSettings(MethodSettings):
    """Keys of methods that learn from target images alone (``data.sources: []``)."""

    translates: ClassVar[bool | None] = False

    spatial_dims: Literal[3] = Field(3, description="3: volumes")


class GenerativeMethod(Protocol):
    """Interface of the methods whose settings are ``GenerativeSettings``; batches have "target" only.

    ``networks``, ``memory``, ``adversaries``, ``generator``, ``optimizers`` and ``step`` are those of ``Method``. Of
    the following, a method has those that its family has. Images are (B, C, X, Y, Z) in [-1, 1].

    ``sample``: n new images of the sides ``shape``, drawn with ``generator`` (on the CPU, so that a seed gives the same
    images on every device). ``encode``: the code of images. ``reconstruct``: the images of their codes.
    ``log_likelihood``: log density of images in nats, (B,), or a lower bound of it; see ``losses.likelihood``.
    """

    networks: dict[str, nn.Module]
    generator: str

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor: ...

    def encode(self, x: Tensor) -> Tensor: ...

    def reconstruct(self, x: Tensor) -> Tensor: ...

    def log_likelihood(self, x: Tensor, generator: torch.Generator) -> Tensor: ...


class ConditionalMethod(Protocol):
    """Interface of the ``GenerativeMethod``s whose settings have ``needs_labels``; batches have "labels" too."""

    def sample(
        self, n: int, shape: tuple[int, ...], generator: torch.Generator, condition: Tensor | None = None
    ) -> Tensor:
        """``condition``: voxels (n, structures) of each structure; None: as in training images drawn at random."""
        ...
