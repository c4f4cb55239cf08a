"""Diffusion: a network that removes noise step by step, on MONAI's DiffusionModelUNet.

    min_ε  E‖ε - ε_θ(x_t, t)‖²,   x_t = √ᾱ_t x_0 + √(1 - ᾱ_t) ε      epsilon (Ho et al., NeurIPS 2020, eq. 14)
    min_v  E‖v_t - v_θ(x_t, t)‖², v_t = √ᾱ_t ε - √(1 - ᾱ_t) x_0      v       (Salimans and Ho, ICLR 2022)
    min_u  E‖(ε - x_0) - u_θ(x_t, t)‖², x_t = (1 - t) x_0 + t ε      flow    (rectified flow, Liu et al., ICLR 2023)

Samples begin as noise. With epsilon and v they go back in ``steps`` of the T of training: η = 0 is DDIM (Song et al.,
ICLR 2021), η = 1 with all steps DDPM. With flow they follow -u in equal Euler steps. The predicted x_0 is kept in
[-1, 1].

With ``data.sources``, the network also sees the source image c and translates it: a sample of p(x | c). In a share of
the steps c is hidden, and samples may use ε̃ = (1 + w) ε_θ(x, c) - w ε_θ(x) (classifier-free guidance, Ho and Salimans
2021, eq. 6). A channel tells whether c is hidden.
The bound of the likelihood is that of variational diffusion in continuous time (Kingma et al., NeurIPS 2021, eq. 11 and
15), which holds for all three: with x_t = a_t x_0 + b_t ε, SNR_t = a_t² / b_t² and λ = log SNR,

    log p(x_0) ≥ E log N(x_0; x_1 / a_1, b_1² / a_1²) - KL(q(x_T | x_0) ‖ N(0, 1))
                 - ½ ∫ SNR_λ E‖x_0 - x̂_0(x_λ)‖² dλ

Differences from the papers: attention in the coarsest grid only.
"""

from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, optimizers
from medgen.losses.diffusion import (
    Schedule,
    alphas_bar,
    image_of_noise,
    image_of_velocity,
    noisy,
    step_back,
    times,
    velocity,
)
from medgen.losses.kl import kl_of_normals
from medgen.losses.likelihood import dequantised, gaussian_log_density
from medgen.methods.base import NAME, MethodSettings
from medgen.networks.denoiser import Denoiser, DenoiserSettings
from medgen.types import Batch, Count, DataShape, Update


class Settings(MethodSettings):
    paired_only: ClassVar[bool] = True
    translates: ClassVar[bool | None] = None

    name: Literal["diffusion"] = Field("diffusion", description=NAME)
    spatial_dims: Literal[3] = Field(3, description="3: volumes")
    generator: DenoiserSettings = Field(DenoiserSettings(), description="ε_θ, v_θ or u_θ")
    predict: Literal["epsilon", "v", "flow"] = Field("v", description="what the network predicts: ε, v, or ε - x_0")
    schedule: Schedule = Field("cosine", description="noise schedule of epsilon and v: linear (Ho 2020) or cosine")
    noise_steps: int = Field(1000, ge=2, description="T, the time steps of training")
    steps: Count = Field(50, description="time steps of a sample, and values of the integral in the bound")
    eta: float = Field(0.0, ge=0, le=1, description="noise of these steps (η): 0: DDIM, 1: DDPM; not for flow")
    hide_source: float = Field(0.1, ge=0, lt=1, description="with sources: share of the images whose source is hidden")
    guidance: float = Field(0.0, ge=0, description="with sources: weight of classifier-free guidance (w; 0: none)")
    lr: float = Field(1e-4, gt=0, description="learning rate")
    betas: tuple[float, float] = Field((0.9, 0.999), description="betas of Adam")


class Diffusion:
    """Generate images from noise (``data.sources: []``), or translate a source image to a sample of its targets."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings, self.channels, self.sources = settings, data.out_channels, data.in_channels
        network = Denoiser(
            settings.generator,
            in_channels=data.out_channels + (data.in_channels + 1 if data.in_channels else 0),
            out_channels=data.out_channels,
        )
        self.networks: dict[str, nn.Module] = {"G": network}
        self.memory: dict[str, nn.Module] = {}
        self.adversaries: dict[str, Adversary] = {}

    def optimizers(self) -> dict[str, Optimizer]:
        return optimizers([self.networks["G"]], [], self.settings.lr, self.settings.betas)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update. ``batch``: "target" x_0, and if there are sources "source" c, (B, C, X, Y, Z) in [-1, 1]."""
        x0, c, s = batch["target"], batch.get("source") if self.sources else None, self.settings
        noise = torch.randn_like(x0)
        u = torch.rand_like(x0[:, :1, :1, :1, :1])
        if s.predict == "flow":
            x, t, wanted = (1 - u) * x0 + u * noise, u * s.noise_steps, noise - x0
        else:
            t = (u * s.noise_steps).long().clamp(max=s.noise_steps - 1)
            alpha = self._alphas(x0)[t]
            x = noisy(x0, noise, alpha)
            wanted = noise if s.predict == "epsilon" else velocity(x0, noise, alpha)
        shown = None if c is None else (torch.rand_like(c[:, :1, :1, :1, :1]) >= s.hide_source).to(c.dtype)
        loss = (self._predicted(x, t.flatten(), c, shown).float() - wanted).square().mean()
        update("G", loss)
        return {"G_l2": loss}

    def _alphas(self, x: Tensor) -> Tensor:
        return alphas_bar(self.settings.schedule, self.settings.noise_steps).to(x.device)

    def _predicted(self, x: Tensor, t: Tensor, c: Tensor | None, shown: Tensor | None) -> Tensor:
        """Output of the network. ``t``: (B,) of 0 ... T; ``shown`` (B, 1, 1, 1, 1): 1, or 0 where c is hidden."""
        if c is not None and shown is not None:
            x = torch.cat([x, c * shown, shown.expand(-1, 1, *x.shape[2:])], 1)
        return self.networks["G"](x, timesteps=t)

    def _guided(self, x: Tensor, t: float, c: Tensor | None) -> Tensor:
        """Output of the network with classifier-free guidance, at one time for all images."""
        at, w = torch.full((len(x),), t, device=x.device), self.settings.guidance
        if c is None:
            return self._predicted(x, at, None, None).float()
        shown = x.new_ones(len(x), 1, 1, 1, 1)
        given = self._predicted(x, at, c, shown).float()
        return (1 + w) * given - w * self._predicted(x, at, c, 0 * shown).float() if w else given

    def _signal_and_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and b_t (T,), from little noise to much."""
        if self.settings.predict == "flow":
            b = (torch.arange(self.settings.noise_steps, device=x.device) + 0.5) / self.settings.noise_steps
            return 1 - b, b
        alpha = self._alphas(x)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def _image(self, x: Tensor, t: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """x̂_0 of x_t; t: (B,) indices of a and b (T,)."""
        kind = self.settings.predict
        predicted = self._predicted(x, t + 0.5 if kind == "flow" else t, None, None).float()
        a, b = (each[t].view(-1, 1, 1, 1, 1) for each in (a, b))
        if kind == "flow":
            return x - b * predicted
        return image_of_noise(x, predicted, a**2) if kind == "epsilon" else image_of_velocity(x, predicted, a**2)

    def log_likelihood(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The bound (B,) in nats, for a model without sources; the integral from ``steps`` values, evenly spread in λ.

        The values are taken at the nearest times of training. They, the noise and the dequantisation are drawn with
        ``generator``.
        """
        K, x0 = self.settings.steps, dequantised(x, generator)
        (a, b), zero = self._signal_and_noise(x0), torch.zeros_like(x0)
        snr = (a / b).square()
        logs = snr.log()

        def noise() -> Tensor:
            return torch.randn(x0.shape, generator=generator).to(x0.device)

        log_p = gaussian_log_density(x0, x0 + b[0] / a[0] * noise(), (b[0] / a[0]).log())
        log_p = log_p - kl_of_normals(a[-1] * x0, 2 * b[-1].log(), zero, zero)
        total, length = log_p.flatten(1).sum(1), logs[0] - logs[-1]
        for k in range(K):
            u = torch.rand(len(x0), generator=generator).to(x0.device)
            t = (logs - (logs[0] - (k + u[:, None]) / K * length)).abs().argmin(1)
            at = t.view(-1, 1, 1, 1, 1)
            error = x0 - self._image(a[at] * x0 + b[at] * noise(), t, a, b)
            total = total - 0.5 * length / K * snr[t] * error.square().flatten(1).sum(1)
        return total

    def sample(
        self, n: int, shape: tuple[int, ...], generator: torch.Generator, condition: Tensor | None = None
    ) -> Tensor:
        """n images in [-1, 1]; ``condition``: the source c (n, C, X, Y, Z) of a model with sources."""
        s, device = self.settings, next(self.networks["G"].parameters()).device
        divisor = cast(int, self.networks["G"].divisor)
        if any(side % divisor for side in shape):
            raise ValueError(f"sides of {list(shape)} must be multiples of {divisor} for this model")

        def drawn() -> Tensor:
            return torch.randn(n, self.channels, *shape, generator=generator).to(device)

        x = drawn()
        if s.predict == "flow":
            for i in range(s.steps, 0, -1):
                t = i / s.steps
                x0 = (x - t * self._guided(x, t * s.noise_steps, condition)).clamp(-1, 1)
                x = x + (x0 - x) / i  # to t - 1/steps, on the line to x_0
            return x
        alphas, at = self._alphas(x), times(s.noise_steps, s.steps)
        image = image_of_noise if s.predict == "epsilon" else image_of_velocity
        for t, before in zip(at, [*at[1:], None], strict=True):
            x0 = image(x, self._guided(x, t, condition), alphas[t]).clamp(-1, 1)
            earlier = alphas.new_ones(()) if before is None else alphas[before]
            noise = drawn() if s.eta and before is not None else torch.zeros_like(x)
            x = step_back(x, x0, alphas[t], earlier, s.eta, noise)
        return x

    def translate(self, x: Tensor, seed: int = 0) -> Tensor:
        """A sample of the targets of x (B, C, X, Y, Z) in [-1, 1], on the same grid; the same noise for one seed."""
        return self.sample(len(x), tuple(x.shape[2:]), torch.Generator("cpu").manual_seed(seed), x)
