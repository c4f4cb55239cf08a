"""Resampling between grids of the same axes: to the model's spacing and back."""

import numpy as np
from scipy import ndimage

from medgen.data.fast_filters import interpolated
from medgen.data.labels.resampling import along_axes, by_affine, labels_at
from medgen.io.volume import Volume


def resample(volume: Volume, spacing: tuple[float, ...], *, labels: bool = False) -> Volume:
    """A volume on the same axes with another voxel size.

    Voxel centres are placed so that the fields of view share their centre. Where voxels grow the image is
    smoothed first (Gaussian, σ of half the ratio beyond 1, as against aliasing), then interpolated linearly.

    Args:
        volume: (X, Y, Z); its affine may be oblique.
        spacing: new voxel size in mm for each array axis.
        labels: values are names: the largest share wins, see ``label_sampling``; nothing is smoothed.
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
        data = interpolated(volume.data, first, step, shape, sigma=np.maximum(0, (step - 1) / 2).tolist())
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, :3] * step
    affine[:3, 3] = volume.affine[:3, :3] @ first + volume.affine[:3, 3]
    return Volume(data.astype(np.float32), affine, volume.dtype, None, volume.path)


def resample_like(volume: Volume, reference: Volume, *, labels: bool = False) -> np.ndarray:
    """Values of ``volume`` at the voxel centres of ``reference``: linear, edges repeated.

    ``labels``: values are names: the largest share wins, see ``label_sampling``; 0 outside.
    """
    to_voxel = np.linalg.inv(volume.affine) @ reference.affine
    step, first, shape = np.diag(to_voxel)[:3], to_voxel[:3, 3], reference.data.shape
    # Along the same axes; what rounding leaves beside the diagonal moves no voxel by a thousandth of one.
    aslant = (np.abs(to_voxel[:3, :3] - np.diag(step)) @ shape).max() >= 1e-3
    if labels:
        places = by_affine(to_voxel[:3, :3], first, shape) if aslant else along_axes(first, step, shape)
        return labels_at(volume.data, places, shape, outside=0).astype(np.float32)
    if not aslant:
        return interpolated(volume.data, first, step, shape)
    matrix = to_voxel[:3, :3]
    moved = ndimage.affine_transform(volume.data, matrix, first, output_shape=shape, order=1, mode="nearest")
    return moved.astype(np.float32)
