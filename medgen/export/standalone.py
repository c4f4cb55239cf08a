"""The steps around an exported network in numpy alone, as ``inference.predict`` has them.

`modality_converter` copies this file into the programs of others, so it imports nothing of medgen and runs on Python
3.9, which 3D Slicer 5.8 has. ``about`` is the metadata ``medgen_pipeline`` of an ONNX file (see `pipeline`), of a model
with one source, one target, an image as output and a 3D network.
"""
# ruff: noqa: B905  # Python 3.9 does not know zip(strict=...)

from itertools import combinations, product

import numpy as np

MOST_WHOLE = 4_000_000  # voxels; with window "auto", larger volumes are translated in windows
LEAST_WEIGHT = 1e-3  # of a window's Gaussian weights, as in MONAI
LETTERS = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}


def to_ras(array, affine, spacing, tolerance):
    """Reorder the axes of a volume.

    Args:
        array: (K, J, I), as Slicer gives it.
        affine: (4, 4), from (i, j, k) to mm in RAS.
        spacing, tolerance: mm along x, y, z that the model needs, and the largest relative difference.

    Returns:
        A view (X, Y, Z) whose axes grow to the right, anterior and superior, and a function that returns such an array
        to (K, J, I).

    Raises:
        ValueError: another spacing, or no axis of the volume lies nearest to one of these directions.
    """
    columns = np.asarray(affine, float)[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if not lengths.all():
        raise ValueError("The volume has an axis without length.")
    order = np.abs(columns / lengths).argmax(axis=0)  # the RAS axis of i, j and k
    if sorted(order) != [0, 1, 2]:
        raise ValueError("The volume is rotated too far; resample it to axial slices first.")
    back = np.argsort(order)  # where x, y and z lie among i, j, k
    found = lengths[back]
    if np.any(np.abs(found / spacing - 1) > tolerance):
        is_, needs = (" x ".join(f"{side:.4g}" for side in sides) for sides in (found, spacing))
        raise ValueError(
            f"The volume has voxels of {is_} mm (right, anterior, superior), and this model needs {needs} mm; resample "
            "it first, for example with the module Resample Scalar/Vector/DWI Volume."
        )
    flips = tuple(slice(None, None, -1 if columns[axis, back[axis]] < 0 else 1) for axis in range(3))
    ras = np.asarray(array).transpose(2, 1, 0).transpose(back)[flips]
    return ras, lambda made: made[flips].transpose(order).transpose(2, 1, 0)


def axes_affine(letters, spacing):
    """Affine (4, 4) of a volume whose i, j, k grow towards these letters, such as LPS, without its origin.

    ``spacing`` is along x, y, z. Raises ValueError: not three letters for three axes.
    """
    found = [LETTERS.get(letter) for letter in letters]
    if len(found) != 3 or None in found or sorted(axis for axis, _ in found) != [0, 1, 2]:
        raise ValueError(f"{letters} does not name three axes; give for example LPS or RAS")
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (axis, sign) in enumerate(found):
        affine[axis, column] = sign * spacing[axis]
    return affine


def translate(run, about, scan, progress=lambda share: None):
    """Translate a scan.

    Args:
        run: (1, 1, X, Y, Z) float32 in [-1, 1] → the network's output.
        about: see above.
        scan: (X, Y, Z) in its units, in RAS order at the model's spacing.
        progress: called with the share that is done.

    Returns:
        (X, Y, Z) float32 in the units of the target.

    Raises:
        ValueError: the scan has values that are not finite, or is constant where a range is fitted to it.
    """
    source, target = about["sources"][0], about["targets"][0]
    scan = np.asarray(scan, np.float32)
    if not np.isfinite(scan).all():
        raise ValueError("The volume has values that are not finite.")
    low, high, background = fitted_range(scan, source)
    gain = (high - low) / (source["high"] - source["low"]) if target["follows_source"] else 1.0
    x = encoded(scan, low, high, background)
    axes = ["xyz".index(axis) for axis in about["mirror"]]
    flips = [flip for count in range(len(axes) + 1) for flip in combinations(axes, count)]
    total = np.zeros_like(x)
    for index, flip in enumerate(flips):
        share = lambda part, index=index: progress((index + part) / len(flips))  # noqa: E731
        total += np.flip(network_output(run, about, np.flip(x, flip), share), flip)
    ends = target["low"] * gain, target["high"] * gain
    y = decoded(total / np.float32(len(flips)), *ends, target["background"])
    return carried(scan, y, low, high, source["outside"], ends, target["background"])


def fitted_range(scan, source):
    """Range (low, high) in which a scan is encoded, and the value of its masked background or None."""
    kind, background = source["kind"], source["background"]
    if kind == "window":
        return source["low"], source["high"], background
    if background is not None and np.count_nonzero(scan == background) < 0.05 * scan.size:
        background = None
    foreground = scan[scan > scan.mean(dtype=np.float64) if background is None else scan != background]
    if not foreground.size:
        raise ValueError("The volume is constant.")
    if kind == "zscore":
        mean, width = float(foreground.mean()), source["standard_deviations"] * (float(foreground.std()) or 1.0)
        return mean - width, mean + width, background
    below, above = source["percentiles"]
    low = float(np.percentile(scan if background is None else foreground, below))
    high = float(np.percentile(foreground, above))
    return min(low, high - 1e-6 * max(abs(high), 1)), high, background


def encoded(scan, low, high, background):
    """Values → [-1, 1]."""
    start = -1 if background is None else -0.75
    x = (np.clip(scan, np.float32(low), np.float32(high)) - np.float32(low)) / np.float32((high - low) / (1 - start))
    x += np.float32(start)
    if background is not None:
        x[scan == background] = -1
    return x


def decoded(y, low, high, background):
    """[-1, 1] → values."""
    start = -1 if background is None else -0.75
    values = (y - np.float32(start)) * np.float32((high - low) / (1 - start)) + np.float32(low)
    if background is not None:
        values = np.maximum(values, np.float32(low))
        values[y < -0.875] = background
    return values


def carried(scan, y, low, high, outside, ends, background):
    """Insert what is not translated: values of the scan at and beyond its range, if the model preserves them."""
    if outside == "clip":
        return y
    inside = np.clip(y, *ends).astype(np.float32)
    y = inside if background is None else np.where(y == np.float32(background), y, inside)
    if outside == "preserve":
        return np.where((scan <= low) | (scan >= high), scan, y)
    y = np.where(scan <= low, scan, y)
    share = np.clip(2 - (high - y) / ((high - low) / 8), 0, 1)
    return np.where(scan >= high, share * scan + (1 - share) * y, y).astype(np.float32)


def network_output(run, about, x, progress):
    """The network on a whole array (X, Y, Z), padded to its stride, in one pass or in windows."""
    stride, smallest, window = about["stride"], about["smallest"], about["window"]
    missing = [max(n + -n % stride, smallest) - n for n in x.shape]
    before = [m // 2 for m in missing]
    padded = np.pad(x, [(b, m - b) for b, m in zip(before, missing)], mode="edge")
    whole = padded.size <= MOST_WHOLE and not window["needs_windows"]
    if window["mode"] == "whole" or (window["mode"] == "auto" and whole):
        y = run(np.ascontiguousarray(padded[None, None]))[0, 0]
        progress(1.0)
    else:
        y = in_windows(run, padded, window["size"], window["overlap"], progress)
    return y[tuple(slice(b, b + n) for b, n in zip(before, x.shape))]


def in_windows(run, x, size, overlap, progress):
    """Mean of overlapping windows with Gaussian weights; x (X, Y, Z) → the same grid."""
    missing = [max(w - n, 0) for n, w in zip(x.shape, size)]
    cut = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, x.shape))
    x = np.pad(x, [(m // 2, m - m // 2) for m in missing], mode="edge")
    weights, starts = np.ones((), np.float32), []
    for n, w in zip(x.shape, size):
        offsets = np.arange(w) - (w - 1) / 2
        weights = weights[..., None] * np.exp(-(offsets**2) / (2 * (0.125 * w) ** 2)).astype(np.float32)
        step = w if w == n else max(int(w * (1 - overlap)), 1)
        starts.append([min(i * step, n - w) for i in range(-(-(n - w) // step) + 1)])
    weights = np.maximum(weights, np.float32(LEAST_WEIGHT))
    sums, seen = np.zeros(x.shape, np.float32), np.zeros(x.shape, np.float32)
    places = list(product(*starts))
    for count, corner in enumerate(places, 1):
        place = tuple(slice(start, start + w) for start, w in zip(corner, size))
        sums[place] += run(np.ascontiguousarray(x[place][None, None]))[0, 0] * weights
        seen[place] += weights
        progress(count / len(places))
    return (sums / seen)[cut]
