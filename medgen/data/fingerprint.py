"""Fingerprints of the training images, and detection of scans that differ from them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from medgen.data.body_mask import body_mask
from medgen.data.intensity import Range

QUANTILES = np.linspace(0.01, 0.99, 25)
MAX_SAMPLES = 200_000  # body voxels, evenly spread: a quantile is then accurate to about 0.1 % of the voxels
STEP_MM, MIN_SIDE = 5.0, 32  # body size is measured on voxels about 5 mm apart, at least 32 along each axis


def describe(
    data: np.ndarray, spacing: tuple[float, ...], code: Range, body: np.ndarray | None = None
) -> dict[str, Any]:
    """Fingerprint of one scan: intensity quantiles of the body (encoded to [-1, 1]), body size in mm, voxel spacing.

    Args:
        data: (X, Y, Z) on canonical axes, in the image's units.
        spacing: voxel spacing in mm.
        code: the scan's intensity range.
        body: its ``body_mask``; None: computed here.
    """
    if body is None:
        thin = thinned(data, spacing)
        return describe_thinned(thin, body_mask(thin.data), spacing, code)
    return describe_thinned(Thinned(data, (1, 1, 1)), body, spacing, code)


@dataclass(frozen=True, eq=False)
class Thinned:
    """Every k-th voxel (``step``) of a volume along each axis."""

    data: np.ndarray
    step: tuple[int, ...]


def thinned(data: np.ndarray, spacing: tuple[float, ...]) -> Thinned:
    """Voxels about 5 mm apart, at least 32 along each axis; enough for the size and the intensities of the body."""
    step = tuple(max(1, min(int(STEP_MM / s), n // MIN_SIDE)) for s, n in zip(spacing, data.shape, strict=True))
    return Thinned(np.ascontiguousarray(data[tuple(slice(None, None, k) for k in step)]), step)


def describe_thinned(thin: Thinned, body: np.ndarray, spacing: tuple[float, ...], code: Range) -> dict[str, Any]:
    """The fingerprint of a volume from a part of its voxels; ``spacing`` is that of the volume, see ``describe``."""
    data, voxels = thin.data, [round(float(s), 4) for s in spacing]
    spacing = tuple(np.multiply(spacing, thin.step).tolist())
    sides = [np.flatnonzero(body.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    extent = np.array([side[-1] - side[0] + 1 for side in sides]) * np.asarray(spacing)
    values = data[body]
    codes = np.sort(code.encode(values[:: max(1, values.size // MAX_SAMPLES)]))  # sorted: quantiles are then fast
    at = QUANTILES * (codes.size - 1)  # np.quantile would sort again
    below = at.astype(int)
    above = np.minimum(below + 1, codes.size - 1)
    quantiles = codes[below] + (at - below) * (codes[above].astype(np.float64) - codes[below])
    return {
        "quantiles": quantiles.round(4).tolist(),
        "extent": extent.round(1).tolist(),
        "spacing": voxels,
    }


def distribution_shift_reasons(
    scan: dict[str, Any], training: list[dict[str, Any]], *, check_spacing: bool = True
) -> list[str]:
    """List how a scan differs from every training scan; empty if it does not.

    Intensities: the mean distance of its quantiles to those of the nearest training scan (Wasserstein-1, encoded
    intensities) is compared with twice the largest distance of a training scan to its nearest neighbour, at least
    0.02. With fewer than three training scans this spread is unknown and the limit is 0.1. Body size and spacing:
    outside the range of the training scans by more than a third. ``check_spacing`` is False for models that resample
    every scan to one grid.
    """
    sentences = []
    quantiles = np.array([t["quantiles"] for t in training])
    distance = np.abs(quantiles - np.asarray(scan["quantiles"])).mean(1).min()
    limit = 0.1
    if len(training) >= 3:
        between = np.abs(quantiles[:, None] - quantiles[None]).mean(2) + np.diag(np.full(len(training), np.inf))
        limit = max(2 * float(between.min(1).max()), 0.02)
    if distance > limit:
        sentences.append(
            f"intensities inside the body differ from those of every training scan "
            f"(distance {distance:.3f}, limit {limit:.3f})"
        )
    for key, quantity in (("extent", "body size in the scan"), ("spacing", "voxel spacing")):
        if key == "spacing" and not check_spacing:
            continue
        known = np.array([t[key] for t in training])
        low, high, values = known.min(0) / 1.34, known.max(0) * 1.34, np.asarray(scan[key])
        if ((values < low) | (values > high)).any():
            scan_text = " × ".join(f"{v:.4g}" for v in values)
            training_text = " × ".join(
                f"{a:.4g}" if a == b else f"{a:.4g}–{b:.4g}" for a, b in zip(known.min(0), known.max(0), strict=True)
            )
            sentences.append(f"{quantity} {scan_text} mm, but {training_text} mm in the training scans")
    return sentences


def resembles_target(scan: dict[str, Any], sources: list[dict[str, Any]], targets: list[dict[str, Any]]) -> bool:
    """Whether a scan looks like the model's output, not like its input, e.g. a CT that is already non-contrast.

    The quantiles are weighted by the distance between sources and targets relative to their spread (linear
    discriminant with a diagonal covariance; a dozen scans are too few for the full covariance of 25 quantiles).

    Returns False with fewer than three scans on either side, if the scores of sources and targets overlap, or if the
    scan lies beyond the targets by at least the gap between targets and sources.

    Args:
        scan, sources, targets: fingerprints from ``describe``, all with the same encoding.
    """
    if min(len(sources), len(targets)) < 3:
        return False
    a, b = (np.array([item["quantiles"] for item in items]) for items in (sources, targets))
    weights = (a.mean(0) - b.mean(0)) / (np.sqrt((a.var(0) + b.var(0)) / 2) + 0.005) ** 2
    inputs, outputs, score = a @ weights, b @ weights, float(np.asarray(scan["quantiles"]) @ weights)
    gap = inputs.min() - outputs.max()
    spreads = inputs.std() + outputs.std()
    middle = (outputs.mean() * inputs.std() + inputs.mean() * outputs.std()) / spreads if spreads else outputs.mean()
    return bool(gap > 0 and outputs.min() - gap < score < middle)
