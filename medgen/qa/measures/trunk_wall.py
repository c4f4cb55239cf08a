"""Loss of thin bright structures in the wall of the trunk of a CT: ribs that a conversion took for vessels.

At 2 to 5 mm a rib is as bright as a vessel with contrast medium, and where it is removed completely nothing in the
output shows it. Its place does: the muscular wall of the trunk has no large vessels. `lost_in_wall` measures the loss,
and the conversion leaves `ribs_taken_for_vessels` as they are.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from medgen.data.fast_filters import gaussian
from medgen.qa.measures.enhancement import Region, _central_voxel
from medgen.qa.measures.masks import deeper, dilated, opened, within

AIR_HU = -930.0  # outside the body, smoothed; lung is above it
FAT_HU = (-170.0, -30.0)
SKIN_MM, DEPTH_MM, CLOSED_MM = 6.0, 20.0, 12.0
LOST_HU, BRIGHT_HU, SOFT_HU, SIGMA_VOXELS = 80.0, 140.0, 90.0, 0.5
THICK_MM, WITHIN, LEAST_ML = 8.0, 0.85, 0.5
FALL_HU, PART_ML, MARGIN_MM, CHANGE_HU = 40.0, 0.1, 3.0, 5.0
STEEP, STEEP_MM = 1.5, 20.0
STANDS_OUT_HU, AROUND_MM = 40.0, (3.0, 7.0)


def lost_in_wall(source: np.ndarray, output: np.ndarray, body: np.ndarray, spacing: Sequence[float]) -> list[Region]:
    """Find thin structures of the trunk's wall that lost density; largest first.

    Regions of at least `LEAST_ML` that are brighter than `BRIGHT_HU` in the source and lose more than `LOST_HU`, beyond
    what resampling, another blur or a small shift would take (`rendition.mean_bounds`), of at most `THICK_MM` radius,
    `WITHIN` of them at most `DEPTH_MM` below the outer surface of the wall (`wall_depth`). Organs that touch the wall
    are thicker or reach deeper. Vessels of the wall (of the axilla, the neck and the groin) can be found too.

    Args:
        source, output: (X, Y, Z) HU on one grid, z along the body.
        body: (X, Y, Z) bool.
        spacing: mm.
    """
    sigma = [SIGMA_VOXELS] * 3
    x, y = (np.clip(v, -200, 1000).astype(np.float32) for v in (source, output))
    before, after = gaussian(x, sigma), gaussian(y, sigma)
    lost = body & (before - after > LOST_HU) & (before > BRIGHT_HU) & (after < SOFT_HU)
    parts, count = ndimage.label(lost)
    volumes = np.bincount(parts.ravel(), minlength=count + 1) * float(np.prod(spacing)) / 1000
    boxes = ndimage.find_objects(parts)
    thin = []
    for n in (n for n in range(1, count + 1) if volumes[n] >= LEAST_ML):
        box = boxes[n - 1]
        cut = any(part.start == 0 or part.stop == size for part, size in zip(box[:2], parts.shape[:2], strict=True))
        if not cut and not deeper(np.pad(parts[box] == n, 1), THICK_MM, spacing).any():
            thin.append(n)
    if not thin:  # most cases; the wall takes most of the time
        return []
    depth = wall_depth(source, spacing, sorted({k for n in thin for k in range(*boxes[n - 1][2].indices(10**6))}))
    in_wall = (depth > 0) & (depth < DEPTH_MM)
    found = []
    for n in thin:
        box = boxes[n - 1]
        inside = parts[box] == n
        if in_wall[box][inside].mean() < WITHIN:
            continue
        centre = [float(p) for p in (_central_voxel(inside, spacing) + [part.start for part in box]) * spacing]
        levels = (float(v[box][inside].mean()) for v in (before, after))
        found.append(Region((centre[0], centre[1], centre[2]), float(volumes[n]), *levels))
    return sorted(found, key=lambda region: -region.volume_ml)


def ribs_taken_for_vessels(source: np.ndarray, output: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Thin structures of the trunk's wall that a conversion darkened, with a margin: ribs and their cartilage.

    Parts of at least `PART_ML` that are brighter than `BRIGHT_HU` in the source and fell by more than `FALL_HU`,
    without what is thicker than `THICK_MM` in radius (an organ that touches the rib), `WITHIN` of them in the wall, as
    in `lost_in_wall`. Parts that rise more steeply than ribs, `STEEP` times as far along the body as across it and over
    `STEEP_MM`, are left to the conversion: vessels of the neck and the groin. So are parts that are less than
    `STANDS_OUT_HU` brighter than the soft tissue around them: noise of an organ that touches the wall.

    Args:
        source, output: (X, Y, Z) HU on one grid, z along the body.
        spacing: mm.

    Returns:
        (X, Y, Z) bool, voxels within `MARGIN_MM` of such a part that changed by more than `CHANGE_HU`.
    """
    before, after = (gaussian(np.clip(v, -200, 1000).astype(np.float32), [SIGMA_VOXELS] * 3) for v in (source, output))
    fall = before - after
    lost = (fall > FALL_HU) & (before > BRIGHT_HU)
    lost &= ~within(deeper(lost, THICK_MM, spacing), THICK_MM + 0.5, spacing)
    parts, count = ndimage.label(lost)
    volumes = np.bincount(parts.ravel(), minlength=count + 1) * float(np.prod(spacing)) / 1000
    boxes = ndimage.find_objects(parts)
    large = [n for n in range(1, count + 1) if volumes[n] >= PART_ML]
    found = np.zeros(source.shape, bool)
    if not large:
        return found
    depth = wall_depth(source, spacing, sorted({k for n in large for k in range(*boxes[n - 1][2].indices(10**6))}))
    in_wall = (depth > 0) & (depth < DEPTH_MM)
    for n in large:
        box = boxes[n - 1]
        inside = parts[box] == n
        x, y, along = extent(inside, spacing)
        if in_wall[box][inside].mean() < WITHIN or along > max(STEEP * np.hypot(x, y), STEEP_MM):
            continue
        reach = np.ceil(AROUND_MM[1] / np.asarray(spacing)).astype(int)
        wide = tuple(slice(max(0, side.start - r), side.stop + r) for side, r in zip(box, reach, strict=True))
        part = parts[wide] == n
        ring = within(part, AROUND_MM[1], spacing) & ~within(part, AROUND_MM[0], spacing)
        around = before[wide][ring & (before[wide] > FAT_HU[1])]  # soft tissue
        if not around.size or before[wide][part].mean() - around.mean() > STANDS_OUT_HU:
            found[wide] |= part
    return within(found, MARGIN_MM, spacing) & (fall > CHANGE_HU) & in_wall


def extent(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Sides (mm) of the box around a mask (X, Y, Z), between the centres of its outer voxels."""
    return np.ptp(np.argwhere(mask), axis=0) * np.asarray(spacing)


def wall_depth(hu: np.ndarray, spacing: Sequence[float], slices: Sequence[int] | None = None) -> np.ndarray:
    """Depth (mm) below the outer surface of the trunk's muscles, in each slice; 0 outside.

    The trunk is the body without the fat that is connected to its skin, with gaps of up to 24 mm closed. What lies
    beyond a cropped field of view counts as trunk, so that organs at its border are deep.

    Args:
        hu: (X, Y, Z), z along the body.
        spacing: mm.
        slices: for which the depth is computed, 0 elsewhere; None: all.
    """
    in_plane = (float(spacing[0]), float(spacing[1]))
    body = _body(hu, spacing)
    skin = body & within(~body, SKIN_MM, (*in_plane, np.inf))
    smooth = gaussian(hu, [1.5 / s for s in spacing])
    fat = (smooth > FAT_HU[0]) & (smooth < FAT_HU[1]) & body
    parts, count = ndimage.label(fat | skin)
    outer = np.zeros(count + 1, bool)
    outer[parts[skin]] = True
    outer[0] = False
    inner = opened(body & ~outer[parts])
    reach = int(np.ceil((CLOSED_MM + 2) / min(in_plane)))
    depth = np.zeros(hu.shape, np.float32)
    for k in range(hu.shape[2]) if slices is None else slices:
        if not inner[:, :, k].any():
            continue
        plane = np.pad(inner[:, :, k], reach, mode="edge")[:, :, None]
        disc = CLOSED_MM, (*in_plane, np.inf)
        trunk = deeper(ndimage.binary_fill_holes(within(plane, *disc)[:, :, 0])[:, :, None], *disc)[:, :, 0]
        depth[:, :, k] = ndimage.distance_transform_edt(trunk, sampling=in_plane)[reach:-reach, reach:-reach]
    return depth


def _body(hu: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The largest part of all but the air that reaches the border of a slice, without thin parts such as a table."""
    air, _ = ndimage.label(gaussian(hu, [2.5 / s for s in spacing]) < AIR_HU)
    border = np.unique(np.concatenate([v.ravel() for v in (air[0], air[-1], air[:, 0], air[:, -1])]))
    outside = np.isin(air, border[border > 0])
    outside = dilated(outside, max(1, round(3 / min(spacing))))  # the smoothed rim
    core = deeper(~outside, SKIN_MM, spacing)
    parts, count = ndimage.label(core)
    if not count:
        return ~outside
    core = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return ~outside & within(core, SKIN_MM + 1, spacing)
