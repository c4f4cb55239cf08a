"""The few header elements that finding and stacking slices needs, as plain values that also fit into an index."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.filereader import data_element_generator, read_partial
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from medgen.errors import InputError
from medgen.io.dicom.lost import DICOM_ENDINGS
from medgen.io.dicom.quiet import quiet_pydicom

Header = dict[str, Any]  # keyword -> str, int, float or a list of them; absent where the file has no usable value

# What may distinguish volumes that some scanners and archives put into one series, see dicom_parts. One reconstruction
# has one value of each of RECONSTRUCTION; VARYING may have another one in each slice of an ordinary scan.
RECONSTRUCTION = "ConvolutionKernel SliceThickness ReconstructionDiameter KVP ContrastBolusAgent".split()
VARYING = (
    "InstanceCreationDate InstanceCreationTime "
    "AcquisitionDate AcquisitionTime AcquisitionDateTime ContentDate ContentTime FrameAcquisitionDateTime "
    "FrameReferenceDateTime TriggerTime NominalCardiacTriggerDelayTime ExposureTime XRayTubeCurrent "
    "Exposure ExposureInuAs ExposureTimeInms XRayTubeCurrentInmA ExposureInmAs CTDIvol EstimatedDoseSaving TableHeight "
    "GantryDetectorTilt DistanceSourceToDetector DistanceSourceToPatient RepetitionTime SAR ImagingFrequency "
    "SpiralPitchFactor TableSpeed RevolutionTime ContrastBolusStartTime ContrastBolusStopTime"
).split()
SETTINGS = (
    "StackID TemporalPositionIndex TemporalPositionIdentifier EchoNumbers EffectiveEchoTime EchoTime DiffusionBValue "
    "NominalPercentageOfCardiacPhase AcquisitionNumber ImageType ContrastBolusAgentPhase InversionTime FlipAngle "
    "ScanningSequence SequenceVariant SequenceName ScanOptions MRAcquisitionType NumberOfAverages EchoTrainLength "
    "PixelBandwidth ReceiveCoilName TransmitCoilName InPlanePhaseEncodingDirection ComplexImageComponent "
    "AcquisitionContrast DiffusionDirectionality AcquisitionType FilterType ConvolutionKernelGroup "
    "ReconstructionAlgorithm ReconstructionFieldOfView ImageFilter DataCollectionDiameter SingleCollimationWidth "
    "TotalCollimationWidth TableFeedPerRotation RotationDirection FocalSpots ExposureModulationType "
    "ContrastBolusAgentNumber ContrastBolusVolume ContrastBolusRoute ContrastBolusTotalDose ContrastBolusIngredient "
    "ContrastBolusIngredientConcentration ContrastFlowRate DerivationDescription ImageComments RescaleType "
    "SeriesNumber SeriesDescription ProtocolName SeriesDate SeriesTime Manufacturer ManufacturerModelName StationName "
    "DeviceSerialNumber SoftwareVersions PatientPosition BodyPartExamined"
).split()
SLICE_TAGS = (
    "ImageOrientationPatient ImagePositionPatient PixelSpacing SpacingBetweenSlices".split()
    + RECONSTRUCTION
    + SETTINGS
    + VARYING
)
# What else may differ between the slices of one scan; any element that is neither here nor in TAGS is in ``others``.
PER_IMAGE = {
    tag_for_keyword(keyword)
    for keyword in (
        "SpecificCharacterSet SliceLocation WindowCenter WindowWidth WindowCenterWidthExplanation VOILUTFunction "
        "SmallestImagePixelValue LargestImagePixelValue RescaleSlope RescaleIntercept LossyImageCompression "
        "LossyImageCompressionRatio LossyImageCompressionMethod ReferencedImageSequence SourceImageSequence "
        "ReferencedInstanceSequence ImagePosition ImagePositionVolume TablePosition WaterEquivalentDiameter "
        "DataCollectionCenterPatient FrameAcquisitionDuration InStackPositionNumber DimensionIndexValues FrameLabel "
        "ConcatenationFrameOffsetNumber SOPInstanceUIDOfConcatenationSource"
    ).split()
}
OTHERS = "others"  # key of {tag as 8 hexadecimal digits: CRC of its value}
COMPARED = {0x0008, 0x0018, 0x0020, 0x0028}  # groups of which every element is in ``others``
TAGS = (
    SLICE_TAGS
    + (
        "SOPClassUID SOPInstanceUID SeriesInstanceUID StudyInstanceUID FrameOfReferenceUID PatientID StudyDescription "
        "Modality InstanceNumber Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation BitsAllocated "
        "BitsStored ConcatenationUID InConcatenationNumber InConcatenationTotalNumber"
    ).split()
)
NOT_SCANS = {"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO", "REG"}  # objects that accompany a scan
# The same by what their SOP class is called, where they have rows and columns or another modality.
NOT_SCAN_CLASSES = re.compile("Segmentation|Spectroscopy|RT Dose|Presentation State|Registration|Encapsulated|Raw Data")
OWN = {"SOPInstanceUID", "ImagePositionPatient", "InstanceNumber"}  # of each slice
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


WANTED = [tag_for_keyword(keyword) or 0 for keyword in TAGS]
KNOWN = {int(tag): (keyword, dictionary_VR(tag)) for tag, keyword in zip(WANTED, TAGS, strict=True)}
LAST = 0x00282FFF  # what comes after may be long: look-up tables, private groups
KNOWN[0x00020002] = ("MediaStorageSOPClassUID", "UI")
SYNTAX = 0x00020010
TEXT: dict[str, Any] = {"DS": float, "IS": int, **dict.fromkeys(("CS", "UI", "LO", "SH", "DA", "TM", "DT"), str.strip)}


quiet_pydicom()


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice: its file, its frame in it (from 0) and what the header says of it."""

    file: Path
    frame: int
    header: Header


def read_header(path: Path) -> Header | None:
    """The elements that matter here; None where the file is not DICOM. ``frames`` lists the frames of an enhanced
    multi-frame image (PS3.3 C.7.6.16), each with what its functional groups say.

    Raises:
        InputError: unreadable, damaged, or frames that their functional groups do not describe.
    """
    try:
        with open(path, "rb") as file:
            return header_in(file, path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            "file-unreadable", f"{path} cannot be read ({error.strerror}); check its permissions"
        ) from error
    except Exception as error:  # pydicom raises nearly anything on bytes that are not DICOM
        raise InputError(
            "dicom-unreadable", f"{path} is not a readable DICOM file ({error}); copy the series again"
        ) from error


def settle_charset(dataset: Dataset) -> None:
    """The default repertoire by its name, as highdicom wants it, where the standard's own form leaves it empty
    (PS3.3 C.12.1.1.2)."""
    given = dataset.get("SpecificCharacterSet") or ""
    values = [given] if isinstance(given, str) else list(given)
    if len(values) > 1:
        dataset.SpecificCharacterSet = [value or "ISO 2022 IR 6" for value in values]
    elif values[0].strip() in ("", "ISO_IR 6"):
        dataset.pop("SpecificCharacterSet", None)


def header_in(file: BinaryIO, path: Path) -> Header | None:
    """As ``read_header``, of a file that is open; it raises whatever pydicom does."""
    quiet_pydicom()
    named = path.suffix.lower() in DICOM_ENDINGS
    start = file.read(132)
    marked = start[128:] == b"DICM"
    if not marked and start[:2] not in (b"\x08\x00", b"\x02\x00"):  # old files begin with their elements
        if named:
            raise InvalidDicomError("no DICOM header")
        return None
    try:
        header = _quick(_elements(file, marked))
    except Exception:
        if marked or named:
            raise
        return None
    if not (marked or named or header.get("SOPClassUID") or header.get("MediaStorageSOPClassUID")):
        return None
    header["SOPClassUID"] = header.get("SOPClassUID") or header.get("MediaStorageSOPClassUID", "")
    header.pop("MediaStorageSOPClassUID", None)
    if "NumberOfFrames" in header:
        file.seek(0)
        dataset = dcmread(file, stop_before_pixels=True, force=True, specific_tags=["NumberOfFrames", *GROUPS])
        if GROUPS[1] in dataset:
            header["frames"] = frame_headers(dataset, path)
    return header


def is_scan(header: Header, path: Path) -> bool:
    """Whether a header is of an image that is a scan; InputError for an image without a size."""
    if header.get("Modality") in NOT_SCANS or NOT_SCAN_CLASSES.search(UID(header["SOPClassUID"]).name):
        return False
    if header.get("Rows") and header.get("Columns"):
        return True
    if not (kind := header["SOPClassUID"]) or "Image Storage" in UID(kind).name:
        raise InputError("dicom-truncated", f"{path} is a truncated DICOM image; copy the series again")
    return False


def shared(header: Header, known: dict[str, Any]) -> Header:
    """The header with its values taken from ``known`` where an equal one is there: 0.7 for 3.7 kB a slice.

    ``known``: by repr, which tells 1 from 1.0; values that are new go in, but for those that each slice has of its own.
    """
    frames = {"frames": [shared(frame, known) for frame in header["frames"]]} if "frames" in header else {}
    return {
        sys.intern(keyword): value if keyword in OWN else known.setdefault(repr(value), value)
        for keyword, value in header.items()
        if keyword != "frames"
    } | frames


def slices_of(path: Path, header: Header) -> list[Slice]:
    """The slices of one file: its frames, or itself."""
    frames = header.get("frames")
    if frames is None:
        return [Slice(path, 0, header)]
    shared = {k: v for k, v in header.items() if k != "frames"} | {"NumberOfFrames": 1, "multiframe": True}
    whole = header.get(OTHERS, {})
    return [Slice(path, n, shared | frame | {OTHERS: whole | frame.get(OTHERS, {})}) for n, frame in enumerate(frames)]


def frame_headers(dataset: Dataset, path: Path) -> list[Header]:
    """What the functional groups say of each frame; a frame's own groups before the shared ones (PS3.3 C.7.6.16.1)."""
    shared = _grouped(dataset.get(GROUPS[0]) or [])
    frames = [shared | _grouped([item]) for item in dataset.get(GROUPS[1]) or []]
    count = numbers(plain(dataset, ["NumberOfFrames"]), "NumberOfFrames", 1)
    if count is None or int(count[0]) != len(frames):
        raise InputError(
            "dicom-frame-count",
            f"{path} describes {len(frames)} frames but claims another number; copy the series again",
        )
    return frames


def _grouped(items: list[Dataset]) -> Header:
    found: Header = {}
    others: dict[str, int] = {}
    for item in items:
        for element in item:
            for group in element.value if element.VR == "SQ" else ():
                found |= plain(group, SLICE_TAGS)
                others |= {
                    f"{tag:08x}": crc32(_stored(raw))
                    for tag, raw in group.items()
                    if tag not in KNOWN and _is_other(tag, raw)
                }
                if "FrameType" in group:
                    found["ImageType"] = plain(group, ["FrameType"])["FrameType"]
                if "FrameAcquisitionNumber" in group:
                    found |= {"AcquisitionNumber": plain(group, ["FrameAcquisitionNumber"])["FrameAcquisitionNumber"]}
    return found | {OTHERS: others} if others else found


def _beyond(tag: BaseTag, vr: str | None, length: int) -> bool:
    """Whether an element comes after those that are compared."""
    return tag > LAST


def _elements(file: BinaryIO, prefixed: bool) -> Dataset:
    """The elements up to LAST as they are stored. What is little endian and as its file meta group says is not made a
    data set element by element: that halves the time, which counts with tens of thousands of files."""
    meta, syntax = file_meta(file, prefixed)
    place, first = file.tell(), file.read(6)
    file.seek(place)
    explicit = first[4:].isalpha() and first[4:].isupper()
    unlike = explicit == (syntax == ImplicitVRLittleEndian)
    if unlike or syntax in ("", DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
        file.seek(0)
        dataset = read_partial(file, _beyond, force=True)
        if kind := getattr(dataset, "file_meta", Dataset()).get("MediaStorageSOPClassUID"):
            dataset.setdefault("SOPClassUID", kind)
        return dataset
    wanted: Any = data_element_generator(file, not explicit, True, _beyond)
    return Dataset({raw.tag: raw for raw in (*meta.values(), *wanted)})


def file_meta(file: BinaryIO, prefixed: bool) -> tuple[dict[int, Any], str]:
    """The file meta group and the transfer syntax in it; the file is then where its data set begins."""
    file.seek(132 if prefixed else 0)
    meta: dict[int, Any] = {}
    if prefixed:
        meta = {raw.tag: raw for raw in data_element_generator(file, False, True, _beyond_meta)}
    return meta, meta[SYNTAX].value.decode().strip(" \0") if SYNTAX in meta else ""


def _beyond_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group != 2


def _quick(dataset: Dataset) -> Header:
    """As ``plain`` for TAGS, of a dataset just read: text and shorts by hand, what is less simple through pydicom."""
    found: Header = {}
    others: dict[str, int] = {}
    for tag, raw in list(dataset.items()):
        keyword, vr = KNOWN.get(tag, ("", ""))
        if not keyword and _is_other(tag, raw):
            others[f"{tag:08x}"] = crc32(_stored(raw))
        if not keyword or not raw.value:
            continue
        if isinstance(raw, RawDataElement) and isinstance(raw.value, bytes):
            try:
                if vr in TEXT and raw.value.isascii():
                    values = [TEXT[vr](part) for part in raw.value.decode().rstrip(" \0").split("\\")]
                    found[keyword] = values if len(values) > 1 else values[0]
                    continue
                if vr == "US" and len(raw.value) == 2:
                    found[keyword] = int.from_bytes(raw.value, "little" if raw.is_little_endian else "big")
                    continue
            except ValueError:
                continue
        found |= plain(dataset, [keyword])
    return found | {OTHERS: others} if others else found


def _is_other(tag: int, raw: Any) -> bool:
    """Whether an element that is not in TAGS must be the same in all slices of a volume; names of people are left
    out, and group lengths."""
    return tag >> 16 in COMPARED and tag & 0xFFFF != 0 and raw.VR != "PN" and tag not in PER_IMAGE and bool(raw.value)


def _stored(element: Any) -> bytes:
    """The value of an element as its file has it; of a sequence that was parsed, those of its items."""
    value = element.value
    if isinstance(value, bytes):
        return value
    if isinstance(value, Sequence):
        inner = (
            part
            for item in value
            for part in (b"item", *(f"{tag:08x}".encode() + _stored(held) for tag, held in item.items()))
        )
        return b"".join(inner)
    return repr(value).encode()


def plain(dataset: Dataset, keywords: list[str]) -> Header:
    """Elements as Python's own values; those that are absent, empty or malformed are left out."""
    found = {}
    for keyword in keywords:
        try:
            value = dataset.get(keyword)
            if value is None or value == "":
                continue
            found[keyword] = [_plain(v) for v in value] if isinstance(value, MultiValue) else _plain(value)
        except Exception:  # pydicom raises nearly anything on a malformed value, at the moment it is asked for
            continue
    return found


def _plain(value: Any) -> Any:
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    return str(value)


def numbers(header: Header, keyword: str, count: int) -> np.ndarray | None:
    """``count`` finite numbers of an element, float64; None where it is absent, empty or malformed."""
    try:
        values = np.atleast_1d(np.asarray(header.get(keyword), np.float64))
    except (TypeError, ValueError):
        return None
    return values if values.shape == (count,) and np.isfinite(values).all() else None
