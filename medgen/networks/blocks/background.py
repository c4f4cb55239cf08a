"""A masked background is no tissue: it stays as it is, and teaches a generator nothing."""

import torch
from torch import Tensor


def background_kept(x: Tensor, y_hat: Tensor) -> Tensor:
    """ŷ with -1 wherever x, in the same channel, is coded -1: the code of masked voxels, see ``codecs.Range``.

    Args:
        x: (B, C, X, Y[, Z]) in [-1, 1].
        y_hat: (B, C_out, X, Y[, Z]), C_out ≤ C.
    """
    return torch.where(x[:, : y_hat.shape[1]] <= -1, torch.full_like(y_hat, -1), y_hat)
