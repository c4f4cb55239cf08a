"""Predict the memory of a forward pass before it runs, by computing shapes on the meta device."""

import copy
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medgen.errors import InputError

SMALL_GB = 1 / 16  # a window and weights up to this size are accepted regardless of the limit


class _Peak(TorchDispatchMode):
    """Record the peak number of bytes of tensors that exist at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.alive = {key: (ref, size) for key, (ref, size) in self.alive.items() if not ref.expired()}
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                ref = StorageWeakRef(tensor.untyped_storage())
                self.alive[ref.cdata] = ref, tensor.untyped_storage().nbytes()
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return output


def peak_bytes(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Peak bytes of the activations in a forward pass on (B, C, X, Y[, Z]) float32, including the input.

    Raises:
        RuntimeError: the network does not accept the shape, or its size overflows.
    """
    copied = copy.deepcopy(network).to("meta")
    with torch.inference_mode(), _Peak() as peak:
        copied(torch.empty(shape, device="meta"))
    return peak.most


def weight_bytes(network: nn.Module) -> int:
    """Bytes of a network's parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


@lru_cache(maxsize=8)
def windows_per_pass(network: nn.Module, window: tuple[int, ...], most: int, memory_gb: float) -> int:
    """Number of windows (C, X, Y[, Z]) per forward pass: ``most``, or fewer to stay within ``memory_gb``.

    Raises:
        InputError: one window and the weights need more than ``memory_gb``.
    """
    free = memory_gb * 2**30 - weight_bytes(network)
    free_for_one = max(memory_gb, SMALL_GB) * 2**30 - weight_bytes(network)
    try:
        one = peak_bytes(network, (1, *window))
    except (RuntimeError, OverflowError):
        one = 2**63
    if one > free_for_one:
        size = " x ".join(map(str, window[1:]))
        raise InputError(
            "model-memory-exceeded",
            f"a window of {size} voxels (inference.patch or sampling.patch) needs {_gb(one)} GiB and the model's "
            f"weights {_gb(weight_bytes(network))} GiB, more than --memory-gb {memory_gb:g}; raise it or use another "
            "model",
        )
    return max(1, min(most, int(free // max(one, 1))))


def _gb(size: float) -> str:
    return f"{size / 2**30:.3g}"
