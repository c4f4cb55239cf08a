"""Read the header elements needed to find and stack slices, as plain values that can be stored in an index."""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

from pydicom import Dataset, dcmread
from pydicom.datadict import DicomDictionary, dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.filereader import data_element_generator, read_partial
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian
from pydicom.values import convert_SQ

from medgen.errors import InputError
from medgen.io.dicom.charset import repair_text
from medgen.io.dicom.elements import Header, numbers, plain
from medgen.io.dicom.lost import DICOM_ENDINGS
from medgen.io.dicom.quick import header_elements
from medgen.io.dicom.quiet import quiet_pydicom

# Attributes that distinguish volumes stored in one series, see parts.py. Elements of RECONSTRUCTION are constant within
# one reconstruction; elements of VARYING may differ in every slice of an ordinary scan.
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
# Other elements that may differ between the slices of one scan; the remaining elements of COMPARED go into ``others``.
PER_IMAGE = {
    tag_for_keyword(keyword)
    for keyword in (
        "SpecificCharacterSet SliceLocation WindowCenter WindowWidth WindowCenterWidthExplanation VOILUTFunction "
        "SmallestImagePixelValue LargestImagePixelValue RescaleSlope RescaleIntercept PixelRepresentation "
        "LossyImageCompression "
        "LossyImageCompressionRatio LossyImageCompressionMethod ReferencedImageSequence SourceImageSequence "
        "ReferencedInstanceSequence ImagePosition ImagePositionVolume TablePosition WaterEquivalentDiameter "
        "DataCollectionCenterPatient FrameAcquisitionDuration InStackPositionNumber DimensionIndexValues FrameLabel "
        "ConcatenationFrameOffsetNumber SOPInstanceUIDOfConcatenationSource PixelPaddingValue PixelPaddingRangeLimit"
    ).split()
}
PERSON_NAMES = {tag for tag, entry in DicomDictionary.items() if entry[0] == "PN"}  # implicit elements state no VR
SEQUENCES = {tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ"}
OTHERS = "others"  # key of {tag as 8 hexadecimal digits: CRC of its value}
COMPARED = {0x0008, 0x0018, 0x0020, 0x0028}  # groups whose remaining elements go into ``others``
TAGS = (
    SLICE_TAGS
    + (
        "SOPClassUID SOPInstanceUID SeriesInstanceUID StudyInstanceUID FrameOfReferenceUID PatientID StudyDescription "
        "Modality InstanceNumber Rows Columns NumberOfFrames SamplesPerPixel PhotometricInterpretation BitsAllocated "
        "BitsStored ConcatenationUID InConcatenationNumber InConcatenationTotalNumber"
    ).split()
)
NOT_SCANS = {"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO", "REG"}  # objects that accompany a scan
# The same objects by SOP class name, for those that have rows and columns or another modality.
NOT_SCAN_CLASSES = re.compile("Segmentation|Spectroscopy|RT Dose|Presentation State|Registration|Encapsulated|Raw Data")
OWN = {"SOPInstanceUID", "ImagePositionPatient", "InstanceNumber"}  # differ in every slice
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


WANTED = [tag_for_keyword(keyword) or 0 for keyword in TAGS]
KNOWN = {int(tag): (keyword, dictionary_VR(tag)) for tag, keyword in zip(WANTED, TAGS, strict=True)}
AT_FIRST = 2**14  # bytes that usually hold the elements up to LAST
LAST = 0x00282FFF  # later elements may be large: look-up tables, private groups
KNOWN[0x00020002] = ("MediaStorageSOPClassUID", "UI")
SYNTAX = 0x00020010
TEXT: dict[str, Any] = {"DS": float, "IS": int, **dict.fromkeys(("CS", "UI", "LO", "SH", "DA", "TM", "DT"), str.strip)}


quiet_pydicom()
# Path → (bytes that the header depends on, header) of files read recently: the same bytes need not be parsed again.
_recent: dict[Path, tuple[bytes, Header]] = {}
MOST_RECENT = 4096  # a few kilobytes each


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice: file, frame index in the file (from 0) and header."""

    file: Path
    frame: int
    header: Header


def read_header(path: Path) -> Header | None:
    """Read the relevant header elements of a file; None if the file is not DICOM.

    For an enhanced multi-frame image, ``frames`` lists the elements of each frame's functional groups (PS3.3 C.7.6.16).

    Raises:
        InputError: the file is unreadable or damaged, or its functional groups do not describe all frames.
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
    except Exception as error:  # pydicom raises arbitrary exceptions on bytes that are not DICOM
        raise InputError(
            "dicom-unreadable", f"{path} is not a readable DICOM file ({error}); copy the series again"
        ) from error


def settle_charset(dataset: Dataset) -> None:
    """Make SpecificCharacterSet acceptable to highdicom, in place.

    DICOM denotes the default repertoire by an empty value (PS3.3 C.12.1.1.2), which highdicom rejects. Among several
    values, it is replaced by its defined term; if it is the only value, the element is removed.
    """
    charset = dataset.get("SpecificCharacterSet") or ""
    values = [charset] if isinstance(charset, str) else list(charset)
    if len(values) > 1:
        dataset.SpecificCharacterSet = [value or "ISO 2022 IR 6" for value in values]
    elif values[0].strip() in ("", "ISO_IR 6"):
        dataset.pop("SpecificCharacterSet", None)


def header_in(file: BinaryIO, path: Path) -> Header | None:
    """Like ``read_header``, for an open file; exceptions of pydicom are not converted to InputError."""
    quiet_pydicom()
    dicom_name = path.suffix.lower() in DICOM_ENDINGS
    start = file.read(132)
    has_prefix = start[128:] == b"DICM"
    # Old files without preamble start with their elements.
    if not has_prefix and start[:2] not in (b"\x08\x00", b"\x02\x00"):
        if dicom_name:
            raise InvalidDicomError("no DICOM header")
        return None
    try:
        header = _decode(_elements(file, has_prefix))
        end = file.tell() + 4  # the header depends on the bytes until the next tag, which is beyond LAST
    except Exception:
        if has_prefix or dicom_name:
            raise
        return None
    if not (has_prefix or dicom_name or header.get("SOPClassUID") or header.get("MediaStorageSOPClassUID")):
        return None
    header["SOPClassUID"] = header.get("SOPClassUID") or header.get("MediaStorageSOPClassUID", "")
    header.pop("MediaStorageSOPClassUID", None)
    if "NumberOfFrames" in header:
        file.seek(0)
        dataset = dcmread(file, stop_before_pixels=True, force=True, specific_tags=["NumberOfFrames", *GROUPS])
        if GROUPS[1] in dataset:
            header["frames"] = frame_headers(dataset, path)
    elif end < AT_FIRST:
        file.seek(0)
        if len(_recent) >= MOST_RECENT:
            _recent.clear()
        _recent[path] = file.read(end), header
    return header


def is_same(path: Path, header: Header, content: bytes) -> bool:
    """Whether ``header`` is known to be that of a file with this ``content``, without parsing it again."""
    begins, recent = _recent.get(path, (b"", None))
    return recent is header and content.startswith(begins)


def is_scan(header: Header, path: Path) -> bool:
    """Whether the header belongs to an image of a scan; raises InputError for an image without a size."""
    if header.get("Modality") in NOT_SCANS or NOT_SCAN_CLASSES.search(UID(header["SOPClassUID"]).name):
        return False
    if header.get("Rows") and header.get("Columns"):
        return True
    if not (kind := header["SOPClassUID"]) or "Image Storage" in UID(kind).name:
        raise InputError("dicom-truncated", f"{path} is a truncated DICOM image; copy the series again")
    return False


def shared(header: Header, known: dict[str, Any]) -> Header:
    """Share equal values between headers to save memory (0.7 instead of 3.7 kB per slice).

    Args:
        header: header of a file.
        known: {repr: value} of the values seen so far; new values are added, except those in OWN. The key is the repr
            because 1 == 1.0.
    """
    frames = {"frames": [shared(frame, known) for frame in header["frames"]]} if "frames" in header else {}
    return {
        sys.intern(keyword): value if keyword in OWN else known.setdefault(repr(value), value)
        for keyword, value in header.items()
        if keyword != "frames"
    } | frames


def slices_of(path: Path, header: Header) -> list[Slice]:
    """Return the slices of one file: one per frame, or one for a single-frame file."""
    frames = header.get("frames")
    if frames is None:
        return [Slice(path, 0, header)]
    shared = {k: v for k, v in header.items() if k != "frames"} | {"NumberOfFrames": 1, "multiframe": True}
    common = header.get(OTHERS, {})
    return [Slice(path, n, shared | frame | {OTHERS: common | frame.get(OTHERS, {})}) for n, frame in enumerate(frames)]


def frame_headers(dataset: Dataset, path: Path) -> list[Header]:
    """Return the elements of each frame's functional groups; its own groups override shared ones (PS3.3 C.7.6.16.1)."""
    shared = _group_elements(dataset.get(GROUPS[0]) or [])
    frames = [shared | _group_elements([item]) for item in dataset.get(GROUPS[1]) or []]
    count = numbers(plain(dataset, ["NumberOfFrames"]), "NumberOfFrames", 1)
    if count is None or int(count[0]) != len(frames):
        raise InputError(
            "dicom-frame-count",
            f"{path} describes {len(frames)} frames, but its NumberOfFrames differs; copy the series again",
        )
    return frames


def _group_elements(items: list[Dataset]) -> Header:
    found: Header = {}
    others: dict[str, int] = {}
    for item in items:
        for element in item:
            for group in element.value if element.VR == "SQ" else ():
                found |= plain(group, SLICE_TAGS)
                others |= {
                    f"{tag:08x}": crc32(stored_bytes(raw))
                    for tag, raw in group.items()
                    if tag not in KNOWN and _is_other(tag, raw)
                }
                if "FrameType" in group:
                    found["ImageType"] = plain(group, ["FrameType"])["FrameType"]
                if "FrameAcquisitionNumber" in group:
                    found |= {"AcquisitionNumber": plain(group, ["FrameAcquisitionNumber"])["FrameAcquisitionNumber"]}
    return found | {OTHERS: others} if others else found


def _beyond(tag: BaseTag, vr: str | None, length: int) -> bool:
    """Whether an element comes after the last one that is read."""
    return tag > LAST


def _elements(file: BinaryIO, prefix: bool) -> Dataset:
    """Read the elements up to LAST without decoding them.

    Uncompressed little-endian files are parsed by ``quick``, other little-endian data sets that match their declared
    transfer syntax by a part of pydicom that takes half the time of ``read_partial``, which reads all others.
    """
    if prefix:
        file.seek(0)
        head = file.read(AT_FIRST)
        if (found := header_elements(head, LAST)) is not None:
            file.seek(found[1])
            return Dataset({raw.tag: raw for raw in found[0]})
        file.seek(0)
    meta, syntax = file_meta(file, prefix)
    data_start, first = file.tell(), file.read(6)
    file.seek(data_start)
    explicit = first[4:].isalpha() and first[4:].isupper()
    mismatch = explicit == (syntax == ImplicitVRLittleEndian)
    if mismatch or syntax in ("", DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
        file.seek(0)
        dataset = read_partial(file, _beyond, force=True)
        if kind := getattr(dataset, "file_meta", Dataset()).get("MediaStorageSOPClassUID"):
            dataset.setdefault("SOPClassUID", kind)
        return dataset
    raw_elements: Any = data_element_generator(file, not explicit, True, _beyond)
    return Dataset({raw.tag: raw for raw in (*meta.values(), *raw_elements)})


def file_meta(file: BinaryIO, prefix: bool) -> tuple[dict[int, Any], str]:
    """Read the file meta group and its transfer syntax; leaves the file at the start of the data set."""
    file.seek(132 if prefix else 0)
    meta: dict[int, Any] = {}
    if prefix:
        meta = {raw.tag: raw for raw in data_element_generator(file, False, True, _beyond_meta)}
    return meta, meta[SYNTAX].value.decode().strip(" \0") if SYNTAX in meta else ""


def _beyond_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group != 2


def _decode(dataset: Dataset) -> Header:
    """Fast version of ``plain`` for TAGS: decodes text and US values directly and leaves other types to pydicom."""
    found: Header = {}
    others: dict[str, int] = {}
    for tag, raw in list(dataset.items()):
        keyword, vr = KNOWN.get(tag, ("", ""))
        if not keyword and _is_other(tag, raw):
            others[f"{tag:08x}"] = crc32(stored_bytes(raw))
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
        if vr == "LO":
            repair_text(dataset)
        found |= plain(dataset, [keyword])
    return found | {OTHERS: others} if others else found


def _is_other(tag: int, raw: Any) -> bool:
    """Whether an element that is not in TAGS must be equal in all slices of a volume.

    Person names, group lengths, empty elements and those in PER_IMAGE are exempt.
    """
    if tag >> 16 not in COMPARED or tag & 0xFFFF == 0 or tag in PER_IMAGE or not raw.value:
        return False
    return raw.VR != "PN" and tag not in PERSON_NAMES


def stored_bytes(element: Any) -> bytes:
    """Return the stored bytes of an element; for a sequence, those of its items, however their lengths are stored."""
    value = element.value
    if isinstance(value, bytes):
        if element.VR == "SQ" or (element.VR in (None, "UN") and element.tag in SEQUENCES):
            return _stored_sequence(value, element.is_implicit_VR, element.is_little_endian)
        return value
    return _stored_items(value) if isinstance(value, Sequence) else repr(value).encode()


@lru_cache(maxsize=256)  # most sequences are the same in all slices
def _stored_sequence(value: bytes, implicit: bool, little_endian: bool) -> bytes:
    try:
        return _stored_items(convert_SQ(value, implicit, little_endian))
    except Exception:  # damaged in ways in which pydicom raises anything; then the bytes themselves are compared
        return value


def _stored_items(items: Iterable[Dataset]) -> bytes:
    pieces = (
        part
        for item in items
        for part in (b"item", *(f"{tag:08x}".encode() + stored_bytes(inner) for tag, inner in item.items()))
    )
    return b"".join(pieces)
