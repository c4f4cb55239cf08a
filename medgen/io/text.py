"""Read text files given by users: regular files of limited size in UTF-8, or UTF-16 with a byte order mark."""

import stat
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path

from medgen.errors import InputError

MOST_BYTES = 2**26  # limit for all text files; lists of a million cases are smaller


def read_text(path: str | Path, most: int = MOST_BYTES) -> str:
    """Return the text of a file of at most ``most`` bytes, without byte order mark.

    Pipes and devices are rejected before opening, because reading them may block or never end.

    Raises:
        OSError: the file does not exist or cannot be read.
        InputError: it is not a regular file, too large, or not text.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except ValueError:
        raise InputError("path-null-character", f"{path} contains a null character; check the path") from None
    if stat.S_ISDIR(mode):
        raise InputError(
            "file-is-folder", f"{path} is a folder, but a text file is expected; give the path of the file"
        )
    if not stat.S_ISREG(mode):
        raise InputError(
            "file-not-regular", f"{path} is a pipe or device, but a text file is expected; give a regular file"
        )
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(
            "file-too-large",
            f"{path} is larger than {most // 2**20} MiB, the limit for text files; give another file",
        )
    try:
        return content.decode("utf-16" if content[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            "file-not-text", f"{path} is not valid text (error at byte {error.start}); save it as UTF-8"
        ) from None
