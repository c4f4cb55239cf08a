"""KL divergence of a style encoder's output from the prior of styles."""

from torch import Tensor


def kl_loss(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) = -½ Σ (1 + log σ² - μ² - σ²), summed over z and averaged over the batch.

    Args:
        mu, log_var: (B, K), outputs of the encoder (Kingma 2014, appendix B).
    """
    mu, log_var = mu.float(), log_var.float()
    return (-0.5 * (1 + log_var - mu.square() - log_var.exp())).sum(1).mean()
