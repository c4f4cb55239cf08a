"""A model folder as one file, for sending it: a zip file with a list of hashes that is checked when it is unpacked."""

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from medgen.checkpoint import MOST_TEXT, MOST_WEIGHTS, read_info, regular
from medgen.errors import InputError
from medgen.io.atomic import atomic_write
from medgen.io.claim import check_ours
from medgen.model_card import CARD, card_text
from medgen.models import model_folder

LIST = "medgen-package.json"
FORMAT = 1
MOST = {"model.json": MOST_TEXT, "weights.safetensors": MOST_WEIGHTS, CARD: 2**20}  # bytes of the files of a package
MOST_LIST = 2**16
MOST_PACKAGE = sum(MOST.values()) + MOST_LIST
BLOCK = 2**22


def pack(model: Path, file: Path) -> str:
    """Write the model, its card and the hashes of both into one file; the state of the training is left out.

    Returns:
        SHA-256 of the file, to compare it where it arrives.

    Raises:
        InputError: not a model folder, or the file cannot be written.
    """
    folder = model_folder(model)
    info, _ = read_info(folder)
    if not (folder / "model.json").is_file():
        raise InputError("pack-not-folder", f"{model} is an ONNX file, which is one file already; copy it")
    card = (folder / CARD).read_bytes() if (folder / CARD).is_file() else card_text(info).encode()
    paths = {name: regular(folder / name, MOST[name]) for name in MOST if name != CARD}
    files = {name: _described(path) for name, path in paths.items()}
    files[CARD] = {"size": len(card), "sha256": hashlib.sha256(card).hexdigest()}
    with atomic_write(file) as aside:
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as made:
            listed = json.dumps({"format": FORMAT, "model_sha256": info.sha256, "files": files})
            _add(made, LIST, BytesIO(listed.encode()))
            _add(made, CARD, BytesIO(card))
            for name, kind in (("model.json", zipfile.ZIP_DEFLATED), ("weights.safetensors", zipfile.ZIP_STORED)):
                with open(paths[name], "rb") as content:
                    _add(made, name, content, kind)
        return file_sha256(aside)


def _add(made: zipfile.ZipFile, name: str, content: BinaryIO, kind: int = zipfile.ZIP_DEFLATED) -> None:
    """Add a file with a fixed time, so that the same model gives the same package."""
    entry = zipfile.ZipInfo(name)  # of 1980
    entry.compress_type = kind
    with made.open(entry, "w", force_zip64=True) as place:
        shutil.copyfileobj(content, place, BLOCK)


def check_sha256(file: Path, wanted: str) -> None:
    """Refuse a file that does not have the SHA-256 that its sender stated. Raises InputError."""
    if not re.fullmatch("[0-9a-fA-F]{64}", wanted.strip()):
        raise InputError("package-sha256-invalid", "--sha256 needs the 64 digits 0-9, a-f that medgen pack printed")
    if (found := file_sha256(file)) != wanted.strip().lower():
        raise InputError("package-changed", f"{file.name} has the sha256 {found}, not the given one; get it again")


def unpack(file: Path, folder: Path) -> None:
    """Write the model of a package into an existing ``folder``, once all its names, sizes and hashes are right.

    Raises:
        InputError: not a package, other files or links in it, sizes beyond those of a model, or another hash.
    """
    try:
        with zipfile.ZipFile(regular(file, MOST_PACKAGE)) as found:
            listed = _listed(found, file)
            with tempfile.TemporaryDirectory(prefix=".medgen-", dir=folder) as aside:
                for name, wanted in listed.items():
                    _extract(found, name, wanted, Path(aside, name), file)
                read_info(Path(aside))
                for name in listed:  # before any is replaced
                    check_ours(folder / name)
                for name in listed:
                    with atomic_write(folder / name) as target:
                        os.replace(Path(aside, name), target)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("package-damaged", f"{file} is no package of medgen, or damaged; get it again") from None


def _listed(found: zipfile.ZipFile, file: Path) -> dict[str, dict[str, Any]]:
    """The list of a package, after its entries were checked. Raises InputError."""
    entries = found.infolist()
    names = [entry.orig_filename for entry in entries]
    if len(names) != len(set(names)) or set(names) != {LIST, *MOST}:
        raise InputError("package-files", f"{file} has other files than a model of medgen; it was not unpacked")
    for entry in entries:
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG) or entry.flag_bits & 1:
            raise InputError("package-files", f"{file} has links or encrypted files; it was not unpacked")
        if entry.file_size > MOST.get(entry.filename, MOST_LIST):
            raise InputError("package-too-large", f"{file}: {entry.filename} is too large; it was not unpacked")
    with found.open(LIST) as source:
        content = json.loads(source.read(MOST_LIST + 1))
    if content["format"] != FORMAT or set(content["files"]) != set(MOST):
        raise InputError("package-format", f"{file} is a package of another version of medgen; use that version")
    return content["files"]


def _extract(found: zipfile.ZipFile, name: str, wanted: dict[str, Any], target: Path, file: Path) -> None:
    """Write one file, never more bytes than listed. Raises InputError: another size or hash."""
    digest, left = hashlib.sha256(), int(wanted["size"])
    with found.open(name) as source, open(target, "xb") as made:
        while left > 0 and (block := source.read(min(BLOCK, left))):
            digest.update(block)
            made.write(block)
            left -= len(block)
        if left or source.read(1) or digest.hexdigest() != wanted["sha256"]:
            raise InputError(
                "package-changed", f"{file}: {name} is not the file that was packed (its hash differs); get it again"
            )


def _described(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": file_sha256(path)}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
