"""Choose patch, batch, depth and width of a residual U-Net from the size of the volumes and the memory of a machine.

The order is that of nnU-Net's planner (Isensee et al., Nature Methods 2021): the largest patch that the volumes fill
and the memory holds, then the batch. On a CPU time is short before memory is, so patch and batch stay those of the
configs, which were tuned on two cores.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from medgen.networks.memory import weight_bytes
from medgen.networks.residual_unet import ResidualUNet

SIDE = 16  # patch sides are multiples of it: 4 halvings
PATCH_VOXELS = 64**3  # on a CPU
GPU_PATCH_VOXELS = 128**3
LEVELS = 4
COARSEST = 2  # voxels of the smallest patch side that are left after all halvings
CPU_BATCH, GPU_BATCH = 2, 8
SEEN_SHARE = 0.05  # of the cohort's voxels that one batch may show, as in nnU-Net
COPIES = 5  # of the weights: themselves, gradients, two moments of Adam, moving average
# Peak memory of a step relative to the saved activations: also gradients, losses, buffers of convolutions. Measured on
# a CPU: 2.2 for two patches of 64³, 2.5 for one of 96³.
OTHER = 2.6
SHARE = 0.8  # of the memory that a plan may use
NARROW = 16  # filters where 32 do not fit


@dataclass(frozen=True)
class Machine:
    """What a training runs on: whether it is a GPU, and its memory in GiB."""

    gpu: bool
    memory_gb: float

    @property
    def patch_voxels(self) -> int:
        return GPU_PATCH_VOXELS if self.gpu else PATCH_VOXELS

    @property
    def about(self) -> str:
        return f"{self.memory_gb:.3g} GiB of {'GPU memory' if self.gpu else 'memory'}"


@dataclass(frozen=True)
class Size:
    """The chosen sizes. ``memory_gb``: estimated need of a training step, GiB; ``coarsest``: voxels, see `COARSEST`."""

    patch: list[int]
    batch: int
    levels: int
    filters: int
    memory_gb: float
    most_voxels: int
    coarsest: int
    about_batch: str
    about_filters: str


def this_machine(gpu: bool | None = None, memory_gb: float | None = None) -> Machine:
    """The machine that runs this process; ``gpu`` and ``memory_gb`` replace what is found."""
    gpu = torch.cuda.is_available() if gpu is None else gpu
    if memory_gb is None:
        if gpu and torch.cuda.is_available():
            memory_gb = torch.cuda.get_device_properties(0).total_memory / 2**30
        else:
            memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Machine(gpu, memory_gb)


def size_for(
    voxels: Sequence[int], cases: int, machine: Machine, generator: Mapping[str, Any], sources: int, targets: int
) -> Size:
    """Sizes for volumes of ``voxels`` (X, Y, Z) in ``cases`` cases.

    Args:
        generator: ``filters`` and ``windows`` of the config that the plan rests on.
        sources, targets: channels of input and output.
    """
    most, smallest = machine.patch_voxels, SIDE**3
    limit = SHARE * machine.memory_gb
    filters = int(generator["filters"])
    windows = tuple(tuple(window) for window in generator.get("windows", ()))

    def needed(patch: Sequence[int], width: int) -> tuple[float, float]:
        return training_gb(tuple(patch), levels_for(patch), width, sources, targets, windows)

    while True:
        patch = patch_for(voxels, most)
        weights, one = needed(patch, filters)
        if weights + one <= limit or math.prod(patch) <= smallest:
            break
        most = min(math.prod(patch) - 1, int(math.prod(patch) * max(0.0, limit - weights) / one))
    about_filters = "as in the config"
    if weights + one > limit and filters > NARROW:
        filters, about_filters = NARROW, "fewer than in the config, to fit the memory"
        weights, one = needed(patch, filters)
    fit = max(1, int((limit - weights) // one))
    shown = max(1, int(SEEN_SHARE * cases * math.prod(voxels) / math.prod(patch)))
    usual = GPU_BATCH if machine.gpu else CPU_BATCH
    batch = min(usual, fit, max(shown, CPU_BATCH))
    if batch == fit < usual:
        about_batch = "what fits the memory"
    elif batch == usual:
        about_batch = "more are slower per step than they help" if machine.gpu else "time is short on a CPU"
    else:
        about_batch = "small cohort: a batch shows at most 5 % of its voxels, or 2 patches"
    levels = levels_for(patch)
    coarsest = min(patch) // 2**levels
    return Size(
        patch, batch, levels, filters, weights + batch * one, machine.patch_voxels, coarsest, about_batch, about_filters
    )


def patch_for(voxels: Sequence[int], most: int = PATCH_VOXELS) -> list[int]:
    """Sides of a patch: multiples of `SIDE` that hold the volume where they can, with at most ``most`` voxels.

    The longest sides are cut first, so that thick slices give a wide and flat patch.
    """
    sides = [SIDE * max(1, math.ceil(n / SIDE)) for n in voxels]
    while math.prod(sides) > most and max(sides) > SIDE:
        sides[sides.index(max(sides))] -= SIDE
    return sides


def levels_for(patch: Sequence[int]) -> int:
    """Halvings that leave `COARSEST` voxels of the smallest side, at least 2 and at most `LEVELS`."""
    return max(2, min(LEVELS, int(math.log2(min(patch) / COARSEST))))


@lru_cache(maxsize=32)
def training_gb(
    patch: tuple[int, ...],
    levels: int,
    filters: int,
    sources: int = 1,
    targets: int = 1,
    windows: tuple[tuple[float, ...], ...] = (),
) -> tuple[float, float]:
    """GiB that a training step needs for the weights, and for each patch of the batch (32 bits).

    The network runs on the meta device, where tensors have shapes and no content; counted are the tensors that it keeps
    for the backward pass.
    """
    with torch.device("meta"):
        network = ResidualUNet(
            spatial_dims=3,
            in_channels=sources,
            out_channels=targets,
            filters=filters,
            levels=levels,
            windows=windows,  # type: ignore[arg-type]
        )
        kept: dict[int, tuple[Tensor, int]] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage._cdata] = tensor, storage.nbytes()
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            network(torch.empty((1, sources, *patch)))
    own = {p.untyped_storage()._cdata for p in network.parameters()}
    activations = sum(size for key, (_, size) in kept.items() if key not in own)
    return COPIES * weight_bytes(network) / 2**30, OTHER * activations / 2**30
