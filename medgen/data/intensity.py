"""Intensity codecs: map HU or scanner units to the network's [-1, 1] and back.

Every codec maps a range [low, high] linearly onto [-1, 1]. The kinds differ in how the range of a case is chosen: a
fixed window (HU), percentiles of the case, or its mean and standard deviation. Values beyond the range are clipped,
and ``outside`` sets what the output contains there (docs/decisions/codecs.md). Label maps, which hold no intensities,
are encoded by ``data.labels.codec.LabelTable``.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from medgen.data.body_mask import MASKED_SHARE, foreground_threshold
from medgen.errors import InputError
from medgen.types import Outside

BLOCK = 2**16  # voxels that are encoded at once: they stay in the cache of a core
GAP = 0.25  # encoded difference between a masked background and the darkest tissue


class Code(Protocol):
    """Encoding of one source: a ``Range`` of intensities, or the table of a label map."""

    def encode(self, x: np.ndarray) -> np.ndarray: ...

    def to_dict(self) -> dict[str, Any]: ...


def encode_channels(codes: Sequence[Code], data: Sequence[np.ndarray]) -> np.ndarray:
    """Encode contrasts (X, Y, Z) as channels (C, X, Y, Z): one per contrast, or one per value of a label map."""
    channels = [x if x.ndim == 4 else x[None] for x in (c.encode(v) for c, v in zip(codes, data, strict=True))]
    return channels[0] if len(channels) == 1 else np.concatenate(channels)


@dataclass(frozen=True)
class Range:
    """Linear encoding of one case: ``low`` ↦ -1, ``high`` ↦ 1, values beyond are clipped.

    ``outside``: handling of source values at or beyond an end of the range (bone, metal, air, padding) by ``carried``.
    ``"preserve"`` copies them to the output; only valid if source and target have the same units.
    ``"preserve_unchanged"`` does the same, but above the range only where the translation stays near the upper end.
    ``"clip"`` discards them.

    ``background``: exact value of masked voxels (0 in skull-stripped MR). It is encoded as -1 and ``low`` as -1 + GAP,
    so that a large dark ventricle is not mistaken for the outside of the head.
    """

    low: float
    high: float
    outside: Outside = "clip"
    background: float | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise ValueError(f"an intensity range needs finite low < high; got {self.low} and {self.high}")

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Map values of any shape, in units of the image, to float32 in [-1, 1]."""
        low, high, unit, start = np.float32(self.low), np.float32(self.high), self._unit, self._start
        y = np.array(x, np.float32)
        flat = y.ravel("K")  # a view, because the copy is contiguous
        for first in range(0, flat.size, BLOCK):  # in place: a third of the time of passes over the whole volume
            block = flat[first : first + BLOCK]
            np.clip(block, low, high, out=block)
            np.subtract(block, low, out=block)
            np.divide(block, unit, out=block)
            np.add(block, start, out=block)
        if self.background is not None:
            y[x == self.background] = -1
        return y

    def decode(self, y: np.ndarray, *, overwrite: bool = False) -> np.ndarray:
        """Inverse of ``encode`` within the range (up to float32 rounding); values beyond ±1 are extrapolated.

        With a masked background, values between its code and that of ``low`` become the nearer of the two.

        ``overwrite``: compute it in y, which is float32, to save as much memory.
        """
        masked = None if self.background is None else y < -1 + GAP / 2  # before y is overwritten
        x = np.subtract(y, self._start, out=y if overwrite else None, dtype=np.float32)
        x *= self._unit
        x += np.float32(self.low)
        if masked is not None:
            np.maximum(x, np.float32(self.low), out=x)
            x[masked] = self.background
        return x

    @property
    def _start(self) -> np.float32:
        """Encoded value of ``low``."""
        return np.float32(-1 if self.background is None else -1 + GAP)

    @property
    def _unit(self) -> np.float32:
        """Image units per encoded unit."""
        return np.float32((self.high - self.low) / (1 - self._start))

    def clip(self, x: np.ndarray) -> np.ndarray:
        """Clip ``x`` to the range, as float32; a masked background keeps its value."""
        inside = np.clip(x, self.low, self.high).astype(np.float32, copy=False)
        return inside if self.background is None else np.where(x == self.background, np.float32(x), inside)

    def beyond(self, x: np.ndarray) -> np.ndarray:
        """Mask of values at or beyond an end of the range: clipping hides their true value from the network."""
        return (x <= self.low) | (x >= self.high)

    def carried(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Insert source values that lie beyond the range into the translation ``y``; float32.

        ``clip``: return ``y``. ``preserve``: exactly ``x`` wherever ``beyond`` is True. ``preserve_unchanged``: this
        below the range; above it the weight of ``x`` falls linearly from 1 to 0 as ``y`` moves from 1/8 to 1/4 of the
        range below the upper end, so bone is kept, but dense contrast agent that the network removed is not restored.

        Args:
            x, y: source and decoded translation, same shape and units.
        """
        if self.outside == "clip":
            return y
        if self.outside == "preserve":
            return np.where(self.beyond(x), x, y)
        y = np.where(x <= self.low, x, y)
        above = x >= self.high
        share = np.clip(2 - (self.high - y[above]) / ((self.high - self.low) / 8), 0, 1).astype(np.float32)
        y[above] = share * x[above] + (1 - share) * y[above]
        return y

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def masked_value(data: np.ndarray, background: float | None) -> float | None:
    """``background`` if enough voxels (`MASKED_SHARE`) of a volume have this value for it to be masked, else None."""
    masked = background is not None and np.count_nonzero(data == background) >= MASKED_SHARE * data.size
    return background if masked else None


def fit_range(
    data: np.ndarray,
    *,
    kind: Literal["window", "percentile", "zscore"] = "window",
    low: float | None = None,
    high: float | None = None,
    width: float = 4.0,
    outside: Outside = "clip",
    background: float | None = None,
) -> Range:
    """Choose the intensity range of one case.

    Args:
        data: (X, Y, Z) in the image's units.
        kind: ``window``: low and high are values, default -1000 and 1000 HU. ``percentile``: low is a percentile of the
            whole volume, default 0.1 (values below the mean are not all background: in a crop they are half of the
            tissue); high is a percentile of the foreground, default 99.5 (a large background would shift one of the
            whole volume). ``zscore``: mean ± width · sd of the foreground.
        outside: see ``Range``.
        background: value of masked voxels, see ``Range``; all other voxels are then the foreground. Only used for
            ``window`` and for volumes that are masked: at least 5 % of the voxels have this value. A whole head with
            noise in the air around it is not.

    Raises:
        InputError: the image is constant and has no intensity range.
    """
    if kind == "window":
        return Range(-1000.0 if low is None else low, 1000.0 if high is None else high, outside, background)
    background = masked_value(data, background)
    foreground = data[data > foreground_threshold(data) if background is None else data != background]
    if foreground.size == 0:
        raise InputError(
            "volume-constant", "the image is constant, so it has no intensity range; remove it from the cohort"
        )
    if kind == "zscore":
        mean, sd = float(foreground.mean()), float(foreground.std()) or 1.0
        return Range(mean - width * sd, mean + width * sd, outside, background)
    unmasked = data if background is None else foreground
    lowest = float(np.percentile(unmasked, 0.1 if low is None else low))
    highest = float(np.percentile(foreground, 99.5 if high is None else high))
    return Range(min(lowest, highest - 1e-6 * max(abs(highest), 1)), highest, outside, background)


def typical_range(ranges: list[Range]) -> Range:
    """Range of a cohort: the median of each end over its cases."""
    low, high = (float(np.median([getattr(r, end) for r in ranges])) for end in ("low", "high"))
    return replace(ranges[0], low=low, high=high)


@dataclass(frozen=True)
class TargetRange:
    """Range in which outputs are decoded when the target of a case is unknown, as for every new scan.

    ``typical`` and ``source`` are the typical ranges of the training targets and sources. With ``follow``, ``typical``
    is scaled by the width of the scan's source range relative to ``source``: the sequences of one visit share the
    scanner's gain, so a brighter source has a brighter target.
    """

    typical: Range
    source: Code
    follow: bool = False

    def of(self, source: Code) -> Range:
        """Return the range for decoding the translation of a scan with this ``source`` range."""
        if not self.follow:
            return self.typical
        assert isinstance(source, Range) and isinstance(self.source, Range), (
            "only intensity ranges have a gain; label maps cannot use follow"
        )
        gain = (source.high - source.low) / (self.source.high - self.source.low)
        return replace(self.typical, low=self.typical.low * gain, high=self.typical.high * gain)
