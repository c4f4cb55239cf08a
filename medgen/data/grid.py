"""Resampling between grids: to the model's spacing and back."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from medgen.data.fast_filters import interpolate
from medgen.data.labels.resampling import along_axes, by_affine, labels_at
from medgen.io.volume import Volume


def resample(
    volume: Volume, spacing: tuple[float, ...], *, labels: bool = False, background: float | None = None
) -> Volume:
    """Resample a volume to another voxel spacing on the same axes.

    The old and the new field of view have the same centre. Along axes where voxels grow, the image is first smoothed
    against aliasing (Gaussian, σ = (new / old spacing - 1) / 2 voxels), then interpolated linearly.

    Args:
        volume: (X, Y, Z); its affine may be oblique.
        spacing: new voxel spacing in mm along each array axis.
        labels: the label with the largest share wins, see ``data.labels.resampling``; no smoothing.
        background: value of masked voxels, which is no intensity: see `unmixed`.
    """
    old = np.asarray(volume.spacing)
    new = np.asarray(spacing, float)
    shape = tuple(int(n) for n in np.maximum(1, np.rint(np.asarray(volume.data.shape) * old / new)))
    step = new / old
    # centre of the new grid = centre of the old one, in old voxel coordinates
    first = (np.asarray(volume.data.shape) - 1) / 2 - step * (np.asarray(shape) - 1) / 2
    if labels:
        data = labels_at(volume.data, along_axes(first, step, shape), shape)
    else:
        sigma = np.maximum(0, (step - 1) / 2).tolist()
        data = unmixed(volume.data, background, lambda v: interpolate(v, first, step, shape, sigma=sigma))
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, :3] * step
    affine[:3, 3] = volume.affine[:3, :3] @ first + volume.affine[:3, 3]
    return Volume(data.astype(np.float32), affine, volume.dtype, None, volume.path)


def unmixed(data: np.ndarray, background: float | None, resampled: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Resample an image by a linear filter, without mixing tissue and masked voxels.

    A new voxel is the mean of the unmasked voxels in its reach, with the filter's weights (normalised convolution,
    Knutsson & Westin 1993), or masked where these have less than half of the weight. Otherwise the border of a
    skull-stripped brain would get a rim of values that are neither.

    Args:
        data: (X, Y, Z).
        background: value of masked voxels; None: none are.
        resampled: the filter.
    """
    if background is None:
        return resampled(data)
    inside = data != background
    share = resampled(inside.astype(np.float32))
    tissue = resampled(np.where(inside, data, 0).astype(np.float32))
    return np.where(share >= 0.5, tissue / np.maximum(share, 0.5), np.float32(background))


def resample_like(volume: Volume, reference: Volume, *, labels: bool = False) -> np.ndarray:
    """Resample ``volume`` at the voxel centres of ``reference``: linear, edge values repeated outside.

    ``labels``: the label with the largest share wins, see ``data.labels.resampling``; 0 outside.
    """
    to_voxel = np.linalg.inv(volume.affine) @ reference.affine
    step, first, shape = np.diag(to_voxel)[:3], to_voxel[:3, 3], reference.data.shape
    # Axes count as the same if off-diagonal rounding errors move no voxel by a thousandth of a voxel.
    oblique = (np.abs(to_voxel[:3, :3] - np.diag(step)) @ shape).max() >= 1e-3
    if labels:
        places = by_affine(to_voxel[:3, :3], first, shape) if oblique else along_axes(first, step, shape)
        return labels_at(volume.data, places, shape, outside=0).astype(np.float32)
    if not oblique:
        return interpolate(volume.data, first, step, shape)
    matrix = to_voxel[:3, :3]
    resampled = ndimage.affine_transform(volume.data, matrix, first, output_shape=shape, order=1, mode="nearest")
    return resampled.astype(np.float32)
