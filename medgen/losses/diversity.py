"""Losses against a generator that ignores its noise."""

from torch import Tensor


def mode_seeking_loss(y_1: Tensor, y_2: Tensor, z_1: Tensor, z_2: Tensor) -> Tensor:
    """1 / (d(G(x, z₁), G(x, z₂)) / d(z₁, z₂)), d the mean absolute difference (MSGAN, Mao 2019, eq. 3).

    The paper maximises the ratio; its code minimises the inverse, as here. Small if two outputs differ as
    much as their noise.

    Args:
        y_1, y_2: (B, C, X, Y[, Z]) outputs for one input and two draws of noise z_1, z_2 (B, K, ...).
    """
    ratio = (y_1 - y_2).abs().mean() / (z_1 - z_2).abs().mean()
    return 1 / (ratio + 1e-5)


def diversity_sensitive_loss(y_1: Tensor, y_2: Tensor, z_1: Tensor, z_2: Tensor, mask: Tensor, tau: float) -> Tensor:
    """τ - min(d(G(x, z₁), G(x, z₂)) / d(z₁, z₂), τ), mean over the batch (DSGAN, Yang 2019, eq. 3, plus τ).

    The ratio of ``mode_seeking_loss`` with a bound: the gradient stays finite for identical outputs and is zero for
    outputs that differ enough.

    Args:
        y_1, y_2, z_1, z_2: see ``mode_seeking_loss``.
        mask: (B, 1, X, Y[, Z]) where outputs are compared; a sample with an empty mask counts 0.
        tau: τ > 0, output difference per unit of noise.
    """
    distance = ((y_1 - y_2).abs().mean(1, keepdim=True) * mask).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)
    ratio = distance / (z_1 - z_2).abs().flatten(1).mean(1).clamp_min(1e-6)
    return ((tau - ratio).clamp_min(0) * mask.flatten(1).amax(1)).mean()
