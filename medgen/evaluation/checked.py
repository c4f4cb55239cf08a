"""A case that is being checked, and a reason against it: what the checks of `findings` and `lesion_findings` share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from medgen.evaluation.thresholds import Thresholds

Status = Literal["pass", "review", "fail"]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Reason:
    """One finding. ``fault``: flip, shift, structure, offset, scale, enhancement, lesion_lost, lesion_new, anatomy."""

    fault: str
    status: Status
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass
class Checked:
    """What the checks share, all arrays on one grid; they add to ``values`` and ``reasons``."""

    source: np.ndarray
    output: np.ndarray
    spacing: Spacing
    body: np.ndarray
    truth: np.ndarray | None
    labels: np.ndarray | None
    names: Mapping[int, str]
    lesions: np.ndarray | None
    limits: Thresholds
    hu: bool
    origin: np.ndarray  # mm from the volume's first voxel to this grid's
    values: dict[str, float | str] = field(default_factory=dict)
    reasons: list[Reason] = field(default_factory=list)

    @property
    def unit(self) -> str:
        return " HU" if self.hu else ""

    def at(self, place: tuple[float, float, float]) -> str:
        """A place for the reader, in mm from the first voxel of the volume as it was given."""
        return "({:.0f}, {:.0f}, {:.0f}) mm".format(*(self.origin + place))

    def add(self, fault: str, status: Status, text: str) -> None:
        self.reasons.append(Reason(fault, status, text))
