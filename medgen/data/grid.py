"""Resampling between grids of the same axes: to the model's spacing and back."""

import numpy as np
from scipy import ndimage

from medgen.io.volume import Volume


def resample(volume: Volume, spacing: tuple[float, ...], *, labels: bool = False) -> Volume:
    """A volume on the same axes with another voxel size.

    Voxel centres are placed so that the fields of view share their centre. Where voxels grow the image is
    smoothed first (Gaussian, σ of half the ratio beyond 1, as against aliasing), then interpolated linearly.

    Args:
        volume: (X, Y, Z); its affine may be oblique.
        spacing: new voxel size in mm for each array axis.
        labels: values are names: nearest neighbour, nothing is smoothed.
    """
    old = np.asarray(volume.spacing)
    new = np.asarray(spacing, float)
    shape = tuple(int(n) for n in np.maximum(1, np.rint(np.asarray(volume.data.shape) * old / new)))
    step = new / old
    # centre of the new grid = centre of the old one, in old voxel coordinates
    first = (np.asarray(volume.data.shape) - 1) / 2 - step * (np.asarray(shape) - 1) / 2
    sigma = np.zeros(3) if labels else np.maximum(0, (step - 1) / 2)
    smooth = ndimage.gaussian_filter(volume.data, sigma=sigma, mode="nearest")
    order = 0 if labels else 1
    data = ndimage.affine_transform(smooth, step, first, output_shape=shape, order=order, mode="nearest")
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, :3] * step
    affine[:3, 3] = volume.affine[:3, :3] @ first + volume.affine[:3, 3]
    return Volume(data.astype(np.float32), affine, volume.dtype, None, volume.path)


def resample_like(volume: Volume, reference: Volume, *, labels: bool = False) -> np.ndarray:
    """Values of ``volume`` at the voxel centres of ``reference``: linear, edges repeated.

    ``labels``: values are names: nearest neighbour, 0 outside.
    """
    to_voxel = np.linalg.inv(volume.affine) @ reference.affine
    return ndimage.affine_transform(
        volume.data,
        to_voxel[:3, :3],
        to_voxel[:3, 3],
        output_shape=reference.data.shape,
        order=0 if labels else 1,
        mode="grid-constant" if labels else "nearest",
    ).astype(np.float32)
