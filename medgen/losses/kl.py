"""KL divergence of an encoder's output from the prior of codes or styles."""

from torch import Tensor


def kl_per_unit(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) = -½ (1 + log σ² - μ² - σ²), elementwise (Kingma 2014, appendix B)."""
    mu, log_var = mu.float(), log_var.float()
    return -0.5 * (1 + log_var - mu.square() - log_var.exp())


def kl_loss(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)), summed over z and averaged over the batch.

    Args:
        mu, log_var: (B, K), outputs of the encoder.
    """
    return kl_per_unit(mu, log_var).sum(1).mean()


def free_bits(kl: Tensor, least: float) -> Tensor:
    """Σ_k max(λ, mean_B KL_k): a unit of the code that needs less than λ nats is not pressed further (Kingma 2016).

    Args:
        kl: (B, K), see ``kl_per_unit``.
        least: λ, nats.
    """
    return kl.mean(0).clamp(min=least).sum()
