"""Text of DICOM headers whose bytes contradict the character set that the header states."""

from pydicom import Dataset
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.valuerep import PersonName

TEXT = {"LO", "LT", "PN", "SH", "ST", "UC", "UT"}  # VRs that depend on SpecificCharacterSet
LOST = "\ufffd"  # what decoders put in place of bytes that the character set does not have


def repair_text(dataset: Dataset) -> list[str]:
    """Read text that its character set cannot decode as Latin-1, in place, also in nested sequences.

    Otherwise each such byte would become U+FFFD, and the names of two patients could become one. Latin-1 has a
    character for every byte and is the usual cause: anonymisers state UTF-8 and keep the bytes of the scanner.
    To be called before the elements are used, because decoded elements have lost their bytes.

    Returns:
        The keywords of these elements.
    """
    found: dict[str, None] = {}
    for tag in list(dataset.keys()):
        raw = dataset.get_item(tag)
        stated = raw.VR if raw.VR not in (None, "UN") else dictionary_VR(tag) if dictionary_has_tag(tag) else ""
        if stated == "SQ":
            for item in dataset[tag].value or ():
                found |= dict.fromkeys(repair_text(item))
        elif stated in TEXT and isinstance(raw, RawDataElement) and not (raw.value or b"").isascii():
            element = dataset[tag]
            values = [element.value] if isinstance(element.value, str | PersonName) else element.value or ()
            if LOST.encode() not in raw.value and any(LOST in str(value) for value in values):
                element.value = raw.value.decode("latin-1").rstrip(" \0")
                found[element.keyword or str(tag)] = None
    return list(found)


def text_warning(dataset: Dataset) -> str:
    """`repair_text` for the reader of an image: a sentence that names the elements; empty if there are none."""
    names = repair_text(dataset)
    if not names:
        return ""
    return f"{', '.join(names)}: bytes that SpecificCharacterSet does not have; they are read as Latin-1"
