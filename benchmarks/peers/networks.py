"""The networks of medgen as plain torch modules, one layer after the other, with nothing rewritten for speed.

The order of their parameters is that of medgen's networks, so that `copy_weights` makes both compute the same function.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf


def copy_weights(trained: nn.Module, plain: nn.Module) -> None:
    """Copy parameters and buffers in their order; the shapes must agree."""
    for kind in ("parameters", "buffers"):
        for a, b in zip(getattr(trained, kind)(), getattr(plain, kind)(), strict=True):
            assert a.shape == b.shape, (a.shape, b.shape)
            b.data.copy_(a.data)


class ResNet(nn.Sequential):
    """The generator of CycleGAN in 3D: c7s1-k, d2k, d4k, 9 R4k, u2k, uk, c7s1-1, with instance norm."""

    def __init__(self, filters: int, blocks: int = 9) -> None:
        k = filters
        layers: list[nn.Module] = [nn.ReflectionPad3d(3), nn.Conv3d(1, k, 7), nn.InstanceNorm3d(k), nn.ReLU()]
        for n in (k, 2 * k):
            layers += [nn.Conv3d(n, 2 * n, 3, stride=2, padding=1), nn.InstanceNorm3d(2 * n), nn.ReLU()]
        layers += [ResNetBlock(4 * k) for _ in range(blocks)]
        for n in (4 * k, 2 * k):
            up = nn.ConvTranspose3d(n, n // 2, 3, stride=2, padding=1, output_padding=1)
            layers += [up, nn.InstanceNorm3d(n // 2), nn.ReLU()]
        super().__init__(*layers, nn.ReflectionPad3d(3), nn.Conv3d(k, 1, 7), nn.Tanh())


class ResNetBlock(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        first = [nn.ReflectionPad3d(1), nn.Conv3d(n, n, 3), nn.InstanceNorm3d(n), nn.ReLU()]
        self.layers = nn.Sequential(*first, nn.ReflectionPad3d(1), nn.Conv3d(n, n, 3), nn.InstanceNorm3d(n))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class UNet(nn.Module):
    """The generator of Pix2Pix in 3D, which adds to its input, with a last pointwise layer that sees the input.

    ``norm``: nn.BatchNorm3d or nn.InstanceNorm3d.
    """

    def __init__(self, filters: int, levels: int, pointwise: int, norm: type[nn.Module] = nn.BatchNorm3d) -> None:
        super().__init__()
        width = [filters * 2 ** min(i, 3) for i in range(levels)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, n in enumerate(width):
            conv = nn.Conv3d(1 if i == 0 else width[i - 1], n, 4, stride=2, padding=1)
            normed = [] if i in (0, levels - 1) else [norm(n)]
            self.down.append(nn.Sequential(conv, *normed, nn.LeakyReLU(0.2) if i < levels - 1 else nn.ReLU()))
        for i in reversed(range(levels)):
            n_out = pointwise if i == 0 else width[i - 1]
            conv = nn.ConvTranspose3d(width[i] * (1 if i == levels - 1 else 2), n_out, 4, stride=2, padding=1)
            self.up.append(nn.Sequential(conv, norm(n_out), nn.ReLU()))
        self.head = nn.Sequential(
            nn.Sequential(nn.Conv3d(pointwise + 1, pointwise, 1), norm(pointwise), nn.LeakyReLU(0.2)),
            nn.Conv3d(pointwise, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y, skips = x, []
        for layer in self.down:
            y = layer(y)
            skips.append(y)
        y = self.up[0](skips.pop())
        for layer in self.up[1:]:
            y = layer(torch.cat([y, skips.pop()], 1))
        return x + self.head(torch.cat([y, x], 1))


class ResidualUNet(nn.Module):
    """The residual-encoder U-Net of ``regression`` in 3D: half the resolution by folding 2³ voxels into channels.

    ``residual``: add the output to the input, instead of a tanh.
    """

    def __init__(self, filters: int, levels: int, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        width = [filters * min(i + 1, 4) for i in range(levels)]
        blocks = [1] + [2] * (levels - 2) + [1]
        self.first = nn.Conv3d(8, width[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            nn.Sequential(*[UNetBlock(w) for _ in range(n)]) for w, n in zip(width, blocks, strict=True)
        )
        self.down = nn.ModuleList(nn.Conv3d(a, b, 2, stride=2) for a, b in zip(width, width[1:], strict=False))
        self.up = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in zip(width, width[1:], strict=False))
        self.decoder = nn.ModuleList(UNetBlock(w) for w in width[:-1])
        self.unfold = nn.Conv3d(width[0] + 8, 64, 1)
        self.head = nn.Conv3d(9, 16, 1)
        self.last = nn.Conv3d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, X, Y, Z)."""
        b, _, *sides = x.shape
        halves = [n for side in sides for n in (side // 2, 2)]
        seen = 2 * x
        folded = seen.reshape(b, 1, *halves).permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)
        y, skips = self.first(folded), []
        for i, stage in enumerate(self.encoder):
            y = stage(y)
            if i < len(self.down):
                skips.append(y)
                y = self.down[i](y)
        for i in reversed(range(len(self.up))):
            up = nnf.interpolate(self.up[i](y), scale_factor=2, mode="trilinear")
            y = self.decoder[i](skips[i] + up)
        y = self.unfold(torch.cat([y, folded], 1)).reshape(b, 8, 2, 2, 2, *(side // 2 for side in sides))
        y = y.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, 8, *sides)
        y = self.last(nnf.leaky_relu(self.head(torch.cat([y, seen], 1)), 0.1))
        return x + y if self.residual else torch.tanh(y)


class UNetBlock(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(n, n, 3, padding=1), nn.Conv3d(n, n, 3, padding=1)
        groups = max(g for g in range(1, 9) if n % g == 0)
        self.norm_a, self.norm_b = nn.GroupNorm(groups, n), nn.GroupNorm(groups, n)

    def forward(self, x: Tensor) -> Tensor:
        y = nnf.leaky_relu(self.norm_a(self.a(x)), 0.1)
        return nnf.leaky_relu(x + self.norm_b(self.b(y)), 0.1)
