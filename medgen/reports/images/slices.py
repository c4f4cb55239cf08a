"""Which slices of a volume to show, and how each lies on the page. Arrays (X, Y, Z) are in RAS order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter

from medgen.data.body_mask import foreground_threshold, looks_like_hu

View = tuple[slice, slice, slice]
MARGIN = 8.0  # mm of air around the body
HUGE = 1e30  # differences beyond it count as this much, so that sums stay finite
BARS = (10000.0, 1000.0, 50.0, 10.0, 1.0, 0.1, 0.01)  # mm, lengths of a scale bar


@dataclass(frozen=True)
class Plane:
    """A view along ``axis``: image columns run along array axis ``across``, rows along ``down``.

    ``marks``: patient sides at the image's left, right, top and bottom. RAS axes grow to the patient's right,
    front and head: both image axes are reversed for right on the left and front or head on top; the sagittal
    view has the front on the left, which reverses y.
    """

    name: str
    axis: int
    across: int
    down: int
    marks: tuple[str, str, str, str]

    def cut(self, data: np.ndarray, at: tuple[int, int, int], view: View) -> np.ndarray:
        """The slice ``at[axis]`` within ``view`` as an image (rows, columns), first row on top."""
        index: list[slice | int] = list(view)
        index[self.axis] = at[self.axis]
        return data[tuple(index)].T[::-1, ::-1]

    def size(self, view: View, spacing: tuple[float, float, float]) -> tuple[float, float]:
        """Width and height of the image in mm."""
        mm = [(part.stop - part.start) * step for part, step in zip(view, spacing, strict=True)]
        return mm[self.across], mm[self.down]

    def box(self, low: Sequence[float], high: Sequence[float], view: View) -> tuple[float, float, float, float]:
        """A box of voxels as left, top, width and height on the image, each a part of the image's width or height."""
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
    """The length in mm of the scale bar of an image ``width`` mm wide: at most 42 % of it, where one is so short."""
    return next((length for length in BARS if length < width / 2.4), BARS[-1])


def interest(truth: np.ndarray, other: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """How much there is to see in each voxel: the local mean difference of two volumes beyond noise, >= 0.

    Within the labelled structures where there are any. Without a difference: the labels themselves, or the
    foreground.
    """
    with np.errstate(over="ignore"):
        change = np.clip(np.subtract(other, truth, dtype=np.float32), -HUGE, HUGE)
    weight = np.abs(uniform_filter(change, 3))
    marked = None if labels is None or not labels.any() else labels > 0
    if marked is not None:
        weight[~marked] = 0
    # Noise lies everywhere and would make the largest section of the body win: only what is clear counts.
    weight -= 0.25 * np.percentile(weight, 99.9)
    np.maximum(weight, 0, out=weight)
    if weight.any():
        return weight
    return (marked if marked is not None else _foreground(truth)).astype(np.float32)


def choose_slices(weight: np.ndarray) -> tuple[int, int, int]:
    """The slice on each axis that holds most of ``weight`` (>= 0); the middle if that is 0 everywhere."""
    if not weight.any():
        return tuple(n // 2 for n in weight.shape)  # type: ignore[return-value]
    profiles = (weight.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64) for axis in range(3))
    x, y, z = (int(profile.argmax()) for profile in profiles)
    return x, y, z


def field_of_view(data: np.ndarray, spacing: tuple[float, float, float]) -> View:
    """The box around the body with a margin, so that pages are not filled with air; all if none is found."""
    foreground = _foreground(data)
    bounds = []
    for axis in range(3):
        share = foreground.mean(axis=tuple({0, 1, 2} - {axis}))
        inside = np.flatnonzero(share > 0.002)  # less is noise or a hair of the table
        margin = int(np.ceil(MARGIN / spacing[axis]))
        first, last = (inside[0], inside[-1]) if inside.size else (0, data.shape[axis] - 1)
        bounds.append(slice(max(int(first) - margin, 0), min(int(last) + margin + 1, data.shape[axis])))
    return bounds[0], bounds[1], bounds[2]


def _foreground(data: np.ndarray) -> np.ndarray:
    return data > (-500 if looks_like_hu(data) else foreground_threshold(data))
