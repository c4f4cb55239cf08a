"""Recognise DICOM values that are numbers, codes or UIDs rather than free text (PS3.5, table 6.2-1)."""

import re
import struct
from collections.abc import Sequence
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

from pydicom import DataElement
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR
from pydicom.tag import BaseTag
from pydicom.valuerep import format_number_as_ds

PATTERNS = {
    "AS": r"\d{3}[DWMY]",
    "CS": r"[A-Z0-9 _]{1,16}",
    "DA": r"\d{8}",
    "DS": r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?",
    "DT": r"\d{4}(\d\d){0,5}(\.\d{1,6})?([+-]\d{4})?",
    "IS": r"[+-]?\d{1,12}",
    "TM": r"\d\d(\d\d(\d\d(\.\d{1,6})?)?)?",
    "UI": r"(?=.{1,64}\Z)\d+(\.\d+)*",
}
WORDS = {"US": "<H", "SS": "<h", "UL": "<I", "SL": "<i", "UV": "<Q", "SV": "<q", "FL": "<f", "FD": "<d"}
BULK = {"OB", "OW", "OF", "OL", "OD", "OV", "UN"}
SMALLEST, LARGEST = 1e-15, 1e15  # plausible magnitude of a measurement; text read as a number falls outside
MOST = 16  # maximum number of values in one element; more could encode text
VECTORS = {
    "DimensionIndexValues": 5,
    "FrameIncrementPointer": 5,
    "FrameDimensionPointer": 5,
}  # maximum count for these elements of VM 1-n
SNOMED = {"SCT", "SRT", "SNM3", "99SDM"}
SCHEMES = SNOMED | set(
    "UCUM DCM LN I10 I9C ICD10 NCIt RADLEX MSH UMLS FMA MDC NEU IBSI RXNORM NDC SDE ISO3166_1".split()
)
NUMBER = r"\d{1,4}(\.\d{1,3}){0,3}"
TOKEN = re.compile(rf"[A-Za-z]{{0,3}}{NUMBER}([A-Za-z]{{1,3}}{NUMBER}){{0,3}}[A-Za-z]{{0,3}}", re.ASCII)  # B30f, tfl3d1


def matches(kind: str, text: str) -> bool:
    """Whether a string without padding is a valid value of VR ``kind``."""
    return re.fullmatch(PATTERNS[kind], text, re.ASCII) is not None


def expected(tag: BaseTag) -> list[str]:
    """Return the VRs of an element in the DICOM dictionary."""
    return dictionary_VR(tag).split(" or ") if dictionary_has_tag(tag) else []


def clean(element: DataElement) -> list[Any]:
    """Return the values of an element if all are numbers, tags, UIDs or defined terms; otherwise an empty list.

    A code string (CS) that is not a defined term is returned as "". A decimal string (DS) that is too long is shortened
    to 16 characters.
    """
    kind, raw_values = element.VR, values(element)
    if " or " in kind and isinstance(element.value, bytes) and len(element.value) % 2 == 0:
        kind, raw_values = "US", list(struct.unpack(f"<{len(element.value) // 2}H", element.value))
    if kind == "CS":
        return [str(value) if is_term(str(value), element.keyword) else "" for value in raw_values]
    if kind in PATTERNS:
        texts = [_text(value) for value in raw_values]
        valid = not any(isinstance(value, bytes) for value in raw_values)
        valid = valid and all(matches(kind, text) and _in_range(kind, text) for text in texts)
        return [_short(kind, text) for text in texts] if valid else []
    if kind == "AT":
        known = all(dictionary_has_tag(value) for value in raw_values)
        return raw_values if known and _has_valid_count(element, len(raw_values)) else []
    if kind in WORDS:
        return raw_values if _has_valid_count(element, len(raw_values)) and _measures(kind, raw_values) else []
    return []


def is_term(text: str, keyword: str = "") -> bool:
    """Whether a code string is a DICOM defined term, or too short (under 3 characters) to identify anybody."""
    text = text.strip(" ")
    if keyword == "SpecificCharacterSet":
        return text in python_encoding
    return matches("CS", text) and (len(text) < 3 or text in terms()) if text else True


def is_technical(text: str) -> bool:
    """Whether a text is short and has only words of ``technical_words.txt`` and short tokens with a digit."""
    parts = [part for part in re.split(r"[\s/*,;:()]+", text) if part]
    pieces = [p for part in parts for p in ([part] if part.upper() in words() else re.split("[_+-]", part)) if p]
    return len(text) <= 64 and all(piece.upper() in words() or TOKEN.fullmatch(piece) for piece in pieces)


def is_code(text: str) -> bool:
    """Whether a text is a code value: known to pydicom, or upper-case letters and digits with at least one digit."""
    return text in _codes() or re.fullmatch(r"(?=.*\d)[A-Z0-9.-]{1,16}", text, re.ASCII) is not None


def is_scheme(text: str) -> bool:
    """Whether a text is a coding scheme designator."""
    return text in SCHEMES or re.fullmatch(r"99[A-Z0-9_]{1,14}", text, re.ASCII) is not None


def meaning(scheme: str, code: str, header_meaning: str) -> str:
    """Return a safe code meaning.

    Args:
        scheme: coding scheme designator.
        code: code value.
        header_meaning: meaning found in the header.

    Returns:
        ``header_meaning`` if it equals the standard meaning (ignoring case) or, for an unknown code, is technical text.
        Otherwise the standard meaning of a known code, or "REMOVED".
    """
    known = _codes().get(code, {}).get("SCT" if scheme in SNOMED else scheme)
    if known is not None:
        return header_meaning if header_meaning.casefold() == known.casefold() else known[:64]
    return header_meaning if is_technical(header_meaning) else "REMOVED"


@cache
def _codes() -> dict[str, dict[str, str]]:
    """Return {code: {coding scheme: meaning}} of all codes in pydicom; SNOMED RT codes get the SNOMED CT meanings."""
    from pydicom.sr._concepts_dict import concepts  # imported here because the table is large and slow to import
    from pydicom.sr._snomed_dict import mapping

    found: dict[str, dict[str, str]] = {}
    tables: dict[str, Any] = concepts
    for scheme, names in tables.items():
        for codes in names.values():
            for code, (concept_name, _) in codes.items():
                found.setdefault(code, {})[scheme] = concept_name.partition(" (")[0]
    for old, new in mapping["SRT"].items():
        if new in found:
            found.setdefault(old, found[new])
    return found


@cache
def terms() -> frozenset[str]:
    return frozenset(_lines("defined_terms.txt"))


@cache
def words() -> frozenset[str]:
    return frozenset(word for line in _lines("technical_words.txt") for word in line.split())


def _lines(name: str) -> list[str]:
    lines = Path(__file__).with_name(name).read_text(encoding="ascii").splitlines()
    return [line for line in lines if not line.startswith("#")]


def values(element: DataElement) -> list[Any]:
    """Return the values of an element as a list."""
    value = element.value
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        return [value]
    return list(value)


def _text(value: Any) -> str:
    return str(getattr(value, "original_string", None) or value).strip(" \0")


def _in_range(kind: str, text: str) -> bool:
    if kind == "IS":
        return -(2**31) <= int(text) < 2**31
    return kind != "DS" or (len(text) <= 64 and isfinite(float(text)))


def _short(kind: str, text: str) -> str:
    return format_number_as_ds(float(text)) if kind == "DS" and len(text) > 16 else text


def _has_valid_count(element: DataElement, count: int) -> bool:
    """Whether the number of values agrees with the dictionary and is small."""
    least, _, most = dictionary_VM(element.tag).partition("-")
    if "n" in most or int(most or least) > MOST:
        return count <= VECTORS.get(element.keyword, 0)
    return int(least) <= count <= int(most or least)


def _measures(kind: str, values: Sequence[Any]) -> bool:
    """Whether numbers have a plausible magnitude and neither they nor their bytes encode text."""
    if not all(isinstance(value, int | float) for value in values):
        return False
    if kind in ("UL", "SL") and len(values) > 2 and max(map(abs, values)) >= 2**16:  # two characters each
        return False
    if kind in ("FL", "FD") and not all(v == 0 or SMALLEST <= abs(v) <= LARGEST for v in values):
        return False
    content = b"".join(struct.pack(WORDS[kind], value) for value in values)
    printable = len(values) > 2 and all(32 <= value < 127 for value in values)
    return not (printable or (len(content) > 3 and all(32 <= byte < 127 for byte in content)))
