"""Structural similarity in 3D: SSIM (Wang 2004) and MS-SSIM (Wang 2003), in a mask or the whole volume.

Pure functions on numpy arrays (X, Y, Z) of one shape, ``reference`` (ground truth) before ``prediction``, any unit;
they raise `InputError` like `medgen.evaluation.metrics.voxelwise`. Results depend on the data range, the window and
the treatment of edges. These are arguments or documented here, and never estimated from the images.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from medgen.errors import InputError
from medgen.evaluation.metrics.voxelwise import check_mask, check_pair, check_range, label_means, masked_mean, slabs

K1, K2 = 0.01, 0.03  # Wang 2004
RADIUS = {"gaussian": 5, "uniform": 3}  # voxels: windows of 11 and 7 voxels
SIGMA = 1.5  # voxels, of the Gaussian window
LEVEL_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang 2003, section 3.2, finest first
BLOCK = 32  # rows of a banded matrix that are multiplied at once

Array = NDArray[Any]
Window = Literal["gaussian", "uniform"]


def ssim(reference: Array, prediction: Array, *, data_range: float, mask: Array | None = None) -> float:
    """Mean structural similarity in 3D, in [-1, 1]; 1 for identical images (also constant ones).

    The mean of `ssim_map`, see `mean_ssim`: Wang, Bovik, Sheikh & Simoncelli 2004 (doi
    10.1109/TIP.2003.819861) with its 11-voxel Gaussian window extended to 3D. Equals ``skimage.metrics.
    structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=...)``, and
    ``monai.metrics.SSIMMetric`` where all axes are longer than the window.
    """
    return mean_ssim(ssim_map(reference, prediction, data_range=data_range), mask)


def ms_ssim(
    reference: Array,
    prediction: Array,
    *,
    data_range: float,
    mask: Array | None = None,
    weights: Sequence[float] = LEVEL_WEIGHTS,
) -> float:
    """Multi-scale structural similarity in 3D, in [0, 1]; 1 for identical images.

    Π_j mean(cs_j)^w_j · mean(l_M cs_M)^w_M over M levels, each the 2³-voxel mean of the previous one (odd axes lose
    their last plane): Wang, Simoncelli & Bovik 2003 (doi 10.1109/ACSSC.2003.1292216), eq. 7, with α = β = γ and
    the paper's five weights. Luminance l is used in the coarsest level only; a mean below 0 is set to 0.
    With a mask, a coarse voxel is weighted by the fraction of it that the mask covers.

    Equals ``monai.metrics.MultiScaleSSIMMetric`` without a mask if all axes of the coarsest level are at least
    as long as the window, 176 voxels for five levels. Below that, windows of coarse levels extend into the mirrored
    volume, as in `ssim_map`; levels and weights never change, so results stay comparable.

    Raises `InputError` for an axis that cannot be halved M - 1 times (16 voxels for five levels).
    """
    check_mask(reference, mask)
    return mean_ms_ssim(ms_ssim_maps(reference, prediction, data_range=data_range, levels=len(weights)), mask, weights)


def ms_ssim_maps(
    reference: Array,
    prediction: Array,
    *,
    data_range: float,
    levels: int = len(LEVEL_WEIGHTS),
    finest: Array | None = None,
) -> list[NDArray[np.float32]]:
    """Return the maps that MS-SSIM averages, finest first: cs of every level, and l · cs of the coarsest.

    They can be averaged over any number of masks (`mean_ms_ssim`) and labels (`label_ms_ssim`). ``finest`` is the first
    one if it is known (`ssim_and_structure_maps`). Raises the same errors as `ms_ssim`.
    """
    check_pair(reference, prediction)
    if min(reference.shape) < smallest_axis(levels):
        raise InputError(
            "metric-volume-too-small",
            f"MS-SSIM of {levels} levels needs axes of {smallest_axis(levels)} voxels at least, not "
            f"{reference.shape}; use SSIM",
        )
    x, y = (np.asarray(image, np.result_type(image, np.float32)) for image in (reference, prediction))
    maps = []
    for level in range(1, levels + 1):
        if level > 1:
            x, y = halved(x), halved(y)
        known = finest if level == 1 and levels > 1 else None
        maps.append(ssim_map(x, y, data_range=data_range, luminance=level == levels) if known is None else known)
    return maps


def mean_ms_ssim(maps: Sequence[Array], mask: Array | None = None, weights: Sequence[float] = LEVEL_WEIGHTS) -> float:
    """Return MS-SSIM from its maps, in a mask or over the voxels used by `mean_ssim`."""
    coverage = None if mask is None else np.asarray(mask, bool).astype(np.float32)
    product = 1.0
    for level, (similarity, weight) in enumerate(zip(maps, weights, strict=True)):
        coverage = halved(coverage) if level and coverage is not None else coverage
        product *= max(_weighted_mean(similarity, coverage), 0.0) ** weight
    return float(product)


def label_ms_ssim(maps: Sequence[Array], labels: Array, weights: Sequence[float] = LEVEL_WEIGHTS) -> dict[int, float]:
    """Return {label: MS-SSIM in its mask} for every label except 0, ascending, in one pass per level for all labels.

    Labels that lie only in the outermost planes, which the coarse levels do not cover, are omitted.
    """
    products: dict[int, float] = {}
    for level, (similarity, weight) in enumerate(zip(maps, weights, strict=bool(maps))):
        fine = _upsampled(similarity, 2**level)
        reached = labels[tuple(slice(n) for n in fine.shape)]
        means = {value: row["cs"] for value, row in label_means(reached, {"cs": fine}).items()}
        before = products if level else dict.fromkeys(means, 1.0)
        products = {v: before[v] * max(mean, 0.0) ** weight for v, mean in means.items() if v in before}
    return products


def smallest_axis(levels: int = len(LEVEL_WEIGHTS)) -> int:
    """Return the smallest axis length in voxels for MS-SSIM: one voxel must remain in the coarsest level."""
    return int(2 ** (levels - 1))


def mean_ssim(similarity: Array, mask: Array | None = None, *, window: Window = "gaussian") -> float:
    """Return the mean of an SSIM map over ``mask``; without a mask, over all voxels whose window is inside the volume.

    An axis shorter than the window (11 voxels, 7 if uniform) has no such voxel; then the whole axis is used.
    """
    return masked_mean(similarity if mask is not None else similarity[inside(similarity.shape, RADIUS[window])], mask)


def inside(shape: tuple[int, ...], radius: int) -> tuple[slice, ...]:
    """Return slices of the voxels whose window lies inside the volume, or the whole axis if there are none."""
    return tuple(slice(radius, n - radius) if n > 2 * radius else slice(None) for n in shape)


def ssim_map(
    reference: Array, prediction: Array, *, data_range: float, window: Window = "gaussian", luminance: bool = True
) -> NDArray[np.float32]:
    """Return the structural similarity of every voxel's neighbourhood, same shape (X, Y, Z), float32 in [-1, 1].

    (2 μx μy + C1)(2 σxy + C2) / ((μx² + μy² + C1)(σx² + σy² + C2)), C = (K data_range)², with the volume
    mirrored at its faces. Rounding errors are 2e-6 per voxel on real CT (3e-5 on constant images, where they add up)
    and 2e-7 for means.

    Args:
        reference, prediction: volumes (X, Y, Z) of one shape.
        data_range: range of possible values, in the unit of the images.
        window: ``gaussian``: weights of sigma 1.5 voxels truncated at radius 5, as in Wang 2004; ``uniform``: 7 voxels
            wide, variances over n - 1, the default of ``skimage.metrics.structural_similarity``.
        luminance: False omits the factor with the means, which gives the contrast-structure map cs of MS-SSIM.
    """
    found = _maps(reference, prediction, data_range, window, (luminance,))
    return found[0]


def ssim_and_structure_maps(reference: Array, prediction: Array, *, data_range: float) -> list[NDArray[np.float32]]:
    """Return `ssim_map` with and without luminance: SSIM, and the finest map of MS-SSIM, from the same window means."""
    return _maps(reference, prediction, data_range, "gaussian", (True, False))


def _maps(
    reference: Array, prediction: Array, data_range: float, window: Window, luminances: Sequence[bool]
) -> list[NDArray[np.float32]]:
    """Return one map of `ssim_map` for each of ``luminances``; the blurs, which take most of the time, are shared."""
    check_pair(reference, prediction)
    check_range(data_range)
    if reference.ndim != 3:
        raise InputError(
            "metric-not-three-dimensional", f"SSIM needs 3D volumes, not images of shape {reference.shape}"
        )
    radius = RADIUS[window]
    # σ² = E[v²] - E[v]² loses digits; single precision suffices only for values within the data range.
    centre = float(reference.mean(dtype=np.float64))
    bounds = [float(bound(image)) for image in (reference, prediction) for bound in (np.min, np.max)]
    kind = np.float32 if max(abs(bound - centre) for bound in bounds) <= data_range else np.float64
    blurs = [_blur_matrix(n, window).astype(kind) for n in reference.shape]
    unbiased = 1.0 if window == "gaussian" else 7**3 / (7**3 - 1)
    maps = [np.empty(reference.shape, np.float32) for _ in luminances]
    for inner, outer in slabs(reference.shape, radius):
        x, y = (np.subtract(image[outer], centre, dtype=kind) for image in (reference, prediction))
        moments = _blurred_moments(x, y, (blurs[0][inner, outer], blurs[1], blurs[2]), radius)
        structure, brightness = _similarity(moments, centre, data_range, unbiased, any(luminances))
        for similarity, luminance in zip(maps, luminances, strict=True):
            similarity[inner] = structure * brightness if luminance else structure
    return maps


def halved(image: Array) -> Array:
    """Return means of 2 × 2 × 2 voxels, so that every axis is halved; the last plane of an odd axis is dropped."""
    for axis in range(image.ndim):
        pairs = np.moveaxis(image, axis, 0)[: image.shape[axis] // 2 * 2]
        image = np.moveaxis((pairs[::2] + pairs[1::2]) / 2, 0, axis)
    return np.ascontiguousarray(image)


def _upsampled(image: Array, times: int) -> Array:
    """Repeat every voxel ``times`` times along every axis, to bring a coarse map to the fine grid."""
    for axis in range(image.ndim):
        image = np.repeat(image, times, axis)
    return image


def _weighted_mean(similarity: Array, coverage: Array | None) -> float:
    """Return the mean of a map weighted by ``coverage``; None: the mean as in `mean_ssim`."""
    if coverage is None:
        return mean_ssim(similarity)
    total = coverage.sum(dtype=np.float64)
    if not total > 0:
        raise InputError(
            "metric-mask-at-faces",
            "the mask lies only in the outermost planes, which the coarse levels of MS-SSIM do not cover; use SSIM",
        )
    return float((similarity * coverage).sum(dtype=np.float64) / total)


def _blurred_moments(x: Array, y: Array, blurs: tuple[Array, Array, Array], radius: int) -> Array:
    """Return window means of s, d, s² and d² of a slab, s = x + y and d = x - y, as an array (4, X, Y, Z).

    Blurs are products with banded matrices, which are faster than a filter; the product along x also removes the halo.
    """
    along_x, along_y, along_z = blurs
    moments = np.empty((4, *x.shape), x.dtype)
    np.add(x, y, out=moments[0])
    np.subtract(x, y, out=moments[1])
    np.square(moments[:2], out=moments[2:])
    moments = np.matmul(along_x, moments.reshape(4, len(x), -1)).reshape(4, len(along_x), *x.shape[1:])
    blurred = np.empty_like(moments)
    for rows, band in _bands(len(along_y), radius):
        np.matmul(along_y[rows, band], moments[:, :, band], out=blurred[:, :, rows])
    lines, result = (array.reshape(-1, len(along_z)) for array in (blurred, moments))  # views: one large product
    for rows, band in _bands(len(along_z), radius):
        np.matmul(lines[:, band], along_z[rows, band].T, out=result[:, rows])
    return moments


def _similarity(
    moments: Array, centre: float, data_range: float, unbiased: float, luminance: bool
) -> tuple[Array, Array | float]:
    """Return both factors of SSIM from the means of s, d, s² and d² of images from which ``centre`` was subtracted.

    They are contrast-structure and luminance (1 unless wanted).

    s and d need four blurs, x and y need five: σx² + σy² = (σs² + σd²) / 2 and σxy = (σs² - σd²) / 4.
    """
    mean_s, mean_d, square_s, square_d = moments
    half = unbiased / 2
    variance_s, variance_d = square_s - mean_s**2, square_d - mean_d**2
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    structure = ((variance_s - variance_d) * half + c2) / ((variance_s + variance_d) * half + c2)
    if not luminance:
        return structure, 1.0
    mean_s2, mean_d2 = (mean_s + 2 * centre) ** 2, mean_d**2
    return structure, ((mean_s2 - mean_d2) / 2 + c1) / ((mean_s2 + mean_d2) / 2 + c1)


def _blur_matrix(n: int, window: Window) -> Array:
    """Return the (n, n) blur matrix of the window along an axis of n voxels, mirrored at its ends."""
    steps = np.arange(-RADIUS[window], RADIUS[window] + 1)
    weights = np.exp(-0.5 * (steps / SIGMA) ** 2) if window == "gaussian" else np.ones(len(steps))
    return correlate1d(np.eye(n), weights / weights.sum(), axis=0)


def _bands(n: int, radius: int) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of rows of a blur matrix with the columns in which they are not zero."""
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        yield slice(start, stop), slice(max(start - radius, 0), min(stop + radius, n))
