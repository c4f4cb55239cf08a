"""Compare and match voxel grids that differ only in the order or direction of their axes."""

from dataclasses import replace

import numpy as np
from nibabel.orientations import inv_ornt_aff

from medgen.io.volume import GRID_TOLERANCE, Geometry, Volume, from_canonical, orientation, same_geometry, to_canonical


def canonical_geometry(grid: Geometry) -> Geometry:
    """Return the grid that a volume has after ``to_canonical``."""
    turned = orientation(grid.affine)
    shape = np.empty(3, int)
    shape[turned[:, 0].astype(int)] = grid.shape
    x, y, z = (int(n) for n in shape)
    return Geometry((x, y, z), grid.affine @ inv_ornt_aff(turned, grid.shape))


def same_grid(a: Geometry, b: Geometry, tolerance: float | None = None) -> bool:
    """Return whether two grids have their voxels at the same positions, in any orientation (RAS, LAS, ...).

    Args:
        tolerance: mm; None: ``GRID_TOLERANCE`` times the smallest voxel side of ``a``.
    """
    tolerance = GRID_TOLERANCE * min(a.spacing) if tolerance is None else tolerance
    return same_geometry(canonical_geometry(a), canonical_geometry(b), tolerance)


def on_axes_of(volume: Volume, like: Volume) -> Volume:
    """Reorder the axes of ``volume`` to those of ``like``, which is on the same grid (``same_grid``); no resampling.

    ``path`` becomes None if anything changes, because the file has other axes.
    """
    if np.array_equal(volume.affine, like.affine):
        return volume
    canonical = to_canonical(volume)
    padding = canonical.padding and (
        from_canonical(canonical.padding[0], like),
        from_canonical(canonical.padding[1], like),
    )
    return replace(volume, data=from_canonical(canonical.data, like), affine=like.affine, path=None, padding=padding)
