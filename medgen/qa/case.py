"""A case that is being checked, and a reason against it: what the checks of `findings` and `lesion_findings` share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import numpy as np
from scipy import ndimage

from medgen.qa.limits import Thresholds

Status = Literal["pass", "review", "fail"]
Spacing = tuple[float, float, float]
SIDES = ("RL", "AP", "SI")  # the positive and the negative end of each axis in the scanner


@dataclass(frozen=True)
class Place:
    """Where a finding lies: the two corners of its box, mm in the scanner (RAS)."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]


@dataclass(frozen=True)
class Reason:
    """One finding.

    ``fault``: flip, shift, structure, offset, scale, enhancement, lesion_lost, lesion_new, anatomy, input, unchecked.
    ``by``: what it rests on: images (input and output alone), segmenter, labels, lesions (their masks), truth, input
    (what the conversion knew of it). ``status`` pass: a note. ``place``: None where the finding is about the whole
    volume, or the volume's place in the scanner is not known.
    """

    fault: str
    status: Status
    text: str
    place: Place | None = None
    by: str = "images"

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
    excused: list[Reason] = field(default_factory=list)  # what the images alone say and the truth shows too
    regions: dict[str, tuple[float, float]] = field(default_factory=dict)  # limits of the mean of labelled structures

    @property
    def unit(self) -> str:
        return " HU" if self.hu else ""

    def at(self, place: tuple[float, float, float]) -> str:
        """A place as viewers show it, mm in the scanner with their side; without an affine, from the first voxel."""
        if self.affine is None:
            return "({:.0f}, {:.0f}, {:.0f}) mm from the first voxel".format(*(self.origin + place))
        where = _in_scanner(self.origin + place, self.affine)
        return ", ".join(f"{side[int(mm < 0)]} {abs(mm):.0f}" for side, mm in zip(SIDES, where, strict=True)) + " mm"

    def add(
        self,
        fault: str,
        status: Status,
        text: str,
        place: Place | None = None,
        *,
        by: str = "images",
        excused: bool = False,
    ) -> None:
        """Another finding; ``excused``: the truth shows the same, so that it does not count."""
        (self.excused if excused else self.reasons).append(Reason(fault, status, text, place, by))

    def ball(self, centre: Sequence[float], diameter: float) -> Place | None:
        """The box of a ball: ``centre`` in mm from this grid's first voxel, ``diameter`` in mm."""
        if self.affine is None:
            return None
        middle = _in_scanner(self.origin + centre, self.affine)
        return _box(np.stack([middle - diameter / 2, middle + diameter / 2]))

    def box(self, mask: np.ndarray) -> Place | None:
        """The box of a mask (X, Y, Z) bool on this grid; None if it is empty."""
        corners = _corners(mask)
        if self.affine is None or corners is None:
            return None
        return _box(_in_scanner(self.origin + corners * self.spacing, self.affine))


def place_of(mask: np.ndarray, affine: np.ndarray | None) -> Place | None:
    """The box of a mask (X, Y, Z) bool on the volume's own grid, ``affine`` (4, 4) its; None if it is empty."""
    corners = _corners(mask)
    return None if affine is None or corners is None else _box(corners @ affine[:3, :3].T + affine[:3, 3])


def ball_mm(millilitres: float) -> float:
    """The diameter in mm of a ball of that volume."""
    return float(np.cbrt(6000 * millilitres / np.pi))


def _corners(mask: np.ndarray) -> np.ndarray | None:
    """(8, 3) voxel indices of the corners of the box of a mask."""
    boxes = ndimage.find_objects(np.asarray(mask, np.uint8))
    return np.array([*product(*((part.start - 0.5, part.stop - 0.5) for part in boxes[0]))]) if boxes else None


def _in_scanner(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """mm along the volume's axes from its first voxel → mm in the scanner."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return points @ axes.T + affine[:3, 3]


def _box(points: np.ndarray) -> Place:
    low, high = (tuple(float(mm) for mm in ends) for ends in (points.min(0), points.max(0)))
    return Place(low, high)  # type: ignore[arg-type]
