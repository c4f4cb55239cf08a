"""Voxel-wise metrics of a converted volume against the reference: MAE, RMSE, PSNR, NCC, gradients, label means.

Pure functions on numpy arrays of one shape, ``reference`` (ground truth) before ``prediction``. Intensities may
have any unit (HU for CT); MAE, RMSE and means have the same unit. ``mask`` is an array of the same shape whose
non-zero voxels count; None counts every voxel. All functions raise `InputError` for empty arrays, different shapes,
an empty mask and voxels that are not finite, so that NaN is never reported as a result.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgen.data.fast_filters import central_gradient_magnitude
from medgen.errors import InputError

SLAB_VOXELS, SLAB_SLICES = 300_000, 8  # processing in slabs bounds memory and stays mostly in the CPU cache

Array = NDArray[Any]


def mae(reference: Array, prediction: Array, mask: Array | None = None) -> float:
    """Mean absolute error, mean(|prediction - reference|), in the unit of the images (HU)."""
    return _mean(np.abs, reference, prediction, mask)


def rmse(reference: Array, prediction: Array, mask: Array | None = None) -> float:
    """Root mean squared error, sqrt(mean((prediction - reference)^2)), in the unit of the images (HU)."""
    return float(np.sqrt(_mean(_square, reference, prediction, mask)))


def psnr(reference: Array, prediction: Array, *, data_range: float, mask: Array | None = None) -> float:
    """Peak signal-to-noise ratio, 10 log10(data_range^2 / MSE), in dB; inf where the images are identical.

    ``data_range`` is the range of possible values (4095 for HU in [-1024, 3071]); it is never estimated from the
    images, because results of different images would not be comparable.
    Equals ``skimage.metrics.peak_signal_noise_ratio``. Raises `InputError` unless data_range > 0.
    """
    check_range(data_range)
    return psnr_of(rmse(reference, prediction, mask), data_range)


def psnr_of(rmse: float, data_range: float) -> float:
    """Return PSNR in dB from the root mean squared error, 20 log10(data_range / rmse); inf if the error is 0."""
    return float(20 * np.log10(data_range / rmse)) if rmse > 0 else float("inf")


def ncc(reference: Array, prediction: Array, mask: Array | None = None) -> float:
    """Normalised cross-correlation at zero shift, Σ(x - x̄)(y - ȳ) / √(Σ(x - x̄)² Σ(y - ȳ)²), in [-1, 1].

    Pearson correlation of the voxels: 1 for any increasing linear relation, so it does not detect a wrong scale or
    offset of HU. 0 if either image is constant (even if both are identical), because correlation is then undefined.
    """
    check_pair(reference, prediction)
    check_mask(reference, mask)
    slab_statistics = np.array(
        [
            [(v.min(), v.max(), v.sum(dtype=np.float64), v.size) for v in pair]
            for pair in _voxels_by_slab(reference, prediction, mask)
        ],
        np.float64,
    )
    if (slab_statistics[..., 0].min(0) == slab_statistics[..., 1].max(0)).any():
        return 0.0
    means = slab_statistics[..., 2].sum(0) / slab_statistics[..., 3].sum(0)
    xy = xx = yy = 0.0
    for pair in _voxels_by_slab(reference, prediction, mask):
        x, y = (np.subtract(v, mean, dtype=np.float64) for v, mean in zip(pair, means, strict=True))
        xy, xx, yy = xy + float(x @ y), xx + float(x @ x), yy + float(y @ y)
    return float(np.clip(xy / (np.sqrt(xx) * np.sqrt(yy)), -1, 1))


def gradient_error(
    reference: Array, prediction: Array, *, spacing: Sequence[float], mask: Array | None = None
) -> float:
    """Mean absolute error of the gradient magnitude, mean(| |∇prediction| - |∇reference| |), in HU per mm.

    Detects edges that were blurred, sharpened or lost, independent of an intensity offset; ignores edge direction.
    The gradient difference of Mathieu, Couprie & LeCun 2016 (arXiv 1511.05440, eq. 6) and, for MR to CT, of Nie
    2018 (doi 10.1109/TBME.2018.2814538), computed from the Euclidean norm instead of each axis, so that it does not
    depend on the orientation of the scan in its grid. Central differences, one-sided at the faces; 0 along an axis
    of one voxel.

    Args:
        reference, prediction: volumes of one shape.
        spacing: voxel spacing in mm, one value per axis.
        mask: where errors are averaged; gradients at its border also use the voxels outside it.
    """
    return masked_mean(gradient_error_map(reference, prediction, spacing=spacing), mask)


def gradient_error_map(reference: Array, prediction: Array, *, spacing: Sequence[float]) -> Array:
    """Return | |∇prediction| - |∇reference| | in every voxel, HU per mm, float32 or wider; see `gradient_error`."""
    check_pair(reference, prediction)
    if len(spacing) != reference.ndim or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise InputError(
            "volume-spacing-invalid", f"spacing must be {reference.ndim} numbers above 0 in mm, not {tuple(spacing)}"
        )
    errors = np.empty(reference.shape, np.result_type(reference, prediction, np.float32))
    for inner, outer in slabs(reference.shape, 1):
        kept = slice(inner.start - outer.start, inner.stop - outer.start)
        x, y = (central_gradient_magnitude(image[outer], spacing)[kept] for image in (reference, prediction))
        errors[inner] = np.abs(y - x)
    return errors


def label_means(labels: Array, images: Mapping[str, Array]) -> dict[int, dict[str, float]]:
    """Return {label: {"voxels": count, name: mean of images[name], ...}} for every label except 0, ascending.

    One pass over the volume for all labels. Raises `InputError` for labels that are not whole numbers from 0 to
    65535, or for an image of another shape.
    """
    _check_labels(labels)
    for image in images.values():
        check_pair(labels, image)
    size = int(labels.max()) + 1
    counts = np.zeros(size)
    sums = {name: np.zeros(size) for name in images}
    for inner, _ in slabs(labels.shape):
        index = labels[inner].astype(np.intp).ravel()
        counts += np.bincount(index, minlength=size)
        for name, image in images.items():
            sums[name] += np.bincount(index, weights=image[inner].ravel(), minlength=size)
    present = [value for value in range(1, size) if counts[value]]
    return {v: {"voxels": counts[v], **{name: sums[name][v] / counts[v] for name in images}} for v in present}


def label_scores(labels: Array, reference: Array, prediction: Array) -> dict[int, dict[str, float]]:
    """Return {label: {"rmse", "ncc"}} for every label except 0, ascending; equal to `rmse` and `ncc` in its mask.

    Two passes over the volume for all labels. Raises the same errors as `label_means`.
    """
    means = label_means(labels, {"x": reference, "y": prediction})
    size = max(means, default=0) + 1
    means_by_label = {name: np.array([means.get(v, {}).get(name, 0.0) for v in range(size)]) for name in ("x", "y")}
    sums = {name: np.zeros(size) for name in ("xx", "yy", "xy", "dd")}
    for inner, _ in slabs(labels.shape):
        index = labels[inner].astype(np.intp).ravel()
        x, y = (image[inner].ravel().astype(np.float64) for image in (reference, prediction))
        difference = y - x
        x, y = x - means_by_label["x"][index], y - means_by_label["y"][index]
        for name, product in (("xx", x * x), ("yy", y * y), ("xy", x * y), ("dd", difference**2)):
            sums[name] += np.bincount(index, weights=product, minlength=size)
    scores_by_label = {}
    for value, row in means.items():
        xx, yy, xy, dd = (sums[name][value] for name in ("xx", "yy", "xy", "dd"))
        # In a constant image only the rounding error of the mean remains.
        is_constant = any(
            square <= row["voxels"] * (1e-12 * max(1, abs(row[n]))) ** 2 for square, n in ((xx, "x"), (yy, "y"))
        )
        ncc = 0.0 if is_constant else float(np.clip(xy / np.sqrt(xx) / np.sqrt(yy), -1, 1))
        scores_by_label[value] = {"rmse": float(np.sqrt(dd / row["voxels"])), "ncc": ncc}
    return scores_by_label


def masked_mean(image: Array, mask: Array | None = None) -> float:
    """Return the mean of an image where the mask is not 0; without a mask, of all voxels."""
    check_mask(image, mask)
    return float(_inside(image, mask).mean(dtype=np.float64))


def slabs(shape: tuple[int, ...], halo: int = 0) -> Iterator[tuple[slice, slice]]:
    """Yield slabs along the first axis, each without and with a halo of ``halo`` voxels, clipped to the volume."""
    thickness = max(SLAB_SLICES, SLAB_VOXELS // int(np.prod(shape[1:], dtype=np.int64)))
    for start in range(0, shape[0], thickness):
        stop = min(start + thickness, shape[0])
        yield slice(start, stop), slice(max(start - halo, 0), min(stop + halo, shape[0]))


def check_pair(reference: Array, other: Array) -> None:
    """Raise `InputError` unless both images have the same shape, at least one voxel and only finite voxels."""
    if reference.shape != other.shape:
        raise InputError(
            "pair-shapes-differ",
            f"images of shapes {reference.shape} and {other.shape} cannot be compared voxel by voxel",
        )
    if reference.size == 0:
        raise InputError("volume-zero-dimension", f"an image of shape {reference.shape} has no voxels to compare")
    for name, image in (("reference", reference), ("prediction", other)):
        # The sum is finite only if all voxels are (float32 values cannot overflow float64): avoids a boolean array.
        if image.dtype.kind == "f" and not np.isfinite(image.sum(dtype=np.float64)):
            raise InputError(
                "volume-not-finite", f"the {name} has NaN or infinite voxels; replace them with finite values first"
            )


def check_mask(image: Array, mask: Array | None) -> None:
    """Raise `InputError` for a mask of another shape, or without any voxel."""
    if mask is None:
        return
    if mask.shape != image.shape:
        raise InputError(
            "mask-shape-differs", f"a mask of shape {mask.shape} does not fit an image of shape {image.shape}"
        )
    if not mask.any():
        raise InputError("mask-empty", "the mask is empty, so nothing can be measured; give another mask")


def check_range(data_range: float) -> None:
    """Raise `InputError` unless the data range is a finite number above 0."""
    if not (np.isfinite(data_range) and data_range > 0):
        raise InputError("metric-data-range-invalid", f"data_range must be a number above 0, not {data_range}")


def _inside(image: Array, mask: Array | None) -> Array:
    """Return the voxels inside the mask as a flat array."""
    return image.ravel() if mask is None else image[np.asarray(mask, bool)]


def _voxels_by_slab(reference: Array, prediction: Array, mask: Array | None) -> Iterator[tuple[Array, Array]]:
    """Yield the masked voxels of both images slab by slab, because a copy of large volumes may not fit in memory."""
    for inner, _ in slabs(reference.shape):
        part = None if mask is None else mask[inner]
        if part is None or part.any():
            yield _inside(reference[inner], part), _inside(prediction[inner], part)


def _mean(function: Callable[[Array], Array], reference: Array, prediction: Array, mask: Array | None) -> float:
    """Return the masked mean of function(prediction - reference), subtracted as floats so that uint8 cannot wrap."""
    check_pair(reference, prediction)
    check_mask(reference, mask)
    kind = np.float64 if np.result_type(reference, prediction).itemsize > 4 else np.float32
    total, count = 0.0, 0
    for x, y in _voxels_by_slab(reference, prediction, mask):
        total += float(function(np.subtract(y, x, dtype=kind)).sum(dtype=np.float64))
        count += x.size
    return total / count


def _square(difference: Array) -> Array:
    return np.square(difference, dtype=np.float64)


def _check_labels(labels: Array) -> None:
    if labels.size == 0:
        raise InputError("labels-zero-dimension", f"a label image of shape {labels.shape} has no voxels")
    low, high = labels.min(), labels.max()
    if not (low >= 0 and high < 65536) or (labels.dtype.kind == "f" and bool((labels % 1).any())):
        raise InputError(
            "labels-values-invalid", f"labels must be whole numbers from 0 to 65535, not values in [{low:g}, {high:g}]"
        )
