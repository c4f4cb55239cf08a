"""DICOM series in: a folder of slices, or of enhanced multi-frame images -> one Volume in patient coordinates.

Slices are ordered by ImagePositionPatient along the slice normal, never by instance number or file name.
Voxel values are the modality values (RescaleSlope and RescaleIntercept, or the modality LUT, per slice): HU
for CT. MONOCHROME1 only says how a value is shown, so it does not change values (ITK inverts them).
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_modality_lut, get_decoder, iter_pixels
from pydicom.uid import UID, ImplicitVRLittleEndian

from medgen.io.dicom_copies import Copies
from medgen.io.dicom_header import (
    Header,
    Slice,
    dangling,
    header_in,
    is_scan,
    lost_slices,
    numbers,
    quiet_pydicom,
    read_header,
    slices_of,
)
from medgen.io.dicom_pixels import PER_FRAME, rescale_of
from medgen.io.dicom_stack import parts, stack
from medgen.io.volume import Geometry, Volume, checked_finite, existing
from medgen.types import InputError

PLUGINS = "pip install 'medgen[dicom]'"


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

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(s.file for s in self.slices))

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
    folder = existing(folder)
    try:
        found = _images(path for path in sorted(folder.iterdir()) if _is_file(path))
        if not found:
            below = os.walk(folder, onerror=_raised)  # rglob passes over folders that cannot be listed
            paths = sorted(Path(place, name) for place, _, names in below for name in names)
            found = _images(path for path in paths if _is_file(path))
    except OSError as error:
        raise InputError(
            f"{error.filename or folder} cannot be listed ({error.strerror}); check its permissions"
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
    return read_slices(_chosen(folder, series).slices, folder)


def read_slices(slices: Sequence[Slice], folder: Path) -> Volume:
    """The volume that slices make, whatever their order; ``folder`` names them in messages. As ``read_series``."""
    slices, geometry = stack(slices, folder)
    data = np.empty(geometry.shape, np.float32, order="F")
    whole = True
    for k, values in _values(slices):
        if values.shape != geometry.shape[1::-1]:
            raise InputError(f"{slices[k].file} has voxels of shape {values.shape}, against its header; copy it again")
        whole = whole and bool(np.all(values == np.rint(values)))
        data[:, :, k] = values.T
    frames = tuple((s.file, s.frame) for s in slices)
    checked_finite(data, folder)
    return Volume(data, geometry.affine, _stored_type(data, whole), None, folder, frames, _header_hash(slices))


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
        raise InputError(f"{volume.path} has DICOM files that changed since they were read; start again")


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
        raise InputError(dangling(path))
    return path.is_file()


def _raised(error: OSError) -> None:
    raise error


def _images(paths: Iterable[Path]) -> list[tuple[Path, Header]]:
    headers = [(path, read_header(path)) for path in paths if not path.name.startswith(".")]
    images = [(path, header) for path, header in headers if header is not None and is_scan(header, path)]
    others = [path for path, header in headers if header is None]
    for fault in lost_slices(others, [path for path, _ in images]).values():
        raise InputError(fault)
    return images


def _series(uid: str, members: list[Slice]) -> list[Series]:
    slices = [s for s in members if not _is_localiser(s.header)] or members  # a scout may share the series
    first = slices[0].header
    frames = numbers(first, "NumberOfFrames", 1)
    if _is_localiser(first):
        remark = "localiser"
    elif frames is not None and frames[0] > 1:
        remark = "multi-frame"
    elif first.get("SamplesPerPixel", 1) != 1:
        remark = "colour"
    elif numbers(first, "ImagePositionPatient", 3) is None:
        remark = "no patient coordinates"
    else:
        remark = ""
    volumes = [("", slices)] if remark else parts(slices, slices[0].file.parent)
    description, modality = str(first.get("SeriesDescription", "")), str(first.get("Modality", "?"))
    return [Series(uid, description, modality, tuple(volume), remark, part) for part, volume in volumes]


def _series_order(series: Series) -> tuple[float, str]:
    number = numbers(series.header, "SeriesNumber", 1)
    return (float("inf") if number is None else float(number[0]), series.uid)


def _chosen(folder: Path, wanted: str | None) -> Series:
    found = list_series(folder)
    if not found:
        raise InputError(f"{folder} holds no DICOM image series; name a volume file or a series folder")
    return choose(found, wanted, folder)


def choose(found: list[Series], wanted: str | None, folder: Path) -> Series:
    """One of the series of ``folder``: the only one that is a scan, or the one that ``wanted`` names.

    Raises:
        InputError: none or several fit; it lists them.
    """
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
    text = wanted.lower()
    exact = [s for s in found if wanted == s.uid or text in (s.description.lower(), s.part.lower())]
    return exact or [s for s in found if wanted and text in f"{s.description}, {s.part}".lower()]


def _is_localiser(header: Header) -> bool:
    return "LOCALIZER" in header.get("ImageType", ())


# Voxels ------------------------------------------------------------------------------------------------


def _values(slices: Sequence[Slice]) -> Iterator[tuple[int, np.ndarray]]:
    """(k, modality values (rows, columns)) of each slice, file by file."""
    quiet_pydicom()
    files: dict[Path, list[int]] = {}
    rescaled: dict[bool, Path] = {}
    for k, item in enumerate(slices):
        files.setdefault(item.file, []).append(k)
    for file, members in files.items():
        members.sort(key=lambda k: slices[k].frame)
        try:
            with open(file, "rb") as stream:
                _check_unchanged([slices[k] for k in members], header_in(stream, file))
                stream.seek(0)
                dataset = dcmread(stream, force=True)
            dataset.file_meta.setdefault("TransferSyntaxUID", ImplicitVRLittleEndian)
            _check_bits(dataset, file)
            _check_decoder(file, dataset.file_meta.TransferSyntaxUID)
            if PER_FRAME not in dataset:
                if (told := _rescaled(dataset, file)) is not None:
                    rescaled.setdefault(told, file)
                if len(rescaled) == 2:
                    raise InputError(
                        f"{rescaled[False]} has no rescale and {rescaled[True]} of its series has one, so its values "
                        "are not known; export the series again"
                    )
                yield members[0], _modality(dataset.pixel_array, dataset, 0, file)
                continue
            frames = iter_pixels(dataset, indices=[slices[k].frame for k in members])
            for k, values in zip(members, frames, strict=True):
                yield k, _modality(values, dataset, slices[k].frame, file)
        except InputError:
            raise
        except Exception as error:  # pydicom and its plugins raise nearly anything on damaged pixel data
            reason = " ".join(str(error).split()).rstrip(".")
            raise InputError(f"{file} has voxels that cannot be decoded ({reason}); copy it again") from error


def _header_hash(slices: Sequence[Slice]) -> str:
    return hashlib.sha256(repr([item.header for item in slices]).encode()).hexdigest()


def _check_unchanged(known: Sequence[Slice], header: Header | None) -> None:
    """The places of slices are those of their headers as they were found, perhaps hours ago; the voxels are those of
    the file as it is. Texts are compared, as NaN is not equal to itself."""
    file = known[0].file
    now = {} if header is None else {item.frame: repr(item.header) for item in slices_of(file, header)}
    if any(now.get(item.frame) != repr(item.header) for item in known):
        raise InputError(f"{file} has changed since its folder was searched for series; start again")


def _modality(pixels: np.ndarray, dataset: Dataset, frame: int, file: Path) -> np.ndarray:
    if PER_FRAME not in dataset and dataset.get("ModalityLUTSequence"):
        return apply_modality_lut(pixels, dataset)
    slope, intercept = rescale_of(dataset, frame, file)
    return pixels if (slope, intercept) == (1, 0) else pixels.astype(np.float64) * slope + intercept


def _rescaled(dataset: Dataset, file: Path) -> bool | None:
    """True where an image says how its values come from the stored ones, None where it says that they are the stored
    ones, False where it says nothing."""
    if dataset.get("ModalityLUTSequence") or rescale_of(dataset, 0, file) != (1, 0):
        return True
    told = any(dataset.get(keyword) is not None for keyword in ("RescaleSlope", "RescaleIntercept"))
    return None if told else False


def _check_bits(dataset: Dataset, file: Path) -> None:
    """PS3.5 8.1.1 wants the stored bits at the low end of a pixel; pydicom, and ITK, take them from there anyway."""
    high, bits = dataset.get("HighBit"), dataset.get("BitsStored")
    if high is not None and bits is not None and int(high) != int(bits) - 1:
        raise InputError(
            f"{file} has {bits} bits stored and HighBit {high}, not {int(bits) - 1}: where in a pixel its value lies "
            "is not known; export the series again"
        )


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
