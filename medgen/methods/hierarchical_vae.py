"""Hierarchical VAE: ladder variational autoencoder (Sønderby et al., NeurIPS 2016).

    p(x, z) = p(x|z) p(z_L) Π_i p(z_i | z_{>i}),   q(z|x) = q(z_L|x) Π_i q(z_i | z_{>i}, x)     (eq. 1, 15)
    log p(x) ≥ E_q[log p(x|z)] - KL(q(z_L|x) ‖ N(0, 1)) - Σ_i E_q KL(q(z_i | z_{>i}, x) ‖ p(z_i | z_{>i}))
    min  -E_q[log p(x|z)] + β Σ KL

The top code z_L has no place and decides on the whole image; the codes below it lie on grids, the coarsest first, and
add what is seen at their place. q(z_i) combines what the image says (bottom-up) with the prior of the codes above
(top-down), weighted by their precision (eq. 17, 18). β grows from 0 to its value during ``warm_up`` steps, without
which the upper codes stay unused (section 2.3). p(x|z) is normal with one learned standard deviation, as in ``vae``.
Differences from the paper: convolutions and codes on grids; group norm, not batch norm (docs/decisions/norms.md).
"""

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, optimizers
from medgen.losses.kl import free_bits, kl_of_normals
from medgen.losses.likelihood import WIDTH, dequantised, gaussian_log_density
from medgen.methods.base import NAME, GenerativeSettings
from medgen.networks.ladder import Ladder, LadderSettings, Noise
from medgen.types import Batch, DataShape, Update, Weight


class Settings(GenerativeSettings):
    name: Literal["hierarchical_vae"] = Field("hierarchical_vae", description=NAME)
    generator: LadderSettings = Field(LadderSettings(), description="bottom-up and top-down networks")
    weight_kl: Weight = Field(1.0, description="weight of the KL divergences (β; 1: the bound)")
    warm_up: int = Field(200, ge=0, description="steps in which β grows from 0 to its value (paper: 200 epochs)")
    free_bits: float = Field(0.0, ge=0, description="nats per unit of the codes that cost nothing more")
    lr: float = Field(1e-3, gt=0, description="learning rate")
    betas: tuple[float, float] = Field((0.9, 0.999), description="betas of Adam")


class HierarchicalVAE:
    """Generate images from codes on several grids; learns from images alone (``data.sources: []``)."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings = settings
        self.networks: dict[str, nn.Module] = {
            "G": Ladder(settings.generator, channels=data.out_channels, patch=data.patch)
        }
        self.memory: dict[str, nn.Module] = {}
        self.adversaries: dict[str, Adversary] = {}

    def optimizers(self) -> dict[str, Optimizer]:
        return optimizers([self.networks["G"]], [], self.settings.lr, self.settings.betas)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of all networks. ``batch``: "target" x (B, C, X, Y, Z) in [-1, 1]."""
        x, s = dequantised(batch["target"]), self.settings
        mean, kl = self._inferred(x, torch.randn_like)
        D = x[0].numel()
        losses = {"nll": -self._log_density(x, mean).mean() / D}
        for n, each in enumerate(kl):
            losses[f"kl_{len(kl) - n}"] = free_bits(each, s.free_bits) / D
        weight = s.weight_kl * min(1.0, (batch["step"] + 1) / max(s.warm_up, 1))
        update("G", losses["nll"] + weight * sum(losses[name] for name in losses if name != "nll"))
        return losses

    @property
    def _network(self) -> Ladder:
        return cast(Ladder, self.networks["G"])

    def _inferred(self, x: Tensor, noise: Noise) -> tuple[Tensor, list[Tensor]]:
        """Decoded mean, and for each code the KL divergence of its units (B, n)."""
        mean, moments = self._network.infer(x, noise)
        return mean, [kl_of_normals(*each).flatten(1) for each in moments]

    def _log_density(self, x: Tensor, mean: Tensor) -> Tensor:
        """log p(x|z) (B,), in nats."""
        log_s = self._network.log_s.float().clamp(min=torch.tensor(WIDTH / 4, device=x.device).log())
        return gaussian_log_density(x, mean, log_s).flatten(1).sum(1)

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """The mean of p(x|z), without its noise, of codes drawn from their priors, in [-1, 1]."""
        return self._network.generate(n, shape, _drawn_with(generator)).float().clamp(-1, 1)

    def encode(self, x: Tensor) -> Tensor:
        """μ of the top code (B, latent)."""
        return self._network.top_code(self._network.features(x))[0]

    def reconstruct(self, x: Tensor) -> Tensor:
        """From the means of all codes."""
        return self._network.infer(x, torch.zeros_like)[0].float().clamp(-1, 1)

    def log_likelihood(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The bound (B,) in nats, from one draw of the codes and one dequantisation for each image."""
        x = dequantised(x, generator)
        mean, kl = self._inferred(x, _drawn_with(generator))
        return self._log_density(x, mean) - torch.cat(kl, 1).sum(1)


def _drawn_with(generator: torch.Generator) -> Noise:
    """N(0, 1) of the shape of a tensor, drawn on the CPU."""
    return lambda like: torch.randn(like.shape, generator=generator).to(like.device)
