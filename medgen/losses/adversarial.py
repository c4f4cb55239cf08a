"""Adversarial objectives and penalties: the losses of D and G, averaged over patch maps and scales.

r = D(real), f = D(fake), raw logits. Not MONAI's ``PatchAdversarialLoss``, because it passes logits through
activations that the papers do not use (least squares: LeakyReLU; hinge: tanh).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from medgen.losses.precision import full_precision

Objective = Literal["minimax", "non_saturating", "maximum_likelihood", "least_squares", "hinge", "wasserstein"]
Logits = list[Tensor]  # one patch map (B, 1, ...) per scale
LARGEST = 10.0  # logit above which the exponential of maximum_likelihood goes on as its tangent, and stays finite

# Loss of each real and each fake logit, before averaging; s: one-sided label smoothing (1 → 1 - s).
# -log σ(x) = softplus(-x); -log(1 - σ(x)) = softplus(x)
_REAL: dict[str, Callable[[Tensor, float], Tensor]] = {
    "minimax": lambda r, s: (1 - s) * softplus(-r) + s * softplus(r),  # Goodfellow 2014, eq. 1
    "non_saturating": lambda r, s: (1 - s) * softplus(-r) + s * softplus(r),
    "maximum_likelihood": lambda r, s: (1 - s) * softplus(-r) + s * softplus(r),
    "least_squares": lambda r, s: 0.5 * (r - (1 - s)) ** 2,  # Mao 2017, eq. 9
    "hinge": lambda r, _: relu(1 - r),  # Lim & Ye 2017
    "wasserstein": lambda r, _: -r,  # Arjovsky 2017
}
_FAKE: dict[str, Callable[[Tensor], Tensor]] = {
    "minimax": softplus,
    "non_saturating": softplus,
    "maximum_likelihood": softplus,
    "least_squares": lambda f: 0.5 * f**2,
    "hinge": lambda f: relu(1 + f),
    "wasserstein": lambda f: f,
}
_GENERATOR: dict[str, Callable[[Tensor], Tensor]] = {
    "minimax": lambda f: -softplus(f),
    "non_saturating": lambda f: softplus(-f),  # Goodfellow 2014, section 3
    # -exp(σ⁻¹(D(G(z)))) (Goodfellow 2016, section 3.2.4, without its factor ½)
    "maximum_likelihood": lambda f: -f.clamp(max=LARGEST).exp() * (1 + relu(f - LARGEST)),
    "least_squares": lambda f: 0.5 * (f - 1) ** 2,
    "hinge": lambda f: -f,
    "wasserstein": lambda f: -f,
}
SMOOTHED = ("minimax", "non_saturating", "maximum_likelihood", "least_squares")  # objectives that allow label smoothing
BOUNDARY = {"least_squares": 0.5}  # logit threshold between "fake" and "real"; 0 for other objectives


def discriminator_loss(objective: Objective, real: Logits, fake: Logits, *, smoothing: float = 0.0) -> Tensor:
    """Loss of D. ``real``, ``fake``: raw logits of each scale, any shape. Returns a scalar.

    Args:
        smoothing: one-sided label smoothing (Salimans 2016): the label of real images is 1 - smoothing.
    """
    terms = [_REAL[objective](r.float(), smoothing).mean() for r in real]
    terms += [_FAKE[objective](f.float()).mean() for f in fake]
    return torch.stack(terms).sum() / len(real)


def generator_loss(objective: Objective, fake: Logits) -> Tensor:
    """Loss of G. ``fake``: raw logits of each scale, any shape. Returns a scalar."""
    return torch.stack([_GENERATOR[objective](f.float()).mean() for f in fake]).mean()


def r1_penalty(D: Callable[[Tensor], Logits], real: Tensor) -> Tensor:
    """½ E‖∇_x D(x)‖² on real images (Mescheder 2018, eq. 9), without the weight γ.

    D(x) is the mean of an image's patch map, as in the objectives; scales are averaged. Returns a differentiable
    scalar.
    """
    return 0.5 * torch.stack([g.square().sum(1).mean() for g in _gradients(D, real)]).mean()


def gradient_penalty(D: Callable[[Tensor], Logits], real: Tensor, fake: Tensor) -> Tensor:
    """E(‖∇_x̂ D(x̂)‖₂ - 1)² on x̂ = ε real + (1 - ε) fake, ε ~ U[0, 1] per image (Gulrajani 2017, eq. 3); without λ."""
    eps = torch.rand(len(real), *(1,) * (real.ndim - 1), device=real.device, dtype=real.dtype)
    between = eps * real + (1 - eps) * fake.detach()
    # 1e-12: the square root has no gradient at 0, where a D that ignores its input is
    norms = [(g.square().sum(1) + 1e-12).sqrt() for g in _gradients(D, between)]
    return torch.stack([(n - 1).square().mean() for n in norms]).mean()


def consistency_penalty(plain: Logits, transformed: Logits) -> Tensor:
    """E(D(x) - D(T(x)))² (Zhang 2020, eq. 3), with D(x) averaged over the patch map, because T moves positions."""
    pairs = zip(plain, transformed, strict=True)
    return torch.stack([(_critic(a) - _critic(b)).square().mean() for a, b in pairs]).mean()


def _critic(logits: Tensor) -> Tensor:
    """(B, ...) → (B,): D's mean logit for each image."""
    return logits.float().flatten(1).mean(1)


def _gradients(D: Callable[[Tensor], Logits], x: Tensor) -> list[Tensor]:
    """(B, ...) → (B, voxels) for each scale: gradient of D(x), itself differentiable."""
    with full_precision(x):  # squares of half-precision gradients underflow
        x = x.detach().float().requires_grad_()
        scales = D(x)
        return [torch.autograd.grad(_critic(s).sum(), x, create_graph=True)[0].flatten(1) for s in scales]


@torch.no_grad()
def health(objective: Objective, real: Logits, fake: Logits) -> dict[str, Tensor]:
    """State of D: share of correctly classified real and fake patches, of saturated logits, and the logits' spread.

    Wasserstein critics have no fixed threshold; the midpoint of the two means is used. A fake logit is saturated if the
    gradient of the generator's loss is below 0.01 there: D is so certain that G learns nothing from it. The spread is
    the standard deviation of all logits; near 0, D gives the same answer for everything.
    """
    r, f = (torch.cat([s.float().flatten() for s in logits]) for logits in (real, fake))
    threshold = (r.mean() + f.mean()) / 2 if objective == "wasserstein" else BOUNDARY.get(objective, 0.0)
    with torch.enable_grad():
        f = f.requires_grad_()
        (slopes,) = torch.autograd.grad(_GENERATOR[objective](f).sum(), f)
    return {
        "real_accuracy": (r > threshold).float().mean(),
        "fake_accuracy": (f < threshold).float().mean(),
        "saturated": (slopes.abs() < 0.01).float().mean(),
        "spread": torch.cat([r, f]).std(unbiased=False),
    }
