"""Agreement of the structure of a translation with its input, independent of the intensities."""

from itertools import combinations

import numpy as np
from scipy import ndimage

from medgen.data.fast_filters import gaussian, gradient_magnitude

VARIANCE_FLOOR = 1e-3  # minimum of V relative to its mean over the image, as in Heinrich's published code
TINY = 1e-12  # avoids 0 / 0 for a constant image
CHUNK = 2**17  # voxels processed at once


def edge_correlation(
    x: np.ndarray, y: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float], *, sigma_mm: float = 2.0
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

    Returns:
        In [-1, 1]; 1 for edges at the same positions, 0 if either image has no edges.
    """
    sigma = [sigma_mm / s for s in spacing]
    inner = ndimage.distance_transform_edt(np.pad(mask, 1), spacing)[1:-1, 1:-1, 1:-1] > 3 * sigma_mm
    mask = inner if inner.any() else mask
    a, b = (gradient_magnitude(v, sigma, mode="nearest")[mask] for v in (x, y))
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
    dot = square_x = square_y = np.zeros(int(mask.sum()), np.float32)
    for axis, step in enumerate(spacing):  # a derivative of Gaussian fails for slices thicker than sigma
        a, b = (np.gradient(v, step, axis=axis)[mask] for v in (smooth_x, smooth_y))
        dot, square_x, square_y = dot + a * b, square_x + a * a, square_y + b * b
    weight, product = np.sqrt(np.minimum(square_x, square_y)), square_x * square_y
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
    (p, floor_p), (q, floor_q) = (_patch_distances(v, inside, radius, dilation) for v in (x, y))
    total = 0.0
    for start in range(0, p.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        difference = _descriptor(p[:, part], floor_p) - _descriptor(q[:, part], floor_q)
        total += float(np.abs(difference, out=difference).sum(dtype=np.float64))
    return total / p.size


def _descriptor(distances: np.ndarray, floor: float) -> np.ndarray:
    """exp(-D_P / V), (12, N) float32 in (0, 1], of (12, N) patch distances."""
    return np.exp(-distances / np.maximum(distances.mean(0), floor))


def _patch_distances(x: np.ndarray, inside: np.ndarray, radius: int, dilation: int) -> tuple[np.ndarray, float]:
    """D_P of the N voxels inside, (12, N) float32, and the minimum of V. Computed in slabs that fit the CPU cache."""
    padded = np.pad(x.astype(np.float32), dilation, mode="edge")
    window, rows = 2 * radius + 1, max(1, CHUNK // int(np.prod(x.shape[1:])))
    kept, mean = [], 0.0
    for start in range(0, len(x), rows):
        stop = min(start + rows, len(x))
        first, last = max(start - radius, 0), min(stop + radius, len(x))  # slab plus the reach of the window
        own = slice(start - first, stop - first)
        distances = np.stack(
            [
                ndimage.uniform_filter((p - q) ** 2, window, mode="nearest")[own]
                for p, q in _face_pairs(padded[first : last + 2 * dilation], dilation)
            ]
        )
        mean += float(distances.sum(dtype=np.float64)) / (len(distances) * x.size)
        kept.append(distances[:, inside[start:stop]])
    return np.concatenate(kept, axis=1), max(VARIANCE_FLOOR * mean, TINY)


def _face_pairs(padded: np.ndarray, dilation: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The 12 adjacent pairs among the six face neighbours of every voxel, without the three opposite pairs."""
    shape, faces = [n - 2 * dilation for n in padded.shape], []
    for axis in range(3):
        for offset in (0, 2 * dilation):
            start = [offset if a == axis else dilation for a in range(3)]
            faces.append((axis, padded[tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))]))
    return [(p, q) for (axis_p, p), (axis_q, q) in combinations(faces, 2) if axis_p != axis_q]
