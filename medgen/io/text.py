"""Read text files given by users: regular files of limited size in UTF-8, or UTF-16 with a byte order mark."""

import json
import stat
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def read_json(path: Path, kinds: tuple[type, ...] = (dict,)) -> Any:
    """Return the content of a JSON file; its top level must be one of ``kinds``. Raises InputError."""
    try:
        content = json.loads(read_text(path), object_pairs_hook=_once)
    except InputError as error:
        raise InputError("json-key-twice", f"{path}: {error}") if error.code == "json-key-twice" else error from None
    except FileNotFoundError:
        raise InputError("file-missing", f"{path} {_lacking(path)}") from None
    except RecursionError:
        raise InputError(
            "json-too-deep", f"{path} is not readable JSON (it is nested too deeply); correct it"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError("json-unreadable", f"{path} is not readable JSON ({error}); correct it") from error
    if not isinstance(content, kinds):
        words = {"dict": "an object", "list": "a list"}
        requested, found = " or ".join(words[kind.__name__] for kind in kinds), type(content).__name__
        found = words.get(found, found)
        raise InputError("json-wrong-type", f"{path} must hold {requested} in JSON, not {found}; correct it")
    return content


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; reject a repeated key with a different value, which would replace the first one."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise InputError("json-key-twice", f"the key '{key[:50]}' occurs twice with different values; keep one")
        found[key] = value
    return found


def _lacking(path: Path) -> str:
    linked = path.is_symlink()
    return "is a link to a missing file; restore the file or remove the link" if linked else "does not exist"
