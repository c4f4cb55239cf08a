"""VAE: variational autoencoder (Kingma and Welling, ICLR 2014), with β (Higgins 2017) and free bits (Kingma 2016).

    log p(x) ≥ ELBO = E_q(z|x)[log p(x|z)] - KL(q(z|x) ‖ p(z))                                  (eq. 3)
    min  -E_q[log p(x|z)] + β Σ_k max(λ, KL_k)

q(z|x) = N(μ(x), σ(x)²): encoder, p(z) = N(0, 1): prior, p(x|z) = N(D(z), s²): decoder with one learned s for all
voxels, which balances the two terms by itself (Rybkin et al., ICML 2021). KL_k is the batch mean of unit k. Both
terms are divided by the number of voxels. β = 1 and λ = 0 is the bound of the paper.
Differences from the paper: a learned s, and images with dequantised grey values (``losses.likelihood``), without which
the density of a clipped background grows without limit.
"""

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from medgen.losses.kl import free_bits, kl_per_unit
from medgen.losses.likelihood import WIDTH, dequantised, gaussian_log_density
from medgen.methods.base import NAME
from medgen.methods.shared.autoencoder import AutoencoderMethod, AutoencoderMethodSettings
from medgen.networks.autoencoder import Autoencoder, AutoencoderSettings
from medgen.types import Batch, DataShape, Update, Weight


class Settings(AutoencoderMethodSettings):
    name: Literal["vae"] = Field("vae", description=NAME)
    weight_kl: Weight = Field(1.0, description="weight of the KL divergence (β; 1: the bound of the paper)")
    free_bits: float = Field(0.0, ge=0, description="nats per unit of the code that cost nothing more (λ)")


class Network(Autoencoder):
    """Encoder of μ and log σ², decoder, and the logarithm of the decoder's standard deviation s."""

    def __init__(self, settings: AutoencoderSettings, *, channels: int, patch: tuple[int, ...]) -> None:
        super().__init__(settings, channels=channels, patch=patch, outputs=2)
        self.log_s = nn.Parameter(torch.tensor(-1.0))

    def code(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ² (B, latent), in 32 bits."""
        mu, log_var = self.encoder(x).float().chunk(2, 1)
        return mu, log_var.clamp(-20, 10)

    def log_density(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) (B,), in nats."""
        log_s = self.log_s.float().clamp(min=torch.tensor(WIDTH / 4, device=x.device).log())
        return gaussian_log_density(x, self.decoder(z), log_s).flatten(1).sum(1)


class VAE(AutoencoderMethod):
    """Generate images from codes of a normal distribution; learns from images alone (``data.sources: []``)."""

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings = settings
        super().__init__(settings, Network(settings.generator, channels=data.out_channels, patch=data.patch))

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of encoder and decoder. ``batch``: "target" x (B, C, X, Y, Z) in [-1, 1]."""
        x, s, G = dequantised(batch["target"]), self.settings, self._network
        mu, log_var = G.code(x)
        z = mu + torch.randn_like(mu) * (0.5 * log_var).exp()
        D = x[0].numel()
        losses = {
            "nll": -G.log_density(x, z).mean() / D,
            "kl": free_bits(kl_per_unit(mu, log_var), s.free_bits) / D,
        }
        update("G", losses["nll"] + s.weight_kl * losses["kl"])
        return losses

    @property
    def _network(self) -> Network:
        return cast(Network, self.networks["G"])

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """D(z) of z ~ N(0, 1): the mean of p(x|z), without its noise, in [-1, 1]."""
        return self._network.sample(n, shape, generator)

    def encode(self, x: Tensor) -> Tensor:
        """μ (B, latent)."""
        return self._network.code(x)[0]

    def log_likelihood(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The ELBO (B,) in nats, from one z and one dequantisation for each image."""
        x, G = dequantised(x, generator), self._network
        mu, log_var = G.code(x)
        noise = torch.randn(mu.shape, generator=generator).to(mu.device)
        z = mu + noise * (0.5 * log_var).exp()
        return G.log_density(x, z) - kl_per_unit(mu, log_var).sum(1)
