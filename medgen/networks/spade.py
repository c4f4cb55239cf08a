"""The SPADE generator with its style encoder (Park et al., CVPR 2019, appendix A), in 3D or 2D.

Only the residual block of MONAI's ``SPADENet`` is used. MONAI's SPADE layer passes γ and β through an instance norm
(the default of its ``Convolution``), which removes the effect of a label that covers the whole image. It has no
spectral norm, and its latent and encoder use linear layers for one fixed grid; here any volume size is possible.
"""

from typing import Annotated, Any, Literal

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.utils import get_norm_layer
from monai.networks.nets.spade_network import SPADENetResBlock
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as nnf

from medgen.networks.blocks.init import CONVOLUTIONS, initialise
from medgen.networks.blocks.spectral import add_spectral_norm
from medgen.networks.generator import Norm
from medgen.types import Count, Section

LEAKY = ("leakyrelu", {"negative_slope": 0.2})
MAX_WIDTH = 16  # maximum channels of a layer, in multiples of ``filters``
HEAD = 4  # side of the grid to which z is reshaped if style is "head"

Style = Literal["head", "everywhere"]


class SPADESettings(Section):
    """Keys of ``method.generator`` of the method spade: its generator G and its style encoder E."""

    filters: Count = Field(64, description="channels at full resolution (paper: 64)")
    hidden: Count = Field(128, description="channels between the map and each norm's scale and shift (paper: 128)")
    levels: Annotated[int, Field(gt=0, le=16)] = Field(
        5,
        description="halvings to the coarsest grid, and in E (paper: 5); patch sides must be multiples of 2^levels",
    )
    norm: Norm = Field("instance", description="the parameter-free norm that the map modulates (paper: batch)")
    spectral_norm: bool = Field(True, description="apply spectral norm to the convolutions of G's blocks and of E")
    latent: Annotated[int, Field(ge=0)] = Field(
        256, description="length of the style z (paper: 256); 0: one image per map, no E"
    )
    style: Style = Field(
        "head",
        description="where z enters: head: reshaped to the coarsest grid (paper); everywhere: with the map in every "
        "norm (like the noise of OASIS, Sushko 2021), where instance norm cannot remove it",
    )
    style_norm: Norm = Field(
        "instance", description="norm of E; none keeps brightness and contrast, which instance norm removes"
    )
    style_grid: Count = Field(
        4,
        description="side of the grid to which E's last features are averaged (paper: 4); 1: not spatial",
    )


class SPADEGenerator(nn.Module):
    """Semantic map m and style z → image.

    Residual blocks from the coarsest grid to full resolution; m modulates each norm by γ(m) and β(m). The block on the
    grid halved r times has min(2ʳ, 16) · ``filters`` channels; the second coarsest grid has two (paper: levels 5).

    Args:
        settings: sizes of G and E.
        spatial_dims: 3 or 2.
        in_channels: channels of m, e.g. classes.
        out_channels: channels of the image.

    Input sides must be multiples of ``divisor`` and at least ``smallest``.
    """

    def __init__(self, settings: SPADESettings, *, spatial_dims: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        filters, hidden, levels, latent = settings.filters, settings.hidden, settings.levels, settings.latent
        self.dims, self.latent = spatial_dims, latent
        self.divisor, self.smallest = 2**levels, 2 ** (levels + 1)  # a single voxel has no variance to normalise
        width = [filters * min(2**r, MAX_WIDTH) for r in range(levels + 1)]

        def block(channels_in: int, channels_out: int) -> SPADENetResBlock:
            made = SPADENetResBlock(spatial_dims, channels_in, channels_out, in_channels, hidden, act=LEAKY)
            for name, channels in (("norm_0", channels_in), ("norm_1", made.int_channels), ("norm_s", channels_in)):
                if hasattr(made, name):
                    z = latent if settings.style == "everywhere" else 0
                    norm_name = parameter_free(settings.norm, filters)
                    made.add_module(name, SPADENorm(spatial_dims, in_channels, channels, hidden, norm_name, z))
            return made

        self.head: nn.Module
        if latent and settings.style == "head":
            self.head = nn.Linear(latent, width[-1] * HEAD**spatial_dims)
        else:
            self.head = Convolution(spatial_dims, in_channels, width[-1], kernel_size=3, conv_only=True)
        self.coarsest = block(width[-1], width[-1])
        self.blocks = nn.ModuleList(block(width[r + 1], width[r]) for r in reversed(range(levels)))
        self.second = block(width[levels - 1], width[levels - 1])
        self.last = Convolution(spatial_dims, width[0], out_channels, kernel_size=3, conv_only=True)
        initialise(self, "kaiming" if settings.norm == "none" else "xavier")
        self.encoder_of_style: StyleEncoder | None = None
        if latent:
            self.encoder_of_style = StyleEncoder(settings, spatial_dims=spatial_dims, in_channels=out_channels)
        for found in (self.coarsest, *self.blocks, self.second) if settings.spectral_norm else ():
            for name in ("conv_0", "conv_1", "conv_s"):
                if hasattr(found, name):
                    add_spectral_norm(getattr(found, name).conv)

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Image (B, C, X, Y[, Z]) in [-1, 1] → μ and log σ² of its style, (B, latent) each."""
        assert self.encoder_of_style is not None, "a generator without style has no encoder"
        return self.encoder_of_style(y)

    def forward(self, m: Tensor, z: Tensor | None = None) -> Tensor:
        """m (B, C, X, Y[, Z]) and z (B or 1, latent), default 0 → (B, C_out, X, Y[, Z]) in [-1, 1]."""
        if z is None:
            z = m.new_zeros(1, self.latent)
        z = z.expand(len(m), -1)
        x = self.coarsest(self._head(m, z), (m, z))
        for i, block in enumerate(self.blocks):
            x = block(nnf.interpolate(x, scale_factor=2.0), (m, z))
            x = self.second(x, (m, z)) if i == 0 else x
        return torch.tanh(self.last(nnf.leaky_relu(x, 0.2)))

    def _head(self, m: Tensor, z: Tensor) -> Tensor:
        """Features (B, C, coarsest grid): from z if style is "head", otherwise from the map at nearest voxels."""
        coarsest = [n // self.divisor for n in m.shape[2:]]
        if isinstance(self.head, nn.Linear):
            small = self.head(z).unflatten(1, (-1, *(HEAD,) * self.dims))
            return nnf.interpolate(small, size=coarsest, mode="trilinear" if self.dims == 3 else "bilinear")
        return self.head(nnf.interpolate(m, size=coarsest))


class SPADENorm(nn.Module):
    """(1 + γ(m, z)) · norm(x) + β(m, z), with γ and β for each voxel (eq. 1).

    z is added before the activation. This equals constant channels of z beside m, at the cost of one linear layer.

    Args:
        dims: 3 or 2.
        classes: channels of m.
        channels: channels of x.
        hidden: channels between m and γ, β.
        norm: MONAI's name of the norm without parameters, see ``parameter_free``.
        latent: length of z; 0: SPADE as published.
    """

    def __init__(self, dims: int, classes: int, channels: int, hidden: int, norm: Any, latent: int) -> None:
        super().__init__()
        convolution = nn.Conv3d if dims == 3 else nn.Conv2d
        self.norm = get_norm_layer(norm, spatial_dims=dims, channels=channels)
        self.shared = convolution(classes, hidden, 3, padding=1)
        self.gamma_beta = convolution(hidden, 2 * channels, 3, padding=1)  # one convolution for both is faster
        self.style = nn.Linear(latent, hidden, bias=False) if latent else None

    def forward(self, x: Tensor, condition: tuple[Tensor, Tensor]) -> Tensor:
        """x (B, C, X, Y[, Z]) and (m, z), m of any size → x's shape."""
        m, z = condition
        h = self.shared(nnf.interpolate(m, size=x.shape[2:]))
        if self.style is not None:
            h = h + self.style(z)[..., *(None,) * (x.ndim - 2)]
        gamma, beta = self.gamma_beta(nnf.relu(h)).chunk(2, 1)
        return self.norm(x) * (1 + gamma) + beta


class StyleEncoder(nn.Module):
    """Image → μ, log σ² of its style: convolutions of stride 2, two linear layers (appendix A, "image encoder").

    Args:
        settings: ``levels`` convolutions (paper: 6), from ``filters`` channels, doubled at each up to 8 · ``filters``.
        spatial_dims, in_channels: dimensions and channels of the image.
    """

    def __init__(self, settings: SPADESettings, *, spatial_dims: int, in_channels: int) -> None:
        super().__init__()
        filters, norm, grid = settings.filters, settings.style_norm, settings.style_grid
        width = [in_channels, *(filters * min(2**i, 8) for i in range(settings.levels))]
        self.layers = nn.Sequential(
            *(
                Convolution(
                    spatial_dims,
                    width[i],
                    width[i + 1],
                    strides=2,
                    kernel_size=3,
                    norm=parameter_free(norm, filters) or None,
                    act=LEAKY,
                )
                for i in range(settings.levels)
            )
        )
        self.pool = nn.AdaptiveAvgPool3d(grid) if spatial_dims == 3 else nn.AdaptiveAvgPool2d(grid)
        features = width[-1] * grid**spatial_dims
        self.mu, self.log_var = nn.Linear(features, settings.latent), nn.Linear(features, settings.latent)
        initialise(self.layers, "kaiming" if norm == "none" else "xavier")
        for linear in (self.mu, self.log_var):
            initialise(linear, "xavier")
        for module in list(self.layers.modules()) if settings.spectral_norm else ():
            if isinstance(module, CONVOLUTIONS):
                add_spectral_norm(module)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, X, Y[, Z]) → μ, log σ², (B, latent) each."""
        found = self.pool(self.layers(y)).flatten(1)
        return self.mu(found), self.log_var(found)


def parameter_free(norm: Norm, filters: int) -> Any:
    """MONAI's name of a norm without trainable scale and shift; "" for none."""
    if norm == "none":
        return ""
    groups = {"num_groups": max(n for n in range(1, 9) if filters % n == 0)} if norm == "group" else {}
    return (norm, {**groups, "affine": False})
