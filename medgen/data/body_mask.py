"""The body in a scan: where patches are taken and where errors count."""

import numpy as np
from scipy import ndimage

BELOW_AIR = -1200.0  # HU, lower than noise in air


def body_mask(data: np.ndarray, *, threshold: float | None = None) -> np.ndarray:
    """Mask of the body: largest connected part above ``threshold``, holes filled slice by slice along z.

    Args:
        data: volume (X, Y, Z); HU for CT.
        threshold: value above which a voxel is tissue; None: -300 HU, which parts fat (-100) from lung and
            air, or for images that are not in HU ``foreground_threshold(data)``.

    Returns:
        Boolean array (X, Y, Z). All True when nothing lies above the threshold, so that callers always
        have somewhere to look.
    """
    if threshold is None:
        threshold = -300.0 if looks_like_hu(data) else foreground_threshold(data)
    above = data > threshold
    # A table or clothes touch the body by thin bridges: opening parts them before the largest part is taken.
    opened = _grown(_shrunk(above)) if min(data.shape) > 4 else above
    labels, count = ndimage.label(opened if opened.any() else above)
    if count == 0:
        return np.ones(data.shape, bool)
    largest = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    body = _grown(largest) & above
    return body | _holes(body)


# Both as scipy.ndimage's with a cross and its border of 0, in a tenth of the time: whole slices at once.


def _grown(mask: np.ndarray) -> np.ndarray:
    """The mask and the six neighbours of its every voxel."""
    grown = mask.copy()
    for axis in range(3):
        into, of = np.moveaxis(grown, axis, 0), np.moveaxis(mask, axis, 0)
        into[1:] |= of[:-1]
        into[:-1] |= of[1:]
    return grown


def _shrunk(mask: np.ndarray) -> np.ndarray:
    """The voxels of the mask whose six neighbours lie in it; at the volume's border none do."""
    shrunk = mask.copy()
    for axis in range(3):
        into, of = np.moveaxis(shrunk, axis, 0), np.moveaxis(mask, axis, 0)
        into[1:] &= of[:-1]
        into[:-1] &= of[1:]
        into[0] = into[-1] = False
    return shrunk


def _holes(mask: np.ndarray) -> np.ndarray:
    """What the mask surrounds within a slice along z: the parts of its outside that reach none of the slice's sides."""
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[:, 1, 1] = in_plane[1, :, 1] = True
    parts, count = ndimage.label(~mask, in_plane)
    hole = np.ones(count + 1, bool)
    hole[0] = False
    for side in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        hole[side.ravel()] = False
    return hole[parts]


def foreground_threshold(data: np.ndarray) -> float:
    """A threshold between background and tissue for images without units: the mean of the volume.

    In MR most voxels are background near zero, so tissue lies above the mean (as in TorchIO's
    ``ZNormalization`` masking). Skull-stripped volumes hold exact zeros: they end below it as well.
    """
    return float(data.mean(dtype=np.float64))  # sums of large values overflow float32


EMPTY = 0.05  # of the voxels at the least value: a background that was set to it


def foreground_mask(data: np.ndarray) -> np.ndarray:
    """What of an image without units, such as MR, shows the patient: (X, Y, Z) bool.

    Where a background was set to one value (skull-stripped, masked), all of the largest part above it; else the body,
    see `body_mask`. All True where nothing stands out.
    """
    least = float(data.min())
    masked = np.count_nonzero(data == least) >= EMPTY * data.size
    return body_mask(data, threshold=least if masked else foreground_threshold(data))


def looks_like_hu(data: np.ndarray) -> bool:
    """Whether a volume can be CT in Hounsfield units: air (≤ -200 HU) is present, and what lies far below air is rare
    but for one padding value. In an MR's phase images (-4096 to 4096) it is most of it."""
    low = float(data.min())
    if low >= BELOW_AIR:
        return low <= -200
    below = data[data < BELOW_AIR]
    some = below[:: max(1, below.size // 100_000)]
    padding = np.unique(some, return_counts=True)[1].max() / some.size
    return bool((1 - padding) * below.size < 0.2 * np.count_nonzero(data <= -200))
