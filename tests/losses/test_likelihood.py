"""Dequantisation, bits per dimension and the Gaussian likelihood equal their closed forms."""

import math

import pytest
import torch
from torch.distributions import Normal

from medgen.losses.likelihood import LEVELS, WIDTH, bits_per_dimension, dequantised, gaussian_log_density


def test_dequantised_values_stay_in_their_grey_value():
    x = torch.linspace(-1, 1, 1000)
    y = dequantised(x)
    grey = ((x + 1) / WIDTH).floor().clamp(max=LEVELS - 1)
    assert torch.equal(((y + 1) / WIDTH).floor(), grey) and (y - x).abs().max() <= WIDTH
    a, b = (dequantised(x, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b)


def test_uniform_grey_values_need_eight_bits():
    D = 10
    uniform = torch.tensor([-D * math.log(2.0)])  # density ½ on [-1, 1]
    assert bits_per_dimension(uniform, D).item() == pytest.approx(8)


def test_bits_of_a_normal_density_equal_its_entropy():
    torch.manual_seed(0)
    sd, n = 0.2, 200_000
    x = dequantised(torch.randn(n) * sd)
    bits = bits_per_dimension(Normal(0, sd).log_prob(x).sum(), n).item()
    entropy = 0.5 * math.log2(2 * math.pi * math.e * sd**2) - math.log2(WIDTH)
    assert bits == pytest.approx(entropy, rel=0.01)


def test_gaussian_log_density_equals_the_closed_form():
    torch.manual_seed(0)
    x, mean, log_sd = torch.randn(3, 5)
    assert torch.allclose(gaussian_log_density(x, mean, log_sd), Normal(mean, log_sd.exp()).log_prob(x), atol=1e-5)
