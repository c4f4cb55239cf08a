"""The image on which structures of a DICOM object are drawn, and the checks that both lie in the same place."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from medgen.errors import InputError
from medgen.io.dicom.series import choose, list_series, series_uid
from medgen.io.dicom.stack import stack
from medgen.io.names import one_line
from medgen.io.volume import Geometry

TO_RAS = np.array([-1.0, -1.0, 1.0])  # DICOM's patient coordinates are LPS
Structure = tuple[str, np.ndarray]  # name; bool (X, Y, Z) on the image's grid


@dataclass(frozen=True, eq=False)
class ImageGrid:
    """Geometry and identity of a DICOM series, without its voxels.

    frame     FrameOfReferenceUID
    patient   PatientID, may be empty
    images    (SOPInstanceUID, number of the frame in it) of each slice along the third axis
    """

    folder: Path
    geometry: Geometry
    frame: str
    patient: str
    series: str
    images: tuple[tuple[str, int], ...]

    def indices(self, points: np.ndarray) -> np.ndarray:
        """Patient coordinates (N, 3), mm, LPS → voxel indices (N, 3), fractions included."""
        inverse = np.linalg.inv(self.geometry.affine)
        return points * TO_RAS @ inverse[:3, :3].T + inverse[:3, 3]

    def check_object(self, ds: Dataset, path: Path, frames: Iterable[str]) -> list[str]:
        """Check that an object is in the image's frame of reference; returns warnings.

        Args:
            frames: the frames of reference that the object states for its structures.

        Raises:
            InputError: it states none, or another one: its coordinates then mean another place.
        """
        stated = {str(frame) for frame in frames if frame}
        if stated != {self.frame} or not self.frame:
            raise InputError(
                "structures-frame-differs",
                f"{path} is in the frame of reference {', '.join(sorted(stated)) or 'of no image'}, and {self.folder} "
                f"in {self.frame or 'none'}, so its structures cannot be placed on this image; give the series on "
                "which they were drawn",
            )
        patient = str(ds.get("PatientID") or "")
        if patient and self.patient and patient != self.patient:
            return [f"{path.name} and {self.folder.name} have different PatientIDs, but one frame of reference"]
        return []

    def _is_of(self, item: Any, k: int) -> bool:
        """Whether a reference names the image of slice ``k``; one without frame numbers names all frames."""
        uid, number = self.images[k]
        frames = item.get("ReferencedFrameNumber")
        numbers = frames if isinstance(frames, Sequence) and not isinstance(frames, str) else [frames]
        named = {int(n) for n in numbers if n is not None}
        return str(item.get("ReferencedSOPInstanceUID")) == uid and (not named or number in named)

    def check_slice(self, k: int, referenced: Iterable[Any], path: Path, what: str) -> None:
        """Refuse a structure whose place is not that of the image that it names. Raises InputError."""
        own = {uid for uid, _ in self.images}
        named = [item for item in referenced if str(item.get("ReferencedSOPInstanceUID")) in own]  # else other series
        if named and not any(self._is_of(item, k) for item in named):
            raise InputError(
                "structures-slice-differs",
                f"{path}: {what} lies in slice {k + 1} of {self.folder}, but names another image of it; one of the two "
                "was changed, so it is not used",
            )


def skipped(slices: Iterable[int]) -> int:
    """The distance of the slices of a structure if it was drawn on thicker ones: 2, every second slice; 0 if not.

    Then all distances are multiples of it and most are equal to it. Separate nodules in one slice each are not.
    """
    distances = np.diff(sorted(set(slices)))
    common = int(np.gcd.reduce(distances)) if len(distances) > 1 else 1
    return common if common > 1 and np.mean(distances == common) >= 0.5 else 0


def text_of(item: Any, keyword: str) -> str:
    """Text of an element; a backslash, which separates values, is part of it: PTV\\60Gy."""
    value = item.get(keyword) or ""
    return (value if isinstance(value, str) else "\\".join(map(str, value))).strip()


def check_numbers(numbers: Sequence[int], path: Path) -> None:
    """Raise InputError if two structures have one number, so that it is unknown whose a contour or frame is."""
    twice = next((number for number in numbers if numbers.count(number) > 1), None)
    if twice is not None:
        raise InputError(
            "structures-number-twice", f"{path} has two structures with the number {twice}; export it again"
        )


def image_grid(image: Path, series: str | None = None) -> ImageGrid:
    """The grid of a DICOM series, from its headers.

    Args:
        image: folder of the series, or one of its files.
        series: as for ``io.read.read_volume``.

    Raises:
        InputError: not one DICOM series with even slices.
    """
    folder = image if image.is_dir() else image.parent
    if image.is_file():
        series = series or series_uid(image)
        if series is None:
            raise InputError(
                "structures-need-dicom",
                f"{image} is not a DICOM image; structures are placed by DICOM's frame of reference, which other "
                "formats do not have, so give the DICOM series",
            )
    found = list_series(folder)
    if not found:
        raise InputError(
            "structures-need-dicom", f"{folder} has no DICOM series; give the series on which the structures were drawn"
        )
    slices, geometry = stack(choose(found, series, folder).slices, folder)
    header = slices[0].header
    frame, patient, uid = (
        str(header.get(key) or "") for key in ("FrameOfReferenceUID", "PatientID", "SeriesInstanceUID")
    )
    images = tuple((str(s.header.get("SOPInstanceUID")), s.frame + 1) for s in slices)
    return ImageGrid(folder, geometry, frame, patient, uid, images)


def joined(
    structures: Iterator[Structure], shape: tuple[int, ...], names: Sequence[str], path: Path, *, ordered: bool
) -> np.ndarray:
    """Label map (X, Y, Z) int16: structure ``names[i]`` is i + 1.

    Args:
        ordered: where structures overlap, later names lie on top; otherwise overlaps are refused.

    Raises:
        InputError: two structures overlap and the order is not given.
    """
    values = {name: value for value, name in enumerate(names, 1)}
    labels = np.zeros(shape, np.int16)
    for name, mask in structures:
        value = values[name]
        here = labels[mask]
        if not ordered and here.any():
            other = names[int(here[here > 0][0]) - 1]
            raise InputError(
                "structures-overlap",
                f"{path}: {one_line(name)} and {one_line(other)} overlap in {np.count_nonzero(here)} voxels, and a "
                "label map has one value for each; name the structures with --names, later ones lie on top",
            )
        labels[mask] = np.maximum(here, value)  # whatever the order in the file
    return labels
