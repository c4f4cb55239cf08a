"""Check names from user data that become file names, and format text for messages."""

import sys
import unicodedata
from pathlib import Path

from medgen.errors import ADDRESS, InputError

LONGEST_LINE = 2000  # maximum length of a message in characters
LONGEST = 200  # bytes: file systems allow 255, and extensions and suffixes are added
# Files that runs write beside the cases.
OWN_FILES = set(
    "manifest.json manifest.journal dicom_index.sqlite stored.jsonl report.html deidentification.csv labels.json "
    "segmentations.json segmentations.journal verdicts".split()
)
BESIDE = {"thumbs.db", "desktop.ini"}  # files that Windows writes into any folder
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def checked_name(name: str, where: Path) -> str:
    """Return ``name`` if it is a valid file name on all systems.

    Args:
        name: case name.
        where: the file that contains the name, for the message.

    Raises:
        InputError: the name is empty, a path, hidden, longer than 200 bytes, contains control characters, ends with a
            dot or space, is a device name on Windows, or the name of a file that medgen writes itself.
    """
    if not name.strip(" .") or "/" in name or "\\" in name:
        fault = "is not a file name"
    elif not name.isprintable():
        fault = "contains control or undecodable characters"
    elif len(name.encode()) > LONGEST:
        fault = f"is longer than {LONGEST} bytes"
    elif name.startswith("."):
        fault = "starts with a dot and would be hidden"
    elif name.endswith((".", " ")):
        fault = "ends with a dot or space, which Windows removes"
    elif name.lower() in OWN_FILES:
        fault = "is reserved for a file of medgen"
    elif name.split(".")[0].strip().lower() in RESERVED:
        fault = "is a device name on Windows"
    else:
        return name
    raise InputError(
        "case-name-invalid", f"{one_line(str(where))}: the case name {one_line(name[:60])} {fault}; rename it"
    )


def folded(name: str) -> str:
    """Return a form that is equal for names that some file systems do not distinguish (case, encoding of accents)."""
    return unicodedata.normalize("NFC", name).casefold()


def one_line(text: str) -> str:
    """Return ``text`` as one line that is safe for terminals.

    Line breaks and control characters are escaped; the middle of texts above 2000 characters is omitted.
    """
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"


def print_line(text: str, *, error: bool = False) -> None:
    """Print one line, escaped by ``one_line``. Use it for all output that contains user data, such as file names."""
    print(one_line(text), file=sys.stderr if error else sys.stdout, flush=True)


def short_reason(error: BaseException) -> str:
    """Return the last line of a library's error message, which states the reason, without memory addresses."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = ADDRESS.sub("", lines[-1]) if lines else type(error).__name__
    return " ".join(text.split()).rstrip(".")


def of_system(name: str) -> bool:
    """Whether a file is hidden or written by an operating system, such as .DS_Store: no content of its folder."""
    return name.startswith(".") or name.lower() in BESIDE
