"""Text files that a user names: regular, of bounded size, UTF-8 (or UTF-16 with its mark)."""

import stat
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path

from medgen.errors import InputError

MOST_BYTES = 2**26  # of any of them; lists of a million cases are smaller


def read_text(path: str | Path, most: int = MOST_BYTES) -> str:
    """The text of a file of at most ``most`` bytes, a byte order mark left out.

    Pipes and devices are refused before they are opened: reading them may wait, or never end.

    Raises:
        OSError: it is not there, or may not be read.
        InputError: it is no regular file, too long, or no text.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except ValueError:
        raise InputError("path-null-character", f"{path} has a null character in its name; check the path") from None
    if stat.S_ISDIR(mode):
        raise InputError("file-is-folder", f"{path} is a folder where a text file is expected; name the file")
    if not stat.S_ISREG(mode):
        raise InputError(
            "file-not-regular", f"{path} is a pipe or a device where a text file is expected; give a regular file"
        )
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(
            "file-too-large",
            f"{path} is larger than {most // 2**20} MiB, too large to be read as text; give another file",
        )
    try:
        return content.decode("utf-16" if content[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            "file-not-text", f"{path} is not text (byte {error.start} does not fit); save it as UTF-8"
        ) from None
