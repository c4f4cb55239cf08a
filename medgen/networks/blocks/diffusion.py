"""Smoothing that stops at edges: diffusion with a diffusivity that falls with the slope (Perona & Malik, IEEE TPAMI
1990;12:629), which is measured on a smoothed image (Catté et al., SIAM J Numer Anal 1992;29:182) so that noise does not
stop it."""

from collections.abc import Sequence
from itertools import product
from math import ceil

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

STEPS, RATE = 7, 1 / 7  # a homogeneous region is smoothed with a variance of 2 voxels² along each axis
FINEST = 2.2  # voxels
REACH = 10  # times `width`; what lies farther away changes the result by less than a hundredth of an HU
TILE = 192  # voxels; side of the tiles of a scan


def diffusivity(smooth: Tensor, slope: float, rates: Sequence[float], finer: Sequence[float]) -> list[Tensor]:
    """Diffusivity between neighbours along each axis, times the rate of the axis.

    Args:
        smooth: smoothed image (B, 1, X, Y[, Z]).
        slope: difference of neighbours at which the diffusivity has fallen to 1/e.
        rates: of each axis, per step; see `steps_for`.
        finer: of each axis: how many voxels make one of the spacing at which the slope is defined.

    Returns:
        One tensor for each axis, one voxel shorter along it.
    """
    found = []
    for axis, (rate, per_voxel) in enumerate(zip(rates, finer, strict=True), start=2):
        step = smooth.diff(dim=axis) * (per_voxel / slope)
        found.append(step.square_().neg_().exp_().mul_(rate))
    return found


def diffused(x: Tensor, diffusivities: Sequence[Tensor], steps: int = STEPS) -> Tensor:
    """``steps`` explicit steps of diffusion of x (B, C, X, Y[, Z]); nothing flows across the borders of the image."""
    x = x.clone()
    for _ in range(steps):
        flows = [x.diff(dim=axis).mul_(rate) for axis, rate in enumerate(diffusivities, start=2)]
        for axis, flow in enumerate(flows, start=2):
            n = flow.shape[axis]
            x.narrow(axis, 0, n).add_(flow)
            x.narrow(axis, 1, n).sub_(flow)
    return x


def steps_for(finer: Sequence[float]) -> tuple[int, list[float]]:
    """Number of steps and rate of each axis that smooth like STEPS steps of RATE, and are stable (sum at most 1/2).

    Args:
        finer: of each axis: how many voxels make one of the spacing of STEPS and RATE.
    """
    rates = [RATE * r * r for r in finer]
    parts = max(1, ceil(sum(rates) / 0.5))
    return STEPS * parts, [rate / parts for rate in rates]


def within_structures(x: Tensor, smooth: Tensor, slope: float, finer: Sequence[float]) -> Tensor:
    """x (B, C, X, Y[, Z]) smoothed within the structures of an image.

    Args:
        smooth: the image (B, 1, X, Y[, Z]), smoothed with a standard deviation of `width` voxels along each axis.
        slope: see `diffusivity`.
        finer: of each axis: how many voxels make one of the spacing at which ``slope`` is defined.
    """
    steps, rates = steps_for(width(finer))
    return diffused(x, diffusivity(smooth, slope, rates, finer), steps)


def width(finer: Sequence[float]) -> list[float]:
    """Standard deviation in voxels of each axis by which the image is smoothed that shows the structures.

    At most FINEST: on a very fine grid, so many voxels average the noise, and more would take minutes.
    """
    return [min(f, FINEST) for f in finer]


def scan_within_structures(x: np.ndarray, slope: float, finer: Sequence[float], box: Sequence[slice]) -> np.ndarray:
    """`within_structures` of a scan (X, Y, Z) and itself in a box, tile by tile to bound the memory; 0 elsewhere."""
    sigma, found = width(finer), np.zeros_like(x)
    halo = [ceil(REACH * s) for s in sigma]
    starts = (range(side.start, side.stop, TILE) for side in box)
    for start in product(*starts):
        tile = [slice(a, min(a + TILE, side.stop)) for a, side in zip(start, box, strict=True)]
        low = [max(0, side.start - h) for side, h in zip(tile, halo, strict=True)]
        wide = tuple(slice(a, side.stop + h) for a, side, h in zip(low, tile, halo, strict=True))
        smooth = gaussian_filter(x[wide], sigma, mode="nearest")
        part, shown = (torch.from_numpy(np.ascontiguousarray(v))[None, None] for v in (x[wide], smooth))
        inner = tuple(slice(side.start - a, side.stop - a) for side, a in zip(tile, low, strict=True))
        found[tuple(tile)] = within_structures(part, shown, slope, finer)[0, 0].numpy()[inner]
    return found


def smoothed(x: Tensor) -> Tensor:
    """Filter each axis by [1, 2, 1] / 4, with the border repeated."""
    for axis in range(2, x.ndim):
        n = x.shape[axis]
        ends = [x.narrow(axis, 0, 1), x, x.narrow(axis, n - 1, 1)]
        padded = torch.cat(ends, axis)
        x = (padded.narrow(axis, 0, n) + 2 * x + padded.narrow(axis, 2, n)) / 4
    return x
