"""Where a new lesion goes: inside its host, away from the border and from other lesions, where such lesions occur."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.signal import oaconvolve

from medgen.augmentation.lesions.library import widened
from medgen.errors import InputError

WIDTH = 0.15  # of the Gaussian about each known position, as a part of the host's box
ANYWHERE = 0.1  # share of the lesions that may come anywhere, for few positions are known
MOST = 4000  # sites that are weighed


class NoRoom(InputError):
    """A lesion fits nowhere in its host."""


def free_sites(
    mask: np.ndarray,
    host: np.ndarray,
    others: np.ndarray,
    spacing: Sequence[float],
    *,
    margin_mm: float = 2.0,
    gap_mm: float = 5.0,
) -> np.ndarray:
    """(n, 3): every voxel at which the first corner of ``mask`` may lie (it may be outside the grid, the mask not).

    Args:
        mask: (x, y, z) bool, the lesion.
        host, others: (X, Y, Z) bool: host tissue, and lesions that are there.
        margin_mm: that the lesion keeps from all that is not host, and from the grid's end.
        gap_mm: that it keeps from other lesions.
    """
    found = ndimage.find_objects(host.astype(np.uint8))
    if not found:
        return np.zeros((0, 3), int)
    part = widened(found[0], gap_mm, spacing, host.shape)
    corner, host, others = [p.start for p in part], host[part], others[part]
    ends = [(0, 0) if n == 1 else (1, 1) for n in host.shape]  # a scan of one slice does not end there
    inside = ndimage.distance_transform_edt(np.pad(host & ~others, ends), spacing) > margin_mm
    allowed = inside[tuple(slice(a, n + a) for (a, _), n in zip(ends, host.shape, strict=True))]
    if others.any():
        allowed &= ndimage.distance_transform_edt(~others, spacing) > gap_mm
    lesion = ndimage.find_objects(mask.astype(np.uint8))[0]
    area = ndimage.find_objects(allowed.astype(np.uint8))
    small = mask[lesion]
    if not area or any(n > a.stop - a.start for n, a in zip(small.shape, area[0], strict=True)):
        return np.zeros((0, 3), int)
    # The number of voxels of the lesion that lie on allowed ones, for each place of its box in the host's.
    on = oaconvolve(allowed[area[0]].astype(np.float32), small[::-1, ::-1, ::-1].astype(np.float32), mode="valid")
    corners = np.argwhere(on > small.sum() - 0.5)
    return corners + [c + a.start - b.start for c, a, b in zip(corner, area[0], lesion, strict=True)]


def choose_site(
    mask: np.ndarray,
    host: np.ndarray,
    others: np.ndarray,
    spacing: Sequence[float],
    rng: np.random.Generator,
    *,
    positions: Sequence[Sequence[float]] = (),
    margin_mm: float = 2.0,
    gap_mm: float = 5.0,
    what: str = "the host",
) -> tuple[int, int, int]:
    """One of the ``free_sites``, more often where lesions are known to occur.

    Args:
        positions: of known lesions in the bounding box of their hosts, [0, 1] along each axis; none: all sites alike.
        what: the host's name, for the message.

    Raises:
        NoRoom: the lesion fits nowhere.
    """
    sites = free_sites(mask, host, others, spacing, margin_mm=margin_mm, gap_mm=gap_mm)
    if not len(sites):
        size = mask.sum() * np.prod(spacing) / 1000
        raise NoRoom(
            "lesions-no-room",
            f"no room for a lesion of {size:.3g} ml in {what}, {margin_mm:g} mm from its border and {gap_mm:g} mm from "
            "other lesions; ask for fewer or smaller lesions, or another host",
        )
    if len(sites) > MOST:
        sites = sites[rng.choice(len(sites), MOST, replace=False)]
    weight = _likelihood(sites + np.argwhere(mask).mean(0), host, positions)
    x, y, z = sites[rng.choice(len(sites), p=weight / weight.sum())]
    return int(x), int(y), int(z)


def _likelihood(centres: np.ndarray, host: np.ndarray, positions: Sequence[Sequence[float]]) -> np.ndarray:
    """(n,): density of known lesions at each site, a Gaussian each, over a floor that admits any site."""
    if not len(positions):
        return np.ones(len(centres))
    box = ndimage.find_objects(host.astype(np.uint8))[0]
    low, size = np.array([b.start for b in box]), np.array([max(b.stop - 1 - b.start, 1) for b in box])
    apart = ((centres - low) / size)[:, None] - np.asarray(positions)[None]
    near = np.exp(-(apart**2).sum(2) / (2 * WIDTH**2)).mean(1)
    return (1 - ANYWHERE) * near / max(near.mean(), 1e-12) + ANYWHERE
