"""Agreement of the structure of a translation with its input, independent of the intensities."""

from collections.abc import Sequence

import numpy as np

from medgen.data.fast_filters import gaussian, gradient_magnitude
from medgen.qa.measures.masks import deeper

VARIANCE_FLOOR = 1e-3  # minimum of V relative to its mean over the image, as in Heinrich's published code
TINY = 1e-12  # avoids 0 / 0 for a constant image
CHUNK, SLAB = 2**17, 2**18  # descriptors and voxels processed at once
# From this number of voxels on, `mind_distance` takes every second one (every ``dilation``-th) along each axis. 12,500
# and more voxels give the mean to 0.001 (limit 0.15).
MANY = 100_000
EDGE_MM = 2.0  # sigma of the Gaussian gradient for edges


def edges(v: np.ndarray, spacing: Sequence[float], sigma_mm: float = EDGE_MM) -> np.ndarray:
    """Gradient magnitude after Gaussian smoothing, (X, Y, Z) float32, of `edge_correlation` and `geometry`."""
    return gradient_magnitude(v, [sigma_mm / s for s in spacing], mode="nearest")


def edge_correlation(
    x: np.ndarray,
    y: np.ndarray,
    mask: np.ndarray,
    spacing: tuple[float, float, float],
    *,
    sigma_mm: float = EDGE_MM,
    known: tuple[np.ndarray, np.ndarray] | None = None,
) -> float:
    """Correlation of the gradient magnitudes of two images inside a mask, after smoothing.

    Magnitudes make it independent of which side of an edge is brighter, such as in T1 and T2. It is gradient
    correlation (Penney 1998) without the sign.

    Args:
        x, y: (X, Y, Z), any units.
        mask: (X, Y, Z) bool. Its outermost 3 σ are excluded unless nothing would remain: every translation reproduces
            the outline of the body, which would hide differences inside it.
        spacing: mm.
        sigma_mm: sigma of the Gaussian smoothing against noise.
        known: `edges` of both, if they were computed before.

    Returns:
        In [-1, 1]; 1 for edges at the same positions, 0 if either image has no edges.
    """
    inner = deeper(np.pad(mask, 1), 3 * sigma_mm, spacing)[1:-1, 1:-1, 1:-1]
    mask = inner if inner.any() else mask
    a, b = (v[mask] for v in known or (edges(v, spacing, sigma_mm) for v in (x, y)))
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm > 0 else 0.0


def gradient_agreement(
    x: np.ndarray, y: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float], *, sigma_mm: float = 2.0
) -> float:
    """Agreement of gradient directions: 1 for parallel gradients everywhere, 1/3 for random directions.

        G = Σ cos²α · min(|∇x|, |∇y|) / Σ min(|∇x|, |∇y|)

    Gradient information of Pluim et al., IEEE TMI 2000;19:809, eq. 4-5 (their (cos 2α + 1)/2 is cos²α), divided by
    the sum of its weights so that it does not grow with the contrast. Opposite directions count as equal because
    modalities differ in the sign of an edge.

    Args: as in `edge_correlation`.

    Returns:
        In [0, 1]; 0 if either image has no gradients.
    """
    sigma = [sigma_mm / s for s in spacing]
    smooth_x, smooth_y = (gaussian(v, sigma, mode="nearest") for v in (x, y))
    dot, square_x, square_y = np.zeros((3, *x.shape), np.float32)  # everywhere: indexing a mask takes longer
    for axis, step in enumerate(spacing):  # a derivative of Gaussian fails for slices thicker than sigma
        a, b = (np.gradient(v, step, axis=axis) for v in (smooth_x, smooth_y))
        dot += a * b
        square_x += np.square(a, out=a)
        square_y += np.square(b, out=b)
    weight, product = np.sqrt(np.minimum(square_x, square_y)) * mask, square_x * square_y
    cosine2 = np.divide(dot * dot, product, out=np.zeros_like(dot), where=product > 0)
    total = float(weight.sum(dtype=np.float64))
    return float((cosine2 * weight).sum(dtype=np.float64)) / total if total > 0 else 0.0


def mind_distance(
    x: np.ndarray, y: np.ndarray, mask: np.ndarray | None = None, *, radius: int = 1, dilation: int = 2
) -> float:
    """Mean absolute difference of the MIND-SSC descriptors of two volumes.

    The descriptor is exp(-D_P / V) of Heinrich et al., Med Image Anal 2012;16:1423, eq. 4, for the 12 pairs of face
    neighbours at distance √2·dilation (Heinrich et al., MICCAI 2013). `medgen.losses.structure.mind` is the same for
    training.

    Args:
        x, y: (X, Y, Z), any units.
        mask: (X, Y, Z) bool, where the difference is averaged; None: everywhere.
        radius: of the patches, voxels.
        dilation: distance of the patches from the voxel, voxels.

    Returns:
        In [0, 1); 0 for y = a·x + b.
    """
    inside = np.ones(x.shape, bool) if mask is None else mask
    step = dilation if np.count_nonzero(inside) > MANY else 1
    (p, floor_p), (q, floor_q) = (_patch_distances(v, inside, radius, dilation, step) for v in (x, y))
    total = 0.0
    for start in range(0, p.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        difference = _descriptor(p[:, part], floor_p) - _descriptor(q[:, part], floor_q)
        total += float(np.abs(difference, out=difference).sum(dtype=np.float64))
    return total / p.size


def _descriptor(distances: np.ndarray, floor: float) -> np.ndarray:
    """exp(-D_P / V), (12, N) float32 in (0, 1], of (12, N) patch distances."""
    return np.exp(-distances / np.maximum(distances.mean(0), floor))


def _patch_distances(
    x: np.ndarray, inside: np.ndarray, radius: int, dilation: int, step: int
) -> tuple[np.ndarray, float]:
    """D_P of the N voxels inside, (12, N) float32, and the minimum of V; of every ``step``-th voxel along each axis.

    The image continues with its edge values. Computed in slabs that fit the CPU cache.
    """
    halo = 2 * dilation + radius
    padded = np.pad(x.astype(np.float32), halo, mode="edge")
    rows = step * max(1, SLAB // (step * int(np.prod(x.shape[1:]))))
    sampled = inside[::step, ::step, ::step]
    kept, mean = [], 0.0
    for start in range(0, len(x), rows):
        stop = min(start + rows, len(x))
        count = [-(-n // step) for n in (stop - start, *x.shape[1:])]
        distances = np.stack(_pair_distances(padded[start : stop + 2 * halo], count, radius, dilation, step))
        mean += float(distances.sum(dtype=np.float64)) / (len(distances) * sampled.size)
        kept.append(distances[:, sampled[start // step :][: count[0]]])
    return np.concatenate(kept, axis=1), max(VARIANCE_FLOOR * mean, TINY)


def _pair_distances(
    padded: np.ndarray, count: Sequence[int], radius: int, dilation: int, step: int
) -> list[np.ndarray]:
    """D_P of the 12 pairs of face neighbours, (X, Y, Z) each, without the three opposite pairs.

    The patches at +i and +j lie as far apart as those at -j and -i, and the patches at +i and -j as those at +j and -i.
    The 12 distances are therefore six maps, each read at two places.

    Args:
        padded: the image with 2·dilation + radius more voxels on each side.
        count: number of voxels of the result along each axis.
        step: distance of these voxels; it divides ``dilation``.
    """
    away, found = dilation // step, []
    wide = [n + 2 * away for n in count]  # the maps also hold the voxels at the distance of the patches
    own = [(n - 1) * step + 1 + 2 * radius for n in wide]
    first = padded[tuple(slice(dilation, dilation + n) for n in own)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        for way in (1, -1):
            start = [dilation] * 3
            start[i], start[j] = 0, dilation + way * dilation
            squares = first - padded[tuple(slice(s, s + n) for s, n in zip(start, own, strict=True))]
            squares *= squares
            for axis, n in enumerate(wide):
                squares = _window_sums(squares, axis, 2 * radius + 1, step, n)
            squares /= (2 * radius + 1) ** 3
            for axis, side in ((i, 1), (j, -way)):
                at = [side * away * (a == axis) + away for a in range(3)]
                found.append(squares[tuple(slice(s, s + n) for s, n in zip(at, count, strict=True))])
    return found


def _window_sums(v: np.ndarray, axis: int, window: int, step: int, count: int) -> np.ndarray:
    """Sums over ``window`` voxels along an axis, at every ``step``-th of ``count`` positions."""
    lines = np.moveaxis(v, axis, 0)
    parts = [lines[k : k + (count - 1) * step + 1 : step] for k in range(window)]
    total = parts[0] + parts[1] if window > 1 else parts[0].copy()
    for part in parts[2:]:
        total += part
    return np.moveaxis(total, 0, axis)
