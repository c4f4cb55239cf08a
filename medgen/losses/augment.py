"""Differentiable augmentation of the discriminator's input (DiffAugment, Zhao 2020).

Real and translated images get the same kinds of augmentation, and gradients pass through them to the generator. This
keeps the discriminator from memorising small data sets. ``intensity`` hides shifts of HU from the discriminator: leave
it out if the generator must learn them.
"""

from typing import Literal

import torch
from torch import Tensor

Change = Literal["flip", "translate", "cutout", "intensity"]


def augment(x: Tensor, changes: tuple[Change, ...]) -> Tensor:
    """(B, C, X, Y[, Z]) → the same shape; each image gets its own random draw of every change.

    flip: each axis mirrored with probability ½. translate: by up to ⅛ of each side, padded with zeros (the
    middle of the range). cutout: a box with half of each side set to 0, with probability ½. intensity: shift by up to
    ±0.1 and contrast by a factor of 0.8 to 1.2 about the image's mean, in encoded intensity.
    Draws come from torch's global CPU generator.
    """
    if not changes:
        return x
    return torch.stack([_one(image, changes) for image in x])


def _one(x: Tensor, changes: tuple[Change, ...]) -> Tensor:
    for change in changes:
        x = {"flip": _flip, "translate": _translate, "cutout": _cutout, "intensity": _intensity}[change](x)
    return x


def _flip(x: Tensor) -> Tensor:
    axes = [axis for axis in range(1, x.ndim) if torch.rand((), device="cpu") < 0.5]
    return x.flip(axes) if axes else x


def _translate(x: Tensor) -> Tensor:
    for axis in range(1, x.ndim):
        n = x.shape[axis]
        shift = int(torch.randint(-(n // 8), n // 8 + 1, (), device="cpu"))
        kept = x.narrow(axis, max(shift, 0), n - abs(shift))
        hole = torch.zeros_like(x.narrow(axis, 0, abs(shift)))
        x = torch.cat([kept, hole] if shift > 0 else [hole, kept], axis)
    return x


def _cutout(x: Tensor) -> Tensor:
    if torch.rand((), device="cpu") < 0.5:
        return x
    mask = torch.ones_like(x[:1])
    box = mask
    for axis in range(1, x.ndim):
        n = x.shape[axis]
        box = box.narrow(axis, int(torch.randint(0, n - n // 2 + 1, (), device="cpu")), n // 2)
    box.zero_()
    return x * mask


def _intensity(x: Tensor) -> Tensor:
    shift, contrast = (torch.rand(2, device="cpu") * 2 - 1).tolist()
    mean = x.mean()
    return (x - mean) * (1 + 0.2 * contrast) + mean + 0.1 * shift
