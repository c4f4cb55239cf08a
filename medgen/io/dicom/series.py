"""DICOM series in: a folder of slices, or of enhanced multi-frame images -> one Volume in patient coordinates.

Slices are ordered by ImagePositionPatient along the slice normal, never by instance number or file name.
Voxel values are the modality values (RescaleSlope and RescaleIntercept, or the modality LUT, per slice): HU
for CT. MONOCHROME1 only says how a value is shown, so it does not change values (ITK inverts them).
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medgen.errors import InputError
from medgen.io.dicom.copies import Copies
from medgen.io.dicom.header import Header, Slice, is_scan, numbers, read_header, slices_of
from medgen.io.dicom.lost import lost_slices
from medgen.io.dicom.parts import differing, parts
from medgen.io.dicom.stack import image_type, is_colour, is_tiled, name, remarks, stack, why_no_volume
from medgen.io.dicom.units import CAPTURES
from medgen.io.dicom.voxels import values_of
from medgen.io.paths import dangling, require_path
from medgen.io.volume import Geometry, Volume, checked_finite

CAPTURE, UNPLACED = "secondary capture", "no patient coordinates"  # remarks on series


@dataclass(frozen=True)
class Series:
    """One image series, or a volume of a series that holds several; ``remark`` is empty, or says why it is not
    chosen by itself."""

    uid: str
    description: str
    modality: str
    slices: tuple[Slice, ...] = field(repr=False, compare=False)
    remark: str = ""
    part: str = ""  # which volume of its series
    beside: str = ""  # images of its series that are no slices and were passed over
    lacking: str = ""  # what is missing of its series, where that must not be read without

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(s.file for s in self.slices))

    @property
    def key(self) -> str:
        """What names this volume alone among those of its folder, as ``series`` of ``read_series``."""
        return f"{self.uid} {self.part}".strip()

    @property
    def header(self) -> Header:
        return self.slices[0].header

    def describe(self) -> str:
        """UID, description, modality and number of slices on one line."""
        remark = f" ({self.remark})" if self.remark else ""
        part = f", {self.part}" if self.part else ""
        count = f"{len(self.slices)} slice{'s' * (len(self.slices) != 1)}"
        return f"{self.uid}, '{self.description}'{part}, {self.modality}, {count}{remark}"


def list_series(folder: str | Path) -> list[Series]:
    """Image series in ``folder`` (where none lies directly in it: in its subfolders), by series number.

    Segmentations, dose and other objects that accompany a scan are left out. Raises InputError for a file
    that is DICOM but cannot be parsed: left out silently, it would be a missing slice.
    """
    folder = require_path(folder)
    try:
        found = _images(path for path in sorted(folder.iterdir()) if _is_file(path))
        if not found:
            below = os.walk(folder, onerror=_raised)  # rglob passes over folders that cannot be listed
            paths = sorted(Path(place, name) for place, _, names in below for name in names)
            found = _images(path for path in paths if _is_file(path))
    except OSError as error:
        raise InputError(
            "folder-unlistable",
            f"{error.filename or folder} cannot be listed ({error.strerror}); check its permissions",
        ) from error
    return grouped(found)


def grouped(found: Iterable[tuple[Path, Header]]) -> list[Series]:
    """Headers of images -> their series, by series number; a series of several volumes becomes several.

    A series is of one patient and study, whatever others its UID is given to.
    Copies of one image count once: files of the same elements but for their file meta group, as one SOPInstanceUID on
    different images is what broken anonymisers leave.
    """
    groups: dict[tuple[str, str, str], list[Slice]] = {}
    copies = Copies()
    for path, header in found:
        if not copies.has(path, header):
            groups.setdefault(owners(header), []).extend(slices_of(path, header))
    return sorted((s for (*_, uid), slices in groups.items() for s in _series(uid, slices)), key=_series_order)


def owners(header: Header) -> tuple[str, str, str]:
    """(PatientID, StudyInstanceUID, SeriesInstanceUID), which the slices of one series share."""
    patient, study, series = (str(header.get(k, "")) for k in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"))
    return patient, study, series


def read_series(folder: str | Path, *, series: str | None = None) -> Volume:
    """The volume of one series; ``series``: its UID, its number in ``list_series``, part of its description.

    Stored type: the smallest signed integer of 16 bits or more that holds the values if all are whole, else
    float32. A tilted gantry gives a sheared affine (exact; the qform of a NIfTI cannot express it).
    Raises InputError for uneven, missing or duplicate slices, colour, frames without a place, mixed grids,
    orientations or frames of reference, no patient coordinates, half a rescale, bits at another end of the pixels,
    and voxels that cannot be decoded.
    """
    folder = Path(folder)
    chosen = _chosen(folder, series)
    volume = read_slices(chosen.slices, folder)
    beside = (f"passed over, as it is no scan: {chosen.beside}",) if chosen.beside else ()
    return replace(volume, notes=(*volume.notes, *beside))


def read_slices(slices: Sequence[Slice], folder: Path) -> Volume:
    """The volume that slices make, whatever their order; ``folder`` names them in messages. As ``read_series``."""
    slices, geometry = stack(slices, folder)
    data = np.empty(geometry.shape, np.float32, order="F")
    whole = True
    units: dict[str, Slice] = {}
    paddings = np.full((2, 1, 1, geometry.shape[2]), np.nan, np.float32)
    doubts: dict[str, None] = {}
    for k, values, unit, doubt, padding in values_of(slices):
        if values.shape != geometry.shape[1::-1]:
            raise InputError(
                "dicom-shape-against-header",
                f"{slices[k].file} has voxels of shape {values.shape}, against its header; copy it again",
            )
        whole = whole and bool(np.all(values == np.rint(values)))
        data[:, :, k] = values.T
        units.setdefault(unit, slices[k])
        paddings[:, 0, 0, k] = (np.nan, np.nan) if padding is None else padding
        doubts |= {doubt: None} if doubt else {}
    checked_finite(data, folder)
    return Volume(
        data,
        geometry.affine,
        _stored_type(data, whole),
        path=folder,
        frames=tuple((s.file, s.frame) for s in slices),
        headers_sha256=_header_hash(slices),
        warnings=(*_mixed(slices), *doubts),
        notes=tuple(remarks(slices)),
        unit=_one_unit(units),
        padding=None if np.isnan(paddings).all() else (paddings[0], paddings[1]),
    )


def _one_unit(units: dict[str, Slice]) -> str:
    if len(units) > 1:
        said = " and ".join(
            f"{item.file.parent / name(item)} is in {unit or 'no named unit'}" for unit, item in units.items()
        )
        raise InputError("dicom-units-differ", f"{said}, and both are of one series; separate the two")
    return next(iter(units))


def _mixed(slices: Sequence[Slice]) -> list[str]:
    return [
        f"{keyword} differs between slices that are otherwise one volume: it may be made of two reconstructions"
        for keyword in differing(slices)
    ]


def check_unchanged(volume: Volume) -> None:
    """Refuse (InputError) to take anything more from the files of ``volume`` where their headers are others now."""
    if volume.headers_sha256 is None:
        return
    now = {}
    for file, _ in volume.frames or ():
        if file not in now and (header := read_header(file)) is not None:
            now[file] = slices_of(file, header)
    try:
        same = _header_hash([now[file][frame] for file, frame in volume.frames or ()]) == volume.headers_sha256
    except LookupError:
        same = False
    if not same:
        raise InputError(
            "dicom-files-changed", f"{volume.path} has DICOM files that changed since they were read; start again"
        )


def _stored_type(data: np.ndarray, whole: bool) -> np.dtype:
    low, high = float(data.min()), float(data.max())
    fitting = (t for t in (np.dtype("i2"), np.dtype("i4")) if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return next(fitting, np.dtype(np.float32)) if whole else np.dtype(np.float32)


def _header_hash(slices: Sequence[Slice]) -> str:
    return hashlib.sha256(repr([item.header for item in slices]).encode()).hexdigest()


def read_series_geometry(folder: str | Path, *, series: str | None = None) -> Geometry:
    """Grid of one series from the headers of its files. Choice and errors as ``read_series``."""
    folder = Path(folder)
    return stack(_chosen(folder, series).slices, folder)[1]


def series_uid(path: Path) -> str | None:
    """SeriesInstanceUID of a DICOM file; None for a file that is not DICOM."""
    header = read_header(path)
    return None if header is None else header.get("SeriesInstanceUID", "")


# Finding series ----------------------------------------------------------------------------------------


def _is_file(path: Path) -> bool:
    if path.is_symlink() and not path.exists():
        raise InputError("file-dangling-link", dangling(path))
    return path.is_file()


def _raised(error: OSError) -> None:
    raise error


def _images(paths: Iterable[Path]) -> list[tuple[Path, Header]]:
    headers = [(path, read_header(path)) for path in paths if not path.name.startswith(".")]
    images = [(path, header) for path, header in headers if header is not None and is_scan(header, path)]
    others = [path for path, header in headers if header is None]
    for fault in lost_slices(others, [path for path, _ in images]).values():
        raise InputError("dicom-lost-slice", fault)
    return images


def _series(uid: str, members: list[Slice]) -> list[Series]:
    slices, beside = _scan_among(members)
    first = slices[0].header
    remark = _remark(first)
    volumes = [("", slices)] if remark else parts(slices)
    description, modality = str(first.get("SeriesDescription", "")), str(first.get("Modality", "?"))
    lacking = _missing_part(slices)
    return [
        Series(uid, description, modality, tuple(volume), remark, part, beside, lacking) for part, volume in volumes
    ]


def _missing_part(slices: list[Slice]) -> str:
    """What is missing where one image was cut into files (a concatenation, PS3.3 C.7.6.16.2.2.4), counted from 1; empty
    where nothing is. Of the whole series, as a volume of several may lie in one of the files."""
    parts: dict[str, dict[int, Slice]] = {}
    for item in slices:
        number = numbers(item.header, "InConcatenationNumber", 1)
        if number is not None:
            parts.setdefault(str(item.header.get("ConcatenationUID")), {})[int(number[0])] = item
    for held in parts.values():
        totals = (numbers(item.header, "InConcatenationTotalNumber", 1) for item in held.values())
        count = max(max(held), *(0 if total is None else int(total[0]) for total in totals))
        missing = next(n for n in range(1, count + 2) if n not in held)
        if missing <= count:
            folder = next(iter(held.values())).file.parent
            return f"{folder} lacks part {missing} of {count} of an image that is stored in parts; fetch it"
    return ""


def _remark(header: Header) -> str:
    """Why an image is no slice of a scan; empty where it is one."""
    frames = numbers(header, "NumberOfFrames", 1)
    if "LOCALIZER" in image_type(header):
        return "localiser"
    if str(header.get("SOPClassUID", "")).startswith(CAPTURES):
        return CAPTURE
    if is_tiled(header):
        return "mosaic"
    if frames is not None and frames[0] > 1:
        return "multi-frame"
    if is_colour(header):
        return "colour"
    return UNPLACED if numbers(header, "ImagePositionPatient", 3) is None else ""


def _scan_among(members: list[Slice]) -> tuple[list[Slice], str]:
    """The slices of a scan among the images of a series, and a word on the others: a scout, a dose sheet.

    An image without a place that is otherwise as the slices are is one of them, so that it is not lost in silence. So
    are derived images (a reference picture) among original slices, unless those are a stack without them.
    """
    scan = [item for item in members if not _remark(item.header)]
    kinds = {_kind(item.header) for item in scan}
    scan = [
        item for item in members if not (why := _remark(item.header)) or why == UNPLACED and _kind(item.header) in kinds
    ]
    if not kinds:
        return members, ""
    original = [item for item in scan if "ORIGINAL" in image_type(item.header)]
    others = len(scan) - len(original)
    if 0 < others < len(original) and why_no_volume(scan) and len(parts(scan)) == 1 and not why_no_volume(original):
        scan = original
    kept = {id(item) for item in scan}
    left = [item.header for item in members if id(item) not in kept]
    words = dict.fromkeys(_remark(header) or "derived image" for header in left)
    return scan, f"{len(left)} of its images ({', '.join(words)})" if left else ""


def _kind(header: Header) -> tuple[str, ...]:
    """What images of one scan have in common."""
    keywords = ("SOPClassUID", "Rows", "Columns")
    return (*(str(header.get(keyword)) for keyword in keywords), *image_type(header))


def _series_order(series: Series) -> tuple[float, str]:
    number = numbers(series.header, "SeriesNumber", 1)
    return (float("inf") if number is None else float(number[0]), series.uid)


def _chosen(folder: Path, wanted: str | None) -> Series:
    found = list_series(folder)
    if not found:
        raise InputError(
            "dicom-no-series", f"{folder} holds no DICOM image series; name a volume file or a series folder"
        )
    return choose(found, wanted, folder)


def choose(found: list[Series], wanted: str | None, folder: Path) -> Series:
    """One of the series of ``folder``: the only one that is a scan, or the one that ``wanted`` names.

    Raises:
        InputError: none or several fit: it lists them; or a part of the series is missing.
    """
    listing = "; ".join(f"{number}) {series.describe()}" for number, series in enumerate(found, 1))
    if wanted is None:
        matches = [s for s in found if not s.remark] or found
    else:
        matches = _matching(found, wanted.strip())
    if len(matches) == 1:
        if matches[0].lacking:
            raise InputError("dicom-series-part-missing", matches[0].lacking)
        return matches[0]
    fits = "" if wanted is None else f" and '{wanted}' fits {len(matches)} of them"
    raise InputError(
        "dicom-ambiguous-folder",
        f"{folder} holds {len(found)} DICOM series{fits}; "
        f"choose one with --series (number, UID or part of the description): {listing}",
    )


def _matching(found: list[Series], wanted: str) -> list[Series]:
    if wanted.isdecimal() and 1 <= int(wanted) <= len(found):
        return [found[int(wanted) - 1]]
    text = wanted.lower()
    exact = [s for s in found if wanted in (s.uid, s.key) or text in (s.description.lower(), s.part.lower())]
    return exact or [s for s in found if wanted and text in f"{s.description}, {s.part}".lower()]
