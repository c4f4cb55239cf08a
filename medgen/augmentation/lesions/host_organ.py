"""The host of a lesion: the organ it lies in, and the shell of healthy host tissue around it.

Arrays lie in RAS order on one grid; intensities keep the image's unit (HU), lengths are mm.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from medgen.data.body_mask import body_mask
from medgen.errors import InputError
from medgen.io.volume import Volume, to_canonical

SHELL_MM = (2.0, 6.0)  # where the host is measured: clear of the lesion's soft edge, near enough to be its own tissue
FEWEST = 20  # voxels that give a mean and a spread
RANKS = (10.0, 90.0)  # percentiles of a shell: what counts as tissue like it

Spacing = Sequence[float]
Host = str | int | Volume | None  # the host's label (name or value), a mask, or None: unlabelled tissue
Ranks = Sequence[tuple[float, float]]  # of each contrast: tissue between two percentiles of the body


def host_mask(
    images: Sequence[np.ndarray],
    label: np.ndarray,
    names: Mapping[str, int],
    host: Host,
    ranks: Ranks = (),
    *,
    case: str = "this case",
) -> np.ndarray:
    """Where lesions may lie: (X, Y, Z) bool.

    Args:
        images: contrasts (X, Y, Z).
        label: (X, Y, Z) values; ``names``: structure -> value.
        host: name or value of the organ's label; a mask on the label's grid, non-zero in the host; None where there is
            neither: unlabelled tissue of the body that looks like the tissue around known lesions, see ``ranks``.
        ranks: of each contrast, percentiles of the body's intensities between which that tissue lies.
        case: for messages.

    Raises:
        InputError: the host is no label, or is nowhere in this case.
    """
    if host is None:
        found = _look_alike(images, label, ranks)
        what = "tissue like that around the library's lesions"
    elif isinstance(host, Volume):
        found, what = to_canonical(host).data > 0, "the host mask's tissue"
        if found.shape != label.shape:
            raise InputError(
                "lesions-host-grid-differs",
                f"{host.path or 'the host mask'} is not on the grid of {case}; give one that is",
            )
    else:
        if isinstance(host, str) and host not in names:
            raise InputError(
                "lesions-host-label-unknown",
                f"host organ {host!r} is missing in the labels ({', '.join(names)}); name one of these",
            )
        found = label == (names[host] if isinstance(host, str) else host)
        what = f"host organ {host}"
    if not found.any():
        raise InputError(
            "lesions-host-absent", f"{what} is missing in {case}; choose another host, or leave this case out"
        )
    return found


def shell(mask: np.ndarray, host: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Host voxels 2-6 mm outside ``mask``, or all of the host in the array where those are too few."""
    away = ndimage.distance_transform_edt(~mask, spacing)
    low, high = SHELL_MM
    near = host & (away > low) & (away <= max(high, low + 1.5 * max(spacing)))
    return near if near.sum() >= FEWEST else host & ~mask


def spread(values: np.ndarray) -> float:
    """Standard deviation of what lies within three of the middle, so that a vessel in the shell does not count; > 0.

    The middle's is known by the median absolute deviation, which alone is coarse in images of whole numbers.
    """
    away = np.abs(values - np.median(values))
    usual = values[away <= 3 * max(float(np.median(away)) / 0.6745, 1e-6)]
    return max(float(usual.std()), 1e-6)


def ranks_of(values: np.ndarray, body: np.ndarray) -> tuple[float, float]:
    """The percentiles, among the intensities of a body, between which most of some tissue's values lie."""
    ordered = np.sort(body)
    low, high = (100.0 * np.searchsorted(ordered, v) / len(ordered) for v in np.percentile(values, RANKS))
    return float(low), float(high)


def _look_alike(images: Sequence[np.ndarray], label: np.ndarray, ranks: Ranks) -> np.ndarray:
    """The largest connected part of the unlabelled body whose smoothed intensities lie between ``ranks``."""
    body = body_mask(images[0])
    like = body & (label == 0)
    for image, between in zip(images, ranks, strict=False):
        smooth = ndimage.gaussian_filter(image, 0.7)
        low, high = np.percentile(image[body], between)
        like &= (smooth >= low) & (smooth <= high)
    parts, count = ndimage.label(like)
    return parts == np.bincount(parts.ravel())[1:].argmax() + 1 if count else like
