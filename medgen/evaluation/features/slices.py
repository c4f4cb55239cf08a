"""A volume as images for 2D networks: windowed to [0, 1], sliced in three planes (2.5D), squared and resized."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medgen.errors import InputError

PERCENTILES = (0.5, 99.5)  # of the voxels in the mask; a few bright vessels or metal do not set the scale

BATCH = 16  # images at once

Array = NDArray[Any]
Window = tuple[float, float] | None


def windowed(volume: Array, mask: Array, window: Window) -> NDArray[np.float32]:
    """(X, Y, Z) in [0, 1]: ``window`` (low, high) → (0, 1), clipped; None: the percentiles 0.5 and 99.5 in the mask.

    With percentiles a constant offset or gain is gone from the features: right for MR, whose scale means nothing,
    and wrong for HU. A volume that is constant in its mask becomes 0.
    """
    low, high = np.percentile(volume[mask], PERCENTILES) if window is None else window
    if window is not None and not low < high:
        raise InputError("features-window-order", f"window {window} must be two numbers, the lower first")
    span = high - low if high > low else np.inf
    return np.clip((volume - low) / span, 0, 1).astype(np.float32)


def describe_window(window: Window) -> str:
    """The words for ``preprocessing``."""
    return (
        "percentiles 0.5 to 99.5 in the body to [0, 1]"
        if window is None
        else f"{window[0]:g} to {window[1]:g} to [0, 1]"
    )


def describe_planes(per_plane: int) -> str:
    """The words for ``preprocessing``."""
    return f"up to {per_plane} slices of each of 3 planes in radiological display"


def plane_images(
    volume: Array, mask: Array, spacing: Sequence[float], *, per_plane: int, size: int
) -> Iterator[Tensor]:
    """Images (k, 1, size, size) float32, k ≤ ``per_plane``, of each of the three planes in turn: sagittal, coronal,
    axial.

    They lie as radiologists see them, and as networks that were trained on their images expect: rows from the patient's
    head (or front, in axial slices) down, columns from the patient's right (or front, in sagittal ones).

    Args:
        volume: (X, Y, Z) along RAS axes (``to_canonical``), background 0 (see ``windowed``).
        mask: (X, Y, Z) bool; slices that meet it count, ``per_plane`` of them at even distances.
        spacing: mm. A slice is resized (bilinear, align_corners False, no antialiasing, as FID's standard resizes)
            so that its longer side in mm becomes ``size``, and padded with 0: nothing is distorted.
    """
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        meets = np.flatnonzero(mask.any(axis=tuple(others)))
        chosen = meets[np.unique(np.linspace(0, len(meets) - 1, min(per_plane, len(meets))).round().astype(int))]
        # RAS indices grow to right, front and head; what grows along a slice's first axis goes across the image.
        upright = np.moveaxis(volume, axis, 0)[chosen].transpose(0, 2, 1)[:, ::-1, ::-1]
        images = torch.from_numpy(np.ascontiguousarray(upright))[:, None].float()
        sides = [volume.shape[a] * spacing[a] for a in reversed(others)]
        shape = [max(1, round(size * side / max(sides))) for side in sides]
        images = functional.interpolate(images, shape, mode="bilinear", align_corners=False, antialias=False)
        before = [(size - n) // 2 for n in shape]
        yield functional.pad(images, (before[1], size - shape[1] - before[1], before[0], size - shape[0] - before[0]))


def colour_rows(network: Callable[[Tensor], Tensor], planes: Iterable[Tensor], device: str) -> NDArray[np.float64]:
    """(n, features) of grey images (n, 1, S, S) in [0, 1], given to a network of colour images in [-1, 1]."""
    with torch.inference_mode():
        batches = (batch for images in planes for batch in images.split(BATCH))
        rows = [network(2 * batch.expand(-1, 3, -1, -1).to(device) - 1) for batch in batches]
    return torch.cat(rows).double().cpu().numpy()
