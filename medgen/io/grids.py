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


def on_whole_grid(segmentation: Volume, like: Volume) -> Volume:
    """A segmentation of 3D Slicer (``.seg.nrrd``), which is stored in the box around its segments, on its image's grid.

    The box must lie on voxels of ``like``; then it is filled up with 0, and gets the axes of ``like``. Any other volume
    is returned as it is: a label map of another kind that is smaller than its image is rather that of another image.
    """
    name = "" if segmentation.path is None else segmentation.path.name.lower()
    if not name.endswith(".seg.nrrd") or same_grid(like.geometry, segmentation.geometry):
        return segmentation
    whole, box = canonical_geometry(like.geometry), to_canonical(segmentation)
    first = np.linalg.solve(whole.affine, box.affine[:, 3])[:3]
    start = np.rint(first).astype(int)
    part = Geometry(tuple(box.data.shape), whole.affine @ translation(start))  # type: ignore[arg-type]
    inside = (start >= 0).all() and (start + box.data.shape <= np.array(whole.shape)).all()
    if not inside or not same_grid(part, box.geometry):
        return segmentation
    data = np.zeros(whole.shape, box.data.dtype)
    data[tuple(slice(a, a + n) for a, n in zip(start, box.data.shape, strict=True))] = box.data
    return on_axes_of(replace(box, data=data, affine=whole.affine), like)


def translation(voxels: np.ndarray) -> np.ndarray:
    """Affine (4, 4) that moves the origin by (i, j, k) voxels."""
    moved = np.eye(4)
    moved[:3, 3] = voxels
    return moved
