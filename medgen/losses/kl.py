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


def kl_of_normals(mu: Tensor, log_var: Tensor, mu_p: Tensor, log_var_p: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(μ_p, σ_p²)) = ½ (log σ_p²/σ² + (σ² + (μ - μ_p)²) / σ_p² - 1), elementwise."""
    mu, log_var, mu_p, log_var_p = (each.float() for each in (mu, log_var, mu_p, log_var_p))
    return 0.5 * (log_var_p - log_var + (log_var - log_var_p).exp() + (mu - mu_p).square() * (-log_var_p).exp() - 1)


def free_bits(kl: Tensor, least: float) -> Tensor:
    """Σ_k max(λ, mean_B KL_k): a unit of the code that needs less than λ nats is not pressed further (Kingma 2016).

    Args:
        kl: (B, K), see ``kl_per_unit``.
        least: λ, nats.
    """
    return kl.mean(0).clamp(min=least).sum()
