"""De-identify DICOM headers by the Basic Application Level Confidentiality Profile (PS3.15, annex E).

``confidentiality_profile.csv`` is the table of the standard. Of the elements not in it, only those are kept that
``grammar`` recognises as numbers, defined terms or technical text. Pseudonyms and UIDs are computed from the original
values by HMAC-SHA256 with a secret key: the same key gives the same results in every run, and they cannot be reversed
without the key. See docs/decisions/deidentify.md.
"""

import csv
import hmac
import os
import re
import secrets
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_has_tag, keyword_for_tag
from pydicom.tag import BaseTag
from pydicom.uid import UID_dictionary

from medgen import __version__
from medgen.errors import InputError
from medgen.io.deidentification import grammar
from medgen.io.dicom.quiet import quiet_pydicom

EDITION = "2026c"
TABLE = Path(__file__).with_name("confidentiality_profile.csv")
# Elements that are not in the table are also removed or emptied if they are text, names, dates or ages.
LONG_TEXT = {"LT", "ST", "UT", "UC", "UR"}
SHORT_TEXT = {"LO", "SH", "AE", "AS", "PN", "DA", "DT", "TM"}
# Exceptions, kept if all their words are technical: they describe how an image was made or how its values are read.
TECHNICAL = set(
    "CodeValue LongCodeValue URNCodeValue CodeMeaning CodingSchemeDesignator CodingSchemeVersion "
    "Manufacturer ManufacturerModelName SoftwareVersions RescaleType ModalityLUTType StackID "
    "ConvolutionKernel FilterType ImageFilter ReconstructionMethod AttenuationCorrectionMethod ScatterCorrectionMethod "
    "SequenceName PulseSequenceName ImagedNucleus ReceiveCoilName ReceiveCoilManufacturerName TransmitCoilName "
    "TransmitCoilManufacturerName MultiCoilElementName CardiacFramingType ASLCrusherDescription AlgorithmName "
    "AlgorithmVersion".split()
)
# Sequences that contain bulk data: tables, pictures, and the encrypted values of removed elements.
BULK_SEQUENCES = {
    "VOILUTSequence",
    "ModalityLUTSequence",
    "PresentationLUTSequence",
    "IconImageSequence",
    "EncryptedAttributesSequence",
}
CODES: dict[str, Callable[[str], bool]] = {
    **dict.fromkeys(("CodeValue", "LongCodeValue", "URNCodeValue"), grammar.is_code),
    "CodingSchemeDesignator": grammar.is_scheme,
    "CodingSchemeVersion": lambda text: re.fullmatch(r"[\d._-]{1,16}", text, re.ASCII) is not None,
}
# Words of names and IDs that stand for any patient.
NOBODY = set(
    "anon anonym anonymous anonymized anonymised anonymize anonymise deidentified de identified identity removed "
    "unknown none no name noname patient subject case test dummy redacted hidden empty deleted null id pid x xx xxx "
    "xxxx n a na nn anonymisiert unbekannt notfall anonyme inconnu anonimo desconocido sconosciuto".split()
)
PIXELS = 0x7FE00010
BIRTH = {"PatientBirthDate", "PatientBirthTime"}
DUMMIES: dict[str, Any] = {"DA": "19000101", "TM": "000000", "DT": "19000101000000", "AS": "000Y", "UR": "urn:none"}
DUMMIES |= dict.fromkeys(("IS", "DS"), "0") | dict.fromkeys(("AE", "CS", "LO", "SH", "LT", "ST", "UT", "UC"), "REMOVED")
DUMMIES |= dict.fromkeys(("FL", "FD", "SL", "SS", "SV", "UL", "US", "UV", "AT"), 0)
DUMMIES |= dict.fromkeys(("OB", "OW", "OD", "OF", "OL", "OV", "UN"), b"\0" * 8) | {"PN": "REMOVED"}
# Modalities that often have text burned into the pixels.
DRAWN_ON = {"US", "IVUS", "XC", "ES", "GM", "SM", "SC", "OT", "DOC", "SCN", "HC"}
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
quiet_pydicom()  # warnings quote header values

Changes = Counter[str]  # "TAG KEYWORD removed|emptied|replaced|remapped|shifted" -> count; contains no values


@dataclass(frozen=True)
class Deidentifier:
    """De-identifies headers with a secret ``key``.

    ``shift_dates``: shift dates by a patient-specific number of days (Retain Longitudinal Temporal Information with
    Modified Dates Option, PS3.15 E.3.6); otherwise dates and times are removed.
    """

    key: bytes = field(repr=False)
    shift_dates: bool = False

    def pseudonym(self, kind: str, text: str) -> str:
        """Return the pseudonym of ``text`` as 16 hexadecimal digits; it depends on ``kind``."""
        return self._digest(kind, text)[:8].hex()

    def alias(self, dataset: Dataset) -> str:
        """Return the pseudonym of an image's patient, which replaces name and ID."""
        return self.pseudonym("patient", _patient(dataset)).upper()

    def uid(self, uid: str) -> str:
        """Return the replacement of ``uid`` (PS3.5 B.2); UIDs in the table of DICOM itself (PS3.6) are kept.

        The root of DICOM alone is no reason to keep one: some programs make up instance UIDs under it.
        """
        if not uid or uid in UID_dictionary:
            return uid
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', uid)[:16], version=5).int}"

    def deidentify(self, dataset: Dataset) -> Changes:
        """De-identify the header of an image in place; the pixel data is not changed.

        Patient name and ID become one pseudonym. Nested data sets are treated in the same way.

        Returns:
            Number of changes by element and kind.

        Raises:
            InputError: the image may show identity in its pixels.
        """
        changes: Changes = Counter()
        _check_charset(dataset)
        refuse_drawn(dataset)
        pixels = dataset.pop(PIXELS, None)
        patient = _patient(dataset)
        days = 1 + int.from_bytes(self._digest("days", patient)[:4], "big") % 3650
        alias = self.alias(dataset)
        self._clean(dataset, alias, days, changes)
        dataset.PatientName, dataset.PatientID = alias, alias
        if pixels is not None:
            dataset[PIXELS] = pixels
        _record_method(dataset, self.shift_dates)
        return changes

    def _digest(self, kind: str, text: str) -> bytes:
        return hmac.digest(self.key, f"{kind}\0{text}".encode(errors="surrogateescape"), "sha256")

    def _clean(self, holder: Dataset, alias: str, days: int, changes: Changes) -> None:
        _check_charset(holder)
        for tag in list(holder.keys()):
            if tag.element == 0:  # group length: retired, and invalid after changes
                del holder[tag]
                continue
            outcome, name = _unconditional_removal(tag), keyword_for_tag(tag)
            if outcome is None:
                try:
                    outcome = self._element(holder, holder[tag], alias, days, changes)
                except Exception:  # pydicom raises arbitrary exceptions on non-standard values
                    outcome = "removed"
            if outcome == "removed":
                del holder[tag]
            if outcome:
                changes[f"{int(tag):08X} {name or ('private' if tag.is_private else 'unknown')} {outcome}"] += 1

    def _element(self, holder: Dataset, element: DataElement, alias: str, days: int, changes: Changes) -> str:
        """De-identify one element; return what was done, or an empty string if nothing was needed."""
        keyword, kind, kinds = element.keyword, element.VR, grammar.expected(element.tag)
        action = profile().get(int(element.tag)) or _default_action(keyword, kinds[0])
        if kind not in (*kinds, " or ".join(kinds)):  # the rules below apply to the VR of the standard
            if action[-1:] not in ("Z", "D") or kinds[0] == "SQ":
                return "removed"
            element = holder[element.tag] = DataElement(element.tag, kinds[0], DUMMIES[kinds[0]])
            kind = kinds[0]
        if kind == "SQ" and action in ("", "X/Z/U"):
            for item in element.value:
                self._clean(item, alias, days, changes)
            return ""
        if element.is_empty:
            return ""
        if not action:
            return _keep_safe(holder, element)
        if keyword in ("PatientID", "PatientName"):
            element.value = alias
            return "replaced"
        if action == "U":
            return self._remap(element)
        if self.shift_dates and kind in ("DA", "DT", "TM") and keyword not in BIRTH and _shift_dates(element, days):
            return "" if kind == "TM" else "shifted"
        # Of several actions, the last is valid for every type of the attribute (PS3.15 E.3.1). Sequences that may be
        # removed are optional in images, except AcquisitionContextSequence, which enhanced images require.
        last = action.split("/")[-1] if kind != "SQ" or keyword == "AcquisitionContextSequence" else action[0]
        if last == "D":
            _dummy(element)
        elif last == "Z":
            element.value = [] if kind == "SQ" else None
        return {"X": "removed", "Z": "emptied", "D": "replaced"}[last]

    def _remap(self, element: DataElement) -> str:
        old = [element.value] if isinstance(element.value, str) else list(element.value)
        new = [self.uid(str(uid)) for uid in old]
        element.value = new if len(new) > 1 else new[0]
        return "remapped" if new != [str(uid) for uid in old] else ""


@cache
def profile() -> dict[int, str]:
    """Return {tag: action} of the table."""
    with open(TABLE, encoding="ascii", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {int(row["tag"], 16): row["action"] for row in rows}


def _check_charset(holder: Dataset) -> None:
    """Drop a SpecificCharacterSet that is not a code string, because pydicom needs it to decode other elements."""
    if (tag := 0x00080005) in holder and holder.get_item(tag).VR not in ("CS", None):
        del holder[tag]


def _unconditional_removal(tag: BaseTag) -> str | None:
    """Return "removed" for elements removed regardless of value: private, graphics, unknown, bulk or listed as X."""
    graphics = tag.group & 0xFF00 in (0x5000, 0x6000)  # curves, overlays
    other = tag.group < 8 or not dictionary_has_tag(tag) or keyword_for_tag(tag) in BULK_SEQUENCES
    bulk = not grammar.BULK.isdisjoint(grammar.expected(tag))
    return "removed" if tag.is_private or graphics or other or bulk or profile().get(int(tag)) == "X" else None


def _keep_safe(holder: Dataset, element: DataElement) -> str:
    """Keep technical text, numbers, defined terms and UIDs, and replace or empty other values; return what was done."""
    if " or " in element.VR:  # implicit VR, which pydicom resolves on writing
        return "" if grammar.clean(element) else "removed"
    old = grammar.values(element)
    if element.keyword in CODES:
        new = [str(value) if CODES[element.keyword](str(value)) else "REMOVED" for value in old]
    elif element.keyword == "CodeMeaning":
        new = [grammar.meaning(str(holder.get("CodingSchemeDesignator")), str(holder.get("CodeValue")), str(old[0]))]
    elif element.keyword in TECHNICAL and element.VR in LONG_TEXT | SHORT_TEXT:
        # Not emptied, because the element may be required; US means unspecified.
        unknown = "US" if element.keyword in ("RescaleType", "ModalityLUTType") else "REMOVED"
        new = [str(value) if grammar.is_technical(str(value)) else unknown for value in old]
    else:
        new = grammar.clean(element)
    if not any(value != "" for value in new):
        element.value = None
        return "emptied"
    element.value = new if len(new) > 1 else new[0]
    return "" if list(map(str, new)) == list(map(str, old)) else "replaced"


def _default_action(keyword: str, kind: str) -> str:
    """Return the action for an element that is not in the table.

    UIDs are replaced, except those of DICOM's own table (object types, encodings, coding schemes), and long text is
    removed. Short text, names and times are emptied, which is valid for both required (type 2) and optional (type 3)
    attributes.
    """
    if kind == "UI":
        return "U"
    if keyword in TECHNICAL:
        return ""
    if keyword.endswith("PrivateCreator"):  # belongs to a pointer to a private element and must not be empty
        return "X"
    return "X" if kind in LONG_TEXT else "Z" if kind in SHORT_TEXT else ""


def _dummy(element: DataElement) -> None:
    if element.VR != "SQ":
        element.value = DUMMIES[element.VR]
        return
    element.value = element.value[:1]
    for inner in element.value[0]:
        if not inner.is_empty:
            _dummy(inner)


def _shift_dates(element: DataElement, days: int) -> bool:
    """Shift dates in place; return whether all values are valid. Times of day are kept."""
    texts = [str(v) for v in ([element.value] if not hasattr(element.value, "append") else element.value)]
    if not all(grammar.matches(element.VR, text.strip(" ")) for text in texts):
        return False
    if element.VR == "TM":
        return True
    try:
        shifted_texts = [_earlier(text[:8], days) + text[8:] for text in texts]
    except (ValueError, OverflowError):
        return False
    element.value = shifted_texts if len(shifted_texts) > 1 else shifted_texts[0]
    return True


def _earlier(text: str, days: int) -> str:
    if not re.fullmatch(r"\d{8}", text):
        raise ValueError(text)
    return f"{date(int(text[:4]), int(text[4:6]), int(text[6:])) - timedelta(days):%Y%m%d}".rjust(8, "0")


def _patient(dataset: Dataset) -> str:
    """Return what identifies the patient: the ID, else name and birth date, else the StudyInstanceUID.

    A birth date alone, and an ID or name that an anonymiser gave to all, identify nobody.
    """
    identifier = str(dataset.get("PatientID") or "").strip()
    if _stands_for_anybody(identifier):
        name, born = name_and_birth(dataset)
        identifier = name + "\n" + born if name else ""
    return identifier.strip() or str(dataset.get("StudyInstanceUID") or "")


def name_and_birth(dataset: Dataset) -> tuple[str, str]:
    """Return the patient's name and birth date; empty if missing, or if the name stands for anybody.

    Case and empty parts of a name count for nothing: DOE^JANE and Doe^Jane^^^ are one.
    """
    name, born = (str(dataset.get(keyword) or "").strip() for keyword in ("PatientName", "PatientBirthDate"))
    groups = ["^".join(part.strip() for part in group.split("^")).rstrip("^") for group in name.split("=")]
    named = "=".join(groups).rstrip("=").casefold()
    return "" if not set(re.findall(r"[^\W\d_]+", named)) - NOBODY else named, born


def _stands_for_anybody(identifier: str) -> bool:
    words, digits = re.findall(r"[^\W\d_]+", identifier.casefold()), "".join(re.findall(r"\d", identifier))
    return set(words) <= NOBODY and re.fullmatch("" if words else r"0*|9{4,}", digits) is not None


def refuse_drawn(dataset: Dataset) -> None:
    """Raise InputError for an image that may show the patient's name in its pixels."""
    file = getattr(dataset, "filename", None) or "the image"
    kind, modality = str(dataset.get("SOPClassUID", "")), str(dataset.get("Modality", ""))
    reason = ""
    if str(dataset.get("BurnedInAnnotation", "")).upper() == "YES":
        reason = "BurnedInAnnotation is YES"
    elif "SequenceOfUltrasoundRegions" in dataset:
        reason = "it has ultrasound regions"
    elif modality in DRAWN_ON or kind == SECONDARY_CAPTURE or kind.startswith(f"{SECONDARY_CAPTURE}."):
        reason = f"its type is {modality or 'secondary capture'}"
    elif any("SCREEN" in str(value).upper() for value in dataset.get("ImageType") or ()):
        reason = "it is a screenshot"
    if reason:
        raise InputError(
            "deidentify-pixels-show-name",
            f"{file} may show the patient's name in its pixels ({reason}); "
            "remove the text manually or exclude the image",
        )


def _record_method(dataset: Dataset, dates_shifted: bool) -> None:
    """Record the de-identification in the header (PS3.15 E.1.1, PS3.3 C.7.1.1, CID 7050)."""
    codes = [("113100", "Basic Application Confidentiality Profile")]
    if dates_shifted:
        codes.append(("113107", "Retain Longitudinal Temporal Information Modified Dates Option"))
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = [
        f"PS3.15 {EDITION} Basic Application Confidentiality Profile",
        f"medgen {__version__}",
    ]
    dataset.DeidentificationMethodCodeSequence = []
    for value, meaning in codes:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
        dataset.DeidentificationMethodCodeSequence.append(item)
    dataset.LongitudinalTemporalInformationModified = "MODIFIED" if dates_shifted else "REMOVED"


# The key ------------------------------------------------------------------------------------------------


def read_key(path: Path) -> bytes:
    """Read the key in ``path``; if the file does not exist, create it with a random key, readable only by the owner.

    Raises:
        InputError: other users can read the file, it contains no valid key, or it cannot be read or written.
    """
    try:
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32) + "\n")
        open_to_others = os.name == "posix" and path.stat().st_mode & 0o077
        text = path.read_bytes().strip()
    except OSError as error:
        raise InputError(
            "deidentify-key-unusable",
            f"{path} cannot be used as a key file ({error.strerror}); choose another --identity-dir",
        ) from None
    if open_to_others:
        raise InputError(
            "deidentify-key-open",
            f"{path} can be read by other users, and the key allows re-identification of patients; run chmod 600 on it",
        )
    if not re.fullmatch(rb"([0-9a-fA-F]{2}){16,}", text):
        raise InputError(
            "deidentify-key-invalid",
            f"{path} is not a key of at least 32 hexadecimal digits; restore the file or move it away",
        )
    return bytes.fromhex(text.decode())
