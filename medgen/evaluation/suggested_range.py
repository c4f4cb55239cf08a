"""A data range for PSNR and SSIM of images without units, suggested from the true images, with its reason."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medgen.data.body_mask import foreground_mask
from medgen.errors import InputError
from medgen.io.read import read_volume

MOST = 20  # images looked at
SHARE = 99.9  # percentile of the foreground: beyond it are a few voxels of vessels and coil flare


def suggested_range(references: Sequence[Path]) -> str:
    """A sentence that suggests a value for ``--data-range``: the same for all cases, or they could not be compared.

    Empty where no image can be read.
    """
    spans = [span for file in references[:MOST] if (span := _span(file)) > 0]
    if not spans:
        return ""
    value, some = round_up(max(spans)), f"the first {len(spans)}" if len(references) > MOST else f"all {len(spans)}"
    return (
        f"--data-range {value:g} would fit: between the background and the {SHARE:g}th percentile of the foreground "
        f"the true images ({some} of them) span {min(spans):.4g} to {max(spans):.4g}; take the same value for every "
        "system that is to be compared"
    )


def round_up(value: float) -> float:
    """To two significant digits, upwards."""
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
    return float(np.percentile(data[inside], SHARE) - data.min())
