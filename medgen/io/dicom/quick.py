"""Parse uncompressed little-endian DICOM files directly, in a tenth of pydicom's time.

Both functions return None for anything unusual (other transfer syntaxes, unknown VRs, values that the bytes do not
hold, bytes after the pixels); the caller then reads the file with pydicom, which decides what is an error.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

SYNTAX, PIXELS = 0x00020010, 0x7FE00010
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
VRS = {vr.value.encode(): vr.value in EXPLICIT_VR_LENGTH_32 for vr in VR if len(vr.value) == 2}  # VR → 4-byte length
# The elements that the decoding of pixels and the unit of their values depend on: ``voxels.py``, ``pixels.py`` and
# ``units.py``. tests/io/dicom/test_quick.py compares them with those that these modules look up.
USED = frozenset(
    tag_for_keyword(keyword) or 0
    for keyword in (
        "SpecificCharacterSet SOPClassUID Modality ImageType SeriesDescription Units SamplesPerPixel "
        "PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns BitsAllocated BitsStored HighBit "
        "PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit RescaleSlope RescaleIntercept RescaleType "
        "ModalityLUTSequence RealWorldValueMappingSequence SharedFunctionalGroupsSequence "
        "PerFrameFunctionalGroupsSequence FloatPixelData DoubleFloatPixelData"
    ).split()
)

_explicit, _implicit, _length = Struct("<HH2sH").unpack_from, Struct("<HHL").unpack_from, Struct("<L").unpack_from


class _UnusualError(Exception):
    pass


UNUSUAL = (_UnusualError, StructError, UnicodeDecodeError)  # the second: the bytes end within an element


@dataclass(frozen=True)
class Pixels:
    """Where the pixels of a file are: ``start`` and ``size`` in bytes; ``key``: the bytes of the elements in USED."""

    key: tuple[Any, ...]
    start: int
    size: int


def header_elements(head: bytes, last: int) -> tuple[list[RawDataElement], int] | None:
    """Return the elements up to the tag ``last``, with those of the file meta group, and the offset of their end.

    ``head``: the first bytes of a file, from its preamble on.
    """
    try:
        elements, at, explicit = _meta(head)
        for tag, vr, start, end in _walk(head, at, explicit):
            if tag > last:
                return elements, at
            if vr in (b"SQ", None) and _length(head, start - 4)[0] == UNDEFINED:
                return None
            elements.append(_raw(head, tag, vr, start, end))
            at = end
    except UNUSUAL:
        pass
    return None


def pixels_of(content: bytes) -> Pixels | None:
    """Find the pixels of a whole file, if they are its last element."""
    try:
        _, at, explicit = _meta(content)
        key: list[Any] = [explicit]
        for tag, vr, start, end in _walk(content, at, explicit):
            if tag == PIXELS:
                return Pixels(tuple(key), start, end - start) if end == len(content) else None
            if tag in USED:
                key.append((tag, vr, content[start:end]))
    except UNUSUAL:
        pass
    return None


def _meta(content: bytes) -> tuple[list[RawDataElement], int, bool]:
    """Return the elements of the file meta group, the offset of the data set, and whether its VRs are explicit."""
    if content[128:132] != b"DICM":
        raise _UnusualError
    elements, at, syntax = [], 132, ""
    for tag, vr, start, end in _walk(content, at, True):
        if tag >> 16 != 2:
            break
        elements.append(_raw(content, tag, vr, start, end))
        if tag == SYNTAX:
            syntax = content[start:end].decode().strip(" \0")
        at = end
    if syntax not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        raise _UnusualError
    vr = content[at + 4 : at + 6]
    if (syntax == ExplicitVRLittleEndian) != (vr.isalpha() and vr.isupper()):
        raise _UnusualError
    return elements, at, syntax == ExplicitVRLittleEndian


def _raw(content: bytes, tag: int, vr: bytes | None, start: int, end: int) -> RawDataElement:
    name = None if vr is None else vr.decode()
    return RawDataElement(BaseTag(tag), name, end - start, content[start:end], start, vr is None, True)


def _walk(content: bytes, at: int, explicit: bool, depth: int = 0) -> Iterator[tuple[int, bytes | None, int, int]]:
    """Yield (tag, VR, start and end of the value) of the elements from ``at`` on, in ascending order."""
    size, before = len(content), -1
    while at < size:
        tag, vr, start, length = _head(content, at, explicit)
        if tag <= before or depth > 8:
            raise _UnusualError
        if tag == ITEM_END and depth:
            yield tag, None, start, start
            return
        if length == UNDEFINED:
            if vr not in (b"SQ", None) or tag == PIXELS:
                raise _UnusualError
            end = _sequence_end(content, start, explicit, depth + 1)
        else:
            end = start + length
        if end > size:
            if depth:
                raise _UnusualError
            yield tag, vr, start, end  # beyond the bytes at hand: callers stop at a tag, not at a value
            raise _UnusualError
        yield tag, vr, start, end
        at, before = end, tag


def _head(content: bytes, at: int, explicit: bool) -> tuple[int, bytes | None, int, int]:
    if not explicit:
        group, element, length = _implicit(content, at)
        return group << 16 | element, None, at + 8, length
    group, element, vr, length = _explicit(content, at)
    tag = group << 16 | element
    if tag in (ITEM, ITEM_END, SEQUENCE_END):
        return tag, None, at + 8, _length(content, at + 4)[0]
    if VRS[vr] if vr in VRS else _unusual():
        return tag, vr, at + 12, _length(content, at + 8)[0]
    return tag, vr, at + 8, length


def _unusual() -> bool:
    raise _UnusualError


def _sequence_end(content: bytes, at: int, explicit: bool, depth: int) -> int:
    """Return the end of a sequence of undefined length whose first item is at ``at``."""
    while True:
        tag, _, start, length = _head(content, at, explicit)
        if tag == SEQUENCE_END:
            return start
        if tag != ITEM:
            raise _UnusualError
        if length != UNDEFINED:
            at = start + length
            continue
        at = -1
        for inner, _, _, end in _walk(content, start, explicit, depth):
            at = end if inner == ITEM_END else -1
        if at < 0:
            raise _UnusualError
