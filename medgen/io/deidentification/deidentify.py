"""Identity out of DICOM headers: the Basic Application Level Confidentiality Profile (PS3.15, annex E).

``confidentiality_profile.csv`` is the standard's table; of all else only what ``grammar`` knows for a number, a defined
term or technical text stays. Pseudonyms and UIDs are made from the old ones by HMAC-SHA256
with a secret key: one key gives the same ones in every run, and without the key nobody gets back. See
docs/decisions/deidentify.md.
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

from medgen import __version__
from medgen.errors import InputError
from medgen.io.deidentification import grammar
from medgen.io.dicom.quiet import quiet_pydicom

EDITION = "2026c"
TABLE = Path(__file__).with_name("confidentiality_profile.csv")
LONG_TEXT = {"LT", "ST", "UT", "UC", "UR"}  # what is not listed in the table goes too if it is text, a name, a
SHORT_TEXT = {"LO", "SH", "AE", "AS", "PN", "DA", "DT", "TM"}  # date or an age,
TECHNICAL = set(  # but for these, as far as their words are technical: how an image was made, how its numbers are read
    "CodeValue LongCodeValue URNCodeValue CodeMeaning CodingSchemeDesignator CodingSchemeVersion "
    "Manufacturer ManufacturerModelName SoftwareVersions RescaleType ModalityLUTType StackID "
    "ConvolutionKernel FilterType ImageFilter ReconstructionMethod AttenuationCorrectionMethod ScatterCorrectionMethod "
    "SequenceName PulseSequenceName ImagedNucleus ReceiveCoilName ReceiveCoilManufacturerName TransmitCoilName "
    "TransmitCoilManufacturerName MultiCoilElementName CardiacFramingType ASLCrusherDescription AlgorithmName "
    "AlgorithmVersion".split()
)
LOOKUPS = {
    "VOILUTSequence",
    "ModalityLUTSequence",
    "PresentationLUTSequence",
    "IconImageSequence",
}  # their data are bulk
CODES: dict[str, Callable[[str], bool]] = {
    **dict.fromkeys(("CodeValue", "LongCodeValue", "URNCodeValue"), grammar.is_code),
    "CodingSchemeDesignator": grammar.is_scheme,
    "CodingSchemeVersion": lambda text: re.fullmatch(r"[\d._-]{1,16}", text, re.ASCII) is not None,
}
PIXELS = 0x7FE00010
BIRTH = {"PatientBirthDate", "PatientBirthTime"}
# UIDs of things that are no instances of anybody's data: kinds of object, encodings, code systems
COMMON_UIDS = re.compile(r"SOPClass|TransferSyntax|CodingScheme|Context|MappingResource|CreatorUID|ImplementationClass")
DICOM_ROOT = "1.2.840.10008."
DUMMIES: dict[str, Any] = {"DA": "19000101", "TM": "000000", "DT": "19000101000000", "AS": "000Y", "UR": "urn:none"}
DUMMIES |= dict.fromkeys(("IS", "DS"), "0") | dict.fromkeys(("AE", "CS", "LO", "SH", "LT", "ST", "UT", "UC"), "REMOVED")
DUMMIES |= dict.fromkeys(("FL", "FD", "SL", "SS", "SV", "UL", "US", "UV", "AT"), 0)
DUMMIES |= dict.fromkeys(("OB", "OW", "OD", "OF", "OL", "OV", "UN"), b"\0" * 8) | {"PN": "REMOVED"}
DRAWN_ON = {"US", "IVUS", "XC", "ES", "GM", "SM", "SC", "OT", "DOC", "SCN", "HC"}  # modalities that show their own text
SECONDARY_CAPTURE = f"{DICOM_ROOT}5.1.4.1.1.7"
quiet_pydicom()  # warnings quote values

Changes = Counter[str]  # "TAG KEYWORD removed|emptied|replaced|remapped|shifted" -> how often; never a value


@dataclass(frozen=True)
class Deidentifier:
    """Takes identity out of headers with a ``key`` that its owner keeps secret.

    ``shift_dates``: move dates by a number of days that is the patient's own (the Retain Longitudinal Temporal
    Information with Modified Dates Option, PS3.15 E.3.6); else dates and times go.
    """

    key: bytes = field(repr=False)
    shift_dates: bool = False

    def pseudonym(self, kind: str, text: str) -> str:
        """Sixteen hexadecimal digits that stand for ``text``; another ``kind`` gives others."""
        return self._digest(kind, text)[:8].hex()

    def uid(self, uid: str) -> str:
        """The UID that stands for ``uid`` (PS3.5 B.2); those that DICOM itself defines stay."""
        if not uid or (uid.startswith(DICOM_ROOT) and grammar.matches("UI", uid)):
            return uid
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', uid)[:16], version=5).int}"

    def deidentify(self, dataset: Dataset) -> Changes:
        """Take identity out of an image's header, in place; pixel data must be looked after by the caller.

        Patient name and ID become one pseudonym, nested data sets are treated alike.

        Raises:
            InputError: the image may show identity in its pixels.
        """
        changes: Changes = Counter()
        _check_charset(dataset)
        refuse_drawn(dataset)
        pixels = dataset.pop(PIXELS, None)
        patient = _patient(dataset)
        days = 1 + int.from_bytes(self._digest("days", patient)[:4], "big") % 3650
        alias = self.pseudonym("patient", patient).upper()
        self._clean(dataset, alias, days, changes)
        dataset.PatientName, dataset.PatientID = alias, alias
        if pixels is not None:
            dataset[PIXELS] = pixels
        _tell(dataset, self.shift_dates)
        return changes

    def _digest(self, kind: str, text: str) -> bytes:
        return hmac.digest(self.key, f"{kind}\0{text}".encode(errors="surrogateescape"), "sha256")

    def _clean(self, holder: Dataset, alias: str, days: int, changes: Changes) -> None:
        _check_charset(holder)
        for tag in list(holder.keys()):
            if tag.element == 0:  # a group's length, retired and untrue from here on
                del holder[tag]
                continue
            done, name = _removal(tag), keyword_for_tag(tag)
            if done is None:
                try:
                    done = self._element(holder, holder[tag], alias, days, changes)
                except Exception:  # pydicom raises nearly anything on values that break the standard
                    done = "removed"
            if done == "removed":
                del holder[tag]
            if done:
                changes[f"{int(tag):08X} {name or ('private' if tag.is_private else 'unknown')} {done}"] += 1

    def _element(self, holder: Dataset, element: DataElement, alias: str, days: int, changes: Changes) -> str:
        """What was done to an element: empty where nothing had to be."""
        keyword, kind, kinds = element.keyword, element.VR, grammar.expected(element.tag)
        action = profile().get(int(element.tag)) or _by_kind(keyword, kinds[0])
        if kind not in (*kinds, " or ".join(kinds)):  # the rules below are for the VR that the standard gives
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
            return _kept(holder, element)
        if keyword in ("PatientID", "PatientName"):
            element.value = alias
            return "replaced"
        if action == "U":
            return self._remap(element)
        if self.shift_dates and kind in ("DA", "DT", "TM") and keyword not in BIRTH and _shift(element, days):
            return "" if kind == "TM" else "shifted"
        # Of several actions the last is right whatever the attribute's type is in this kind of object (PS3.15 E.3.1);
        # a sequence that may go is optional in images, but for the one that enhanced images must have.
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
    """The table: tag -> action."""
    with open(TABLE, encoding="ascii", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {int(row["tag"], 16): row["action"] for row in rows}


def _check_charset(holder: Dataset) -> None:
    """Drop a SpecificCharacterSet that is no code: pydicom asks it before every other element."""
    if (tag := 0x00080005) in holder and holder.get_item(tag).VR not in ("CS", None):
        del holder[tag]


def _removal(tag: BaseTag) -> str | None:
    """ "removed" for what is so without a look at it: private, drawn, unknown or plainly listed elements."""
    drawn = tag.group & 0xFF00 in (0x5000, 0x6000)  # curves, overlays
    other = tag.group < 8 or not dictionary_has_tag(tag) or keyword_for_tag(tag) in LOOKUPS
    bulk = not grammar.BULK.isdisjoint(grammar.expected(tag))
    return "removed" if tag.is_private or drawn or other or bulk or profile().get(int(tag)) == "X" else None


def _kept(holder: Dataset, element: DataElement) -> str:
    """Keep what is technical text, or by its VR a number, a defined term or a UID; what was done to all else."""
    if " or " in element.VR:  # of implicit VR, which pydicom makes out when it writes
        return "" if grammar.clean(element) else "removed"
    old = grammar.values(element)
    if element.keyword in CODES:
        new = [str(value) if CODES[element.keyword](str(value)) else "REMOVED" for value in old]
    elif element.keyword == "CodeMeaning":
        new = [grammar.meaning(str(holder.get("CodingSchemeDesignator")), str(holder.get("CodeValue")), str(old[0]))]
    elif element.keyword in TECHNICAL and element.VR in LONG_TEXT | SHORT_TEXT:
        # Emptied ones may be an error where the standard wants them; US: unspecified.
        unknown = "US" if element.keyword in ("RescaleType", "ModalityLUTType") else "REMOVED"
        new = [str(value) if grammar.is_technical(str(value)) else unknown for value in old]
    else:
        new = grammar.clean(element)
    if not any(value != "" for value in new):
        element.value = None
        return "emptied"
    element.value = new if len(new) > 1 else new[0]
    return "" if list(map(str, new)) == list(map(str, old)) else "replaced"


def _by_kind(keyword: str, kind: str) -> str:
    """For what the table leaves out: UIDs of instances, text, names and times are treated as if it did not. Short text
    is emptied, which is right for attributes that must be there (type 2) and for those that may (type 3)."""
    if kind == "UI":
        return "" if COMMON_UIDS.search(keyword) else "U"
    if keyword in TECHNICAL:
        return ""
    if keyword.endswith("PrivateCreator"):  # of a pointer to a private element, which has to have a value
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


def _shift(element: DataElement, days: int) -> bool:
    """Whether dates could be moved; times of day stay."""
    texts = [str(v) for v in ([element.value] if not hasattr(element.value, "append") else element.value)]
    if not all(grammar.matches(element.VR, text.strip(" ")) for text in texts):
        return False
    if element.VR == "TM":
        return True
    try:
        moved = [_earlier(text[:8], days) + text[8:] for text in texts]
    except (ValueError, OverflowError):
        return False
    element.value = moved if len(moved) > 1 else moved[0]
    return True


def _earlier(text: str, days: int) -> str:
    if not re.fullmatch(r"\d{8}", text):
        raise ValueError(text)
    return f"{date(int(text[:4]), int(text[4:6]), int(text[6:])) - timedelta(days):%Y%m%d}".rjust(8, "0")


def _patient(dataset: Dataset) -> str:
    """What tells the patient from others: the ID, else name and birth date, else the study."""
    told = str(dataset.get("PatientID") or "").strip()
    if not told:
        told = "\n".join(str(dataset.get(keyword) or "").strip() for keyword in ("PatientName", "PatientBirthDate"))
    return told.strip() or str(dataset.get("StudyInstanceUID") or "")


def refuse_drawn(dataset: Dataset) -> None:
    """Raises InputError for an image that may show the patient's name in its pixels."""
    file = getattr(dataset, "filename", None) or "the image"
    kind, modality = str(dataset.get("SOPClassUID", "")), str(dataset.get("Modality", ""))
    why = ""
    if str(dataset.get("BurnedInAnnotation", "")).upper() == "YES":
        why = "BurnedInAnnotation says YES"
    elif "SequenceOfUltrasoundRegions" in dataset:
        why = "it has ultrasound regions"
    elif modality in DRAWN_ON or kind == SECONDARY_CAPTURE or kind.startswith(f"{SECONDARY_CAPTURE}."):
        why = f"it is {modality or 'a secondary capture'}"
    elif any("SCREEN" in str(value).upper() for value in dataset.get("ImageType") or ()):
        why = "it is a screenshot"
    if why:
        raise InputError(
            "deidentify-pixels-show-name",
            f"{file} may show the patient's name in its pixels ({why}); clean it by hand or leave it out",
        )


def _tell(dataset: Dataset, shifted: bool) -> None:
    """Say in the header what was done (PS3.15 E.1.1, PS3.3 C.7.1.1, CID 7050)."""
    codes = [("113100", "Basic Application Confidentiality Profile")]
    if shifted:
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
    dataset.LongitudinalTemporalInformationModified = "MODIFIED" if shifted else "REMOVED"


# The key ------------------------------------------------------------------------------------------------


def read_key(path: Path) -> bytes:
    """The key in ``path``, which only its owner may read; a random one is written there if there is none.

    Raises:
        InputError: others may read it, it holds no key, or it cannot be written.
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
            f"{path} cannot be used as a key ({error.strerror}); choose another --identity-dir",
        ) from None
    if open_to_others:
        raise InputError(
            "deidentify-key-open",
            f"{path} can be read by others, and whoever has it can find the patients; chmod 600 it",
        )
    if not re.fullmatch(rb"([0-9a-fA-F]{2}){16,}", text):
        raise InputError(
            "deidentify-key-invalid", f"{path} is no key of 32 hexadecimal digits or more; restore it or move it away"
        )
    return bytes.fromhex(text.decode())
