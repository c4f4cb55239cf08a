"""The host of a lesion: the organ that contains it, and the shell of healthy host tissue around it.

Arrays are in RAS order on one grid; intensities are in the image's unit (HU), lengths in mm.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from medgen.data.body_mask import body_mask
from medgen.data.labels.resampling import check_mask
from medgen.errors import InputError
from medgen.io.volume import Volume, to_canonical

SHELL_MM = (2.0, 6.0)  # the host is measured at this distance: outside the lesion's soft edge, but near it
FEWEST = 20  # minimum number of voxels to measure a mean and a standard deviation
RANKS = (10.0, 90.0)  # percentiles of a shell that define tissue like it

Spacing = Sequence[float]
Host = str | int | Volume | None  # the host's label (name or value), a mask, or None: unlabelled tissue
Ranks = Sequence[tuple[float, float]]  # per contrast: two percentiles of the body's intensities


def host_mask(
    images: Sequence[np.ndarray],
    label: np.ndarray,
    names: Mapping[str, int],
    host: Host,
    ranks: Ranks = (),
    *,
    case: str = "this case",
) -> np.ndarray:
    """Return the mask of tissue in which lesions may lie, (X, Y, Z) bool.

    Args:
        images: one per contrast, (X, Y, Z).
        label: label map (X, Y, Z).
        names: structure -> value in the label map.
        host: name or value of the organ's label; or a mask on the label map's grid, non-zero in the host; or None:
            unlabelled tissue of the body with intensities like those around known lesions, see ``ranks``.
        ranks: for each contrast, the percentiles of the body's intensities between which that tissue lies.
        case: name for messages.

    Raises:
        InputError: the host is not in the label table, is absent from this case, or is a mask with fractions.
    """
    if host is None:
        found = _similar_tissue(images, label, ranks)
        what = "tissue like that around the lesions of the library"
    elif isinstance(host, Volume):
        check_mask(host.data, host.path or "the host mask")
        found, what = to_canonical(host).data > 0, "the host mask's tissue"
        if found.shape != label.shape:
            raise InputError(
                "lesions-host-grid-differs",
                f"{host.path or 'the host mask'} is not on the grid of {case}; give a mask on that grid",
            )
    else:
        if isinstance(host, str) and host not in names:
            raise InputError(
                "lesions-host-label-unknown",
                f"host organ {host!r} is not in the label table; choose from {', '.join(names)}",
            )
        found = label == (names[host] if isinstance(host, str) else host)
        what = f"host organ {host}"
    if not found.any():
        raise InputError(
            "lesions-host-absent", f"{what} is absent from {case}; choose another host, or leave this case out"
        )
    return found


def shell(mask: np.ndarray, host: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Return the host voxels 2-6 mm outside ``mask``, or all host voxels in the array if those are too few."""
    distance = ndimage.distance_transform_edt(~mask, spacing)
    low, high = SHELL_MM
    near = host & (distance > low) & (distance <= max(high, low + 1.5 * max(spacing)))
    return near if near.sum() >= FEWEST else host & ~mask


def robust_sd(values: np.ndarray) -> float:
    """Return a robust standard deviation, > 0, so that for example a vessel in the shell does not count.

    It is computed from the values within three standard deviations of the median, as estimated by the median absolute
    deviation. That estimate alone would be coarse in integer images.
    """
    distance = np.abs(values - np.median(values))
    inliers = values[distance <= 3 * max(float(np.median(distance)) / 0.6745, 1e-6)]
    return max(float(inliers.std()), 1e-6)


def ranks_of(values: np.ndarray, body: np.ndarray) -> tuple[float, float]:
    """Return the percentiles of the body's intensities between which most values of a tissue lie."""
    ordered = np.sort(body)
    low, high = (100.0 * np.searchsorted(ordered, v) / len(ordered) for v in np.percentile(values, RANKS))
    return float(low), float(high)


def _similar_tissue(images: Sequence[np.ndarray], label: np.ndarray, ranks: Ranks) -> np.ndarray:
    """Return the largest connected part of the unlabelled body with smoothed intensities between ``ranks``."""
    body = body_mask(images[0])
    similar = body & (label == 0)
    for image, percentiles in zip(images, ranks, strict=False):
        smooth = ndimage.gaussian_filter(image, 0.7)
        low, high = np.percentile(image[body], percentiles)
        similar &= (smooth >= low) & (smooth <= high)
    parts, count = ndimage.label(similar)
    return parts == np.bincount(parts.ravel())[1:].argmax() + 1 if count else similar
