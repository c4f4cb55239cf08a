"""The case under check and its findings, shared by the modules of findings."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import product
from threading import RLock
from typing import Any, Literal

import numpy as np
import torch
from scipy import ndimage

from medgen.data.fast_filters import gaussian
from medgen.qa.limits import Thresholds
from medgen.qa.measures.hounsfield import SMOOTH_MM
from medgen.qa.measures.structure import edges

Status = Literal["pass", "review", "fail"]
Spacing = tuple[float, float, float]
MOST_THREADS = 4  # of one case; each needs the memory of several maps
SIDES = ("RL", "AP", "SI")  # letters of the positive and negative end of each scanner axis


@dataclass(frozen=True)
class Place:
    """Bounding box of a finding: two corners, mm in scanner coordinates (RAS)."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]


@dataclass(frozen=True)
class Reason:
    """One finding.

    Attributes:
        fault: flip, shift, structure, offset, scale, enhancement, lesion_lost, lesion_new, anatomy, truth, input or
            unchecked.
        status: fail, review, or pass for a note.
        text: one or more sentences.
        place: None if the finding concerns the whole volume or the affine is unknown.
        by: evidence: images (input and output alone), segmenter, labels, lesions (their masks), truth, or input
            (recorded by the conversion).
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
    """Inputs and results of the checks. All arrays but ``whole`` are on one grid; ``values`` and ``reasons`` grow."""

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
    origin: np.ndarray  # offset of this grid's first voxel from the volume's, mm
    whole: dict[str, np.ndarray] = field(default_factory=dict)  # images and body, not cropped
    affine: np.ndarray | None = None  # (4, 4), voxels of the volume → mm in scanner coordinates (RAS)
    values: dict[str, float | str] = field(default_factory=dict)
    reasons: list[Reason] = field(default_factory=list)
    excused: list[Reason] = field(default_factory=list)  # findings that the truth shows too
    regions: dict[str, tuple[float, float]] = field(
        default_factory=dict
    )  # limits of the mean HU of labelled structures

    maps: dict[tuple[int, str], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)  # see `shared`
    lock: Any = field(default_factory=RLock, repr=False)  # of ``maps``

    def shared(self, name: str, image: np.ndarray, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """A map of one of the images of this case, such as its edges, that several findings use; computed once."""
        key = id(image), name
        with self.lock:
            if key not in self.maps:
                self.maps[key] = image, compute()  # the image is kept, so that no other one gets its id
            return self.maps[key][1]

    def find(self, checks: Sequence[Callable[["Checked"], None]]) -> None:
        """Run independent checks at the same time, and add what they find in their order; the last starts first.

        Each works on a copy without findings that shares the images and maps, so that the result does not depend on
        which one ends first. Most of the time goes into array functions, which let other threads run.
        """
        copies = [replace(self, values={}, reasons=[], excused=[], regions={}) for _ in checks]
        with ThreadPoolExecutor(min(torch.get_num_threads(), MOST_THREADS), "check") as pool:
            running = [pool.submit(check, copy) for check, copy in zip(checks[::-1], copies[::-1], strict=True)]
        for future in running:
            future.result()
        for copy in copies:
            self.values |= copy.values
            self.reasons += copy.reasons
            self.excused += copy.excused
            self.regions |= copy.regions

    def edges(self, image: np.ndarray) -> np.ndarray:
        """`structure.edges` of an image of this case."""
        return self.shared("edges", image, lambda: edges(image, self.spacing))

    @property
    def smooth_source(self) -> np.ndarray:
        """The source after a Gaussian filter of `SMOOTH_MM`, that separates tissues from noise."""
        return self.shared("smooth", self.source, lambda: gaussian(self.source, [SMOOTH_MM / s for s in self.spacing]))

    @property
    def unit(self) -> str:
        return " HU" if self.hu else ""

    def at(self, place: tuple[float, float, float]) -> str:
        """A position as viewers show it: mm in scanner coordinates with sides, such as "R 40, A 12, S 5 mm".

        Without an affine: mm from the first voxel.
        """
        if self.affine is None:
            return "({:.0f}, {:.0f}, {:.0f}) mm from the first voxel".format(*(self.origin + place))
        scanner = _in_scanner(self.origin + place, self.affine)
        return ", ".join(f"{side[int(mm < 0)]} {abs(mm):.0f}" for side, mm in zip(SIDES, scanner, strict=True)) + " mm"

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
        """Add a finding. ``excused``: the truth shows the same, so the finding does not count."""
        (self.excused if excused else self.reasons).append(Reason(fault, status, text, place, by))

    def ball(self, centre: Sequence[float], diameter: float) -> Place | None:
        """Bounding box of a ball: ``centre`` in mm from this grid's first voxel, ``diameter`` in mm."""
        if self.affine is None:
            return None
        middle = _in_scanner(self.origin + centre, self.affine)
        return _box(np.stack([middle - diameter / 2, middle + diameter / 2]))

    def box(self, mask: np.ndarray) -> Place | None:
        """Bounding box of a mask (X, Y, Z) bool on this grid; None if it is empty."""
        corners = _corners(mask)
        if self.affine is None or corners is None:
            return None
        return _box(_in_scanner(self.origin + corners * self.spacing, self.affine))


def place_of(mask: np.ndarray, affine: np.ndarray | None) -> Place | None:
    """Bounding box of a mask (X, Y, Z) bool on the volume's grid; None without an affine (4, 4) or if it is empty."""
    corners = _corners(mask)
    return None if affine is None or corners is None else _box(corners @ affine[:3, :3].T + affine[:3, 3])


def ball_mm(millilitres: float) -> float:
    """Diameter in mm of a ball of this volume."""
    return float(np.cbrt(6000 * millilitres / np.pi))


def _corners(mask: np.ndarray) -> np.ndarray | None:
    """(8, 3) voxel indices of the corners of a mask's bounding box."""
    boxes = ndimage.find_objects(np.asarray(mask, np.uint8))
    return np.array([*product(*((part.start - 0.5, part.stop - 0.5) for part in boxes[0]))]) if boxes else None


def _in_scanner(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Convert mm along the volume's axes from its first voxel to mm in scanner coordinates."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return points @ axes.T + affine[:3, 3]


def _box(points: np.ndarray) -> Place:
    low, high = (tuple(float(mm) for mm in ends) for ends in (points.min(0), points.max(0)))
    return Place(low, high)  # type: ignore[arg-type]
