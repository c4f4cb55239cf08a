"""Distances of an image to its reconstruction, as the papers on translation in cycles use them."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as nnf

Distance = Literal["l1", "l2", "cosine"]


def distance(kind: Distance, a: Tensor, b: Tensor) -> Tensor:
    """A scalar from two batches (B, C, X, Y[, Z]) in [-1, 1].

    l1: mean |a - b|. l2: mean (a - b)². cosine: mean over the images of 1 - cos(a, b), all voxels of an image as one
    vector, which ignores a factor between them.
    """
    if kind == "l1":
        return (a - b).abs().mean()
    if kind == "l2":
        return (a - b).square().mean()
    return (1 - nnf.cosine_similarity(a.float().flatten(1), b.float().flatten(1))).mean()
