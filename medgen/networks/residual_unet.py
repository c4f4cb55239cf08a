"""U-Net with a residual encoder (Isensee et al., nnU-Net Revisited, MICCAI 2024), at half resolution and above.

Differences from nnU-Net's plan, for speed on CPUs and for images whose values are absolute (HU):

- The first layer folds 2³ neighbouring voxels into channels and the last unfolds them (Shi et al., CVPR 2016), so that
  no convolution with many channels runs on the full grid. All voxels stay visible to the network.
- Upsampling is linear, after a 1-wide convolution, in place of transposed convolution. By repetition, blocks of the
  coarsest stage (2^levels voxels) were visible in the output.
- ``windows`` adds copies of the input at a narrow window as channels: 100 HU are then a large difference.
- ``replace`` sets structures to a level in place of an additive output, see `ResidualUNet`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from medgen.networks.blocks.diffusion import smoothed, within_structures

LEAK = 0.1
HEAD = 16  # features of the pointwise head
# m = σ(SHARP · (logit - CAUTION · b)): σ(logit) is trained to be the probability that a structure takes up contrast
# medium, and where that is unsure a decision is better than half of the enhancement removed. b rises
# from 0 to 1 between -1/8 and 3/8 of the range of levels above its upper end (90 to 150 HU for contrast removal): among
# bright voxels are bones, whose loss cannot be seen in the output. See docs/decisions/contrast_removal.md.
SHARP, CAUTION = 3.0, 1.0
# v in the output follows edges: a difference of this share of the range of levels, per voxel, is an edge.
SLOPE = 0.02
FAR = 1e3  # beyond every level


class ResidualUNet(nn.Module):
    """Encoder of residual blocks, decoder with added skips, and a pointwise head that sees the input again.

    Without ``replace`` the output is additive. With ``replace`` (low, high), for tasks that bring structures to the
    value of their surroundings, such as contrast removal:

        y = x - m · max(v - l, 0)

    m in [0, 1]: whether a voxel belongs to such a structure; l in [low, high]: the level without it; v: x smoothed
    within structures, so that noise and texture stay in the output while a border is lowered with its structure. The
    network decides where, and the scan itself says how much: it need not learn every strength of enhancement.

    Args:
        spatial_dims: 3 or 2.
        in_channels, out_channels: channels of input and output.
        filters: channels at half resolution; those of the deeper stages are 2, 3 and 4 times as many.
        levels: halvings of the grid, 2 or more. Input sides must be multiples of 2^levels.
        windows: (low, high) of further input channels, in code units.
        replace: (low, high) of l in code units; None: the output is additive.
        tanh: end in tanh; False for ``replace`` and for a ``Residual`` generator.

    Raises:
        ValueError: fewer than 2 levels, or ``replace`` with several channels.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        filters: int = 32,
        levels: int = 4,
        windows: Sequence[tuple[float, float]] = (),
        replace: tuple[float, float] | None = None,
        tanh: bool = True,
    ) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"a residual U-Net needs at least 2 levels; got {levels}")
        if replace and (in_channels != 1 or out_channels != 1):
            raise ValueError("replace sets one channel to a level; use it with one source and one target contrast")
        self.dims, self.windows, self.replace, self.tanh = spatial_dims, tuple(windows), replace, tanh
        self.divisor, self.smallest = 2**levels, 2**levels
        self.mode = "trilinear" if spatial_dims == 3 else "bilinear"
        conv = nn.Conv3d if spatial_dims == 3 else nn.Conv2d
        fold, channels = 2**spatial_dims, in_channels * (1 + len(self.windows))
        width = [filters * min(i + 1, 4) for i in range(levels)]
        blocks = [1] + [2] * (levels - 2) + [1]
        self.first = conv(channels * fold, width[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            nn.Sequential(*[Block(conv, w) for _ in range(n)]) for w, n in zip(width, blocks, strict=True)
        )
        self.down = nn.ModuleList(conv(a, b, 2, stride=2) for a, b in zip(width, width[1:], strict=False))
        self.up = nn.ModuleList(conv(b, a, 1) for a, b in zip(width, width[1:], strict=False))
        self.decoder = nn.ModuleList(Block(conv, w) for w in width[:-1])
        self.unfold = conv(width[0] + channels * fold, 8 * fold, 1)
        self.head = conv(8 + channels + (2 * channels if replace else 0), HEAD, 1)
        self.last = conv(HEAD, 2 if replace else out_channels, 1)
        self.reset()

    def reset(self) -> None:
        """Initial weights: He (2015) in the blocks, small residual branches, and an output that changes little."""
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.kaiming_normal_(module.a.weight, a=LEAK)
                nn.init.kaiming_normal_(module.b.weight, a=LEAK)
                nn.init.constant_(module.norm_b.weight, 0.2)
        if self.replace:
            nn.init.zeros_(self.last.weight)
            with torch.no_grad():
                self.last.bias.copy_(torch.tensor([-2.0, 0.0]))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, X, Y[, Z]), sides multiples of ``divisor`` → (B, C_out, same grid)."""
        if self.replace:
            return self.with_maps(x)[0]
        y = self.last(nnf.leaky_relu_(self.head(torch.cat(self._features(x), 1)), LEAK))
        return torch.tanh(y) if self.tanh else y

    def with_maps(self, x: Tensor, value: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """With ``replace``: the output, the logits of m and the level l, which a method can train directly.

        ``value``: v, if it is known already.
        """
        assert self.replace
        logits, once = self._logits(x, *self._features(x))
        maps = decided(probable(logits, self.replace), self.replace, once)
        value = self.within(x, x) if value is None else value
        return replaced(x.float(), maps, value), logits[:, :1], maps[:, 1:]

    def maps(self, x: Tensor) -> Tensor:
        """With ``replace``: (B, 2, X, Y[, Z]) of σ(logit) and l; `decide` makes m of the first.

        They are smooth where x is not, so that they can be resampled to another grid of the same scan.
        """
        return probable(self._logits(x, *self._features(x))[0], self.replace)  # type: ignore[arg-type]

    def decide(self, maps: Tensor, x: Tensor) -> Tensor:
        """With ``replace``: m and l (B, 2, X, Y[, Z]) from `maps`, which may be a mean over windows, and from x.

        The level is opened, see `without_islands`.
        """
        found = decided(maps, self.replace, smoothed(x.float()))  # type: ignore[arg-type]
        return torch.cat([found[:, :1], without_islands(found[:, 1:], found[:, :1] > 0.5)], 1)

    @property
    def slope(self) -> float:
        """With ``replace``: the difference of neighbouring voxels, encoded, that is an edge for v."""
        low, high = self.replace  # type: ignore[misc]
        return SLOPE * (high - low)

    @torch.no_grad()
    def within(self, y: Tensor, x: Tensor) -> Tensor:
        """With ``replace``: y (B, C, X, Y[, Z]) smoothed within the structures of x (B, 1, ...); of x itself, v."""
        return within_structures(y.float(), smoothed(smoothed(x.float())), self.slope, (1.0,) * self.dims)

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features at full resolution, and the channels of the input."""
        seen = self._seen(x)
        folded = fold(seen)
        y, skips = self.first(folded), []
        for i, stage in enumerate(self.encoder):
            y = stage(y)
            if i < len(self.down):
                skips.append(y)
                y = self.down[i](y)
        for i in reversed(range(len(self.up))):
            y = self.decoder[i](skips[i] + nnf.interpolate(self.up[i](y), scale_factor=2, mode=self.mode))
        return unfold(self.unfold(torch.cat([y, folded], 1)), self.dims), seen

    def _seen(self, x: Tensor) -> Tensor:
        """x and its narrow windows, each scaled to [-1, 1]."""
        narrow = [((2 * x - low - high) / (high - low)).clamp(-1.5, 1.5) for low, high in self.windows]
        return torch.cat([2 * x, *narrow], 1)

    def _logits(self, x: Tensor, features: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of m and l, and x smoothed once."""
        once = smoothed(x.float())  # sums and products only: autocast leaves them in 32 bits
        every = torch.cat([features, seen, self._seen(once), self._seen(smoothed(smoothed(once)))], 1)
        return self.last(nnf.leaky_relu_(self.head(every), LEAK)).float(), once


def without_islands(level: Tensor, inside: Tensor) -> Tensor:
    """A level (B, 1, X, Y[, Z]) without islands that are higher than what surrounds them: opened by 3 voxels.

    Within an organ the level follows brightness, because noise and texture are in both scans, and so it is too high in
    small vessels, which are brighter because of contrast medium. What is lower than its surroundings stays.

    Args:
        inside: mask (B, 1, X, Y[, Z]) bool; only its voxels count and are changed.
    """
    pool = nnf.max_pool3d if level.ndim == 5 else nnf.max_pool2d

    def highest(x: Tensor) -> Tensor:
        return pool(x.masked_fill(~inside, -FAR), 3, stride=1, padding=1)

    return torch.where(inside, torch.minimum(level, highest(-highest(-level))), level)


def probable(logits: Tensor, levels: tuple[float, float]) -> Tensor:
    """Probability of the mask and level (B, 2, ...) from their logits."""
    low, high = levels
    return torch.cat([torch.sigmoid(logits[:, :1]), low + (high - low) * torch.sigmoid(2 * logits[:, 1:])], 1)


def decided(maps: Tensor, levels: tuple[float, float], once: Tensor) -> Tensor:
    """m and l (B, 2, ...) from the probability and the level; ``once``: x smoothed once."""
    low, high = levels
    bright = ((once - high) / (high - low) * 2 + 0.25).clamp(0, 1)
    logit = torch.logit(maps[:, :1], eps=1e-6)
    return torch.cat([torch.sigmoid(SHARP * (logit - CAUTION * bright)), maps[:, 1:]], 1)


def replaced(x: Tensor, maps: Tensor, value: Tensor) -> Tensor:
    """y = x - m · max(v - l, 0); ``value``: v (B, 1, ...)."""
    return x - maps[:, :1] * (value - maps[:, 1:]).clamp(min=0)


class Block(nn.Module):
    """y = act(x + GN(conv(act(GN(conv(x)))))); group norm keeps ratios between the channels of a group."""

    def __init__(self, conv: type[nn.Conv2d] | type[nn.Conv3d], channels: int) -> None:
        super().__init__()
        self.a, self.b = conv(channels, channels, 3, padding=1), conv(channels, channels, 3, padding=1)
        groups = max(n for n in range(1, 9) if channels % n == 0)
        self.norm_a, self.norm_b = nn.GroupNorm(groups, channels), nn.GroupNorm(groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = nnf.leaky_relu_(self.norm_a(self.a(x)), LEAK)  # in place: no gradient needs the output of a norm
        return nnf.leaky_relu_(self.norm_b(self.b(y)).add_(x), LEAK)


def fold(x: Tensor) -> Tensor:
    """(B, C, X, Y[, Z]) → (B, C · 2^dims, X/2, Y/2[, Z/2]): neighbouring voxels become channels."""
    dims = x.ndim - 2
    halves = [n for side in x.shape[2:] for n in (side // 2, 2)]
    order = (0, 1, *range(3, 3 + 2 * dims, 2), *range(2, 2 + 2 * dims, 2))
    return x.reshape(*x.shape[:2], *halves).permute(order).flatten(1, 1 + dims)


def unfold(x: Tensor, dims: int) -> Tensor:
    """Inverse of `fold`."""
    sides = x.shape[2:]
    x = x.reshape(x.shape[0], -1, *([2] * dims), *sides)
    order = [0, 1]
    for a in range(dims):
        order += [2 + dims + a, 2 + a]
    return x.permute(order).reshape(x.shape[0], x.shape[1], *(2 * n for n in sides))
