import numpy as np
import pytest
import torch

from medgen.losses.adversarial import discriminator_loss, generator_loss

RNG = np.random.default_rng(0)
REAL, FAKE = RNG.normal(0, 3, (2, 1, 4, 5, 3)), RNG.normal(0, 3, (2, 1, 4, 5, 3))


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


# Reference formulas of the losses of D and G, in numpy and float64.
D = {
    "minimax": lambda r, f: (-log_sigmoid(r)).mean() + (-log_sigmoid(-f)).mean(),
    "non_saturating": lambda r, f: (-log_sigmoid(r)).mean() + (-log_sigmoid(-f)).mean(),
    "maximum_likelihood": lambda r, f: (-log_sigmoid(r)).mean() + (-log_sigmoid(-f)).mean(),
    "least_squares": lambda r, f: (0.5 * (r - 1) ** 2).mean() + (0.5 * f**2).mean(),
    "hinge": lambda r, f: np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean(),
    "wasserstein": lambda r, f: f.mean() - r.mean(),
}
G = {
    "minimax": lambda f: log_sigmoid(-f).mean(),
    "non_saturating": lambda f: -log_sigmoid(f).mean(),
    "maximum_likelihood": lambda f: -np.exp(f).mean(),
    "least_squares": lambda f: (0.5 * (f - 1) ** 2).mean(),
    "hinge": lambda f: -f.mean(),
    "wasserstein": lambda f: -f.mean(),
}


@pytest.mark.parametrize("objective", D)
def test_equals_formula_on_one_scale(objective):
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    assert discriminator_loss(objective, [real], [fake]).item() == pytest.approx(D[objective](REAL, FAKE), rel=1e-5)
    assert generator_loss(objective, [fake]).item() == pytest.approx(G[objective](FAKE), rel=1e-5)


@pytest.mark.parametrize("objective", D)
def test_scales_have_equal_weight_regardless_of_size(objective):
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    small_r, small_f = real[..., :2, :2], fake[..., :2, :2]
    expected = (D[objective](REAL, FAKE) + D[objective](small_r.numpy(), small_f.numpy())) / 2
    assert discriminator_loss(objective, [real, small_r], [fake, small_f]).item() == pytest.approx(expected, rel=1e-5)
    expected = (G[objective](FAKE) + G[objective](small_f.numpy())) / 2
    assert generator_loss(objective, [fake, small_f]).item() == pytest.approx(expected, rel=1e-5)


def test_large_logits_stay_finite():
    huge = [torch.tensor([1e4, -1e4])]
    for objective in D:
        assert torch.isfinite(discriminator_loss(objective, huge, huge))
        assert torch.isfinite(generator_loss(objective, huge))


SMOOTH = {
    "minimax": lambda r, f: -(0.9 * log_sigmoid(r) + 0.1 * log_sigmoid(-r)).mean() - log_sigmoid(-f).mean(),
    "least_squares": lambda r, f: (0.5 * (r - 0.9) ** 2).mean() + (0.5 * f**2).mean(),
}
SMOOTH["non_saturating"] = SMOOTH["maximum_likelihood"] = SMOOTH["minimax"]


@pytest.mark.parametrize("objective", SMOOTH)
def test_smoothing_lowers_the_real_label_only(objective):
    real, fake = [torch.tensor(REAL), torch.tensor(REAL[..., :2])], [torch.tensor(FAKE), torch.tensor(FAKE[..., :2])]
    expected = (SMOOTH[objective](REAL, FAKE) + SMOOTH[objective](REAL[..., :2], FAKE[..., :2])) / 2
    assert discriminator_loss(objective, real, fake, smoothing=0.1).item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_of_maximum_likelihood_is_that_of_the_likelihood():
    """With the best D, whose odds are p / p_G, the generator's gradient is that of -E_p[log p_G].

    The densities lie on three values; G's samples are weighted, so that its gradient is exact:
    Σ p_G ∇log p_G · (-exp(D)) = -Σ p_G ∇log p_G · p / p_G = -Σ p ∇log p_G.
    """
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    theta = torch.tensor([0.1, -0.4, 0.3], dtype=torch.float64, requires_grad=True)
    log_q = theta.log_softmax(0)
    best = (p.log() - log_q).detach()  # σ⁻¹ of p / (p + p_G)
    losses = torch.stack([generator_loss("maximum_likelihood", [logit[None]]) for logit in best])
    (by_game,) = torch.autograd.grad((log_q.exp() * losses.double()).sum(), theta, retain_graph=True)
    (by_likelihood,) = torch.autograd.grad(-(p * log_q).sum(), theta)
    torch.testing.assert_close(by_game, by_likelihood, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_maximum_likelihood_equals_its_formula():
    logits = torch.tensor([-2.0, 0.0, 1.5, 20.0], requires_grad=True)
    generator_loss("maximum_likelihood", [logits]).backward()
    wanted = [-np.exp(f) / 4 for f in (-2.0, 0.0, 1.5, 10.0)]  # beyond 10 the exponential goes on as its tangent
    assert logits.grad.tolist() == pytest.approx(wanted, rel=1e-5)
