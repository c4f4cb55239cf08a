"""The network of a hierarchical VAE: a bottom-up encoder and a top-down path with codes on several grids.

The bottom-up path gives, for each code, a mean and a variance from the image alone; the top-down path gives its prior
from the codes above. The posterior is their precision-weighted combination (Sønderby et al., NeurIPS 2016).
"""

from collections.abc import Callable, Sequence
from typing import Annotated, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from medgen.networks.autoencoder import AutoencoderSettings, check_patch, normed, sizes
from medgen.types import Count

Moments = tuple[Tensor, Tensor, Tensor, Tensor]  # μ, log σ² of the posterior of a code, and of its prior
Noise = Callable[[Tensor], Tensor]  # N(0, 1) of the shape of a tensor
MOST_LOG_VAR = 5.0  # of codes: ±


class LadderSettings(AutoencoderSettings):
    """Keys of ``method.generator`` of hierarchical_vae."""

    filters: Count = Field(16, description="channels of the first level; doubled at each level, up to 8 times")
    levels: Annotated[int, Field(gt=0, le=8)] = Field(
        3, description="halvings of the grid; patch sides must be multiples of 2^levels"
    )
    latent: Count = Field(32, description="length of the top code, which has no place")
    codes: Annotated[int, Field(ge=2, le=8)] = Field(
        3, description="codes: the top one, one on the coarsest grid, then one on each finer grid"
    )
    channels: Count = Field(4, description="channels of the codes with a place")

    @model_validator(mode="after")
    def _grids(self) -> "LadderSettings":
        if self.codes > self.levels + 1:
            raise ValueError(f"{self.codes} codes need {self.codes - 1} levels; raise levels, or lower codes")
        return self


def combined(mu: Tensor, log_var: Tensor, mu_p: Tensor, log_var_p: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance of the posterior (Sønderby 2016, eq. 17 and 18):

        σ_q² = 1 / (σ̂⁻² + σ_p⁻²),   μ_q = (μ̂ σ̂⁻² + μ_p σ_p⁻²) σ_q²

    Args:
        mu, log_var: μ̂ and log σ̂², from the image.
        mu_p, log_var_p: of the prior, from the codes above.
    """
    precision, precision_p = (-log_var).exp(), (-log_var_p).exp()
    total = precision + precision_p
    return (mu * precision + mu_p * precision_p) / total, -total.log()


class Ladder(nn.Module):
    """Encoder, top-down path, and the logarithm of the decoder's standard deviation s.

    Args:
        settings: their size.
        channels: channels of an image.
        patch: its sides in voxels.
    """

    def __init__(self, settings: LadderSettings, *, channels: int, patch: tuple[int, ...]) -> None:
        super().__init__()
        widths, self.coarse = sizes(settings, patch)
        self.divisor, self.latent, self.patch = 2**settings.levels, settings.latent, tuple(patch)
        self.log_s = nn.Parameter(torch.tensor(-1.0))
        c, placed = settings.channels, settings.codes - 1
        grids = widths[::-1][:placed]  # widths of the grids that hold a code, the coarsest first
        self.first = nn.Conv3d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Sequential(*normed(a), nn.Conv3d(a, b, 4, stride=2, padding=1))
            for a, b in zip(widths, widths[1:], strict=False)
        )
        self.top = nn.Linear(widths[-1] * self.coarse.numel(), 2 * settings.latent)
        self.of_image = nn.ModuleList(nn.Sequential(*normed(w), nn.Conv3d(w, 2 * c, 1)) for w in grids)
        self.dense = nn.Linear(settings.latent, widths[-1] * self.coarse.numel())
        self.of_above = nn.ModuleList(nn.Sequential(*normed(w), nn.Conv3d(w, 2 * c, 1)) for w in grids)
        self.of_code = nn.ModuleList(nn.Conv3d(c, w, 3, padding=1) for w in grids)
        self.up = nn.ModuleList(
            nn.Sequential(
                *normed(a),
                nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False),
                nn.Conv3d(a, b, 3, padding=1),
            )
            for a, b in zip(widths[::-1], widths[-2::-1], strict=False)
        )
        self.last = nn.Sequential(*normed(widths[0]), nn.Conv3d(widths[0], channels, 3, padding=1))

    def features(self, x: Tensor) -> list[Tensor]:
        """Bottom-up features, the coarsest first."""
        found = [self.first(x)]
        for layer in self.down:
            found.append(layer(found[-1]))
        return found[::-1]

    def top_code(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """μ and log σ² (B, latent) of the top code."""
        return _moments(self.top(features[0].flatten(1)))

    def infer(self, x: Tensor, noise: Noise) -> tuple[Tensor, list[Moments]]:
        """Decoded mean (B, C, X, Y, Z) of codes of the posterior, and the moments of each code, the top one first."""
        features = self.features(x)
        mu, log_var = self.top_code(features)
        z = mu + (0.5 * log_var).exp() * noise(mu)
        moments = [(mu, log_var, torch.zeros_like(mu), torch.zeros_like(mu))]
        return self._descend(z, features, noise, moments), moments

    def generate(self, n: int, shape: tuple[int, ...], noise: Noise) -> Tensor:
        """Decoded mean of codes of the prior. Raises ValueError for images of another shape than in training."""
        check_patch(self.patch, shape)
        like = next(self.parameters()).new_zeros(n, self.latent)
        return self._descend(noise(like), None, noise, [])

    def _descend(self, z: Tensor, features: Sequence[Tensor] | None, noise: Noise, moments: list[Moments]) -> Tensor:
        """From the top code to the image, with codes of the prior if there are no features. Extends ``moments``."""
        h = self.dense(z).unflatten(1, (-1, *self.coarse))
        for grid in range(len(self.up) + 1):
            if grid < len(self.of_code):
                mu_p, log_var_p = _moments(self.of_above[grid](h))
                mu, log_var = mu_p, log_var_p
                if features is not None:
                    mu, log_var = combined(*_moments(self.of_image[grid](features[grid])), mu_p, log_var_p)
                    moments.append((mu, log_var, mu_p, log_var_p))
                h = h + self.of_code[grid](mu + (0.5 * log_var).exp() * noise(mu))
            if grid < len(self.up):
                h = self.up[grid](h)
        return cast(Tensor, self.last(h))


def _moments(out: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance, in 32 bits; the latter is bounded smoothly."""
    mu, log_var = out.float().chunk(2, 1)
    return mu, MOST_LOG_VAR * (log_var / MOST_LOG_VAR).tanh()
