"""Intensity codecs: HU or scanner units → the network's [-1, 1] and exactly back.

Every codec is a linear map of one range [low, high] onto [-1, 1]; the kinds differ in how a case finds its
range: a fixed window (HU), the case's percentiles, or its mean and standard deviation. Beyond the range
the code is clipped, and ``outside`` declares what the output does there (docs/decisions/codecs.md).
Label maps, which have values but no intensities, are coded by ``label_maps.LabelTable``.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from medgen.data.body_mask import foreground_threshold
from medgen.errors import InputError
from medgen.types import Outside

GAP = 0.25  # code units between a masked background and the darkest tissue


class Code(Protocol):
    """How one source is coded: a ``Range`` of intensities, or the table of a label map."""

    def encode(self, x: np.ndarray) -> np.ndarray: ...

    def to_dict(self) -> dict[str, Any]: ...


def encoded(codes: Sequence[Code], data: Sequence[np.ndarray]) -> np.ndarray:
    """Contrasts (X, Y, Z), each by its code → channels (C, X, Y, Z): one a contrast, or one a value of a label map."""
    return np.concatenate(
        [x if x.ndim == 4 else x[None] for x in (c.encode(v) for c, v in zip(codes, data, strict=True))]
    )


@dataclass(frozen=True)
class Range:
    """Linear code of one case: ``low`` ↦ -1, ``high`` ↦ 1, clipped beyond.

    ``outside="preserve"``: what lies at or beyond the range's ends (bone, metal, air, padding) is handed to the
    output unchanged by ``carried``; only sound where source and target share units. ``"preserve_unchanged"``: above the
    range only where the translation stays near its end. ``"clip"``: it is lost.

    ``background``: the exact value of voxels that were masked away (0 in skull-stripped MR). It is coded as -1
    and the range begins at -1 + GAP, so that a large dark ventricle is not taken for the outside of the head.
    """

    low: float
    high: float
    outside: Outside = "clip"
    background: float | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise ValueError(f"a code needs low < high, both finite; got {self.low} and {self.high}")

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Any shape, units of the image → float32 in [-1, 1]."""
        inside = np.clip(x, self.low, self.high).astype(np.float32)
        y = (inside - np.float32(self.low)) / self._unit + self._start
        return y if self.background is None else np.where(x == self.background, np.float32(-1), y)

    def decode(self, y: np.ndarray) -> np.ndarray:
        """Inverse of ``encode`` inside the range (to float32 rounding); codes beyond ±1 extrapolate."""
        x = (y.astype(np.float32) - self._start) * self._unit + np.float32(self.low)
        if self.background is None:
            return x
        return np.where(y < -1 + GAP / 2, np.float32(self.background), x)

    @property
    def _start(self) -> np.float32:
        """Code of ``low``."""
        return np.float32(-1 if self.background is None else -1 + GAP)

    @property
    def _unit(self) -> np.float32:
        """Image units a code unit."""
        return np.float32((self.high - self.low) / (1 - self._start))

    def clip(self, x: np.ndarray) -> np.ndarray:
        """``x`` as float32 with what lies beyond the range at its nearer end; a masked background stays."""
        inside = np.clip(x, self.low, self.high).astype(np.float32, copy=False)
        return inside if self.background is None else np.where(x == self.background, np.float32(x), inside)

    def beyond(self, x: np.ndarray) -> np.ndarray:
        """Where ``x`` lies at an end of the range or beyond: the network is shown nothing of the value itself."""
        return (x <= self.low) | (x >= self.high)

    def carried(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The translation ``y`` with the source's own values where they lie beyond the range; float32.

        ``clip``: ``y`` itself. ``preserve``: ``x``, to the bit, wherever ``beyond``. ``preserve_unchanged``: the same
        below the range; above it the share of ``x`` falls linearly from 1 to 0 while y moves from 1/8 to 1/4
        of the range down from the end, so bone is left as it is and dense contrast that is taken away is not.

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
    """The code of one case.

    Args:
        data: (X, Y, Z) in the image's units.
        kind: ``window``: low and high are values, default -1000 and 1000 HU. ``percentile``: low is one of the whole
            volume, default 0.1, for what lies below the mean is not all background: in a crop it is half the tissue;
            high is one of the foreground, default 99.5, or a large background would move it. ``zscore``:
            mean ± width · sd of the foreground.
        background: value of masked voxels, see ``Range``; the foreground is then all others.

    Raises:
        InputError: the image is constant, so no range exists.
    """
    if kind == "window":
        return Range(-1000.0 if low is None else low, 1000.0 if high is None else high, outside, background)
    foreground = data[data > foreground_threshold(data) if background is None else data != background]
    if foreground.size == 0:
        raise InputError(
            "volume-constant", "the image is constant, so it has no intensity range; remove it from the cohort"
        )
    if kind == "zscore":
        mean, sd = float(foreground.mean()), float(foreground.std()) or 1.0
        return Range(mean - width * sd, mean + width * sd, outside, background)
    whole = data if background is None else foreground
    bottom = float(np.percentile(whole, 0.1 if low is None else low))
    top = float(np.percentile(foreground, 99.5 if high is None else high))
    return Range(min(bottom, top - 1e-6 * max(abs(top), 1)), top, outside, background)


def typical_range(ranges: list[Range]) -> Range:
    """The range of a cohort: the median of its cases' ends."""
    low, high = (float(np.median([getattr(r, end) for r in ranges])) for end in ("low", "high"))
    return replace(ranges[0], low=low, high=high)


@dataclass(frozen=True)
class TargetRange:
    """Where outputs are decoded when a case's target is unknown, as always with a new scan.

    ``typical`` is the training targets' median range. With ``follow`` the source's own range decides, times
    the training cases' ratio of target to source: the gain of a scanner is shared by the sequences of one
    visit, so a scan that is brighter than usual has a brighter partner too.
    """

    typical: Range
    source: Code
    follow: bool = False

    def of(self, source: Code) -> Range:
        """The range in which the translation of a scan with this ``source`` range is decoded."""
        if not self.follow:
            return self.typical
        assert isinstance(source, Range) and isinstance(self.source, Range), "only intensities have a gain to follow"
        gain = (source.high - source.low) / (self.source.high - self.source.low)
        return replace(self.typical, low=self.typical.low * gain, high=self.typical.high * gain)
