"""Read a DICOM series (single slices or enhanced multi-frame images) into one Volume in patient coordinates.

Slices are ordered by ImagePositionPatient along the slice normal, never by instance number or file name.
Voxel values are modality values: RescaleSlope and RescaleIntercept, or the modality LUT, are applied per slice. CT
values are in HU. MONOCHROME1 affects only the display, so values are not inverted (ITK inverts them).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medgen.errors import InputError
from medgen.io.dicom.derived.copies import Copies
from medgen.io.dicom.elements import Header, numbers, texts
from medgen.io.dicom.header import Slice, is_scan, read_header, slices_of
from medgen.io.dicom.lost import lost_slices
from medgen.io.dicom.parts import parts
from medgen.io.dicom.stack import image_type, is_colour, is_tiled, stack, why_no_volume
from medgen.io.dicom.units import CAPTURES
from medgen.io.paths import broken_link_message, require_path, walk

SAME_AXES = 1e-3  # difference of direction cosines
CAPTURE, UNPLACED = "secondary capture", "no patient coordinates"  # values of Series.remark


@dataclass(frozen=True)
class Series:
    """One image series, or one volume of a series that contains several volumes.

    ``remark`` gives the reason why the series is not selected automatically; it is empty for an ordinary scan.
    """

    uid: str
    description: str
    modality: str
    slices: tuple[Slice, ...] = field(repr=False, compare=False)
    remark: str = ""
    part: str = ""  # label of this volume, if the series contains several
    beside: str = ""  # description of the images in the series that are not slices and were skipped
    lacking: str = ""  # error message if the series is incomplete and must not be read

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(s.file for s in self.slices))

    @property
    def key(self) -> str:
        """Identifier of this volume within its folder; valid as the ``series`` argument of ``read_series``."""
        return f"{self.uid} {self.part}".strip()

    @property
    def header(self) -> Header:
        return self.slices[0].header

    def describe(self) -> str:
        """Return UID, description, modality and number of slices on one line."""
        remark = f" ({self.remark})" if self.remark else ""
        part = f", {self.part}" if self.part else ""
        count = f"{len(self.slices)} slice{'s' * (len(self.slices) != 1)}"
        return f"{self.uid}, '{self.description}'{part}, {self.modality}, {count}{remark}"


def list_series(folder: str | Path) -> list[Series]:
    """List the image series in ``folder``, sorted by series number.

    Subfolders are searched only if ``folder`` itself contains no image of a scan. Segmentations, dose objects and other
    objects that accompany a scan are excluded.

    Raises:
        InputError: a DICOM file cannot be parsed (if ignored, its slice would be missing), or a folder cannot be
            listed.
    """
    folder = require_path(folder)
    try:
        found = _images(path for path in sorted(folder.iterdir()) if _is_file(path))
        if all(_remark(header) for _, header in found):  # no image, or only a scout above the folders of the series
            walked = walk(folder, _reraise)  # rglob silently skips folders that cannot be listed
            paths = sorted(directory / name for directory, _, names in walked for name in names)
            found = _images(path for path in paths if _is_file(path))
    except OSError as error:
        raise InputError(
            "folder-unlistable",
            f"{error.filename or folder} cannot be listed ({error.strerror}); check its permissions",
        ) from error
    return grouped(found)


def grouped(found: Iterable[tuple[Path, Header]]) -> list[Series]:
    """Group image headers into series, sorted by series number; a series with several volumes yields one per volume.

    Images belong to the same series if PatientID, StudyInstanceUID and SeriesInstanceUID all agree. Duplicate files of
    one image are counted once. Duplicates are files whose elements are equal apart from the file meta group; the
    SOPInstanceUID alone does not identify them, because faulty anonymisers assign one UID to different images.
    """
    groups: dict[tuple[str, str, str], list[Slice]] = {}
    copies = Copies()
    for path, header in found:
        if not copies.has(path, header):
            groups.setdefault(series_key(header), []).extend(slices_of(path, header))
    return sorted((s for (*_, uid), slices in groups.items() for s in _series(uid, slices)), key=_series_order)


def series_key(header: Header) -> tuple[str, str, str]:
    """Return (PatientID, StudyInstanceUID, SeriesInstanceUID), which all slices of one series share."""
    patient, study, series = (str(header.get(k, "")) for k in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"))
    return patient, study, series


def series_uid(path: Path) -> str | None:
    """Return the SeriesInstanceUID of a DICOM file, or None if the file is not DICOM."""
    header = read_header(path)
    return None if header is None else header.get("SeriesInstanceUID", "")


# Grouping and selecting series ----------------------------------------------------------------------------------------


def _is_file(path: Path) -> bool:
    if path.is_symlink() and not path.exists():
        raise InputError("file-dangling-link", broken_link_message(path))
    return path.is_file()


def _reraise(error: OSError) -> None:
    raise error


def _images(paths: Iterable[Path]) -> list[tuple[Path, Header]]:
    headers = [(path, read_header(path)) for path in paths if not path.name.startswith(".")]
    images = [(path, header) for path, header in headers if header is not None and is_scan(header, path)]
    others = [path for path, header in headers if header is None]
    for fault in lost_slices(others, [path for path, _ in images]).values():
        raise InputError("dicom-lost-slice", fault)
    return images


def _series(uid: str, members: list[Slice]) -> list[Series]:
    slices, beside = _split_scan(members)
    first = slices[0].header
    remark = _remark(first)
    volumes = [("", slices)] if remark else parts(slices)
    modality, lacking = str(first.get("Modality", "?")), _missing_part(slices)
    described = ((texts(volume[0].header, "SeriesDescription")[0], part, volume) for part, volume in volumes)
    return [
        Series(uid, description, modality, tuple(volume), remark, part, beside, lacking)
        for description, part, volume in described
    ]


def _missing_part(slices: list[Slice]) -> str:
    """Return an error message if a part of a concatenation is missing, else an empty string.

    A concatenation is one image split into several files, numbered from 1 (PS3.3 C.7.6.16.2.2.4). The whole series is
    checked, because one of its files may contain a complete volume, so that the missing file is not noticed otherwise.
    """
    parts: dict[str, dict[int, Slice]] = {}
    for item in slices:
        number = numbers(item.header, "InConcatenationNumber", 1)
        if number is not None:
            parts.setdefault(str(item.header.get("ConcatenationUID")), {})[int(number[0])] = item
    for present in parts.values():
        totals = (numbers(item.header, "InConcatenationTotalNumber", 1) for item in present.values())
        count = max(max(present), *(0 if total is None else int(total[0]) for total in totals))
        missing = next(n for n in range(1, count + 2) if n not in present)
        if missing <= count:
            folder = next(iter(present.values())).file.parent
            return f"{folder}: part {missing} of {count} of a concatenated image is missing; add the missing file"
    return ""


def _remark(header: Header) -> str:
    """Return the reason why an image is not a slice of a scan; empty if it is one."""
    frames = numbers(header, "NumberOfFrames", 1)
    if "LOCALIZER" in image_type(header):
        return "localiser"
    screen = any("SCREEN" in value.upper() for value in image_type(header))  # a screen save stored as a CT image
    if screen or str(header.get("SOPClassUID", "")).startswith(CAPTURES):
        return CAPTURE
    if is_tiled(header):
        return "mosaic"
    if frames is not None and frames[0] > 1:
        return "multi-frame"
    if is_colour(header):
        return "colour"
    return UNPLACED if numbers(header, "ImagePositionPatient", 3) is None else ""


def _split_scan(members: list[Slice]) -> tuple[list[Slice], str]:
    """Return the slices of the scan in a series, and a description of the other images (a scout, a dose sheet).

    An image without a position that otherwise matches the slices counts as a slice, so that it causes an error instead
    of being dropped silently. Derived images (such as a reference image) among original slices also count as slices,
    unless only the original slices by themselves form a volume.
    """
    scan = [item for item in members if not _remark(item.header)]
    kinds = {_image_kind(item.header) for item in scan}
    scan = [
        item
        for item in members
        if not (reason := _remark(item.header)) or reason == UNPLACED and _image_kind(item.header) in kinds
    ]
    if not kinds:
        return members, ""
    original = [item for item in scan if "ORIGINAL" in image_type(item.header)]
    others = len(scan) - len(original)
    if 0 < others < len(original) and why_no_volume(scan) and len(parts(scan)) == 1 and not why_no_volume(original):
        scan = scan if _continued(original, scan) else original
    kept = {id(item) for item in scan}
    skipped = [item.header for item in members if id(item) not in kept]
    reasons = dict.fromkeys(_remark(header) or "derived image" for header in skipped)
    return scan, f"{len(skipped)} of the images in this series ({', '.join(reasons)})" if skipped else ""


def _continued(slices: Sequence[Slice], more: Sequence[Slice]) -> bool:
    """Whether images of ``more`` lie in line with ``slices``, a volume, beyond its ends: its slices after a gap."""
    ordered = stack(slices, slices[0].file.parent)[0]
    places = [numbers(item.header, "ImagePositionPatient", 3) for item in (ordered[0], ordered[-1])]
    axes = numbers(ordered[0].header, "ImageOrientationPatient", 6)
    if len(ordered) < 2 or axes is None or places[0] is None or places[1] is None:
        return False
    step = (places[1] - places[0]) / (len(ordered) - 1)
    length = float(np.linalg.norm(step))
    for item in more:
        place = numbers(item.header, "ImagePositionPatient", 3)
        own_axes = numbers(item.header, "ImageOrientationPatient", 6)
        if place is None or own_axes is None or np.abs(own_axes - axes).max() > SAME_AXES:
            continue
        along = float((place - places[0]) @ step) / length**2
        aside = float(np.linalg.norm(place - places[0] - along * step))
        if aside < 0.1 * length and not -0.5 < along < len(ordered) - 0.5:
            return True
    return False


def _image_kind(header: Header) -> tuple[str, ...]:
    """Return the attribute values by which images of one scan are recognised: SOP class, size and image type."""
    keywords = ("SOPClassUID", "Rows", "Columns")
    return (*(str(header.get(keyword)) for keyword in keywords), *image_type(header))


def _series_order(series: Series) -> tuple[float, str]:
    number = numbers(series.header, "SeriesNumber", 1)
    return (float("inf") if number is None else float(number[0]), series.uid)


def _chosen(folder: Path, selection: str | None) -> Series:
    found = list_series(folder)
    if not found:
        raise InputError(
            "dicom-no-series", f"{folder} contains no DICOM image series; give a volume file or a folder with a series"
        )
    return choose(found, selection, folder)


def choose(found: list[Series], selection: str | None, folder: Path) -> Series:
    """Select one of the series found in ``folder``.

    Args:
        selection: UID, number from 1, or part of the description; None selects the only series that is a scan.

    Raises:
        InputError: no series or several match (the message lists them), a number means one series in the list and
            another by its SeriesNumber, or a part of the series is missing.
    """
    listing = "; ".join(f"{number}) {series.describe()}" for number, series in enumerate(found, 1))
    if selection is None:
        matches = [s for s in found if not s.remark] or found
    else:
        matches = _matching(found, selection.strip(), folder)
    if len(matches) == 1:
        if matches[0].lacking:
            raise InputError("dicom-series-part-missing", matches[0].lacking)
        return matches[0]
    match_count = "" if selection is None else f", and '{selection}' matches {len(matches)} of them"
    raise InputError(
        "dicom-ambiguous-folder",
        f"{folder} contains {len(found)} DICOM series{match_count}; "
        f"choose one with --series (number, UID or part of the description): {listing}",
    )


def _matching(found: list[Series], selection: str, folder: Path) -> list[Series]:
    """The series that a selection means. Raises InputError for a number in the list that another series has itself."""
    if selection.isdecimal() and 1 <= int(selection) <= len(found):
        listed = found[int(selection) - 1]
        numbered = ((s, numbers(s.header, "SeriesNumber", 1)) for s in found)
        named = [s for s, number in numbered if number is not None and number[0] == int(selection)]
        if named and not any(s.uid == listed.uid for s in named):
            raise InputError(
                "dicom-series-number-ambiguous",
                f"{folder}: --series {selection} is number {selection} of the list, {listed.describe()}, and the "
                f"SeriesNumber of another series, {named[0].describe()}; give the UID or a part of the description",
            )
        return [listed]
    text = selection.lower()
    exact = [s for s in found if selection in (s.uid, s.key) or text in (s.description.lower(), s.part.lower())]
    if selection.isdecimal():  # digits are part of many descriptions, which a number in the list does not mean
        return exact
    return exact or [s for s in found if selection and text in f"{s.description}, {s.part}".lower()]
