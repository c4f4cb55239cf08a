"""The forward process, velocity and posterior equal closed forms and MONAI's schedulers."""

import pytest
import torch
from monai.networks.schedulers import DDPMScheduler

from medgen.losses.diffusion import (
    alphas_bar,
    image_of_noise,
    image_of_velocity,
    noisy,
    step_back,
    times,
    velocity,
)


def test_noise_and_velocity_are_those_of_monai_and_invert():
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 3, 1, 4, 4, 4)
    t = torch.tensor([5, 300, 999])
    for name, theirs in (("linear", "linear_beta"), ("cosine", "cosine")):
        scheduler = DDPMScheduler(num_train_timesteps=1000, schedule=theirs)
        alpha = alphas_bar(name, 1000)[t].view(3, 1, 1, 1, 1)
        x, v = noisy(x0, noise, alpha), velocity(x0, noise, alpha)
        assert torch.allclose(x, scheduler.add_noise(x0, noise, t), atol=1e-5)
        assert torch.allclose(v, scheduler.get_velocity(x0, noise, t), atol=1e-5)
        assert torch.allclose(image_of_velocity(x, v, alpha), x0, atol=1e-4)
        assert torch.allclose(image_of_noise(x, noise, alpha)[:2], x0[:2], atol=1e-3)


def test_linear_schedule_is_that_of_the_paper():
    beta = torch.linspace(1e-4, 0.02, 1000)
    assert torch.allclose(alphas_bar("linear", 1000), (1 - beta).cumprod(0), rtol=1e-4)


def test_with_eta_1_a_step_is_the_posterior_of_ho_2020():
    """Mean and variance of q(x_{t-1} | x_t, x_0), eq. 6 and 7."""
    torch.manual_seed(0)
    a = alphas_bar("linear", 1000).double()
    x, x0, noise = torch.randn(3, 2, 1, 3, 3, 3).double()
    for t in (1, 400, 999):
        beta, before = 1 - a[t] / a[t - 1], a[t - 1]
        mean = before.sqrt() * beta / (1 - a[t]) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - a[t]) * x
        variance = (1 - before) / (1 - a[t]) * beta
        found = step_back(x, x0, a[t], before, 1.0, noise)
        assert torch.allclose(found, mean + variance.sqrt() * noise, atol=1e-8)


def test_without_noise_a_step_keeps_image_and_noise():
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 1, 1, 3, 3, 3).double()
    a, b = torch.tensor([0.2, 0.7]).double()
    assert torch.allclose(step_back(noisy(x0, noise, a), x0, a, b, 0.0, noise), noisy(x0, noise, b))
    assert torch.allclose(step_back(noisy(x0, noise, a), x0, a, torch.ones(()).double(), 1.0, noise), x0)


@pytest.mark.parametrize("total, steps, found", [(10, 4, [9, 6, 3, 0]), (3, 9, [2, 1, 0]), (1000, 1, [999])])
def test_times_go_from_the_last_to_the_first(total, steps, found):
    assert times(total, steps) == found
