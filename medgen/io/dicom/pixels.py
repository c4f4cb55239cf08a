"""Stored values of DICOM pixel data <-> modality values (HU), by the source's own rescale where that holds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from medgen.errors import InputError
from medgen.io.dicom.header import GROUPS

SHARED, PER_FRAME = GROUPS

LEVELS = 500  # fewer steps than this over the values of an image that is not of whole numbers: too coarse


@dataclass(frozen=True)
class Format:
    """How pixel data stores numbers (PS3.3 C.7.6.3): bits used, bits taken, signed or not."""

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
    """A format for the whole series and (slope, intercept) of each slice; ``source``: they are the source's own."""

    format: Format
    rescale: tuple[tuple[float, float], ...]
    source: bool

    def stored(self, values: np.ndarray, k: int) -> np.ndarray:
        """(rows, columns) modality values of slice k -> what its pixel data holds, nearest."""
        return np.rint(_steps(values, self.rescale[k])).astype(self.format.dtype)


def has_lut(dataset: Dataset) -> bool:
    """Whether a modality LUT makes the values; enhanced images have none."""
    return PER_FRAME not in dataset and bool(dataset.get("ModalityLUTSequence"))


def has_rescale(dataset: Dataset, frame: int) -> bool:
    """Whether a frame says how its values come from the stored ones, be it that they are the same."""
    holder = _holder(dataset, frame)
    return any(holder.get(keyword) is not None for keyword in ("RescaleSlope", "RescaleIntercept"))


def _holder(dataset: Dataset, frame: int) -> Dataset:
    """What holds the rescale of a frame."""
    if PER_FRAME not in dataset:
        return dataset
    groups = (dataset[PER_FRAME].value[frame], *(dataset.get(SHARED) or ()))
    own = (group.get("PixelValueTransformationSequence") for group in groups)
    return next((items[0] for items in own if items), dataset)


def rescale_of(dataset: Dataset, frame: int, file: Path) -> tuple[float, float]:
    """(slope, intercept) of a frame: modality value = slope * stored value + intercept (PS3.3 C.11.1, C.7.6.16.2.9).

    (1, 0) where there is none, or a modality LUT. An enhanced image's own are in the frame's functional groups, else in
    the shared ones, else beside them, where only converters put them and ITK finds them.

    Args:
        frame: from 0; of no matter in an image of one frame.
        file: for messages.

    Raises:
        InputError: a slope of 0, numbers that are not finite or several, or one of the two without the other. Programs
            disagree on what that means (pydicom: no rescale; ITK: slope 1, intercept 0), so the values are not known.
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
    if numbers == (1, 0):  # whatever is missing
        return numbers
    fault = "half of a rescale" if slope is None or intercept is None else ""
    if not fault and numbers[0] == 0:
        fault = "a RescaleSlope of 0"
    if not fault and not np.isfinite(numbers).all():
        fault = "a rescale that is no number"
    if fault:
        raise InputError(
            "dicom-rescale-invalid",
            f"{file} has {fault} (RescaleSlope {slope}, RescaleIntercept {intercept}), so its values are not known; "
            "export the series again or set both elements",
        )
    return numbers


def encoding(
    data: np.ndarray, whole: bool, formats: Sequence[Format], rescale: Sequence[tuple[float, float]]
) -> Encoding:
    """The encoding of a derived series.

    The source's rescale stays, in the source's bits where they hold the values and in 16 of the same or the other
    sign where they do not: nothing is clipped, and what the source could express is expressed exactly. Where that
    fails, or where the values are not whole and the source's steps too coarse for them, one rescale is fitted to
    the range of the series (error: half a step, 1/131068 of the range).

    Args:
        data: (X, Y, Z) modality values, slice k at [:, :, k].
        whole: they are meant to be whole numbers (HU).
        formats: of the source's slices.
        rescale: (slope, intercept) of each slice of the source.
    """
    own = Format(max(f.bits for f in formats), max(f.allocated for f in formats), any(f.signed for f in formats))
    if any(f.signed != own.signed for f in formats):
        own = Format(own.allocated, own.allocated, True)
    low, high = np.inf, -np.inf
    exact, finest = True, True
    for k, (slope, intercept) in enumerate(rescale):
        steps = _steps(data[:, :, k], (slope, intercept))
        nearest = np.rint(steps)
        low, high = min(low, nearest.min()), max(high, nearest.max())
        if not whole:
            exact = exact and np.array_equal((nearest * slope + intercept).astype(np.float32), data[:, :, k])
            finest = finest and steps.max() - steps.min() >= LEVELS
    if whole or exact or finest:
        sixteen = max(16, own.allocated)
        for candidate in (own, Format(sixteen, sixteen, own.signed), Format(sixteen, sixteen, not own.signed)):
            if candidate.range[0] <= low and high <= candidate.range[1]:
                return Encoding(candidate, tuple(rescale), True)
    return _fitted(float(data.min()), float(data.max()), whole, len(rescale))


def _fitted(low: float, high: float, whole: bool, slices: int) -> Encoding:
    """Unsigned 16 bits over the range; slope and intercept as the 16 characters of a DS can write them."""
    step = 1.0 if whole and high - low <= 65535 else (high - low) / 65534 or 1.0
    slope, intercept = (float(format_number_as_ds(value)) for value in (step, np.floor(low) if whole else low))
    return Encoding(Format(16, 16, False), ((slope, intercept),) * slices, False)


def _steps(values: np.ndarray, rescale: tuple[float, float]) -> np.ndarray:
    return (values.astype(np.float64) - rescale[1]) / rescale[0]
