"""Resampling between grids of the same axes: to the model's spacing and back."""

import numpy as np
from scipy import ndimage

from medgen.data.separable import interpolated
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
    if labels:
        data = ndimage.affine_transform(volume.data, step, first, output_shape=shape, order=0, mode="nearest")
    else:
        data = interpolated(volume.data, first, step, shape, sigma=np.maximum(0, (step - 1) / 2).tolist())
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, :3] * step
    affine[:3, 3] = volume.affine[:3, :3] @ first + volume.affine[:3, 3]
    return Volume(data.astype(np.float32), affine, volume.dtype, None, volume.path)


def resample_like(volume: Volume, reference: Volume, *, labels: bool = False) -> np.ndarray:
    """Values of ``volume`` at the voxel centres of ``reference``: linear, edges repeated.

    ``labels``: values are names: nearest neighbour, 0 outside.
    """
    to_voxel = np.linalg.inv(volume.affine) @ reference.affine
    step = np.diag(to_voxel)[:3]
    # Along the same axes; what rounding leaves beside the diagonal moves no voxel by a thousandth of one.
    aslant = (np.abs(to_voxel[:3, :3] - np.diag(step)) @ reference.data.shape).max()
    if not labels and aslant < 1e-3:
        return interpolated(volume.data, to_voxel[:3, 3], step, reference.data.shape)
    return ndimage.affine_transform(
        volume.data,
        to_voxel[:3, :3],
        to_voxel[:3, 3],
        output_shape=reference.data.shape,
        order=0 if labels else 1,
        mode="grid-constant" if labels else "nearest",
    ).astype(np.float32)
