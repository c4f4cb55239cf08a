"""The U-Net generator of pix2pix (Isola 2017, appendix 6.1.1), in 3D or 2D, built from MONAI's convolution blocks."""

from typing import Any, Literal

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn

from medgen.networks.blocks.doubling import upsampling_conv

LEAKY = ("LEAKYRELU", {"negative_slope": 0.2})


class UNet(nn.Module):
    """Encoder of stride-2 convolutions C64-C128-C256-C512-C512..., decoder with skips to the mirrored layer.

    Args:
        spatial_dims: 3 or 2.
        in_channels, out_channels: channels of input and output.
        filters: channels of the first layer (paper: 64); layer i has filters · 2^min(i, 3).
        levels: halvings of the grid (paper: 8 for 256²). Input sides must be multiples of 2^levels.
        norm: MONAI norm name ("batch" in the paper, "instance", "group", ...) or None.
        dropout: rate in the decoder's layers with 8 · filters channels except the innermost, i.e. layers 5 to 7; none
            with 4 levels or fewer (as in the authors' code).
        upsample: "deconv" (paper: 4-wide transposed convolution) or "resize" (nearest-neighbour upsampling, then a
            3-wide convolution), which cannot produce checkerboard artefacts.
        full_resolution_filters: filters of an extra level at full resolution, before the first halving and after the
            last doubling (not in the paper); 0: none. Without it, single-voxel detail reaches the output only through
            the strided first layer.
        pointwise_features: features that the last doubling outputs instead of the image. Two 1-wide convolutions
            combine them with the input at each voxel: the decoder describes the region, and the voxel's own intensity
            decides whether it belongs to the region. 0: none. ``full_resolution_filters`` includes this already.
        tanh: end in tanh; False for a ``Residual`` generator.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        filters: int = 64,
        levels: int = 8,
        norm: str | tuple | None = "batch",
        dropout: float = 0.5,
        upsample: Literal["deconv", "resize"] = "deconv",
        full_resolution_filters: int = 0,
        pointwise_features: int = 0,
        tanh: bool = True,
    ) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"a U-Net needs at least 2 levels; got {levels}")
        if full_resolution_filters and pointwise_features:
            raise ValueError(
                f"set full_resolution_filters ({full_resolution_filters}) or "
                f"pointwise_features ({pointwise_features}), not both"
            )
        self.divisor = self.smallest = 2**levels
        width = [filters * 2 ** min(i, 3) for i in range(levels)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.stem: nn.Module | None = None
        self.head: nn.Module | None = None
        fine: dict[str, Any] = {"norm": norm, "act": LEAKY}
        full = full_resolution_filters or pointwise_features  # features at full resolution
        if full_resolution_filters:
            self.stem = Convolution(spatial_dims, in_channels, full_resolution_filters, kernel_size=3, **fine)
        if full:
            self.head = nn.Sequential(
                Convolution(spatial_dims, full + (full_resolution_filters or in_channels), full, kernel_size=1, **fine),
                Convolution(spatial_dims, full, out_channels, kernel_size=1, norm=None, act="TANH" if tanh else None),
            )
        for i, n in enumerate(width):
            without_norm = i in (0, levels - 1)  # no norm on the first layer and on the innermost (often 1 voxel)
            self.down.append(
                Convolution(
                    spatial_dims,
                    (full_resolution_filters or in_channels) if i == 0 else width[i - 1],
                    n,
                    strides=2,
                    kernel_size=4,
                    padding=1,
                    act=LEAKY if i < levels - 1 else "RELU",
                    norm=None if without_norm else norm,
                )
            )
        for i in reversed(range(levels)):
            n_in = width[i] * (1 if i == levels - 1 else 2)
            n_out = (full or out_channels) if i == 0 else width[i - 1]
            deep = dropout if 4 <= i <= 6 else 0.0
            last: dict[str, Any] = (
                {"act": "RELU", "norm": norm} if full else {"act": "TANH" if tanh else None, "norm": None}
            )
            inner: dict[str, Any] = {"act": "RELU", "norm": norm, "dropout": deep}
            self.up.append(_upsample(spatial_dims, n_in, n_out, upsample, **(last if i == 0 else inner)))

    @property
    def encoder(self) -> list[nn.Module]:
        """Encoder stages in order: the stem, if there is one, then the halvings."""
        return [*([self.stem] if self.stem is not None else []), *self.down]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, X, Y[, Z]), sides multiples of ``divisor`` → (B, C_out, same grid)."""
        fine = x if self.stem is None else self.stem(x)
        x, skips = fine, []
        for layer in self.down:
            x = layer(x)
            skips.append(x)
        x = self.up[0](skips.pop())
        for layer in self.up[1:]:
            x = layer(torch.cat([x, skips.pop()], 1))
        return x if self.head is None else self.head(torch.cat([x, fine], 1))


def _upsample(dims: int, n_in: int, n_out: int, kind: str, **adn) -> nn.Module:
    if kind == "deconv":
        return Convolution(
            dims,
            n_in,
            n_out,
            strides=2,
            kernel_size=4,
            padding=1,
            output_padding=0,
            is_transposed=True,
            **adn,
        )
    layer = Convolution(dims, n_in, n_out, kernel_size=3, **adn)
    layer.conv = upsampling_conv(dims, n_in, n_out)
    return layer
