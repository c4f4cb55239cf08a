"""Slices of volumes as 2D images with channels: a slab of k neighbouring slices, k = 1 for plain 2D.

A 2D model's patch still has three sides. The smallest is the slab's depth k, and its axis is the one along which
volumes are sliced: [128, 128, 3] are axial slabs of 3, [1, 96, 96] sagittal slices.
"""

from torch import Tensor

from medgen.types import Batch


def fold(x: Tensor, axis: int) -> Tensor:
    """(B, C, X, Y, Z) with k slices along ``axis`` → (B, C·k, the two other sides): all slices of the first
    contrast, then those of the second, ..."""
    return x.movedim(axis + 2, 2).flatten(1, 2)


def unfold(y: Tensor, axis: int, depth: int) -> Tensor:
    """Inverse of ``fold`` for slabs of ``depth`` slices."""
    return y.unflatten(1, (-1, depth)).movedim(2, axis + 2)


def fold_batch(batch: Batch, axis: int) -> Batch:
    """``fold`` of every image of a batch; the rest is left as it is."""
    return {k: fold(v, axis) if isinstance(v, Tensor) and v.ndim == 5 else v for k, v in batch.items()}
