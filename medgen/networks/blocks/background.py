"""Keep a masked background unchanged: it is not tissue, and a generator must not be trained on it."""

import torch
from torch import Tensor


def keep_background(x: Tensor, y_hat: Tensor) -> Tensor:
    """Set ŷ to -1 wherever x is -1 in the same channel: the encoded value of masked voxels, see ``intensity.Range``.

    Args:
        x: (B, C, X, Y[, Z]) in [-1, 1].
        y_hat: (B, C_out, X, Y[, Z]), C_out ≤ C.
    """
    return torch.where(x[:, : y_hat.shape[1]] <= -1, torch.full_like(y_hat, -1), y_hat)
