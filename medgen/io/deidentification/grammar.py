"""What the value of a DICOM element must look like to be a number, a code or a UID and no text (PS3.5, table 6.2-1)."""

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
SMALLEST, LARGEST = 1e-15, 1e15  # of a number that measures something; the bytes of text give others
MOST = 16  # numbers of one element; more could spell a text
VECTORS = {"DimensionIndexValues": 5, "FrameIncrementPointer": 5, "FrameDimensionPointer": 5}  # of VM 1-n: the most
SNOMED = {"SCT", "SRT", "SNM3", "99SDM"}
SCHEMES = SNOMED | set(
    "UCUM DCM LN I10 I9C ICD10 NCIt RADLEX MSH UMLS FMA MDC NEU IBSI RXNORM NDC SDE ISO3166_1".split()
)
NUMBER = r"\d{1,4}(\.\d{1,3}){0,3}"
TOKEN = re.compile(rf"[A-Za-z]{{0,3}}{NUMBER}([A-Za-z]{{1,3}}{NUMBER}){{0,3}}[A-Za-z]{{0,3}}", re.ASCII)  # B30f, tfl3d1


def matches(kind: str, text: str) -> bool:
    """Whether a text without padding is a value of this VR."""
    return re.fullmatch(PATTERNS[kind], text, re.ASCII) is not None


def expected(tag: BaseTag) -> list[str]:
    """The VRs that the dictionary gives an element."""
    return dictionary_VR(tag).split(" or ") if dictionary_has_tag(tag) else []


def clean(element: DataElement) -> list[Any]:
    """The values of an element if they are numbers, tags, UIDs or defined terms, else none.

    A code string (CS) that is no defined term is given as "", a number of VR DS that is too long in 16 characters.
    """
    kind, given = element.VR, values(element)
    if " or " in kind and isinstance(element.value, bytes) and len(element.value) % 2 == 0:
        kind, given = "US", list(struct.unpack(f"<{len(element.value) // 2}H", element.value))
    if kind == "CS":
        return [str(value) if is_term(str(value), element.keyword) else "" for value in given]
    if kind in PATTERNS:
        texts = [_text(value) for value in given]
        fit = not any(isinstance(value, bytes) for value in given)
        fit = fit and all(matches(kind, text) and _in_range(kind, text) for text in texts)
        return [_short(kind, text) for text in texts] if fit else []
    if kind == "AT":
        known = all(dictionary_has_tag(value) for value in given)
        return given if known and _counted(element, len(given)) else []
    if kind in WORDS:
        return given if _counted(element, len(given)) and _measures(kind, given) else []
    return []


def is_term(text: str, keyword: str = "") -> bool:
    """Whether a code string is one that DICOM defines, or too short to name anybody."""
    text = text.strip(" ")
    if keyword == "SpecificCharacterSet":
        return text in python_encoding
    return matches("CS", text) and (len(text) < 3 or text in terms()) if text else True


def is_technical(text: str) -> bool:
    """Whether each word of a text is one of ``technical_words.txt`` or a short token with a digit."""
    parts = [part for part in re.split(r"[\s/*,;:()]+", text) if part]
    pieces = [p for part in parts for p in ([part] if part.upper() in words() else re.split("[_+-]", part)) if p]
    return len(text) <= 64 and all(piece.upper() in words() or TOKEN.fullmatch(piece) for piece in pieces)


def is_code(text: str) -> bool:
    """Whether a text is the value of a code: of a system that pydicom knows, or upper case letters and digits."""
    return text in _codes() or re.fullmatch(r"(?=.*\d)[A-Z0-9.-]{1,16}", text, re.ASCII) is not None


def is_scheme(text: str) -> bool:
    """Whether a text names a system of codes."""
    return text in SCHEMES or re.fullmatch(r"99[A-Z0-9_]{1,14}", text, re.ASCII) is not None


def meaning(scheme: str, code: str, said: str) -> str:
    """What a code means: as it is said where that is technical text or the standard's, else the standard's words."""
    known = _codes().get(code, {}).get("SCT" if scheme in SNOMED else scheme)
    if known is not None:
        return said if said.casefold() == known.casefold() else known[:64]
    return said if is_technical(said) else "REMOVED"


@cache
def _codes() -> dict[str, dict[str, str]]:
    """Code: coding scheme: meaning, of those that pydicom knows; SNOMED RT's codes with those of SNOMED CT."""
    from pydicom.sr._concepts_dict import concepts  # here: a large table, slow to import
    from pydicom.sr._snomed_dict import mapping

    found: dict[str, dict[str, str]] = {}
    tables: dict[str, Any] = concepts
    for scheme, names in tables.items():
        for codes in names.values():
            for code, (told, _) in codes.items():
                found.setdefault(code, {})[scheme] = told.partition(" (")[0]
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
    """The values of an element, one or several."""
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


def _counted(element: DataElement, count: int) -> bool:
    """Whether there are as many values as the dictionary says, and few."""
    least, _, most = dictionary_VM(element.tag).partition("-")
    if "n" in most or int(most or least) > MOST:
        return count <= VECTORS.get(element.keyword, 0)
    return int(least) <= count <= int(most or least)


def _measures(kind: str, values: Sequence[Any]) -> bool:
    """Whether numbers are of a size that measures something, and neither their bytes nor they themselves spell text."""
    if not all(isinstance(value, int | float) for value in values):
        return False
    if kind in ("UL", "SL") and len(values) > 2 and max(map(abs, values)) >= 2**16:  # two letters each
        return False
    if kind in ("FL", "FD") and not all(v == 0 or SMALLEST <= abs(v) <= LARGEST for v in values):
        return False
    content = b"".join(struct.pack(WORDS[kind], value) for value in values)
    spelt = len(values) > 2 and all(32 <= value < 127 for value in values)
    return not (spelt or (len(content) > 3 and all(32 <= byte < 127 for byte in content)))
