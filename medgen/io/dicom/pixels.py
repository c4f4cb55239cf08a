"""Convert between stored values and modality values (HU) of DICOM pixel data; keep the source's rescale if possible."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from medgen.errors import InputError
from medgen.io.dicom.header import GROUPS

SHARED, PER_FRAME = GROUPS

LEVELS = 500  # minimum number of rescale steps over the value range of a non-integer image; fewer are too coarse


@dataclass(frozen=True)
class Format:
    """Number format of pixel data (PS3.3 C.7.6.3): BitsStored, BitsAllocated, signed or unsigned."""

    bits: int
    allocated: int
    signed: bool

    @property
    def range(self) -> tuple[int, int]:
        return (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if self.signed else (0, 2**self.bits - 1)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(f"<{'i' if self.signed else 'u'}{self.allocated // 8}")


@dataclass(frozen=True)
class Encoding:
    """Pixel format of a series and (slope, intercept) of each slice; ``source``: the rescale is the source's."""

    format: Format
    rescale: tuple[tuple[float, float], ...]
    source: bool

    def stored(self, values: np.ndarray, k: int) -> np.ndarray:
        """Convert modality values (rows, columns) of slice k to the nearest stored values."""
        return np.rint(_steps(values, self.rescale[k])).astype(self.format.dtype)


def has_lut(dataset: Dataset) -> bool:
    """Whether values are defined by a modality LUT; enhanced images have none."""
    return PER_FRAME not in dataset and bool(dataset.get("ModalityLUTSequence"))


def has_rescale(dataset: Dataset, frame: int) -> bool:
    """Whether a frame has a RescaleSlope or RescaleIntercept, even if they do not change the values."""
    holder = _holder(dataset, frame)
    return any(holder.get(keyword) is not None for keyword in ("RescaleSlope", "RescaleIntercept"))


def lacking_rescale(dataset: Dataset, frame: int) -> str:
    """The element of the rescale that is absent or empty although the other one is there; "" if none is."""
    holder = _holder(dataset, frame)
    values = {keyword: holder.get(keyword) for keyword in ("RescaleSlope", "RescaleIntercept")}
    lacking = [keyword for keyword, value in values.items() if value in (None, "")]
    return lacking[0] if len(lacking) == 1 else ""


def _holder(dataset: Dataset, frame: int) -> Dataset:
    """Return the data set that contains the rescale of a frame."""
    if PER_FRAME not in dataset:
        return dataset
    groups = (dataset[PER_FRAME].value[frame], *(dataset.get(SHARED) or ()))
    own = (group.get("PixelValueTransformationSequence") for group in groups)
    return next((items[0] for items in own if items), dataset)


def rescale_of(dataset: Dataset, frame: int, file: Path) -> tuple[float, float]:
    """Return (slope, intercept): modality value = slope * stored value + intercept (PS3.3 C.11.1, C.7.6.16.2.9).

    Without a rescale, and for an image with a modality LUT, (1, 0) is returned. For an enhanced image, the functional
    groups of the frame are searched first, then the shared ones, then the top level, where some converters write the
    elements and ITK reads them.

    Args:
        frame: frame index from 0; ignored for an image that is not enhanced.
        file: used in messages.

    Raises:
        InputError: the slope is 0, an element has several values or one that is not finite, or only one of the two
            elements is present and changes the values. Programs interpret the last case differently (pydicom: no
            rescale; ITK: slope 1, intercept 0 for the absent element), so the values are unknown.
    """
    if has_lut(dataset):
        return 1.0, 0.0
    holder = _holder(dataset, frame)
    slope, intercept = holder.get("RescaleSlope"), holder.get("RescaleIntercept")
    if slope is None and intercept is None:
        return 1.0, 0.0
    try:
        numbers = float(1 if slope is None else slope), float(intercept or 0)
    except (TypeError, ValueError):  # several values
        numbers = np.nan, np.nan
    if numbers == (1, 0):  # unambiguous, even if one element is missing
        return numbers
    problem = "only one element of the rescale" if slope is None or intercept is None else ""
    if not problem and numbers[0] == 0:
        problem = "a RescaleSlope of 0"
    if not problem and not np.isfinite(numbers).all():
        problem = "a rescale that is not a finite number"
    if problem:
        raise InputError(
            "dicom-rescale-invalid",
            f"{file} has {problem} (RescaleSlope {slope}, RescaleIntercept {intercept}), so its values are unknown; "
            "export the series again or set both elements",
        )
    return numbers


def encoding(
    data: np.ndarray, integral: bool, formats: Sequence[Format], rescale: Sequence[tuple[float, float]]
) -> Encoding:
    """Choose the encoding of a derived series.

    The rescale of the source is kept if the values fit into the format of the source, or into 16 bits, signed or
    unsigned. Nothing is clipped, and values that the source could represent are represented exactly. Another rescale is
    fitted to the value range of the series if the values do not fit, or if the steps of the source are too coarse: over
    1 HU, where steps of 1 HU hold all values of the source; or less than 500 of them, for values that are not integers
    (maximum error: half a step, 1/131068 of the range).

    Args:
        data: (X, Y, Z) modality values, slice k at [:, :, k].
        integral: whether the values are meant to be integers (HU).
        formats: formats of the source slices.
        rescale: (slope, intercept) of each source slice.
    """
    own = Format(max(f.bits for f in formats), max(f.allocated for f in formats), any(f.signed for f in formats))
    if any(f.signed != own.signed for f in formats):
        own = Format(own.allocated, own.allocated, True)
    low, high = np.inf, -np.inf
    exact, fine_enough = True, True
    # Such as 8 bits with a slope of 16. Where steps of 1 HU cannot store carried values exactly, the source's are kept.
    whole = all(number.is_integer() for pair in rescale for number in pair) and data.max() - data.min() <= 65535
    coarse = integral and whole and max(abs(slope) for slope, _ in rescale) > 1
    for k, (slope, intercept) in enumerate(rescale):
        steps = _steps(data[:, :, k], (slope, intercept))
        nearest = np.rint(steps)
        low, high = min(low, nearest.min()), max(high, nearest.max())
        if not integral or coarse:
            exact = exact and np.array_equal((nearest * slope + intercept).astype(np.float32), data[:, :, k])
            fine_enough = fine_enough and not integral and steps.max() - steps.min() >= LEVELS
    if exact or fine_enough:
        sixteen = max(16, own.allocated)
        for candidate in (
            own,
            Format(sixteen, sixteen, own.signed),
            Format(sixteen, sixteen, not own.signed),
        ):
            if candidate.range[0] <= low and high <= candidate.range[1]:
                return Encoding(candidate, tuple(rescale), True)
    return _fit_to_range(float(data.min()), float(data.max()), integral, len(rescale))


def _fit_to_range(low: float, high: float, integral: bool, slices: int) -> Encoding:
    """Fit a rescale of unsigned 16 bits to the value range; its numbers are rounded to 16 characters (DICOM DS)."""
    step = 1.0 if integral and high - low <= 65535 else (high - low) / 65534 or 1.0
    slope, intercept = (float(format_number_as_ds(value)) for value in (step, np.floor(low) if integral else low))
    return Encoding(Format(16, 16, False), ((slope, intercept),) * slices, False)


def _steps(values: np.ndarray, rescale: tuple[float, float]) -> np.ndarray:
    """Return the stored values of modality values, not rounded."""
    return (values.astype(np.float64) - rescale[1]) / rescale[0]
