"""Body masks: where patches are taken and where errors are measured."""

import numpy as np
from scipy import ndimage

BELOW_AIR = -1200.0  # HU, below the noise of air


def body_mask(data: np.ndarray, *, threshold: float | None = None) -> np.ndarray:
    """Mask of the body: largest connected component above ``threshold``, holes filled in each slice along z.

    Args:
        data: volume (X, Y, Z); HU for CT.
        threshold: value above which a voxel is tissue; None: -300 HU, which separates fat (-100) from
            lung and air; for images that are not in HU, ``foreground_threshold(data)``.

    Returns:
        Boolean array (X, Y, Z). All True if no voxel exceeds the threshold, so that callers always have
        voxels to sample.
    """
    if threshold is None:
        threshold = -300.0 if looks_like_hu(data) else foreground_threshold(data)
    above = data > threshold
    # Table and clothes touch the body by thin bridges: opening removes these before the largest component is taken.
    opened = _dilated(_eroded(above)) if min(data.shape) > 4 else above
    labels, count = ndimage.label(opened if opened.any() else above)
    if count == 0:
        return np.ones(data.shape, bool)
    largest = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    body = _dilated(largest) & above
    return body | _holes(body)


# Both equal scipy.ndimage's functions with a cross and border value 0; whole slices at once are ten times as fast.


def _dilated(mask: np.ndarray) -> np.ndarray:
    """Dilate the mask by the six face neighbours."""
    grown = mask.copy()
    for axis in range(3):
        shifted, original = np.moveaxis(grown, axis, 0), np.moveaxis(mask, axis, 0)
        shifted[1:] |= original[:-1]
        shifted[:-1] |= original[1:]
    return grown


def _eroded(mask: np.ndarray) -> np.ndarray:
    """Erode the mask by the six face neighbours; voxels on the volume's border are removed."""
    shrunk = mask.copy()
    for axis in range(3):
        shifted, original = np.moveaxis(shrunk, axis, 0), np.moveaxis(mask, axis, 0)
        shifted[1:] &= original[:-1]
        shifted[:-1] &= original[1:]
        shifted[0] = shifted[-1] = False
    return shrunk


def _holes(mask: np.ndarray) -> np.ndarray:
    """Holes of the mask in each slice along z: background components that touch no side of the slice."""
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[:, 1, 1] = in_plane[1, :, 1] = True
    parts, count = ndimage.label(~mask, in_plane)
    hole = np.ones(count + 1, bool)
    hole[0] = False
    for side in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        hole[side.ravel()] = False
    return hole[parts]


def foreground_threshold(data: np.ndarray) -> float:
    """Threshold between background and tissue for images without units: the mean of the volume.

    In MR most voxels are background near zero, so tissue lies above the mean (as in the masking of TorchIO's
    ``ZNormalization``). The zeros of skull-stripped volumes lie below it as well.
    """
    return float(data.mean(dtype=np.float64))  # sums of large values overflow float32


MASKED_SHARE = 0.05  # minimum share of voxels at the minimum value that indicates a masked background


def foreground_mask(data: np.ndarray) -> np.ndarray:
    """Foreground mask, (X, Y, Z) bool, of an image without units, such as MR.

    Applies `body_mask` with the minimum as threshold if the background was set to one value (skull-stripped, masked),
    otherwise with `foreground_threshold`. All True if no voxel exceeds the threshold.
    """
    minimum = float(data.min())
    masked = np.count_nonzero(data == minimum) >= MASKED_SHARE * data.size
    return body_mask(data, threshold=minimum if masked else foreground_threshold(data))


def looks_like_hu(data: np.ndarray) -> bool:
    """Whether a volume can be CT in Hounsfield units.

    True if air (≤ -200 HU) is present and values below -1200 HU are rare, apart from one padding value. Phase images
    of MR (-4096 to 4096) have many different values there.
    """
    low = float(data.min())
    if not low < BELOW_AIR:  # also if there are NaN
        return low <= -200
    below = data[data < BELOW_AIR]
    sample = below[:: max(1, below.size // 100_000)]
    padding = np.unique(sample, return_counts=True)[1].max() / sample.size
    return bool((1 - padding) * below.size < 0.2 * np.count_nonzero(data <= -200))
