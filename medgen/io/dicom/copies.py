"""Copies of one image among DICOM files: exported twice, perhaps by another program, in time linear in the files."""

import hashlib
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from medgen.io.dicom.header import OTHERS, Header, file_meta


class Copies:
    """The images seen so far. Files are read only where their headers are alike: by bytes, then what they mean."""

    def __init__(self) -> None:
        self.first: dict[int, Path] = {}  # by header
        self.contents: dict[int, set[str]] = {}  # of the files whose headers are alike
        self.unparsed: dict[int, list[Path]] = {}

    def has(self, path: Path, header: Header) -> bool:
        """Whether ``path`` is a copy of a file that was asked for before; a file that cannot be read is none."""
        alike = hash(repr({k: v for k, v in header.items() if k != OTHERS}))  # that differs with the encoding
        if self.first.setdefault(alike, path) is path:
            return False
        if alike not in self.contents:
            self.contents[alike] = {_bytes(self.first[alike])}
            self.unparsed[alike] = [self.first[alike]]
        seen, unparsed = self.contents[alike], self.unparsed[alike]
        if (here := _bytes(path)) in seen:
            return True
        seen.update(_elements(other) for other in unparsed)
        unparsed.clear()
        if (meant := _elements(path)) in seen:
            return True
        seen |= {here, meant}
        return False


def _bytes(path: Path) -> str:
    """Hash of transfer syntax and data set, so of all but the file meta group; the path where it cannot be read."""
    try:
        with open(path, "rb") as file:
            _, syntax = file_meta(file, file.read(132)[128:] == b"DICM")
            digest = hashlib.sha256(syntax.encode())
            while block := file.read(2**20):
                digest.update(block)
        return digest.hexdigest()
    except Exception:  # pydicom raises nearly anything; reading the volume says what is wrong
        return str(path)


def _elements(path: Path) -> str:
    """The same of the elements, whatever lengths and padding say where they end (PS3.5 7.5), and of the stored values,
    whatever compresses them."""
    try:
        dataset = dcmread(path, force=True)
        digest = hashlib.sha256(_pixels(dataset))
        _digest(dataset, digest)
        return f"elements {digest.hexdigest()}"
    except Exception:
        return str(path)


def _pixels(dataset: Dataset) -> bytes:
    """The stored values, taken from the data set, where they can be decoded; else what says how they are stored."""
    try:
        values = dataset.pixel_array.tobytes()
        del dataset.PixelData
        return values
    except Exception:  # no pixels, no decoder, damaged ones
        return str(dataset.file_meta.get("TransferSyntaxUID")).encode()


def _digest(dataset: Dataset, digest: Any) -> None:
    for element in dataset:
        digest.update(f"{element.tag} {element.VR} ".encode())
        if element.VR == "SQ":
            for item in element.value:
                digest.update(b"item ")
                _digest(item, digest)
            digest.update(b"end ")
        else:
            value = element.value if isinstance(element.value, bytes) else repr(element.value).encode()
            digest.update(f"{len(value)} ".encode())
            digest.update(value)
