"""What the training images looked like, and whether a new scan looks like them."""

from typing import Any

import numpy as np

from medgen.data.body import body_mask, foreground_threshold, looks_like_hu
from medgen.data.codecs import Range

QUANTILES = np.linspace(0.01, 0.99, 25)


def describe(data: np.ndarray, spacing: tuple[float, ...], code: Range) -> dict[str, Any]:
    """The look of one scan: intensity quantiles of the body (in code units, [-1, 1]), its size in mm, spacing.

    Args:
        data: (X, Y, Z) on canonical axes, in the image's units.
        spacing: mm.
        code: the scan's intensity range.
    """
    threshold = -300.0 if looks_like_hu(data) else foreground_threshold(data)
    body = body_mask(data, threshold=threshold)
    inside = np.argwhere(body)
    extent = (inside.max(0) - inside.min(0) + 1) * np.asarray(spacing)
    return {
        "quantiles": np.quantile(code.encode(data[body]), QUANTILES).round(4).tolist(),
        "extent": extent.round(1).tolist(),
        "spacing": [round(float(s), 4) for s in spacing],
    }


def strangeness(scan: dict[str, Any], training: list[dict[str, Any]]) -> list[str]:
    """Sentences on how a scan differs from every training scan; empty when it does not.

    Intensities: the mean distance of its quantiles to the nearest training scan's (Wasserstein-1 in code
    units) is compared with twice the largest such distance among the training scans themselves, floor 0.02
    (0.1 when fewer than three scans leave that spread unknown). Extent and spacing: outside the training
    scans' range by more than a third.
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
            f"intensities inside the body differ from every training scan's "
            f"(distance {distance:.3f}, limit {limit:.3f})"
        )
    for key, words in (("extent", "size of the body in the scan"), ("spacing", "voxel size")):
        known = np.array([t[key] for t in training])
        low, high, values = known.min(0) / 1.34, known.max(0) * 1.34, np.asarray(scan[key])
        if ((values < low) | (values > high)).any():
            shown = " × ".join(f"{v:.4g}" for v in values)
            usual = " × ".join(f"{a:.4g}–{b:.4g}" for a, b in zip(known.min(0), known.max(0), strict=True))
            sentences.append(f"{words} {shown} mm, training had {usual} mm")
    return sentences
