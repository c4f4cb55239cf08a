"""Invertible networks: squeezing, couplings, actnorm, invertible 1 × 1 × 1 convolutions, and their composition.

A flow f maps an image x to z = f(x) of a known density, so log p(x) = log p(f(x)) + log |det ∂f/∂x|. Each layer returns
its output and the logarithm of its determinant (B,), and has an ``inverse``. All computations are in 32 bits, because
an inverse loses digits.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as nnf

from medgen.networks.processes import mean_of_processes
from medgen.types import Count, Section

Scaling = Literal["none", "tanh", "sigmoid"]
"""Scale of a coupling: none (NICE), exp(g · tanh(a)) with a learned g (RealNVP), or sigmoid(a + 2) (Glow)."""
LEAST_VARIANCE = 1e-5  # of a channel in the first batch: about that of the noise of dequantisation
OPEN = 2.0  # Glow: the first scale is sigmoid(2), near 1


class FlowSettings(Section):
    """Keys of ``method.generator`` of flows."""

    filters: Count = Field(32, description="channels inside the networks of couplings")
    levels: Annotated[int, Field(gt=0, le=6)] = Field(
        3,
        description="halvings of the grid, each with 8 times the channels; patch sides must be multiples of 2^levels",
    )
    couplings: Count = Field(
        4,
        description="couplings in a row: in all (nice), of each kind and level (realnvp), of each level (glow)",
    )


class Layer(nn.Module):
    """An invertible layer."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def inverse(self, y: Tensor) -> Tensor:
        raise NotImplementedError


class Squeeze(Layer):
    """Blocks of 2³ voxels become 8 channels (Dinh 2017): (B, C, X, Y, Z) ↔ (B, 8C, X/2, Y/2, Z/2)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, C, X, 2, Y, 2, Z, 2)
        return x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4), x.new_zeros(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        y = y.unflatten(1, (-1, 2, 2, 2)).permute(0, 1, 5, 2, 6, 3, 7, 4)
        return y.flatten(6, 7).flatten(4, 5).flatten(2, 3)


class ActNorm(Layer):
    """y = (x + b) · eˢ for each channel (Kingma 2018).

    The first training batch sets b and s so that y has mean 0 and variance 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        shape = (1, channels, 1, 1, 1)
        self.b, self.s = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))
        self.initialised: Tensor
        self.register_buffer("initialised", torch.tensor(0))
        self._ready = False  # avoids reading the buffer from the device at each step

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.training and not self._ready and not x.is_meta:
            if not self.initialised:
                self._initialise(x.detach())
            self._ready = True
        return (x + self.b) * self.s.exp(), self.s.sum() * x[0, 0].numel() * x.new_ones(len(x))

    @torch.no_grad()
    def _initialise(self, x: Tensor) -> None:
        """Mean and variance of the batch, over all processes."""
        mean = mean_of_processes(x.mean((0, 2, 3, 4)))
        variance = mean_of_processes((x - mean.view_as(self.b)).square().mean((0, 2, 3, 4))).clamp(min=LEAST_VARIANCE)
        self.b.copy_(-mean.view_as(self.b))
        self.s.copy_(-0.5 * variance.log().view_as(self.s))
        self.initialised.fill_(1)

    def inverse(self, y: Tensor) -> Tensor:
        return y * (-self.s).exp() - self.b


class PointwiseConvolution(Layer):
    """y = W x at each voxel, W (C, C): a learned permutation of channels (Kingma 2018, "invertible 1 × 1").

    W starts as a random rotation. log |det| = X · Y · Z · log |det W|.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels))
        nn.init.orthogonal_(self.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = torch.linalg.slogdet(self.weight).logabsdet * x[0, 0].numel()
        return nnf.conv3d(x, self.weight[..., None, None, None]), log_det * x.new_ones(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        inverse = torch.linalg.inv(self.weight.double()).to(y.dtype)
        return nnf.conv3d(y, inverse[..., None, None, None])


class Coupling(Layer):
    """One part of the voxels is scaled and shifted by what a network computes from the other part:

        y₁ = x₁,   y₂ = x₂ · s(x₁) + t(x₁),   log |det| = Σ log s(x₁)

    Args:
        channels: of x.
        part: checkerboard: voxels of odd coordinate sum; channels: the second half of the channels; interleaved: every
            second channel.
        odd: which of the two parts is x₂; alternate it from layer to layer.
        scaling: see ``Scaling``.
        filters: channels inside the network, of convolutions of width 3, 1 and 3. The last one starts at 0, so that the
            layer starts as the identity (sigmoid: nearly).
    """

    def __init__(
        self,
        channels: int,
        *,
        part: Literal["checkerboard", "channels", "interleaved"],
        odd: bool,
        scaling: Scaling,
        filters: int,
    ) -> None:
        super().__init__()
        self.part, self.odd, self.scaling = part, odd, scaling
        outputs = channels if scaling == "none" else 2 * channels
        last = nn.Conv3d(filters, outputs, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(cast(Tensor, last.bias))
        self.network = nn.Sequential(
            nn.Conv3d(channels, filters, 3, padding=1), nn.ReLU(), nn.Conv3d(filters, filters, 1), nn.ReLU(), last
        )
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1, 1)) if scaling == "tanh" else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        changed = self._changed(x)
        log_s, t = self._scale_and_shift(x * ~changed)
        log_s, t = log_s * changed, t * changed
        return x * log_s.exp() + t, log_s.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        changed = self._changed(y)
        log_s, t = self._scale_and_shift(y * ~changed)
        return torch.where(changed, (y - t) * (-log_s).exp(), y)

    def _scale_and_shift(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        out = self.network(x1)
        if self.scaling == "none":
            return torch.zeros_like(out), out
        a, t = out.chunk(2, 1)
        return (cast(Tensor, self.g) * a.tanh() if self.scaling == "tanh" else nnf.logsigmoid(a + OPEN)), t

    def _changed(self, x: Tensor) -> Tensor:
        """Mask of x₂, which broadcasts to x."""
        if self.part == "checkerboard":
            axes = [torch.arange(n, device=x.device) for n in x.shape[2:]]
            number = sum(torch.meshgrid(*axes, indexing="ij"))[None, None] % 2  # type: ignore[index]
        else:
            number = torch.arange(x.shape[1], device=x.device)
            number = number % 2 if self.part == "interleaved" else number // max(1, x.shape[1] // 2)
            number = number.clamp(max=1).view(1, -1, 1, 1, 1)
        return number == int(self.odd)


class Chain(Layer):
    """Layers one after the other."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x))
        for layer in self.layers:
            x, log_det = layer(x)
            total = total + log_det
        return x, total

    def inverse(self, y: Tensor) -> Tensor:
        for layer in reversed(self.layers):
            y = cast(Layer, layer).inverse(y)
        return y


class Flow(nn.Module):
    """Chains of layers; after each but the last, half of the channels is final (multi-scale architecture, Dinh 2017).

    Args:
        chains: one for each scale.
        levels: halvings of the grid in them.
        prior: density of z: independent normal or logistic variables.
    """

    def __init__(
        self, chains: Sequence[Chain], *, levels: int, prior: Literal["normal", "logistic"] = "normal"
    ) -> None:
        super().__init__()
        self.chains, self.divisor, self.prior = nn.ModuleList(chains), 2**levels, prior

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """z, in parts of one scale each, and log |det ∂z/∂x| (B,). x: (B, C, X, Y, Z)."""
        with torch.autocast(x.device.type if not x.is_meta else "cpu", enabled=False):
            parts, x = [], x.float()
            total = x.new_zeros(len(x))
            for n, chain in enumerate(self.chains):
                x, log_det = chain(x)
                total = total + log_det
                if n < len(self.chains) - 1:
                    x, final = x.chunk(2, 1)
                    parts.append(final)
            return [*parts, x], total

    def inverse(self, parts: Sequence[Tensor]) -> Tensor:
        """x (B, C, X, Y, Z) of the parts of z."""
        with torch.autocast(parts[-1].device.type, enabled=False):
            x = parts[-1].float()
            for n in range(len(self.chains) - 1, -1, -1):
                if n < len(self.chains) - 1:
                    x = torch.cat([x, parts[n]], 1)
                x = cast(Chain, self.chains[n]).inverse(x)
            return x

    def sizes(self, channels: int, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """(C, X, Y, Z) of each part of z, for images of these channels and sides."""
        found, sides = [], list(shape)
        for n, chain in enumerate(self.chains):
            for _ in filter(lambda layer: isinstance(layer, Squeeze), cast(Chain, chain).layers):
                channels, sides = channels * 8, [side // 2 for side in sides]
            channels //= 1 if n == len(self.chains) - 1 else 2
            found.append((channels, *sides))
        return found

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) = log p(z) + log |det ∂z/∂x| (B,), in nats."""
        parts, log_det = self(x)
        return sum((log_prior(z, self.prior) for z in parts), log_det)

    def draw(self, n: int, channels: int, shape: tuple[int, ...], generator: torch.Generator, heat: float) -> Tensor:
        """n images (n, channels, X, Y, Z) of z drawn from the prior and multiplied by ``heat``.

        Raises:
            ValueError: a side of ``shape`` is no multiple of ``divisor``.
        """
        if any(side % self.divisor for side in shape):
            raise ValueError(f"sides of {list(shape)} must be multiples of {self.divisor} for this model")
        device = next(self.parameters()).device
        parts = []
        for size in self.sizes(channels, shape):
            u = torch.rand(n, *size, generator=generator, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
            drawn = torch.logit(u) if self.prior == "logistic" else torch.special.ndtri(u)
            parts.append((heat * drawn).float().to(device))
        return self.inverse(parts)


def log_prior(z: Tensor, prior: Literal["normal", "logistic"]) -> Tensor:
    """log density (B,) of independent standard normal or logistic variables."""
    if prior == "logistic":
        return -(nnf.softplus(z) + nnf.softplus(-z)).flatten(1).sum(1)
    log_2pi = torch.log(torch.tensor(2 * torch.pi, device=z.device))
    return -0.5 * (z.square() + log_2pi).flatten(1).sum(1)
