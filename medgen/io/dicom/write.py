"""A derived DICOM series: a converted volume in its source's study and frame of reference, marked as synthetic.

One file for every source file, made from the source's own header: what describes patient, study and place stays;
what described a scan that never was (dose, private elements, signatures, overlays) goes. See
docs/explanation/dicom_out.md.
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
from medgen.io.atomic import folder_written_aside
from medgen.io.deidentification.deidentify import Changes, Deidentifier
from medgen.io.dicom.header import read_header
from medgen.io.dicom.pixels import PER_FRAME, SHARED, Encoding, Format, encoding, rescale_of
from medgen.io.dicom.references import NOTICE, Derivation, coded_concept, evidence, refer, reference, series_reference
from medgen.io.dicom.series import check_unchanged
from medgen.io.dicom.strip import strip
from medgen.io.names import brief
from medgen.io.volume import Volume

MAKER = "medgen"
REFERRED = ("SOPInstanceUID", "SeriesInstanceUID", "SOPClassUID", "StudyInstanceUID")
WORDS = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}  # bytes of the words of these VRs
EQUIPMENT = "Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions StationName".split()


def write_derived(
    folder: Path,
    volume: Volume,
    derivation: Derivation,
    others: Sequence[Volume] = (),
    deidentifier: Deidentifier | None = None,
) -> Changes:
    """Write ``volume`` as a series into ``folder``, which appears whole or not at all.

    Same input and derivation, same bytes. Values that the source's encoding expresses are written exactly, see
    ``dicom_pixels.encoding``. Derives, per PS3.3: C.7.6.1 (General Image), C.12.1 (SOP Common), C.12.2 (Common
    Instance Reference), C.7.6.16 (functional groups of an enhanced multi-frame source).

    Args:
        volume: on the grid and with the ``frames`` of the series it was made from; its modality's unit (HU for CT).
        others: further volumes it was made from, referenced where they are DICOM.
        deidentifier: takes identity out of the sources' headers before anything is derived from them, so that
            derived UIDs and references come from the new ones.

    Returns:
        What the deidentifier changed in the headers of ``volume``.

    Raises:
        InputError: the source is not DICOM or has changed since, the folder cannot be written, or an image to be
            de-identified may show identity in its pixels.
    """
    folder = Path(folder)
    if volume.frames is None:
        raise InputError(
            "output-source-not-dicom",
            f"{volume.path} is not DICOM, so no DICOM series can be derived from it; use --format nifti",
        )
    sources = _headers(volume)
    changes = _deidentified(sources, deidentifier)
    code = _encoding(volume, sources)
    everything = [series_reference(list(sources.values()))]
    images = [[str(sources[file].SOPInstanceUID), frame] for file, frame in volume.frames]
    for other in (other for other in others if other.frames):
        headers = _headers(other)
        _deidentified(headers, deidentifier)
        everything.append(series_reference(list(headers.values())))
        images += [[str(headers[file].SOPInstanceUID), frame] for file, frame in other.frames or ()]
    origin = hashlib.sha256(json.dumps(images).encode()).hexdigest()
    members: dict[Path, list[int]] = {}
    for k, (file, _) in enumerate(volume.frames):
        members.setdefault(file, []).append(k)
    file = folder
    try:
        with folder_written_aside(folder) as aside:
            for n, (file, slices) in enumerate(members.items()):
                slices.sort(key=lambda k: volume.frames[k][1])  # type: ignore[index]
                dataset = sources[file]
                _derive(dataset, derivation, origin, [volume.frames[k][1] for k in slices], everything)
                _encode(dataset, code, volume, slices)
                dataset.save_as(aside / f"{n:05}.dcm", enforce_file_format=True)
    except OSError as error:
        raise InputError(
            "output-not-writable", f"{folder} cannot be written ({_reason(error)}); choose another place"
        ) from error
    except Exception as error:  # pydicom raises nearly anything on values that break the standard
        raise InputError(
            "dicom-not-derivable", f"no DICOM can be derived from {file} ({error}); use --format nifti"
        ) from error
    return changes


def check_derivable(volumes: Sequence[Volume]) -> None:
    """Refuse, before any work, sources that no series can be derived from.

    Args:
        volumes: the one that the series is derived from, then those it refers to only.

    Raises:
        InputError: an image without the UIDs that a derived one refers to, or whose stored values are no integers.
    """
    for volume in volumes:
        for file in dict.fromkeys(file for file, _ in volume.frames or ()):
            header = read_header(file) or {}
            _check_referred(header, file)
            if volume is volumes[0] and not ("BitsStored" in header and "BitsAllocated" in header):
                what = _floats(file) or "no BitsStored and BitsAllocated, which say how pixels are stored"
                raise InputError(
                    "dicom-pixels-not-integer",
                    f"{file} has {what}, so no DICOM can be derived from it; use --format nifti",
                )


def _check_referred(header: Mapping[str, Any] | Dataset, file: Path) -> None:
    for keyword in REFERRED:
        if not header.get(keyword):
            raise InputError(
                "dicom-reference-missing",
                f"{file} has no {keyword} to refer to, so no DICOM can be derived; use --format nifti",
            )


def _floats(file: Path) -> str:
    found = dcmread(file, force=True, specific_tags=["FloatPixelData", "DoubleFloatPixelData"])
    return "".join(f"{element.keyword} (pixels of floating point)" for element in found)


def _reason(error: OSError) -> str:
    """Pydicom raises one anew with a traceback for text; what the system said comes before it."""
    first: BaseException | None = error
    while first is not None and not getattr(first, "strerror", None):
        first = first.__cause__ or first.__context__
    return getattr(first, "strerror", None) or brief(error)


def of_others(files: Iterable[Path]) -> bool:
    """Whether files are DICOM that ``write_derived`` did not make, by the first whose header can be read."""
    for file in files:
        try:
            header = dcmread(file, stop_before_pixels=True, specific_tags=["Manufacturer", "SeriesDescription"])
        except Exception:  # pydicom raises nearly anything on files that are not DICOM
            continue
        return header.get("Manufacturer") != MAKER and not str(header.get("SeriesDescription", "")).startswith(NOTICE)
    return False


def _headers(volume: Volume) -> dict[Path, FileDataset]:
    """Every file of a volume without its pixel data, in order of the slices."""
    found: dict[Path, FileDataset] = {}
    for file, _ in volume.frames or ():
        if file not in found:
            try:
                found[file] = _little_endian(dcmread(file, stop_before_pixels=True, force=True))
            except Exception as error:
                raise InputError(
                    "dicom-header-unusable", f"{file} has no usable DICOM header ({error}); copy the series again"
                ) from error
    check_unchanged(volume)
    for file, dataset in found.items():
        _check_referred(dataset, file)
    return found


def _deidentified(headers: dict[Path, FileDataset], deidentifier: Deidentifier | None) -> Changes:
    changes = Changes()
    for dataset in headers.values() if deidentifier else ():
        changes += deidentifier.deidentify(dataset)  # type: ignore[union-attr]
    return changes


def _little_endian(dataset: FileDataset) -> FileDataset:
    """A header read from a big endian file as what is written here: every number decoded, words turned round."""

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


def _encode(dataset: FileDataset, code: Encoding, volume: Volume, slices: Sequence[int]) -> None:
    """Pixel data and what describes it."""
    form, data, unit = code.format, volume.data, _unit(dataset, volume)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = form.allocated, form.bits, form.bits - 1
    dataset.PixelRepresentation, dataset.SamplesPerPixel = int(form.signed), 1
    dataset.Rows, dataset.Columns = data.shape[1], data.shape[0]
    dataset.PixelData = b"".join(code.stored(data[:, :, k].T, k).tobytes() for k in slices)
    dataset["PixelData"].VR = "OB" if form.allocated == 8 else "OW"
    if form.allocated == 8 and len(dataset.PixelData) % 2:
        dataset.PixelData += b"\0"
    if PER_FRAME in dataset:
        if not code.source:
            for group in dataset.get(SHARED) or ():
                group.pop("PixelValueTransformationSequence", None)
            for group, k in zip(dataset[PER_FRAME].value, slices, strict=True):
                group.PixelValueTransformationSequence = [_rescale_elements(Dataset(), code.rescale[k], unit)]
    elif (
        not code.source or "RescaleSlope" in dataset or "RescaleIntercept" in dataset or dataset.get("Modality") == "CT"
    ):
        _rescale_elements(dataset, code.rescale[slices[0]], unit, keep=code.source)


def _unit(dataset: Dataset, volume: Volume) -> str:
    """What RescaleType says of the values of ``volume``, which are in the unit that they were read in."""
    read = "HU" if volume.unit is None and dataset.get("Modality") == "CT" else volume.unit or "US"
    return read.split(" (")[0][:64]


def _rescale_elements(holder: Dataset, rescale: tuple[float, float], unit: str, keep: bool = False) -> Dataset:
    """Where they are to be kept, they are but for half of a rescale or an empty one (``rescale_of``: 1 and 0)."""
    own = [holder.get("RescaleSlope"), holder.get("RescaleIntercept")]
    if not (keep and None not in own and [float(value) for value in own] == [*rescale]):
        holder.RescaleSlope = format_number_as_ds(float(rescale[0]))
        holder.RescaleIntercept = format_number_as_ds(float(rescale[1]))
        holder.RescaleType = unit
    return holder


# Everything else ---------------------------------------------------------------------------------------


def _derive(
    ds: FileDataset, derivation: Derivation, origin: str, frames: Sequence[int], everything: list[Dataset]
) -> None:
    """Turn a source's header into that of the derived image, in place.

    Args:
        origin: tells the images that the whole series is made of. A study that grew, or another volume of the same
            file, gets other UIDs, for its pixels are others.
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
    ds.SeriesNumber = number * 100 + 1 if 0 <= number < 2**31 // 100 - 1 else 1
    ds.SeriesDescription = _ascii(f"{NOTICE}: {derivation.target} {derivation.model}", 64)
    ds.ImageComments = _ascii(derivation.describe(), 1024)
    ds.DerivationDescription = _ascii(derivation.describe(), 1024)
    kind = [str(value) for value in ds.get("ImageType") or ()]
    if enhanced:  # SECONDARY is not among what PS3.3 C.8.16.1.2 allows
        ds.ImageType = ["DERIVED", "PRIMARY", *kind[2:4]]
        ds.ContentQualification = "RESEARCH"
    else:
        ds.ImageType = ["DERIVED", "SECONDARY", *kind[2:3]]
    _equipment(ds, derivation)
    refer(ds, source, derivation, frames if enhanced else None)
    ds.ReferencedSeriesSequence = everything
    if enhanced:
        ds.SourceImageEvidenceSequence = [evidence(ds.StudyInstanceUID, everything)]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID, ds.file_meta.ImplementationVersionName = PYDICOM_IMPLEMENTATION_UID, "MEDGEN"
    ds.preamble = b"\0" * 128


def _equipment(ds: Dataset, derivation: Derivation) -> None:
    """The series was made by a model (PS3.3 C.7.5.1); the scanner is kept as equipment that contributed (C.12.1)."""
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
    """Text for any character set and VR: no backslash, no control characters, so long at most."""
    plain = text.encode("ascii", "replace").decode().replace("\\", "/")
    return "".join(c for c in plain if c.isprintable())[:length].strip()
