"""The generator of a StyleGAN in 3D: a mapping network makes styles, which act on the layers of a synthesis network."""

import math
from collections.abc import Callable
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as nnf

from medgen.networks.autoencoder import AutoencoderSettings, check_patch, sizes
from medgen.types import Count

SLOPE, GAIN = 0.2, math.sqrt(2)  # of the leaky ReLU, and what keeps its output's variance
FOLLOWED = 0.995  # decay of the mean style
Noise = Callable[[Tensor], Tensor]  # N(0, 1) of the shape of a tensor


class StyleGANSettings(AutoencoderSettings):
    """Keys of ``method.generator`` of stylegan."""

    latent: Count = Field(64, description="length of the code z and of the style w (paper: 512)")
    style: Literal["modulation", "adain"] = Field(
        "modulation", description="how w acts on a layer: modulated convolution (StyleGAN2) or AdaIN (StyleGAN)"
    )
    mapping: Count = Field(4, description="layers of the mapping network, from z to w (papers: 8)")
    mapping_rate: float = Field(0.01, gt=0, le=1, description="its learning rate, relative to that of G (papers: 0.01)")
    noise_rate: float = Field(
        0.005,
        ge=0,
        le=1,
        description="learning rate of the noise's strength, relative to that of G (papers: 1; in 3D, 0.05 turned "
        "images to grain within 700 steps); 0: no noise",
    )
    truncation: float = Field(
        0.9,
        ge=0,
        le=1,
        description="samples: factor of the distance of w from the mean style (ψ; 1: as drawn)",
    )


class Linear(nn.Module):
    """Dense layer whose weights have variance 1 and are scaled when used (equalised learning rate, Karras 2018).

    Args:
        rate: its learning rate relative to that of the optimizer.
        start: value of the bias at first.
    """

    def __init__(self, inputs: int, outputs: int, *, rate: float = 1.0, start: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), start / rate))
        self.scale, self.rate = rate / math.sqrt(inputs), rate

    def forward(self, x: Tensor) -> Tensor:
        return nnf.linear(x, self.weight * self.scale, self.bias * self.rate)


def adain(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """AdaIN(x, y) = y_s (x - μ(x)) / σ(x) + y_b (Karras 2019, eq. 1), with μ and σ of each channel of each image.

    Args:
        x: (B, C, X, Y, Z).
        scale, shift: y_s and y_b (B, C).
    """
    x = nnf.instance_norm(x)
    return x * scale[:, :, None, None, None] + shift[:, :, None, None, None]


def modulated_convolution(x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True) -> Tensor:
    """Convolution with own weights for each image (Karras 2020, eq. 1 and 3):

        w'_ijk = s_i w_ijk,   w''_ijk = w'_ijk / √(Σ_ik w'_ijk² + ε)

    Scaling the input by s_i and the output by the root gives the same.

    Args:
        x: (B, I, X, Y, Z).
        weight: (J, I, k, k, k), k odd.
        style: s (B, I).
    """
    y = nnf.conv3d(x * style[:, :, None, None, None], weight, padding=weight.shape[-1] // 2)
    if not demodulate:
        return y
    squared = style.square() @ weight.square().sum((2, 3, 4)).T
    return y * (squared + 1e-8).rsqrt()[:, :, None, None, None]


class StyledLayer(nn.Module):
    """Convolution, noise of a learned strength for each channel, leaky ReLU, and the style w before or after them."""

    def __init__(self, inputs: int, outputs: int, settings: StyleGANSettings) -> None:
        super().__init__()
        latent = settings.latent
        self.modulates, self.noise_rate = settings.style == "modulation", settings.noise_rate
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3, 3))
        self.bias, self.strength = nn.Parameter(torch.zeros(outputs)), nn.Parameter(torch.zeros(outputs))
        self.style = Linear(latent, inputs if self.modulates else 2 * outputs, start=1.0 if self.modulates else 0.0)
        self.scale = 1 / math.sqrt(27 * inputs)

    def forward(self, x: Tensor, w: Tensor, noise: Noise) -> Tensor:
        weight, style = self.weight * self.scale, self.style(w)
        if self.modulates:
            y = modulated_convolution(x, weight, style)
        else:
            y = nnf.conv3d(x, weight, padding=1)
        grain = self.noise_rate * self.strength[:, None, None, None] * noise(y[:, :1])
        y = y + grain + self.bias[:, None, None, None]
        y = GAIN * nnf.leaky_relu(y, SLOPE)
        if self.modulates:
            return y
        scale, shift = style.chunk(2, 1)
        return adain(y, 1 + scale, shift)


class ToImage(nn.Module):
    """Modulated 1 × 1 × 1 convolution without demodulation, from features to the image's channels."""

    def __init__(self, inputs: int, channels: int, latent: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, inputs, 1, 1, 1))
        self.bias, self.style = nn.Parameter(torch.zeros(channels)), Linear(latent, inputs, start=1.0)
        self.scale = 1 / math.sqrt(inputs)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        y = modulated_convolution(x, self.weight * self.scale, self.style(w), demodulate=False)
        return y + self.bias[:, None, None, None]


class StyleGenerator(nn.Module):
    """Mapping network, mean style and synthesis network.

    The synthesis starts from a learned constant on the coarsest grid and has two styled layers on each grid. The image
    is the sum of what each grid adds to it, interpolated (StyleGAN2's skips), and is squashed to (-1, 1).

    Args:
        settings: their size.
        channels: channels of an image.
        patch: its sides in voxels.
    """

    def __init__(self, settings: StyleGANSettings, *, channels: int, patch: tuple[int, ...]) -> None:
        super().__init__()
        widths, coarse = sizes(settings, patch)
        n, widths = settings.latent, widths[::-1]
        self.latent, self.patch, self.divisor = n, tuple(patch), 2**settings.levels
        self.truncation = settings.truncation
        self.mapping = nn.ModuleList(Linear(n, n, rate=settings.mapping_rate) for _ in range(settings.mapping))
        self.mean_style: Tensor
        self.register_buffer("mean_style", torch.zeros(n))
        self.constant = nn.Parameter(torch.randn(1, widths[0], *coarse))
        pairs = [(widths[0], widths[0]), *zip(widths, widths[1:], strict=False)]
        self.layers = nn.ModuleList()
        for a, b in pairs:
            self.layers.extend([StyledLayer(a, b, settings), StyledLayer(b, b, settings)])
        self.to_image = nn.ModuleList(ToImage(b, channels, n) for _, b in pairs)

    def styles(self, z: Tensor) -> Tensor:
        """w (B, latent) of z ~ N(0, 1), which is first brought to length √latent. Training moves the mean style."""
        w = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.mapping:
            w = GAIN * nnf.leaky_relu(layer(w), SLOPE)
        if self.training:
            with torch.no_grad():
                self.mean_style.lerp_(w.float().mean(0), 1 - FOLLOWED)
        return w

    def synthesise(self, w: Tensor, noise: Noise = torch.randn_like) -> Tensor:
        """Images (B, C, X, Y, Z) of the styles w (B, layers, latent) of all layers."""
        x, image = self.constant.expand(len(w), -1, -1, -1, -1), None
        for n, to_image in enumerate(self.to_image):
            if n:
                x = _doubled(x)
            for k in (2 * n, 2 * n + 1):
                x = cast(StyledLayer, self.layers[k])(x, w[:, k], noise)
            added = to_image(x, w[:, 2 * n + 1])
            image = added if image is None else _doubled(image) + added
        return cast(Tensor, image).tanh()

    def forward(self, z: Tensor, other: Tensor | None = None, crossover: int = 0) -> Tensor:
        """Images of z (B, latent); with ``other``, its styles are used from layer ``crossover`` on (style mixing)."""
        w = self.styles(z)[:, None].expand(-1, len(self.layers), -1)
        if other is not None:
            w = torch.cat([w[:, :crossover], self.styles(other)[:, None].expand_as(w)[:, crossover:]], 1)
        return self.synthesise(w)

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Images of z ~ N(0, 1), whose styles are truncated: w' = w̄ + ψ (w - w̄) (Karras 2019, appendix B)."""
        check_patch(self.patch, shape)
        z = torch.randn(n, self.latent, generator=generator).to(self.mean_style.device)
        w = torch.lerp(self.mean_style, self.styles(z), self.truncation)[:, None].expand(-1, len(self.layers), -1)
        return self.synthesise(w, lambda x: torch.randn(x.shape, generator=generator).to(x)).float()


def _doubled(x: Tensor) -> Tensor:
    return nnf.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
