"""Whether a DICOM series is complete: by the number of images in its headers, and by gaps between its images."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread

from medgen.errors import InputError
from medgen.io.dicom.elements import numbers
from medgen.io.dicom.header import Slice
from medgen.io.dicom.parts import instance_step
from medgen.io.dicom.series import Series, list_series
from medgen.io.dicom.stack import stack


def missing_images(folder: Path) -> tuple[str, str]:
    """Describe missing images of the series in a folder.

    Returns:
        (lacking, note): why images are missing, and a note if the headers do not state the number of images. Both are
        empty if all stated images are present, and if no series can be read, which the conversion reports.
    """
    try:
        series = [one for one in list_series(folder) if not one.remark]
        found = [_lacking(group) for group in _by_uid(series)]
    except (InputError, OSError):
        return "", ""
    return "; ".join(filter(None, (text for text, _ in found))), "; ".join(filter(None, (text for _, text in found)))


def _by_uid(series: Sequence[Series]) -> list[list[Slice]]:
    groups: dict[str, list[Slice]] = {}
    for one in series:
        groups.setdefault(one.uid, []).extend(one.slices)
    return list(groups.values())


def _lacking(slices: list[Slice]) -> tuple[str, str]:
    files = {item.file for item in slices}
    header = dcmread(slices[0].file, stop_before_pixels=True, force=True)
    counted = [
        (name, count, present(slices))
        for name, read, present in COUNTS
        if (count := _as_count(read(header))) is not None
    ]
    for name, count, present in counted:
        if present < count:
            return f"only {present} of {count} images by {name} are present", ""
    if missing := _numbering_gap(slices):
        return missing, ""
    if counted or all("multiframe" in item.header for item in slices):
        return "", ""
    gap = _distance_gap(slices)
    return "", f"the headers do not state how many images the series has; {len(files)} had arrived{gap}"


def _numbering_gap(slices: Sequence[Slice]) -> str:
    """Describe InstanceNumbers with a constant step above 1, as when only every second image has arrived."""
    step = instance_step(slices)
    return f"InstanceNumber increases in steps of {step}, so images may be missing" if step > 1 else ""


def _distance_gap(slices: Sequence[Slice]) -> str:
    """Describe a slice distance of about twice the slice thickness or the spacing in the header, or more."""
    try:
        step = stack(slices, slices[0].file.parent)[1].spacing[2]
    except InputError:
        return ""
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        length = numbers(slices[0].header, keyword, 1)
        if length is not None and 0 < length[0] <= 0.55 * step:
            return (
                f", {step:.3g} mm apart although {keyword} is {length[0]:.3g} mm, so slices may be missing between them"
            )
    return ""


# Counts --------------------------------------------------------------------------------------------------


def _as_count(value: object) -> int | None:
    try:
        count = int(str(value))
    except ValueError:
        return None
    return count if count > 0 else None


def _images(slices: Sequence[Slice]) -> int:
    return len({item.file for item in slices})


def _of_acquisition(slices: Sequence[Slice]) -> int:
    first = slices[0].header.get("AcquisitionNumber")
    return len({item.file for item in slices if item.header.get("AcquisitionNumber") == first})


def _places(slices: Sequence[Slice]) -> int:
    places = [numbers(item.header, "ImagePositionPatient", 3) for item in slices]
    return len(np.unique(np.round([p for p in places if p is not None], 3), axis=0))


def _private(creator: str, group: int, element: int) -> Callable[[Dataset], object]:
    def read(header: Dataset) -> object:
        try:
            return header.private_block(group, creator)[element].value
        except KeyError:
            return None

    return read


# Name of the element, how it is read, and the number of present images that it counts.
COUNTS: tuple[tuple[str, Callable[[Dataset], object], Callable[[Sequence[Slice]], int]], ...] = (
    ("NumberOfSeriesRelatedInstances", lambda header: header.get("NumberOfSeriesRelatedInstances"), _images),
    ("ImagesInSeries", lambda header: header.get("ImagesInSeries"), _images),
    ("ImagesInSeries (GE)", _private("GEMS_SERS_01", 0x0025, 0x07), _images),
    ("InConcatenationTotalNumber", lambda header: header.get("InConcatenationTotalNumber"), _images),
    ("ImagesInAcquisition", lambda header: header.get("ImagesInAcquisition"), _of_acquisition),
    ("NumberOfSlices", lambda header: header.get("NumberOfSlices"), _places),
    ("LocationsInAcquisition (GE)", _private("GEMS_RELA_01", 0x0021, 0x4F), _places),
)
