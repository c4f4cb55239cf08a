"""Names that come from outside and become names of files."""

import unicodedata
from pathlib import Path

from medgen.types import InputError

LONGEST = 200  # bytes: file systems end at 255, and endings and marks are added
OWN_FILES = set(
    "manifest.json manifest.journal dicom_index.sqlite stored.jsonl report.html deidentification.csv labels.json "
    "segmentations.json segmentations.journal verdicts".split()
)  # what runs write beside the cases
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def checked_name(name: str, where: Path) -> str:
    """``name`` itself, if it can name a file inside a folder on any system.

    Args:
        where: the file that it comes from, for the message.

    Raises:
        InputError: empty, a path, hidden, with control characters, longer than 200 bytes, a device's name on Windows,
            or that of a file which medgen writes itself.
    """
    if not name.strip(" .") or "/" in name or "\\" in name:
        fault = "is no file name"
    elif not name.isprintable():
        fault = "has control or undecodable characters"
    elif len(name.encode()) > LONGEST:
        fault = f"is longer than {LONGEST} bytes"
    elif name.startswith("."):
        fault = "would be hidden"
    elif name.endswith((".", " ")):
        fault = "ends with what Windows takes off"
    elif name.lower() in OWN_FILES:
        fault = "is what medgen calls a file of its own"
    elif name.split(".")[0].strip().lower() in RESERVED:
        fault = "is a device's name on Windows"
    else:
        return name
    told = [shown(text).replace("\n", "\\n") for text in (str(where), name[:60])]
    raise InputError(f"{told[0]}: the case name {told[1]} {fault}; rename it")


def folded(name: str) -> str:
    """The same for names that some file systems take for one: case and the spelling of accents aside."""
    return unicodedata.normalize("NFC", name).casefold()


def shown(text: str) -> str:
    """``text`` for a terminal: what could move its cursor or change its colours is shown as an escape."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
