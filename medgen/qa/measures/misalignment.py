"""Misalignment of the two images of a pair, measured in blocks: local shifts of edges, independent of intensities."""

from dataclasses import dataclass

import numpy as np

from medgen.data.body_mask import body_mask, looks_like_hu
from medgen.data.grid import resample, resample_like
from medgen.io.volume import Volume, to_canonical
from medgen.qa.measures.geometry import measure_shift

GRID = 2.0  # mm, on which shifts are measured, or the middle spacing of the source if that is larger
BLOCK = 24  # voxels of that grid, side of a block
REACH = 4  # voxels; larger shifts count as this
BODY = 0.6  # share of a block that must lie inside the body
# mm, of the median over the blocks. Aligned pairs of the embedded cohort have 0.1 mm, and 1.1 to 1.7 mm if they are
# deformed by 2 to 6 mm at most; aligned contrasts of open_ms, whose edges differ, have 0.8 to 1.0 mm.
LIMIT_CT, LIMIT = 0.5, 1.5


@dataclass(frozen=True)
class Misalignment:
    """Lengths of the local shifts of a pair, mm: median and 90th percentile over the blocks, and the limit (median)."""

    median: float
    p90: float
    blocks: int
    limit: float


def block_mm(source: Volume) -> float:
    """Side of the blocks in which a pair with this source is measured, mm."""
    return BLOCK * max(GRID, float(np.median(source.spacing)))


def misalignment(source: Volume, target: Volume) -> Misalignment | None:
    """Measure local shifts between a source and its target, in blocks of 24 voxels of 2 mm inside the body.

    The target is resampled to the grid of the source by the geometry of both. A shift is found by `measure_shift`, to a
    fraction of a voxel and up to 4 voxels along each axis. If the middle spacing of the source is larger than 2 mm,
    blocks, reach and limit grow with it.

    Returns:
        None if no block lies inside the body and the target and is not constant.
    """
    source, target = to_canonical(source), to_canonical(target)
    mm = max(GRID, float(np.median(source.spacing)))
    a = resample(source, (mm,) * 3)
    b = resample_like(resample(target, (mm,) * 3), a)
    body = body_mask(a.data)
    lengths = []
    starts = [range(0, n - BLOCK + 1, BLOCK) for n in a.data.shape]
    for start in np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 3):
        block = tuple(slice(s, s + BLOCK) for s in start)
        constant = min(float(v[block].std()) for v in (a.data, b)) == 0
        if constant or body[block].mean() < BODY or not _covers(target, a, start):
            continue
        lengths.append(float(np.linalg.norm(measure_shift(a.data[block], b[block], (mm,) * 3, reach=REACH)) * mm))
    if not lengths:
        return None
    limit = LIMIT_CT if looks_like_hu(a.data) and looks_like_hu(b) else LIMIT
    median, p90 = np.percentile(lengths, [50, 90])
    return Misalignment(float(median), float(p90), len(lengths), limit * mm / GRID)


def _covers(target: Volume, grid: Volume, start: np.ndarray) -> bool:
    """Whether the field of view of the target holds a block of a grid, given by its first voxel."""
    corners = np.array([start + BLOCK * np.array(c) for c in np.ndindex(2, 2, 2)])
    places = corners @ (np.linalg.inv(target.affine) @ grid.affine)[:3, :3].T
    places += (np.linalg.inv(target.affine) @ grid.affine)[:3, 3]
    return bool((places > -1.5).all() and (places < np.array(target.data.shape) + 0.5).all())
