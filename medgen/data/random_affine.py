"""Random flips, rotations and scalings of patches in mm, so that anisotropic voxels do not distort shapes.

The transform acts on mm coordinates about the patch centre, and the patch is sampled directly from the part of the
volume that it covers. Outside the volume its edge values are repeated.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medgen.data.labels.resampling import by_affine, labels_at

AFFINE_SHARE = 0.8  # share of the patches that is rotated and scaled
# Ratio of largest to smallest voxel spacing above which cubic splines replace linear interpolation. Linear
# interpolation blurs more across thick slices than within them and would make a ball 3 to 6 % longer along one axis.
UNEQUAL = 1.2


@dataclass(frozen=True)
class AffineTransform:
    """One random transform. ``matrix`` (3, 3): mm from patch centre → mm in the volume, or None. ``flips``: axes."""

    matrix: np.ndarray | None = None
    flips: tuple[int, ...] = ()


@dataclass(frozen=True)
class RandomAffine:
    """Ranges of the random transforms.

    Args:
        flip: array axes, each mirrored with probability ½.
        rotate: largest rotation about each axis, in degrees.
        scale: largest relative change of size along each axis.
    """

    flip: tuple[int, ...] = ()
    rotate: float = 0.0
    scale: float = 0.0

    def draw(self, rng: np.random.Generator) -> AffineTransform:
        """Draw a transform; parts that are switched off draw nothing from ``rng``."""
        flips = tuple(axis for axis in self.flip if rng.random() < 0.5)
        if not (self.rotate or self.scale) or rng.random() >= AFFINE_SHARE:
            return AffineTransform(None, flips)
        rotation = Rotation.from_euler("xyz", rng.uniform(-self.rotate, self.rotate, 3), degrees=True).as_matrix()
        return AffineTransform(rotation @ np.diag(1 + rng.uniform(-self.scale, self.scale, 3)), flips)


def cut_patch(
    data: np.ndarray,
    start: np.ndarray,
    size: np.ndarray,
    turn: AffineTransform,
    spacing: tuple[float, ...],
    *,
    labels: bool = False,
    background: float | None = None,
) -> np.ndarray:
    """Cut a patch from a volume, transformed about the patch centre.

    Args:
        data: (X, Y, Z), may be memory-mapped: only the part that is needed is read.
        start: (3,) first voxel of the patch before the transform; may lie outside the volume.
        size: (3,) in voxels.
        turn: the transform.
        spacing: voxel spacing in mm.
        labels: treat values as labels, see ``data.labels.resampling``; otherwise interpolate, see ``UNEQUAL``.
        background: value of masked voxels, which are not mixed with tissue, as in ``grid.unmixed``.

    Returns:
        Array of ``size`` in the type of ``data``, or float32 if it is interpolated. It may be a view of ``data``.
    """
    if turn.matrix is None:
        patch = _crop(data, start, size)
    else:
        half = (np.asarray(size) - 1) / 2
        matrix = turn.matrix * np.asarray(spacing) / np.asarray(spacing)[:, None]  # voxels → mm → transformed → voxels
        reach = np.abs(matrix) @ half
        first = np.floor(start + half - reach).astype(int)
        crop = _crop(data, first, np.ceil(start + half + reach).astype(int) + 1 - first)
        order = 0 if labels else 3 if max(spacing) > UNEQUAL * min(spacing) else 1
        offset = start + half - first - matrix @ half
        patch = _sampled(crop, matrix, offset, size, order)
        inside = None if background is None or labels else crop != background
        if inside is not None and inside.any() and not inside.all():
            _unmix(patch, crop, inside, matrix, offset, background)
    return np.flip(patch, turn.flips) if turn.flips else patch


def _unmix(
    patch: np.ndarray,
    crop: np.ndarray,
    inside: np.ndarray,
    matrix: np.ndarray,
    offset: np.ndarray,
    background: float | None,
) -> None:
    """Replace what was interpolated between masked voxels and tissue (``inside``), in place."""
    at = {"matrix": matrix, "offset": offset, "output_shape": patch.shape, "mode": "nearest", "order": 1}
    share = ndimage.affine_transform(inside.astype(np.float32), **at)
    tissue = ndimage.affine_transform(np.where(inside, crop, 0).astype(np.float32), **at)
    mixed = share < 1 - 1e-5
    share, tissue = share[mixed], tissue[mixed]
    patch[mixed] = np.where(share >= 0.5, tissue / np.maximum(share, 0.5), background)


def _sampled(crop: np.ndarray, matrix: np.ndarray, offset: np.ndarray, size: np.ndarray, order: int) -> np.ndarray:
    """Values at ``matrix @ index + offset``; ``order`` of the spline; 0 for labels."""
    shape = tuple(int(n) for n in size)
    if order == 0:
        return labels_at(crop, by_affine(matrix, offset, shape), shape)
    crop = crop.astype(np.float32, copy=False)
    at = {"matrix": matrix, "offset": offset, "output_shape": shape, "mode": "nearest"}
    patch = ndimage.affine_transform(crop, order=order, **at)
    if order == 1:
        return patch
    # Splines overshoot at edges and ring far from them: a masked background would no longer be exactly 0.
    # Values therefore stay between those of the 2³ voxels around them: of voxel i and i + 1, where i is rounded down.
    at["offset"] = offset - 0.5
    cells = (f(crop, 2, origin=-1, mode="nearest") for f in (ndimage.minimum_filter, ndimage.maximum_filter))
    low, high = (ndimage.affine_transform(ends, order=0, **at) for ends in cells)
    return np.clip(patch, low, high, out=patch)


def _crop(data: np.ndarray, start: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return ``size`` voxels starting at ``start``; outside the volume, its edge values are repeated."""
    begin, end = start.tolist(), (start + size).tolist()
    if min(begin) >= 0 and all(b <= n for b, n in zip(end, data.shape, strict=True)):  # a third of the time of the rest
        return data[tuple(map(slice, begin, end))]
    low = np.minimum(np.maximum(start, 0), np.asarray(data.shape) - 1)
    high = np.maximum(np.minimum(start + size, data.shape), low + 1)
    cut = data[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    index = [np.clip(np.arange(s, s + n) - a, 0, b - a - 1) for s, n, a, b in zip(start, size, low, high, strict=True)]
    return cut if cut.shape == tuple(size) else cut[np.ix_(*index)]
