"""What the training images looked like, and whether a new scan looks like them."""

from typing import Any

import numpy as np

from medgen.data.body_mask import body_mask
from medgen.data.intensity import Range

QUANTILES = np.linspace(0.01, 0.99, 25)
ENOUGH = 200_000  # voxels, evenly spread: a quantile is then good to about 0.1 % of them
STEP_MM, LEAST = 5.0, 32  # voxels so far apart tell how large a body is; no fewer on a side


def describe(
    data: np.ndarray, spacing: tuple[float, ...], code: Range, body: np.ndarray | None = None
) -> dict[str, Any]:
    """The look of one scan: intensity quantiles of the body (in code units, [-1, 1]), its size in mm, spacing.

    Args:
        data: (X, Y, Z) on canonical axes, in the image's units.
        spacing: mm.
        code: the scan's intensity range.
        body: its ``body_mask``, where that is known already.
    """
    voxels = [round(float(s), 4) for s in spacing]
    if body is None:
        step = [max(1, min(int(STEP_MM / s), n // LEAST)) for s, n in zip(spacing, data.shape, strict=True)]
        data = np.ascontiguousarray(data[tuple(slice(None, None, k) for k in step)])
        body, spacing = body_mask(data), tuple(np.multiply(spacing, step).tolist())
    sides = [np.flatnonzero(body.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    extent = np.array([side[-1] - side[0] + 1 for side in sides]) * np.asarray(spacing)
    values = data[body]
    codes = np.sort(code.encode(values[:: max(1, values.size // ENOUGH)]))  # 25 quantiles of what is sorted are quick
    return {
        "quantiles": np.quantile(codes, QUANTILES).round(4).tolist(),
        "extent": extent.round(1).tolist(),
        "spacing": voxels,
    }


def distribution_shift_reasons(
    scan: dict[str, Any], training: list[dict[str, Any]], *, check_spacing: bool = True
) -> list[str]:
    """Sentences on how a scan differs from every training scan; empty when it does not.

    Intensities: the mean distance of its quantiles to the nearest training scan's (Wasserstein-1 in code
    units) is compared with twice the largest such distance among the training scans themselves, floor 0.02
    (0.1 when fewer than three scans leave that spread unknown). Extent and spacing: outside the training
    scans' range by more than a third. ``check_spacing`` is off for models that bring every scan to one grid.
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
        if key == "spacing" and not check_spacing:
            continue
        known = np.array([t[key] for t in training])
        low, high, values = known.min(0) / 1.34, known.max(0) * 1.34, np.asarray(scan[key])
        if ((values < low) | (values > high)).any():
            shown = " × ".join(f"{v:.4g}" for v in values)
            usual = " × ".join(
                f"{a:.4g}" if a == b else f"{a:.4g}–{b:.4g}" for a, b in zip(known.min(0), known.max(0), strict=True)
            )
            sentences.append(f"{words} {shown} mm, training had {usual} mm")
    return sentences


def resembles_target(scan: dict[str, Any], sources: list[dict[str, Any]], targets: list[dict[str, Any]]) -> bool:
    """Whether a scan looks like what the model makes, not like what it takes: a CT without contrast medium already.

    The quantiles are weighted by how far sources and targets lie apart over their spread (a linear discriminant with
    a diagonal covariance: 25 quantiles of a dozen scans allow no more). It says nothing (False) below three scans of
    each, where the training scans themselves overlap, and of a scan that is further off than the targets are.

    Args:
        scan, sources, targets: looks as of ``describe``, all in the same code.
    """
    if min(len(sources), len(targets)) < 3:
        return False
    a, b = (np.array([look["quantiles"] for look in looks]) for looks in (sources, targets))
    weights = (a.mean(0) - b.mean(0)) / (np.sqrt((a.var(0) + b.var(0)) / 2) + 0.005) ** 2
    taken, made, score = a @ weights, b @ weights, float(np.asarray(scan["quantiles"]) @ weights)
    gap = taken.min() - made.max()
    spreads = taken.std() + made.std()
    middle = (made.mean() * taken.std() + taken.mean() * made.std()) / spreads if spreads else made.mean()
    return bool(gap > 0 and made.min() - gap < score < middle)
