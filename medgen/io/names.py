"""Names that come from outside and become names of files."""

import sys
import unicodedata
from pathlib import Path

from medgen.errors import ADDRESS, InputError

LONGEST_LINE = 2000  # characters of a message
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
    raise InputError("case-name-invalid", f"{shown(str(where))}: the case name {shown(name[:60])} {fault}; rename it")


def folded(name: str) -> str:
    """The same for names that some file systems take for one: case and the spelling of accents aside."""
    return unicodedata.normalize("NFC", name).casefold()


def shown(text: str) -> str:
    """``text`` as one line for a terminal: what could end the line, move the cursor or change colours is shown as an
    escape, and of a text of more than 2000 characters the middle is left out."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"


def say(text: str, *, error: bool = False) -> None:
    """Print one line, see ``shown``: what a command tells of its input goes through here, names of files included."""
    print(shown(text), file=sys.stderr if error else sys.stdout, flush=True)


def brief(error: BaseException) -> str:
    """The last line of a library's message, without addresses in memory: libraries put the reason there."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = ADDRESS.sub("", lines[-1]) if lines else type(error).__name__
    return " ".join(text.split()).rstrip(".")
