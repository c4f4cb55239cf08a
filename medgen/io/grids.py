"""Grids that are one lattice of points, whatever the order and direction in which their axes are stored."""

from dataclasses import replace

import numpy as np
from nibabel.orientations import inv_ornt_aff

from medgen.io.volume import GRID_TOLERANCE, Geometry, Volume, from_canonical, orientation, same_geometry, to_canonical


def canonical_geometry(grid: Geometry) -> Geometry:
    """The grid that ``to_canonical`` gives a volume of this one."""
    turned = orientation(grid.affine)
    shape = np.empty(3, int)
    shape[turned[:, 0].astype(int)] = grid.shape
    x, y, z = (int(n) for n in shape)
    return Geometry((x, y, z), grid.affine @ inv_ornt_aff(turned, grid.shape))


def same_grid(a: Geometry, b: Geometry, tolerance: float | None = None) -> bool:
    """Whether both have their voxels in the same places once ``to_canonical`` has turned them (RAS and LAS, say).

    Args:
        tolerance: mm; None: ``GRID_TOLERANCE`` of the smallest voxel side of ``a``.
    """
    tolerance = GRID_TOLERANCE * min(a.spacing) if tolerance is None else tolerance
    return same_geometry(canonical_geometry(a), canonical_geometry(b), tolerance)


def on_axes_of(volume: Volume, like: Volume) -> Volume:
    """``volume`` with the axes and the affine of ``like``, on whose grid it lies (``same_grid``); nothing is resampled.

    ``path`` stays only where nothing changes: the file has other axes.
    """
    if np.array_equal(volume.affine, like.affine):
        return volume
    upright = to_canonical(volume)
    padding = upright.padding and (from_canonical(upright.padding[0], like), from_canonical(upright.padding[1], like))
    return replace(volume, data=from_canonical(upright.data, like), affine=like.affine, path=None, padding=padding)
