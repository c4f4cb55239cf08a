"""Convert volumes to images for 2D networks: window to [0, 1], slice in three planes (2.5D), resize, pad to squares."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medgen.errors import InputError

PERCENTILES = (0.5, 99.5)  # of the voxels in the mask, so that a few bright vessels or metal do not set the scale

BATCH = 16  # images per network call

Array = NDArray[Any]
Window = tuple[float, float] | None


def windowed(volume: Array, mask: Array, window: Window) -> NDArray[np.float32]:
    """Map ``window`` (low, high) to (0, 1) and clip; None: the percentiles 0.5 and 99.5 in the mask.

    Percentiles remove a constant offset or gain from the features. This is right for MR, whose intensities have no
    unit, and wrong for HU. A volume that is constant in its mask becomes 0.
    """
    low, high = np.percentile(volume[mask], PERCENTILES) if window is None else window
    if window is not None and not low < high:
        raise InputError("features-window-order", f"window {window} must be two numbers, the lower first")
    span = high - low if high > low else np.inf
    return np.clip((volume - low) / span, 0, 1).astype(np.float32)


def describe_window(window: Window) -> str:
    """Describe the window for ``Extractor.preprocessing``."""
    return (
        "percentiles 0.5 to 99.5 in the body to [0, 1]"
        if window is None
        else f"{window[0]:g} to {window[1]:g} to [0, 1]"
    )


def describe_planes(per_plane: int) -> str:
    """Describe the planes for ``Extractor.preprocessing``."""
    return f"up to {per_plane} slices of each of 3 planes in radiological display"


def plane_images(
    volume: Array, mask: Array, spacing: Sequence[float], *, per_plane: int, size: int
) -> Iterator[Tensor]:
    """Yield images (k, 1, size, size) float32, k ≤ ``per_plane``, for the sagittal, coronal and axial plane.

    Images have the radiological display orientation, which networks trained on clinical images expect: rows run from
    the patient's head (in axial slices: front) down, columns from the patient's right (in sagittal slices: front).

    Args:
        volume: (X, Y, Z) on RAS axes (``to_canonical``), background 0 (see ``windowed``).
        mask: (X, Y, Z) bool; up to ``per_plane`` evenly spaced slices are taken from those that intersect it.
        spacing: mm. A slice is resized (bilinear, align_corners False, no antialiasing, as in standard FID) so that
            its longer side in mm becomes ``size``, and padded with 0 to avoid distortion.
        per_plane: maximal number of slices per plane.
        size: side of the images in pixels.
    """
    for axis in range(3):
        other_axes = [a for a in range(3) if a != axis]
        slices_in_mask = np.flatnonzero(mask.any(axis=tuple(other_axes)))
        chosen = slices_in_mask[
            np.unique(np.linspace(0, len(slices_in_mask) - 1, min(per_plane, len(slices_in_mask))).round().astype(int))
        ]
        # RAS indices grow to the right, front and head; the first axis of a slice runs across the image.
        upright = np.moveaxis(volume, axis, 0)[chosen].transpose(0, 2, 1)[:, ::-1, ::-1]
        images = torch.from_numpy(np.ascontiguousarray(upright))[:, None].float()
        sides = [volume.shape[a] * spacing[a] for a in reversed(other_axes)]
        shape = [max(1, round(size * side / max(sides))) for side in sides]
        images = functional.interpolate(images, shape, mode="bilinear", align_corners=False, antialias=False)
        padding_before = [(size - n) // 2 for n in shape]
        yield functional.pad(
            images,
            (
                padding_before[1],
                size - shape[1] - padding_before[1],
                padding_before[0],
                size - shape[0] - padding_before[0],
            ),
        )


def colour_rows(network: Callable[[Tensor], Tensor], planes: Iterable[Tensor], device: str) -> NDArray[np.float64]:
    """Return (n, features) of grey images (n, 1, S, S) in [0, 1], from a network for colour images in [-1, 1]."""
    with torch.inference_mode():
        batches = (batch for images in planes for batch in images.split(BATCH))
        rows = [network(2 * batch.expand(-1, 3, -1, -1).to(device) - 1) for batch in batches]
    return torch.cat(rows).double().cpu().numpy()
