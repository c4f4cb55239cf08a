"""Fold slabs of k neighbouring slices into the channels of 2D images; k = 1 is plain 2D.

The patch of a 2D model still has three sides. The smallest side is the slab's depth k, and its axis is the one along
which volumes are sliced: [128, 128, 3] are axial slabs of 3 slices, [1, 96, 96] are sagittal slices.
"""

from torch import Tensor

from medgen.types import Batch


def fold(x: Tensor, axis: int) -> Tensor:
    """(B, C, X, Y, Z) with k slices along ``axis`` → (B, C·k, the two other sides).

    Channels are ordered by contrast, then by slice.
    """
    return x.movedim(axis + 2, 2).flatten(1, 2)


def unfold(y: Tensor, axis: int, depth: int) -> Tensor:
    """Inverse of ``fold`` for slabs of ``depth`` slices."""
    return y.unflatten(1, (-1, depth)).movedim(2, axis + 2)


def fold_batch(batch: Batch, axis: int) -> Batch:
    """Apply ``fold`` to every image of a batch; other entries are unchanged."""
    return {k: fold(v, axis) if isinstance(v, Tensor) and v.ndim == 5 else v for k, v in batch.items()}
