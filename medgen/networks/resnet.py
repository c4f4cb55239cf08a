"""The ResNet generator of CycleGAN (Zhu 2017, appendix 7.2; Johnson 2016), in 3D or 2D."""

from typing import Any

from monai.networks.blocks import Convolution
from torch import Tensor, nn

from medgen.networks.blocks.blur import BlurDown, BlurUp


class ResNet(nn.Module):
    """c7s1-k, d2k, d4k, R4k × blocks, u2k, uk, c7s1-C, with reflection padding as in the paper.

    Args:
        spatial_dims: 3 or 2.
        in_channels, out_channels: channels of input and output.
        filters: k (paper: 64).
        blocks: residual blocks (paper: 9 for 256², 6 for 128²).
        kernel: width of the first and last convolution (paper: 7; 343 weights per channel in 3D).
        downsamplings: halvings of the grid (paper: 2). Input sides must be multiples of 2^downsamplings.
        norm: MONAI norm name ("instance" in the paper) or None.
        antialias: convolve, then blur and halve; interpolate, then convolve (CUT; Zhang 2019).
        tanh: end in tanh; False for a ``Residual`` generator.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        filters: int = 64,
        blocks: int = 9,
        kernel: int = 7,
        downsamplings: int = 2,
        norm: str | tuple | None = "instance",
        antialias: bool = False,
        tanh: bool = True,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd to keep the size of the image; got {kernel}")
        self.divisor = 2**downsamplings
        self.smallest = 2 * self.divisor  # reflection padding needs 2 voxels on the coarsest grid
        layers: list[nn.Module] = [_reflect(spatial_dims, in_channels, filters, kernel, act="RELU", norm=norm)]
        n = filters
        for _ in range(downsamplings):
            layers.append(_down(spatial_dims, n, antialias, norm))
            n *= 2
        layers += [ResidualBlock(spatial_dims, n, norm) for _ in range(blocks)]
        for _ in range(downsamplings):
            layers.append(_up(spatial_dims, n, antialias, norm))
            n //= 2
        layers.append(_reflect(spatial_dims, n, out_channels, kernel, act="TANH" if tanh else None, norm=None))
        self.layers = nn.Sequential(*layers)
        self.encoder_length = 1 + downsamplings + blocks

    @property
    def encoder(self) -> list[nn.Module]:
        """Encoder stages in order: first convolution, halvings, residual blocks."""
        return [self.layers[i] for i in range(self.encoder_length)]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, X, Y[, Z]), sides multiples of ``divisor`` → (B, C_out, same grid)."""
        return self.layers(x)


class ResidualBlock(nn.Module):
    """x + (conv3-norm-ReLU-conv3-norm)(x)."""

    def __init__(self, spatial_dims: int, channels: int, norm: str | tuple | None) -> None:
        super().__init__()
        self.first = _reflect(spatial_dims, channels, channels, 3, act="RELU", norm=norm)
        self.second = _reflect(spatial_dims, channels, channels, 3, act=None, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


def _down(dims: int, n: int, antialias: bool, norm: str | tuple | None) -> nn.Module:
    adn: dict[str, Any] = {"act": "RELU", "norm": norm}
    if antialias:
        return nn.Sequential(Convolution(dims, n, 2 * n, kernel_size=3, **adn), BlurDown(dims))
    return Convolution(dims, n, 2 * n, strides=2, kernel_size=3, **adn)


def _up(dims: int, n: int, antialias: bool, norm: str | tuple | None) -> nn.Module:
    adn: dict[str, Any] = {"act": "RELU", "norm": norm, "kernel_size": 3}
    if antialias:
        return nn.Sequential(BlurUp(dims), Convolution(dims, n, n // 2, **adn))
    return Convolution(dims, n, n // 2, strides=2, is_transposed=True, padding=1, output_padding=1, **adn)


def _reflect(dims: int, n_in: int, n_out: int, kernel: int, **adn) -> nn.Module:
    pad = (nn.ReflectionPad3d if dims == 3 else nn.ReflectionPad2d)(kernel // 2)
    return nn.Sequential(pad, Convolution(dims, n_in, n_out, kernel_size=kernel, padding=0, **adn))
