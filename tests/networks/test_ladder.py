"""The posterior of a ladder, and the order of its codes."""

import pytest
import torch
from pydantic import ValidationError
from torch.distributions import Normal

from medgen.networks.ladder import Ladder, LadderSettings, combined


def test_the_posterior_is_the_normalised_product_of_both_densities():
    mu, log_var, mu_p, log_var_p = torch.tensor([0.5, -1.0, 2.0, 0.3])
    z = torch.linspace(-10, 10, 20001)
    product = (Normal(mu, (log_var / 2).exp()).log_prob(z) + Normal(mu_p, (log_var_p / 2).exp()).log_prob(z)).exp()
    product = product / torch.trapezoid(product, z)
    mu_q, log_var_q = combined(mu, log_var, mu_p, log_var_p)
    assert torch.allclose(product, Normal(mu_q, (log_var_q / 2).exp()).log_prob(z).exp(), atol=1e-4)


@torch.no_grad()
def test_codes_lie_on_the_coarsest_grids_and_all_move_the_image():
    torch.manual_seed(0)
    network = Ladder(
        LadderSettings(filters=4, levels=2, latent=3, codes=3, channels=2), channels=1, patch=(8, 12, 8)
    ).eval()
    x, shapes = torch.rand(2, 1, 8, 12, 8), []

    def recorded(like):
        shapes.append(tuple(like.shape[1:]))
        return torch.zeros_like(like)

    mean, moments = network.infer(x, recorded)
    assert mean.shape == x.shape and shapes == [(3,), (2, 2, 3, 2), (2, 4, 6, 4)]
    assert [tuple(mu.shape[1:]) for mu, *_ in moments] == shapes
    plain = network.generate(1, (8, 12, 8), torch.zeros_like)
    for moved in range(3):
        number = iter(range(3))
        drawn = network.generate(1, (8, 12, 8), lambda like, n=number, m=moved: torch.ones_like(like) * (next(n) == m))
        assert not torch.allclose(drawn, plain)


def test_more_codes_than_grids_are_refused():
    with pytest.raises(ValidationError, match="4 codes need 3 levels"):
        LadderSettings(levels=2, codes=4)
