"""Suggest a data range for PSNR and SSIM of images without units, from the reference images."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medgen.data.body_mask import foreground_mask
from medgen.errors import InputError
from medgen.io.read import read_volume

MAX_IMAGES = 20  # images that are read
CHECKED_IMAGES = 3  # images that a given range is compared with
PERCENTILE = 99.9  # of the foreground; above it are a few voxels of vessels and coil artefacts


def suggested_range(references: Sequence[Path]) -> str:
    """Return a sentence that suggests one ``--data-range`` for all cases, so that they can be compared.

    Empty if no image can be read.
    """
    if not (spans := _spans(references)):
        return ""
    value, sample = (
        round_up(max(spans)),
        f"the first {len(spans)}" if len(references) > MAX_IMAGES else f"all {len(spans)}",
    )
    return (
        f"--data-range {value:g} would fit: from the background to the {PERCENTILE:g}th percentile of the foreground, "
        f"the reference images ({sample}) span {min(spans):.4g} to {max(spans):.4g}; use the same value for all "
        "systems that you compare"
    )


def range_warnings(data_range: float, references: Sequence[Path]) -> list[str]:
    """Return a warning if a data range is far from what the reference images span, which falsifies PSNR and SSIM.

    A range below half of the largest span clips what is compared; one above ten times it hides every error.
    """
    spans = [span for file in references[:CHECKED_IMAGES] if (span := _span(file)) > 0]
    if not spans or max(spans) / 2 <= data_range <= 10 * max(spans):
        return []
    return [
        f"--data-range {data_range:g} does not fit the reference images, which span {min(spans):.4g} to "
        f"{max(spans):.4g} from the background to the {PERCENTILE:g}th percentile of the foreground; PSNR and SSIM "
        "mean little"
    ]


def fitting_range(references: Sequence[Path]) -> float | None:
    """Return the range that `suggested_range` suggests; None if no image can be read."""
    return round_up(max(spans)) if (spans := _spans(references)) else None


def _spans(references: Sequence[Path]) -> list[float]:
    return [span for file in references[:MAX_IMAGES] if (span := _span(file)) > 0]


def round_up(value: float) -> float:
    """Round up to two significant digits."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / step - 1e-9) * step:.6g}")


def _span(file: Path) -> float:
    try:
        data = read_volume(file).data
    except InputError:
        return 0.0
    if not np.isfinite(data).all():
        return 0.0
    inside = foreground_mask(data)
    return float(np.percentile(data[inside], PERCENTILE) - data.min())
