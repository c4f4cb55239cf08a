"""The network of diffusion: MONAI's DiffusionModelUNet, with attention in its coarsest grid only."""

from typing import Annotated, Any

import torch
from monai.networks.nets import DiffusionModelUNet
from pydantic import Field
from torch import Tensor

from medgen.types import Count, Section

WIDEST = 4  # channels grow up to this many times ``filters``


class DenoiserSettings(Section):
    """Keys of ``method.generator`` of diffusion."""

    filters: Count = Field(32, description="channels of the first level; doubled at each level, up to 4 times")
    levels: Annotated[int, Field(gt=0, le=6)] = Field(
        3, description="halvings of the grid; patch sides must be multiples of 2^levels"
    )
    blocks: Count = Field(1, description="residual blocks of a level")


class Denoiser(DiffusionModelUNet):
    """(B, C, X, Y, Z) of an image with noise, and of a source, and times (B,) → (B, C_out, X, Y, Z)."""

    def __init__(self, settings: DenoiserSettings, *, in_channels: int, out_channels: int) -> None:
        widths = [settings.filters * min(2**level, WIDEST) for level in range(settings.levels + 1)]
        super().__init__(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=out_channels,
            num_res_blocks=settings.blocks,
            channels=widths,
            attention_levels=[False] * len(widths),
            norm_num_groups=max(n for n in range(1, 9) if settings.filters % n == 0),
            num_head_channels=settings.filters,
        )
        self.channels = in_channels
        self.divisor = self.smallest = 2**settings.levels

    def forward(self, x: Tensor, timesteps: Tensor | None = None, **more: Any) -> Tensor:  # type: ignore[override]
        """Without times, ``x`` is a source alone: only the memory of a pass is wanted (``networks.memory``)."""
        if timesteps is None:
            x = torch.cat([x, x.new_zeros(len(x), self.channels - x.shape[1], *x.shape[2:])], 1)
            timesteps = x.new_zeros(len(x))
        return super().forward(x, timesteps, **more)
