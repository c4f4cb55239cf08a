"""Adversarial objectives on raw logits: what D and G minimise, averaged over patch maps and scales.

r = D(real), f = D(fake). Own code because MONAI's ``PatchAdversarialLoss`` passes logits through
activations that the papers do not have (least squares: LeakyReLU; hinge: tanh).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

Objective = Literal["minimax", "non_saturating", "least_squares", "hinge"]

# -log σ(x) = softplus(-x); -log(1 - σ(x)) = softplus(x)
_DISCRIMINATOR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "minimax": lambda r, f: softplus(-r).mean() + softplus(f).mean(),  # Goodfellow 2014, eq. 1
    "non_saturating": lambda r, f: softplus(-r).mean() + softplus(f).mean(),
    "least_squares": lambda r, f: 0.5 * ((r - 1) ** 2).mean() + 0.5 * (f**2).mean(),  # Mao 2017, eq. 9
    "hinge": lambda r, f: relu(1 - r).mean() + relu(1 + f).mean(),  # Lim & Ye 2017
}
_GENERATOR: dict[str, Callable[[Tensor], Tensor]] = {
    "minimax": lambda f: -softplus(f).mean(),
    "non_saturating": lambda f: softplus(-f).mean(),  # Goodfellow 2014, section 3
    "least_squares": lambda f: 0.5 * ((f - 1) ** 2).mean(),
    "hinge": lambda f: -f.mean(),
}


def discriminator_loss(objective: Objective, real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """What D minimises. ``real``, ``fake``: raw logits of each scale, any shape. Returns a scalar."""
    terms = [_DISCRIMINATOR[objective](r.float(), f.float()) for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def generator_loss(objective: Objective, fake: list[Tensor]) -> Tensor:
    """What G minimises. ``fake``: raw logits of each scale, any shape. Returns a scalar."""
    return torch.stack([_GENERATOR[objective](f.float()) for f in fake]).mean()
