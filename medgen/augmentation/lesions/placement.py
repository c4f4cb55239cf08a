"""Choose the site of a new lesion: inside its host, away from the border and other lesions, at a likely position."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.signal import oaconvolve

from medgen.augmentation.lesions.library import widened
from medgen.errors import InputError

WIDTH = 0.15  # σ of the Gaussian around each known position, as a fraction of the host's bounding box
ANYWHERE = 0.1  # share of lesions placed uniformly, because few positions are known
MOST = 4000  # maximum number of sites for which a density is computed


class NoRoom(InputError):
    """The lesion fits nowhere in its host."""


def free_sites(
    mask: np.ndarray,
    host: np.ndarray,
    others: np.ndarray,
    spacing: Sequence[float],
    *,
    margin_mm: float = 2.0,
    gap_mm: float = 5.0,
) -> np.ndarray:
    """Return all allowed voxels for the first corner of ``mask``, (n, 3).

    The corner may lie outside the grid, but the lesion itself lies inside.

    Args:
        mask: (x, y, z) bool, the lesion.
        host, others: (X, Y, Z) bool: host tissue, and existing lesions.
        margin_mm: distance kept from all other tissue and from the border of the grid.
        gap_mm: distance kept from existing lesions.
    """
    found = ndimage.find_objects(host.astype(np.uint8))
    if not found:
        return np.zeros((0, 3), int)
    region = widened(found[0], gap_mm, spacing, host.shape)
    corner, host, others = [p.start for p in region], host[region], others[region]
    ends = [(0, 0) if n == 1 else (1, 1) for n in host.shape]  # a single slice has no border
    inside = ndimage.distance_transform_edt(np.pad(host & ~others, ends), spacing) > margin_mm
    allowed = inside[tuple(slice(a, n + a) for (a, _), n in zip(ends, host.shape, strict=True))]
    if others.any():
        allowed &= ndimage.distance_transform_edt(~others, spacing) > gap_mm
    lesion = ndimage.find_objects(mask.astype(np.uint8))[0]
    area = ndimage.find_objects(allowed.astype(np.uint8))
    small = mask[lesion]
    if not area or any(n > a.stop - a.start for n, a in zip(small.shape, area[0], strict=True)):
        return np.zeros((0, 3), int)
    # Number of lesion voxels on allowed voxels, for each position of the lesion's box in the allowed area.
    overlap = oaconvolve(allowed[area[0]].astype(np.float32), small[::-1, ::-1, ::-1].astype(np.float32), mode="valid")
    corners = np.argwhere(overlap > small.sum() - 0.5)
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
    """Draw one of the ``free_sites``, with a higher probability near the positions of known lesions.

    Args:
        positions: of known lesions in the bounding box of their hosts, [0, 1] along each axis; empty: all sites have
            the same probability.
        what: name of the host for the message.

    Raises:
        NoRoom: the lesion fits nowhere.
    """
    sites = free_sites(mask, host, others, spacing, margin_mm=margin_mm, gap_mm=gap_mm)
    if not len(sites):
        size = mask.sum() * np.prod(spacing) / 1000
        raise NoRoom(
            "lesions-no-room",
            f"there is no room for a lesion of {size:.3g} ml in {what} at {margin_mm:g} mm from its border and "
            f"{gap_mm:g} mm from other lesions; choose another tissue with --host, or other lesions with --lesion",
        )
    if len(sites) > MOST:
        sites = sites[rng.choice(len(sites), MOST, replace=False)]
    weight = _likelihood(sites + np.argwhere(mask).mean(0), host, positions)
    x, y, z = sites[rng.choice(len(sites), p=weight / weight.sum())]
    return int(x), int(y), int(z)


def _likelihood(centres: np.ndarray, host: np.ndarray, positions: Sequence[Sequence[float]]) -> np.ndarray:
    """Return the probability weight of each site, (n,): one Gaussian per known lesion plus a uniform part."""
    if not len(positions):
        return np.ones(len(centres))
    box = ndimage.find_objects(host.astype(np.uint8))[0]
    low, size = np.array([b.start for b in box]), np.array([max(b.stop - 1 - b.start, 1) for b in box])
    offsets = ((centres - low) / size)[:, None] - np.asarray(positions)[None]
    density = np.exp(-(offsets**2).sum(2) / (2 * WIDTH**2)).mean(1)
    return (1 - ANYWHERE) * density / max(density.mean(), 1e-12) + ANYWHERE
