"""Choose the slices of a volume to show, and map them to the page. Arrays (X, Y, Z) are in RAS order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter

from medgen.data.body_mask import foreground_threshold, looks_like_hu

View = tuple[slice, slice, slice]
MARGIN = 8.0  # mm of air shown around the body
HUGE = 1e30  # differences are clipped to this, so that sums stay finite
BARS = (10000.0, 1000.0, 50.0, 10.0, 1.0, 0.1, 0.01)  # possible lengths of a scale bar in mm


@dataclass(frozen=True)
class Plane:
    """A view along ``axis``: image columns run along array axis ``across``, rows along ``down``.

    ``marks``: patient sides at the image's left, right, top and bottom. RAS axes increase to the patient's right,
    anterior and superior. Both image axes are reversed, so that the patient's right is on the left and anterior or
    superior is on top; the sagittal view has anterior on the left.
    """

    name: str
    axis: int
    across: int
    down: int
    marks: tuple[str, str, str, str]

    def cut(self, data: np.ndarray, at: tuple[int, int, int], view: View) -> np.ndarray:
        """Return the slice ``at[axis]`` within ``view`` as an image (rows, columns), first row on top."""
        index: list[slice | int] = list(view)
        index[self.axis] = at[self.axis]
        return data[tuple(index)].T[::-1, ::-1]

    def size(self, view: View, spacing: tuple[float, float, float]) -> tuple[float, float]:
        """Return width and height of the image in mm."""
        mm = [(part.stop - part.start) * step for part, step in zip(view, spacing, strict=True)]
        return mm[self.across], mm[self.down]

    def box(self, low: Sequence[float], high: Sequence[float], view: View) -> tuple[float, float, float, float]:
        """Return left, top, width and height of a voxel box, as fractions of the image's width or height."""
        parts = [(view[axis].stop - 0.5, view[axis].stop - view[axis].start) for axis in (self.across, self.down)]
        (x, width), (y, height) = parts
        left, top = (x - high[self.across]) / width, (y - high[self.down]) / height
        sizes = (high[self.across] - low[self.across]) / width, (high[self.down] - low[self.down]) / height
        return left, top, *sizes


PLANES = (
    Plane("axial", 2, 0, 1, ("R", "L", "A", "P")),
    Plane("coronal", 1, 0, 2, ("R", "L", "S", "I")),
    Plane("sagittal", 0, 1, 2, ("A", "P", "S", "I")),
)


def bar_mm(width: float) -> float:
    """Return the length in mm of the scale bar of an image ``width`` mm wide, at most 42 % of it if possible."""
    return next((length for length in BARS if length < width / 2.4), BARS[-1])


def interest(truth: np.ndarray, other: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """Return a weight >= 0 per voxel for the choice of slices: the local mean difference of two volumes above noise.

    If there are labels, the weight is 0 outside them. If there is no difference, it is 1 in the labels or, without
    labels, in the foreground.
    """
    with np.errstate(over="ignore"):
        difference = np.clip(np.subtract(other, truth, dtype=np.float32), -HUGE, HUGE)
    weight = np.abs(uniform_filter(difference, 3))
    marked = None if labels is None or not labels.any() else labels > 0
    if marked is not None:
        weight[~marked] = 0
    # Subtract a noise level: noise is everywhere, so the sum would be largest in the largest cross-section of the body.
    weight -= 0.25 * np.percentile(weight, 99.9)
    np.maximum(weight, 0, out=weight)
    if weight.any():
        return weight
    return (marked if marked is not None else _foreground(truth)).astype(np.float32)


def choose_slices(weight: np.ndarray) -> tuple[int, int, int]:
    """Return the slice on each axis with the largest sum of ``weight`` (>= 0), or the middle if all weights are 0."""
    if not weight.any():
        return tuple(n // 2 for n in weight.shape)  # type: ignore[return-value]
    profiles = (weight.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64) for axis in range(3))
    x, y, z = (int(profile.argmax()) for profile in profiles)
    return x, y, z


def field_of_view(data: np.ndarray, spacing: tuple[float, float, float]) -> View:
    """Return the bounding box of the body with a margin of air, or the whole volume if no body is found."""
    foreground = _foreground(data)
    bounds = []
    for axis in range(3):
        foreground_share = foreground.mean(axis=tuple({0, 1, 2} - {axis}))
        inside = np.flatnonzero(foreground_share > 0.002)  # a smaller share is noise or a thin part of the table
        margin = int(np.ceil(MARGIN / spacing[axis]))
        first, last = (inside[0], inside[-1]) if inside.size else (0, data.shape[axis] - 1)
        bounds.append(slice(max(int(first) - margin, 0), min(int(last) + margin + 1, data.shape[axis])))
    return bounds[0], bounds[1], bounds[2]


def _foreground(data: np.ndarray) -> np.ndarray:
    return data > (-500 if looks_like_hu(data) else foreground_threshold(data))
