"""A case that is being checked, and a reason against it: what the checks of `findings` and `lesion_findings` share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from medgen.evaluation.thresholds import Thresholds

Status = Literal["pass", "review", "fail"]
Spacing = tuple[float, float, float]
SIDES = ("RL", "AP", "SI")  # the positive and the negative end of each axis in the scanner


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
    affine: np.ndarray | None = None  # (4, 4), voxels of the volume → mm in the scanner, RAS
    values: dict[str, float | str] = field(default_factory=dict)
    reasons: list[Reason] = field(default_factory=list)

    @property
    def unit(self) -> str:
        return " HU" if self.hu else ""

    def at(self, place: tuple[float, float, float]) -> str:
        """A place as viewers show it, mm in the scanner with their side; without an affine, from the first voxel."""
        if self.affine is None:
            return "({:.0f}, {:.0f}, {:.0f}) mm from the first voxel".format(*(self.origin + place))
        axes = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        where = axes @ (self.origin + place) + self.affine[:3, 3]
        return ", ".join(f"{side[int(mm < 0)]} {abs(mm):.0f}" for side, mm in zip(SIDES, where, strict=True)) + " mm"

    def add(self, fault: str, status: Status, text: str) -> None:
        self.reasons.append(Reason(fault, status, text))
