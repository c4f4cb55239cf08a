"""Fidelity of a converted volume to the true one, voxel by voxel: MAE, RMSE, PSNR, 3D SSIM, means per label.

Pure functions on numpy arrays of one shape, ``reference`` (the truth) before ``prediction``. Intensities may
have any unit (HU for CT); MAE, RMSE and means come back in that unit. ``mask`` is any array of the same shape
whose non-zero voxels count; None counts every voxel. All raise `InputError` for an empty array, shapes that
differ, an empty mask and voxels that are not finite: NaN must not pass as a number somebody signs.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from medgen.types import InputError

SIGMA, TRUNCATE, K1, K2 = 1.5, 3.5, 0.01, 0.03  # the constants of Wang 2004
RADIUS = int(TRUNCATE * SIGMA + 0.5)  # 5 voxels: a window of 11, as in Wang 2004 and scikit-image
SLAB_VOXELS, SLAB_SLICES = 1_000_000, 8  # work goes by slabs, so that memory does not grow with the volume
BLOCK = 32  # rows of a banded matrix that are multiplied at once

Array = NDArray[Any]


def mae(reference: Array, prediction: Array, mask: Array | None = None) -> float:
    """Mean absolute error, mean(|prediction - reference|), in the unit of the images (HU)."""
    difference = _difference(reference, prediction, mask)
    return float(np.abs(difference, out=difference).mean(dtype=np.float64))


def rmse(reference: Array, prediction: Array, mask: Array | None = None) -> float:
    """Root mean squared error, sqrt(mean((prediction - reference)^2)), in the unit of the images (HU)."""
    return float(np.sqrt(_mean_square(_difference(reference, prediction, mask))))


def psnr(reference: Array, prediction: Array, *, data_range: float, mask: Array | None = None) -> float:
    """Peak signal-to-noise ratio, 10 log10(data_range^2 / MSE), in dB; inf where the images are identical.

    ``data_range`` is the span of values the modality can take (4095 for HU in [-1024, 3071]); it is never
    guessed from the images, because that would make numbers of two images incomparable.
    Agrees with ``skimage.metrics.peak_signal_noise_ratio``. Raises `InputError` unless data_range > 0.
    """
    _check_range(data_range)
    mean_square = _mean_square(_difference(reference, prediction, mask))
    return float(10 * np.log10(data_range**2 / mean_square)) if mean_square > 0 else float("inf")


def ssim(reference: Array, prediction: Array, *, data_range: float, mask: Array | None = None) -> float:
    """Mean structural similarity in 3D, in [-1, 1]; 1 where the images are identical (constant ones too).

    The mean of `ssim_map` as `mean_ssim` takes it: Wang, Bovik, Sheikh & Simoncelli 2004 (doi
    10.1109/TIP.2003.819861) with its 11-voxel Gaussian window extended to 3D. Equals ``skimage.metrics.
    structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=...)``.
    """
    return mean_ssim(ssim_map(reference, prediction, data_range=data_range), mask)


def mean_ssim(similarity: Array, mask: Array | None = None) -> float:
    """Mean of an SSIM map over ``mask``; without one, over all voxels whose window lies inside the volume.

    An axis shorter than the window (11 voxels) has no such voxel: there the whole axis counts.
    """
    _check_mask(similarity, mask)
    if mask is not None:
        return float(similarity[np.asarray(mask, bool)].mean(dtype=np.float64))
    inside = tuple(slice(RADIUS, n - RADIUS) if n > 2 * RADIUS else slice(None) for n in similarity.shape)
    return float(similarity[inside].mean(dtype=np.float64))


def ssim_map(reference: Array, prediction: Array, *, data_range: float) -> NDArray[np.float32]:
    """Structural similarity of every voxel's neighbourhood, same shape (X, Y, Z), float32 in [-1, 1].

    (2 μx μy + C1)(2 σxy + C2) / ((μx² + μy² + C1)(σx² + σy² + C2)), C = (K data_range)², the moments
    weighted by a 3D Gaussian of sigma 1.5 voxels cut at radius 5, the volume mirrored at its faces. Rounding
    changes a voxel by 2e-6 on real CT (3e-5 on constant images, where it adds up) and means by 2e-7.
    """
    _check_pair(reference, prediction)
    _check_range(data_range)
    if reference.ndim != 3:
        raise InputError(f"SSIM here needs 3D volumes, not images of shape {reference.shape}")
    # σ² = E[v²] - E[v]² cancels digits: single precision does where the values lie within the data range.
    centre = float(reference.mean(dtype=np.float64))
    bounds = [float(bound(image)) for image in (reference, prediction) for bound in (np.min, np.max)]
    farthest = max(abs(bound - centre) for bound in bounds)
    kind = np.float32 if farthest <= data_range else np.float64
    weights = [_blur_matrix(n).astype(kind) for n in reference.shape]
    similarity = np.empty(reference.shape, np.float32)
    for inner, outer in _slabs(reference.shape):
        x, y = (np.subtract(image[outer], centre, dtype=kind) for image in (reference, prediction))
        moments = _blurred_moments(x, y, weights[0][inner, outer], weights[1], weights[2])
        similarity[inner] = _similarity(moments, centre, data_range)
    return similarity


def label_means(labels: Array, images: Mapping[str, Array]) -> dict[int, dict[str, float]]:
    """{label: {"voxels": count, name: mean of images[name] there, ...}} for every label but 0, ascending.

    One pass over the volume whatever the number of labels. Raises `InputError` for labels that are not whole
    numbers >= 0 below 65536, or for an image of another shape.
    """
    _check_labels(labels)
    for image in images.values():
        _check_pair(labels, image)
    size = int(labels.max()) + 1
    counts = np.zeros(size)
    sums = {name: np.zeros(size) for name in images}
    for inner, _ in _slabs(labels.shape):
        index = labels[inner].astype(np.intp).ravel()
        counts += np.bincount(index, minlength=size)
        for name, image in images.items():
            sums[name] += np.bincount(index, weights=image[inner].ravel(), minlength=size)
    present = [value for value in range(1, size) if counts[value]]
    return {v: {"voxels": counts[v], **{name: sums[name][v] / counts[v] for name in images}} for v in present}


def _blurred_moments(x: Array, y: Array, along_x: Array, along_y: Array, along_z: Array) -> Array:
    """Gaussian means of s, d, s² and d² of a slab, s = x + y and d = x - y, as an array (4, X, Y, Z).

    Blurs are products with banded matrices, faster than a filter; ``along_x`` also takes the halo off.
    """
    s, d = x + y, x - y
    moments = np.stack([s, d, s * s, d * d])
    moments = np.matmul(along_x, moments.reshape(4, len(x), -1)).reshape(4, len(along_x), *x.shape[1:])
    blurred = np.empty_like(moments)
    for rows, band in _bands(len(along_y)):
        np.matmul(along_y[rows, band], moments[:, :, band], out=blurred[:, :, rows])
    for rows, band in _bands(len(along_z)):
        moments[..., rows] = blurred[..., band] @ along_z[rows, band].T
    return moments


def _similarity(moments: Array, centre: float, data_range: float) -> Array:
    """SSIM from the means of s, d, s² and d² of images from which ``centre`` was subtracted.

    s and d need four blurs where x and y need five: σx² + σy² = (σs² + σd²) / 2 and σxy = (σs² - σd²) / 4.
    """
    mean_s, mean_d, square_s, square_d = moments
    variance_s, variance_d = square_s - mean_s**2, square_d - mean_d**2
    mean_s2, mean_d2 = (mean_s + 2 * centre) ** 2, mean_d**2
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    luminance = ((mean_s2 - mean_d2) / 2 + c1) / ((mean_s2 + mean_d2) / 2 + c1)
    structure = ((variance_s - variance_d) / 2 + c2) / ((variance_s + variance_d) / 2 + c2)
    return luminance * structure


def _blur_matrix(n: int) -> Array:
    """(n, n) matrix of the Gaussian window along an axis of n voxels, mirrored at its ends."""
    return gaussian_filter1d(np.eye(n), SIGMA, axis=0, truncate=TRUNCATE)


def _bands(n: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of rows of a blur matrix, and the columns in which they are not zero."""
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        yield slice(start, stop), slice(max(start - RADIUS, 0), min(stop + RADIUS, n))


def _slabs(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Slabs along the first axis, and the same with a halo of the window's radius."""
    thickness = max(SLAB_SLICES, SLAB_VOXELS // int(np.prod(shape[1:], dtype=np.int64)))
    for start in range(0, shape[0], thickness):
        stop = min(start + thickness, shape[0])
        yield slice(start, stop), slice(max(start - RADIUS, 0), min(stop + RADIUS, shape[0]))


def _difference(reference: Array, prediction: Array, mask: Array | None) -> Array:
    """prediction - reference in the mask, as floats that cannot wrap (uint8 images would)."""
    _check_pair(reference, prediction)
    _check_mask(reference, mask)
    if mask is not None:
        inside = np.asarray(mask, bool)
        reference, prediction = reference[inside], prediction[inside]
    kind = np.float64 if np.result_type(reference, prediction).itemsize > 4 else np.float32
    return np.subtract(prediction, reference, dtype=kind)


def _mean_square(difference: Array) -> float:
    return float(np.mean(np.square(difference, dtype=np.float64)))


def _check_pair(reference: Array, other: Array) -> None:
    if reference.shape != other.shape:
        raise InputError(f"images of shapes {reference.shape} and {other.shape} cannot be compared voxel by voxel")
    if reference.size == 0:
        raise InputError(f"an image of shape {reference.shape} has no voxels to compare")
    for name, image in (("reference", reference), ("prediction", other)):
        # The sum is finite only if all voxels are (float64 cannot overflow from float32): no array of flags.
        if image.dtype.kind == "f" and not np.isfinite(image.sum(dtype=np.float64)):
            raise InputError(f"the {name} holds voxels that are NaN or infinite; no fidelity can be measured")


def _check_mask(image: Array, mask: Array | None) -> None:
    if mask is None:
        return
    if mask.shape != image.shape:
        raise InputError(f"a mask of shape {mask.shape} does not fit an image of shape {image.shape}")
    if not mask.any():
        raise InputError("the mask is empty: there is no voxel to measure in")


def _check_range(data_range: float) -> None:
    if not (np.isfinite(data_range) and data_range > 0):
        raise InputError(f"data_range must be a number above 0, not {data_range}")


def _check_labels(labels: Array) -> None:
    if labels.size == 0:
        raise InputError(f"a label image of shape {labels.shape} has no voxels")
    low, high = labels.min(), labels.max()
    if not (low >= 0 and high < 65536) or (labels.dtype.kind == "f" and bool((labels % 1).any())):
        raise InputError(f"labels must be whole numbers from 0 to 65535, not values in [{low:g}, {high:g}]")
