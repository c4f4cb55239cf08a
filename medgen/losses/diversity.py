"""Against a generator that ignores its noise."""

from torch import Tensor


def mode_seeking_loss(y_1: Tensor, y_2: Tensor, z_1: Tensor, z_2: Tensor) -> Tensor:
    """1 / (d(G(x, z₁), G(x, z₂)) / d(z₁, z₂)), d the mean absolute difference (MSGAN, Mao 2019, eq. 3).

    The paper maximises the ratio; its code minimises the inverse, as here. Small when two outputs differ as
    much as their noise.

    Args:
        y_1, y_2: (B, C, X, Y[, Z]) outputs of one input under two draws of noise z_1, z_2 (B, K, ...).
    """
    ratio = (y_1 - y_2).abs().mean() / (z_1 - z_2).abs().mean()
    return 1 / (ratio + 1e-5)
