"""Diffusion of images to noise, and one step back (Ho et al., NeurIPS 2020; Song et al., ICLR 2021).

    x_t = √ᾱ_t x_0 + √(1 - ᾱ_t) ε,   ε ~ N(0, 1)                                                (Ho, eq. 4)
    v_t = √ᾱ_t ε - √(1 - ᾱ_t) x_0                                            (Salimans and Ho, ICLR 2022)

All functions broadcast ᾱ, a number or a tensor (B, 1, ...), to the images.
"""

from typing import Literal

import torch
from monai.networks.schedulers import DDPMScheduler
from torch import Tensor

Schedule = Literal["linear", "cosine"]
MONAI = {"linear": "linear_beta", "cosine": "cosine"}


def alphas_bar(schedule: Schedule, steps: int) -> Tensor:
    """ᾱ_t (steps,) for t = 1 ... T, by MONAI's schedules: linear β (Ho 2020), or cosine (Nichol and Dhariwal 2021)."""
    with torch.device("cpu"):
        return DDPMScheduler(num_train_timesteps=steps, schedule=MONAI[schedule]).alphas_cumprod.float()


def noisy(x0: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """x_t; ``alpha``: ᾱ_t."""
    return alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise


def velocity(x0: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """v_t."""
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * x0


def image_of_noise(x: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """x_0 of x_t and ε."""
    return (x - (1 - alpha).sqrt() * noise) / alpha.sqrt()


def image_of_velocity(x: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    """x_0 of x_t and v_t."""
    return alpha.sqrt() * x - (1 - alpha).sqrt() * v


def step_back(x: Tensor, x0: Tensor, alpha: Tensor, before: Tensor, eta: float, noise: Tensor) -> Tensor:
    """x_s of x_t for an earlier s < t (Song 2021, eq. 12 and 16):

        σ² = η² (1 - ᾱ_s) / (1 - ᾱ_t) · (1 - ᾱ_t / ᾱ_s)
        x_s = √ᾱ_s x_0 + √(1 - ᾱ_s - σ²) ε + σ z,   ε = (x_t - √ᾱ_t x_0) / √(1 - ᾱ_t)

    MONAI's scheduler takes s = t - T / steps, which is not the next of its own time steps.

    Args:
        x, x0: x_t, and the x_0 that is predicted of it.
        alpha, before: ᾱ_t and ᾱ_s; 1 for s = 0.
        eta: η; 0: DDIM, without noise; 1: the posterior q(x_s | x_t, x_0) of DDPM.
        noise: z.
    """
    variance = eta**2 * (1 - before) / (1 - alpha) * (1 - alpha / before)
    epsilon = (x - alpha.sqrt() * x0) / (1 - alpha).sqrt()
    return before.sqrt() * x0 + (1 - before - variance).clamp(min=0).sqrt() * epsilon + variance.sqrt() * noise


def times(total: int, steps: int) -> list[int]:
    """Indices of ``alphas_bar``, from the last to the first, of which a sampler takes ``steps``."""
    return torch.linspace(total - 1, 0, min(steps, total), device="cpu").round().long().tolist()
