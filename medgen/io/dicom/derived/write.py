"""Write a converted volume as a derived DICOM series in the study and frame of reference of its source.

The series is marked as synthetic. One file is written per source file, based on the header of that file: elements that
describe patient, study and position are kept; elements that describe the acquisition of the source (dose, private
elements, signatures, overlays) are removed. See docs/explanation/dicom_out.md.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from medgen.errors import InputError
from medgen.io.atomic import atomic_folder
from medgen.io.deidentification.deidentify import Changes, Deidentifier
from medgen.io.dicom.charset import repair_text
from medgen.io.dicom.derived.references import (
    NOTICE,
    Derivation,
    add_source_references,
    coded_concept,
    evidence,
    reference,
    series_reference,
)
from medgen.io.dicom.header import read_header, stored_bytes
from medgen.io.dicom.pixels import PER_FRAME, SHARED, Encoding, Format, encoding, rescale_of
from medgen.io.dicom.read import check_unchanged
from medgen.io.dicom.strip import strip
from medgen.io.dicom.units import NO_UNIT
from medgen.io.names import short_reason
from medgen.io.volume import Volume

FLOAT_PIXELS = ("FloatPixelData", "DoubleFloatPixelData")
PIXELS = ("PixelData", *FLOAT_PIXELS)
MAKER = "medgen"
REFERRED = ("SOPInstanceUID", "SeriesInstanceUID", "SOPClassUID", "StudyInstanceUID")
WORDS = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}  # bytes per word of these VRs
EQUIPMENT = "Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions StationName".split()


def write_derived(
    folder: Path,
    volume: Volume,
    derivation: Derivation,
    others: Sequence[Volume] = (),
    deidentifier: Deidentifier | None = None,
) -> Changes:
    """Write ``volume`` as a series to ``folder``; the folder is created atomically.

    The same input and derivation give identical bytes. Values that the source encoding can represent are written
    exactly, see ``pixels.encoding``. Modules derived (PS3.3): C.7.6.1 (General Image), C.12.1 (SOP Common), C.12.2
    (Common Instance Reference), C.7.6.16 (functional groups of an enhanced multi-frame source).

    Args:
        volume: values in the unit of the modality (HU for CT), with the grid and ``frames`` of its source series.
        others: further source volumes, referenced if they are DICOM.
        deidentifier: applied to the source headers first, so that derived UIDs and references are based on the
            de-identified ones.

    Returns:
        Number of changes by the deidentifier in the headers of ``volume``, by element and kind.

    Raises:
        InputError: the source is not DICOM or has changed since it was read, the folder cannot be written, or an image
            to be de-identified may show identity in its pixels.
    """
    folder = Path(folder)
    if volume.frames is None:
        raise InputError(
            "output-source-not-dicom",
            f"{volume.path} is not DICOM, so no DICOM series can be derived from it; use --format nifti",
        )
    sources = _headers(volume)
    changes = _deidentified(sources, deidentifier)
    pixel_encoding = _encoding(volume, sources)
    series_references = [series_reference(list(sources.values()))]
    images = [[str(sources[file].SOPInstanceUID), frame] for file, frame in volume.frames]
    for other in (other for other in others if other.frames):
        headers = _headers(other)
        _deidentified(headers, deidentifier)
        series_references.append(series_reference(list(headers.values())))
        images += [[str(headers[file].SOPInstanceUID), frame] for file, frame in other.frames or ()]
    origin = _content(images, sources)
    members: dict[Path, list[int]] = {}
    for k, (file, _) in enumerate(volume.frames):
        members.setdefault(file, []).append(k)
    file = folder
    try:
        with atomic_folder(folder) as temporary:
            numbers = {str(sources[file].get("InstanceNumber", "")) for file in members}
            for n, (file, slices) in enumerate(members.items()):
                if len(numbers) < len(members):  # absent or equal numbers: viewers would show the slices in any order
                    sources[file].InstanceNumber = n + 1
                slices.sort(key=lambda k: volume.frames[k][1])  # type: ignore[index]
                dataset = sources[file]
                _derive(dataset, derivation, origin, [volume.frames[k][1] for k in slices], series_references)
                _encode(dataset, pixel_encoding, volume, slices)
                dataset.save_as(temporary / f"{n:05}.dcm", enforce_file_format=True)
    except OSError as error:
        raise InputError(
            "output-not-writable", f"{folder} cannot be written ({_reason(error)}); choose another output folder"
        ) from error
    except Exception as error:  # pydicom raises arbitrary exceptions on non-standard values
        raise InputError(
            "dicom-not-derivable", f"no DICOM image can be derived from {file} ({error}); use --format nifti"
        ) from error
    return changes


def check_derivable(volumes: Sequence[Volume]) -> None:
    """Check, before any processing, that a DICOM series can be derived from its sources.

    Args:
        volumes: the source of the series first, then volumes that are only referenced.

    Raises:
        InputError: an image lacks a UID that the derived image must reference, or its stored values are not integers.
    """
    for volume in volumes:
        for file in dict.fromkeys(file for file, _ in volume.frames or ()):
            header = read_header(file) or {}
            _check_referred(header, file)
            if volume is volumes[0] and not ("BitsStored" in header and "BitsAllocated" in header):
                reason = _float_pixels(file) or "no BitsStored and BitsAllocated (pixel format)"
                raise InputError(
                    "dicom-pixels-not-integer",
                    f"{file} has {reason}, so no DICOM image can be derived from it; use --format nifti",
                )


def _check_referred(header: Mapping[str, Any] | Dataset, file: Path) -> None:
    for keyword in REFERRED:
        if not header.get(keyword):
            raise InputError(
                "dicom-reference-missing",
                f"{file} has no {keyword}, which a derived DICOM image must reference; use --format nifti",
            )


def _float_pixels(file: Path) -> str:
    found = dcmread(file, force=True, specific_tags=list(FLOAT_PIXELS))
    return "".join(f"{name} (floating-point pixels)" for name in FLOAT_PIXELS if name in found)


def _reason(error: OSError) -> str:
    """Return the message of the operating system; pydicom re-raises OSError with a traceback as its text."""
    cause: BaseException | None = error
    while cause is not None and not getattr(cause, "strerror", None):
        cause = cause.__cause__ or cause.__context__
    return getattr(cause, "strerror", None) or short_reason(error)


def is_foreign_dicom(files: Iterable[Path]) -> bool:
    """Whether files are DICOM not written by ``write_derived``; decided by the first readable header."""
    for file in files:
        try:
            header = dcmread(file, stop_before_pixels=True, specific_tags=["Manufacturer", "SeriesDescription"])
        except Exception:  # pydicom raises arbitrary exceptions on files that are not DICOM
            continue
        return header.get("Manufacturer") != MAKER and not str(header.get("SeriesDescription", "")).startswith(NOTICE)
    return False


def _headers(volume: Volume) -> dict[Path, FileDataset]:
    """Read the header of each file of a volume, without pixel data, in slice order."""
    found: dict[Path, FileDataset] = {}
    for file, _ in volume.frames or ():
        if file not in found:
            try:
                found[file] = dcmread(file, stop_before_pixels=True, force=True)
                repair_text(found[file])
                _little_endian(found[file])
            except Exception as error:
                raise InputError(
                    "dicom-header-unusable", f"{file} has no valid DICOM header ({error}); copy the series again"
                ) from error
    check_unchanged(volume)
    for file, dataset in found.items():
        _check_referred(dataset, file)
    return found


def _content(images: Sequence[Any], headers: Mapping[Path, Dataset]) -> str:
    """Hash of the source images, their headers and their pixels: other content must not have the same UIDs.

    The values to write are not part of it, because their rounding depends on the machine.
    """
    digest = hashlib.sha256(json.dumps(images).encode())
    for file, dataset in headers.items():
        for element in dataset.values():
            digest.update(f"{element.tag} ".encode() + stored_bytes(element))
        pixels = dcmread(file, force=True, specific_tags=list(PIXELS))
        for name in PIXELS:
            raw = pixels.get_item(name).value if name in pixels else None  # not decoded: its VR may be unknown
            digest.update(raw or b"")
    return digest.hexdigest()


def _deidentified(headers: dict[Path, FileDataset], deidentifier: Deidentifier | None) -> Changes:
    changes = Changes()
    for dataset in headers.values() if deidentifier else ():
        changes += deidentifier.deidentify(dataset)  # type: ignore[union-attr]
    return changes


def _little_endian(dataset: FileDataset) -> FileDataset:
    """Convert the header of a big endian file to little endian: decode all numbers and swap the bytes of words."""

    def visit(holder: Dataset, element) -> None:  # type: ignore[no-untyped-def]
        if (size := WORDS.get(element.VR)) and isinstance(element.value, bytes):
            element.value = np.frombuffer(element.value, f">u{size}").astype(f"<u{size}").tobytes()

    if dataset.original_encoding[1] is False:
        dataset.walk(visit)
        dataset.set_original_encoding(False, True, dataset.original_character_set)
    return dataset


# Values ------------------------------------------------------------------------------------------------


def _encoding(volume: Volume, sources: dict[Path, FileDataset]) -> Encoding:
    formats = [
        Format(int(ds.BitsStored), int(ds.BitsAllocated), bool(ds.get("PixelRepresentation", 0)))
        for ds in sources.values()
    ]
    rescale = [rescale_of(sources[file], frame, file) for file, frame in volume.frames or ()]
    return encoding(volume.data, np.issubdtype(volume.dtype, np.integer), formats, rescale)


def _encode(dataset: FileDataset, pixel_encoding: Encoding, volume: Volume, slices: Sequence[int]) -> None:
    """Set the pixel data and the elements that describe it."""
    fmt, data, unit = pixel_encoding.format, volume.data, _unit(dataset, volume)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (
        fmt.allocated,
        fmt.bits,
        fmt.bits - 1,
    )
    dataset.PixelRepresentation, dataset.SamplesPerPixel = int(fmt.signed), 1
    dataset.Rows, dataset.Columns = data.shape[1], data.shape[0]
    dataset.PixelData = b"".join(pixel_encoding.stored(data[:, :, k].T, k).tobytes() for k in slices)
    dataset["PixelData"].VR = "OB" if fmt.allocated == 8 else "OW"
    if fmt.allocated == 8 and len(dataset.PixelData) % 2:
        dataset.PixelData += b"\0"
    if PER_FRAME in dataset:
        if not pixel_encoding.source:
            for group in dataset.get(SHARED) or ():
                group.pop("PixelValueTransformationSequence", None)
            for group, k in zip(dataset[PER_FRAME].value, slices, strict=True):
                group.PixelValueTransformationSequence = [_rescale_elements(Dataset(), pixel_encoding.rescale[k], unit)]
    elif (
        not pixel_encoding.source
        or "RescaleSlope" in dataset
        or "RescaleIntercept" in dataset
        or dataset.get("Modality") == "CT"
    ):
        _rescale_elements(dataset, pixel_encoding.rescale[slices[0]], unit, keep=pixel_encoding.source)


def _unit(dataset: Dataset, volume: Volume) -> str:
    """Return the RescaleType of the values of ``volume``: the unit of the source; US (unspecified) if unknown."""
    unit_name = "HU" if volume.unit is None and dataset.get("Modality") == "CT" else volume.unit or "US"
    unit_name = unit_name.split(" (")[0][:64]
    return "US" if unit_name.startswith(NO_UNIT) else unit_name


def _rescale_elements(holder: Dataset, rescale: tuple[float, float], unit: str, keep: bool = False) -> Dataset:
    """Set the rescale elements of ``holder``.

    Args:
        keep: leave existing elements unchanged if both are present and equal to ``rescale``; an incomplete or empty
            rescale, which ``rescale_of`` reads as slope 1 and intercept 0, is replaced.
    """
    existing = [holder.get("RescaleSlope"), holder.get("RescaleIntercept")]
    if not (keep and None not in existing and [float(value) for value in existing] == [*rescale]):
        holder.RescaleSlope = format_number_as_ds(float(rescale[0]))
        holder.RescaleIntercept = format_number_as_ds(float(rescale[1]))
        holder.RescaleType = unit
    return holder


# Other elements ----------------------------------------------------------------------------------------


def _derive(
    ds: FileDataset, derivation: Derivation, origin: str, frames: Sequence[int], series_references: list[Dataset]
) -> None:
    """Turn the header of a source image into that of the derived image, in place.

    Args:
        origin: see `_content`: if the study gained images, the source was corrected, or another volume of the same file
            was converted, the result differs, so the UIDs must differ too.
        frames: source frame index (from 0) of each frame.
        series_references: references to all source series.
    """
    source = reference(ds)
    enhanced = PER_FRAME in ds
    strip(ds, derivation.removes_contrast)
    if enhanced:
        ds[PER_FRAME].value = [ds[PER_FRAME].value[frame] for frame in frames]
        ds.NumberOfFrames = len(frames)
    ds.SOPInstanceUID = derivation.uid(f"{ds.SOPInstanceUID} {origin}")
    ds.SeriesInstanceUID = derivation.uid(f"{ds.SeriesInstanceUID} {origin}")
    number = int(ds.get("SeriesNumber") or 0)
    ds.SeriesNumber = number * 100 + 1 if 0 <= number < 2**31 // 100 - 1 else abs(number) % 10**8 + 1
    ds.SeriesDescription = _ascii(f"{NOTICE}: {derivation.target} {derivation.model}", 64)
    ds.ImageComments = _ascii(derivation.describe(), 1024)
    ds.DerivationDescription = _ascii(derivation.describe(), 1024)
    kind = [str(value) for value in ds.get("ImageType") or ()]
    if enhanced:  # PS3.3 C.8.16.1.2 does not allow SECONDARY
        ds.ImageType = ["DERIVED", "PRIMARY", *kind[2:4]]
        ds.ContentQualification = "RESEARCH"
    else:
        ds.ImageType = ["DERIVED", "SECONDARY", *kind[2:3]]
    _equipment(ds, derivation)
    add_source_references(ds, source, derivation, frames if enhanced else None)
    ds.ReferencedSeriesSequence = series_references
    if enhanced:
        ds.SourceImageEvidenceSequence = [evidence(ds.StudyInstanceUID, series_references)]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID, ds.file_meta.ImplementationVersionName = PYDICOM_IMPLEMENTATION_UID, "MEDGEN"
    ds.preamble = b"\0" * 128


def _equipment(ds: Dataset, derivation: Derivation) -> None:
    """Set the model as equipment (PS3.3 C.7.5.1) and keep the scanner as contributing equipment (C.12.1)."""
    scanner = Dataset()
    for keyword in EQUIPMENT:
        if ds.get(keyword):
            setattr(scanner, keyword, ds.get(keyword))
            delattr(ds, keyword)
    scanner.Manufacturer = scanner.get("Manufacturer") or "unknown"
    scanner.PurposeOfReferenceCodeSequence = [coded_concept("109101", "DCM", "Acquisition Equipment")]
    ds.ContributingEquipmentSequence = [*(ds.get("ContributingEquipmentSequence") or ()), scanner]
    ds.Manufacturer, ds.ManufacturerModelName = MAKER, _ascii(derivation.model, 64)
    ds.SoftwareVersions, ds.DeviceSerialNumber = _ascii(f"medgen {derivation.version}", 64), derivation.sha256[:64]


def _ascii(text: str, length: int) -> str:
    """Reduce text to ``length`` ASCII characters without backslashes and control characters, valid in any VR."""
    plain = text.encode("ascii", "replace").decode().replace("\\", "/")
    return "".join(c for c in plain if c.isprintable())[:length].strip()
