"""Maximum mean discrepancy of two sets of codes, with the kernels of the Wasserstein autoencoder."""

import torch
from torch import Tensor

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of the kernel, as in the paper's code


def inverse_multiquadratic(a: Tensor, b: Tensor) -> Tensor:
    """k(a, b) = Σ_s C_s / (C_s + |a - b|²), C_s = 2 d s (Tolstikhin 2018, section 4).

    2 d is the expected squared distance of two codes of N(0, 1). Unlike a Gaussian kernel, this one has a gradient for
    codes that are far from the prior.

    Args:
        a, b: (m, d) and (n, d).

    Returns:
        (m, n).
    """
    squared = (a[:, None] - b[None]).square().sum(2)
    widths = [2 * a.shape[1] * scale for scale in SCALES]
    return torch.stack([width / (width + squared) for width in widths]).sum(0)


def mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased estimate of the squared MMD (Gretton et al., JMLR 2012, eq. 3), without the pairs of a row with itself:

        Σ_{i≠j} k(x_i, x_j) / m(m - 1) + Σ_{i≠j} k(y_i, y_j) / n(n - 1) - 2 Σ_{ij} k(x_i, y_j) / mn

    Args:
        x, y: (m, d) and (n, d). A set of one row has no pairs, and its first term is left out.
    """
    x, y = x.float(), y.float()
    return _pairs(x) + _pairs(y) - 2 * inverse_multiquadratic(x, y).mean()


def _pairs(x: Tensor) -> Tensor:
    n = len(x)
    k = inverse_multiquadratic(x, x)
    return (k.sum() - k.diagonal().sum()) / max(n * (n - 1), 1)
