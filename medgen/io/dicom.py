"""DICOM series in: a folder of single-frame slices -> one Volume, its geometry from the patient coordinates.

Slices are ordered by ImagePositionPatient along the slice normal, never by instance number or file name.
Voxel values are the modality values (RescaleSlope and RescaleIntercept, or the modality LUT, per slice): HU
for CT. MONOCHROME1 only says how a value is shown, so it does not change values (ITK inverts them).
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut, get_decoder
from pydicom.uid import UID, ImplicitVRLittleEndian

from medgen.io.itk import LPS_RAS
from medgen.io.volume import Geometry, Volume, checked_affine, checked_finite, checked_shape, existing
from medgen.types import InputError

TAGS = (
    "SOPClassUID SeriesInstanceUID SeriesDescription SeriesNumber Modality ImageType Rows Columns "
    "NumberOfFrames SamplesPerPixel ImageOrientationPatient ImagePositionPatient PixelSpacing "
    "SliceThickness SpacingBetweenSlices"
).split()
NOT_SCANS = {"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO", "REG"}  # objects that accompany a scan
DICOM_ENDINGS = (".dcm", ".ima")
OFF_GRID_MM = 0.1  # scanners round ImagePositionPatient to 0.1 mm at worst
SAME_PLACE_MM = 1e-3
PLUGINS = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg pyjpegls"


@dataclass(frozen=True)
class Series:
    """One image series of a folder; ``remark`` is empty, or says why it is not chosen by itself."""

    uid: str
    description: str
    modality: str
    files: tuple[Path, ...]
    remark: str = ""
    headers: tuple[Dataset, ...] = field(default=(), repr=False, compare=False)

    def describe(self) -> str:
        """UID, description, modality and number of slices on one line."""
        remark = f" ({self.remark})" if self.remark else ""
        count = f"{len(self.files)} slice{'s' * (len(self.files) != 1)}"
        return f"{self.uid}, '{self.description}', {self.modality}, {count}{remark}"


def list_series(folder: str | Path) -> list[Series]:
    """Image series in ``folder`` (where none lies directly in it: in its subfolders), by series number.

    Segmentations, dose and other objects that accompany a scan are left out. Raises InputError for a file
    that is DICOM but cannot be parsed: left out silently, it would be a missing slice.
    """
    folder = existing(folder)
    try:
        found = _images(path for path in sorted(folder.iterdir()) if path.is_file())
        if not found:
            found = _images(path for path in sorted(folder.rglob("*")) if path.is_file())
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error.strerror}); check its permissions") from error
    groups: dict[str, list[tuple[Path, Dataset]]] = {}
    for path, header in found:
        groups.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((path, header))
    return sorted((_series(uid, members) for uid, members in groups.items()), key=_series_order)


def read_series(folder: str | Path, *, series: str | None = None) -> Volume:
    """The volume of one series; ``series``: its UID, its number in ``list_series``, part of its description.

    Stored type: the smallest signed integer of 16 bits or more that holds the values if all are whole, else
    float32. A tilted gantry gives a sheared affine (exact; the qform of a NIfTI cannot express it).
    Raises InputError for uneven, missing or duplicate slices, colour, multi-frame, mixed grids or
    orientations, no patient coordinates, and voxels that cannot be decoded.
    """
    folder = Path(folder)
    files, geometry = _stack(_chosen(folder, series), folder)
    data = np.empty(geometry.shape, np.float32, order="F")
    whole = True
    for k, file in enumerate(files):
        values = _slice_values(file, geometry.shape[:2])
        whole = whole and bool(np.all(values == np.rint(values)))
        data[:, :, k] = values.T
    return Volume(checked_finite(data, folder), geometry.affine, _stored_type(data, whole), None, folder)


def read_series_geometry(folder: str | Path, *, series: str | None = None) -> Geometry:
    """Grid of one series from the headers of its files. Choice and errors as ``read_series``."""
    folder = Path(folder)
    return _stack(_chosen(folder, series), folder)[1]


def series_uid(path: Path) -> str | None:
    """SeriesInstanceUID of a DICOM file; None for a file that is not DICOM."""
    header = _header(path)
    return None if header is None else str(header.get("SeriesInstanceUID", ""))


# Finding series ----------------------------------------------------------------------------------------


def _images(paths: Iterable[Path]) -> list[tuple[Path, Dataset]]:
    found = []
    for path in paths:
        header = None if path.name.startswith(".") else _header(path)
        if header is None or header.get("Modality") in NOT_SCANS:
            continue
        if header.get("Rows") and header.get("Columns"):
            found.append((path, header))
        elif (kind := _sop_class(header)) is None or "Image Storage" in kind.name:
            raise InputError(f"{path} is a truncated DICOM image; copy the series again")
    return found


def _header(path: Path) -> Dataset | None:
    """The tags that matter here; None where the file is not DICOM."""
    named = path.suffix.lower() in DICOM_ENDINGS
    try:
        with open(path, "rb") as file:
            start = file.read(132)
        if start[128:] != b"DICM" and not (named and start[:2] in (b"\x08\x00", b"\x02\x00")):
            if named:
                raise InvalidDicomError("no DICOM header")
            return None
        with warnings.catch_warnings(action="ignore"):
            header = dcmread(path, stop_before_pixels=True, force=True, specific_tags=TAGS)
            header.get("SeriesDescription")
            return header
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except Exception as error:  # pydicom raises nearly anything on bytes that are not DICOM
        raise InputError(f"{path} is not a readable DICOM file ({error}); copy the series again") from error


def _sop_class(header: Dataset) -> UID | None:
    meta = getattr(header, "file_meta", Dataset())
    uid = header.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
    return UID(str(uid)) if uid else None


def _series(uid: str, members: list[tuple[Path, Dataset]]) -> Series:
    slices = [m for m in members if not _is_localiser(m[1])] or members  # a scout may share the series
    first = slices[0][1]
    if _is_localiser(first):
        remark = "localiser"
    elif _frames(first) > 1:
        remark = "multi-frame"
    elif first.get("SamplesPerPixel", 1) != 1:
        remark = "colour"
    elif _numbers(first, "ImagePositionPatient", 3) is None:
        remark = "no patient coordinates"
    else:
        remark = ""
    files, headers = zip(*slices, strict=True)
    description, modality = str(first.get("SeriesDescription") or ""), str(first.get("Modality") or "?")
    return Series(uid, description, modality, files, remark, headers)


def _series_order(series: Series) -> tuple[float, str]:
    number = _numbers(series.headers[0], "SeriesNumber", 1)
    return (float("inf") if number is None else float(number[0]), series.uid)


def _chosen(folder: Path, wanted: str | None) -> Series:
    found = list_series(folder)
    if not found:
        raise InputError(f"{folder} holds no DICOM image series; name a volume file or a series folder")
    listing = "; ".join(f"{number}) {series.describe()}" for number, series in enumerate(found, 1))
    if wanted is None:
        matches = [s for s in found if not s.remark] or found
    else:
        matches = _matching(found, wanted.strip())
    if len(matches) == 1:
        return matches[0]
    fits = "" if wanted is None else f" and '{wanted}' fits {len(matches)} of them"
    raise InputError(
        f"{folder} holds {len(found)} DICOM series{fits}; "
        f"choose one with --series (number, UID or part of the description): {listing}"
    )


def _matching(found: list[Series], wanted: str) -> list[Series]:
    if wanted.isdecimal() and 1 <= int(wanted) <= len(found):
        return [found[int(wanted) - 1]]
    exact = [s for s in found if wanted == s.uid or wanted.lower() == s.description.lower()]
    return exact or [s for s in found if wanted and wanted.lower() in s.description.lower()]


# Geometry ----------------------------------------------------------------------------------------------


def _stack(series: Series, folder: Path) -> tuple[list[Path], Geometry]:
    """Files in the order of their position, and the grid. Voxel (i, j, k) is column i, row j of file k."""
    rows_cols, spacing, axes = _common(series, folder)
    shape = checked_shape((rows_cols[1], rows_cols[0], len(series.files)), folder)
    normal = np.cross(axes[0], axes[1])
    positions = np.array([_numbers(h, "ImagePositionPatient", 3) for h in series.headers])
    order = np.argsort(positions @ normal, kind="stable")
    files, positions = [series.files[k] for k in order], positions[order]
    step = _single_step(series, normal) if len(files) == 1 else _even_step(positions, normal, files)
    lps = np.eye(4)
    lps[:3] = np.column_stack([axes[0] * spacing[1], axes[1] * spacing[0], step, positions[0]])
    return files, Geometry(shape, checked_affine(LPS_RAS @ lps, folder))


def _common(series: Series, folder: Path) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """(rows, columns), PixelSpacing (between rows, between columns; mm) and the unit vectors (2, 3) in LPS of
    increasing column and row index, which all slices must share."""
    for file, header in zip(series.files, series.headers, strict=True):
        _check_placed_slice(file, header)
    headers, first = series.headers, series.headers[0]
    spacing = np.array([_numbers(h, "PixelSpacing", 2) for h in headers], np.float64)
    cosines = np.array([_numbers(h, "ImageOrientationPatient", 6) for h in headers], np.float64)
    resized = [(h.Rows, h.Columns) != (first.Rows, first.Columns) for h in headers]
    for problem, odd in (
        ("size", np.array(resized)),
        ("pixel spacing", np.abs(spacing / spacing[0] - 1).max(axis=1) > 1e-4),
        ("orientation", np.abs(cosines - cosines[0]).max(axis=1) > 1e-4),
    ):
        if odd.any():
            file, other = series.files[int(odd.argmax())], series.files[0].name
            raise InputError(f"{file} differs in {problem} from {other} of its series; separate the two")
    axes = cosines[0].reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > 1e-3:
        raise InputError(f"{folder} has an ImageOrientationPatient that is not two right-angled unit vectors")
    unit = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    return (int(first.Rows), int(first.Columns)), spacing[0], unit


def _check_placed_slice(file: Path, header: Dataset) -> None:
    if _frames(header) > 1:
        raise InputError(f"{file} is a multi-frame DICOM image; convert it to single frames or NIfTI first")
    if header.get("SamplesPerPixel", 1) != 1:
        raise InputError(f"{file} is a colour image, not one number per voxel; choose another series")
    for keyword, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        values = _numbers(header, keyword, count)
        if values is None or (keyword == "PixelSpacing" and values.min() <= 0):
            raise InputError(f"{file} has no usable {keyword}: its place is unknown; choose another series")


def _even_step(positions: np.ndarray, normal: np.ndarray, files: list[Path]) -> np.ndarray:
    """Vector (3,) in mm from slice to slice; refused unless it leads to every position."""
    gaps = np.diff(positions @ normal)
    k = int(np.argmin(gaps))
    if gaps[k] < SAME_PLACE_MM:
        at = f"{positions[k] @ normal:.3f} mm along the slice normal"
        raise InputError(
            f"{files[k].parent} holds two slices of one series at the same place ({at}: {files[k].name} and "
            f"{files[k + 1].name}), duplicates or several phases; keep one of each"
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    off = np.linalg.norm(positions - positions[0] - np.arange(len(positions))[:, None] * step, axis=1)
    if off.max() > min(OFF_GRID_MM, 0.2 * np.linalg.norm(step)):
        usual = float(np.median(gaps))
        k = int(np.argmax(np.abs(gaps - usual)))
        raise InputError(
            f"{files[k].parent} has unevenly spaced slices: {gaps[k]:.3f} mm between {files[k].name} and "
            f"{files[k + 1].name} where {usual:.3f} mm is usual; add missing slices or resample it"
        )
    along = (step @ normal) * normal
    drift = np.linalg.norm(step - along) * (len(positions) - 1)
    return along if drift <= OFF_GRID_MM else step  # rounding of the positions, or a tilted gantry


def _single_step(series: Series, normal: np.ndarray) -> np.ndarray:
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        length = _numbers(series.headers[0], keyword, 1)
        if length is not None and length[0] > 0:
            return normal * length[0]
    raise InputError(f"{series.files[0]} is a single slice without SliceThickness, so it is no volume")


def _is_localiser(header: Dataset) -> bool:
    return "LOCALIZER" in (header.get("ImageType") or ())


def _frames(header: Dataset) -> int:
    number = _numbers(header, "NumberOfFrames", 1)
    return 1 if number is None else int(number[0])


def _numbers(header: Dataset, keyword: str, count: int) -> np.ndarray | None:
    """``count`` finite numbers of an element, float64; None where it is absent, empty or malformed."""
    try:
        values = np.atleast_1d(np.asarray(header.get(keyword), np.float64))
    except (TypeError, ValueError):
        return None
    return values if values.shape == (count,) and np.isfinite(values).all() else None


# Voxels ------------------------------------------------------------------------------------------------


def _slice_values(file: Path, columns_rows: tuple[int, int]) -> np.ndarray:
    """Modality values (rows, columns) of one file."""
    try:
        with warnings.catch_warnings(action="ignore"):
            slice_ = dcmread(file, force=True)
            slice_.file_meta.setdefault("TransferSyntaxUID", ImplicitVRLittleEndian)
            _check_decoder(file, slice_.file_meta.TransferSyntaxUID)
            values = apply_modality_lut(slice_.pixel_array, slice_)
    except InputError:
        raise
    except Exception as error:  # pydicom and its plugins raise nearly anything on damaged pixel data
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"{file} has voxels that cannot be decoded ({reason}); copy it again") from error
    if values.shape != columns_rows[::-1]:
        raise InputError(f"{file} has voxels of shape {values.shape}, against its header; copy it again")
    return values


def _check_decoder(file: Path, syntax: UID) -> None:
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError as error:
        raise InputError(f"{file} is in the transfer syntax {syntax.name}, which is not supported") from error
    if not available:
        raise InputError(f"{file} is compressed as {syntax.name}; install a decoder: {PLUGINS}")


def _stored_type(data: np.ndarray, whole: bool) -> np.dtype:
    low, high = float(data.min()), float(data.max())
    fitting = (t for t in (np.dtype("i2"), np.dtype("i4")) if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return next(fitting, np.dtype(np.float32)) if whole else np.dtype(np.float32)
