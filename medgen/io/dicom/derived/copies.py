"""Find duplicate DICOM files of one image (exported twice, perhaps by different programs), in linear time."""

import hashlib
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from medgen.io.dicom.elements import Header
from medgen.io.dicom.header import OTHERS, file_meta


class Copies:
    """The images seen so far. Only files with equal headers are read: first bytes are compared, then decoded data."""

    def __init__(self) -> None:
        self.first: dict[int, Path] = {}  # header hash -> first file with it
        self.contents: dict[int, set[str]] = {}  # header hash -> content hashes of its files
        self.unparsed: dict[int, list[Path]] = {}  # header hash -> files whose decoded content is not hashed yet

    def has(self, path: Path, header: Header) -> bool:
        """Whether ``path`` duplicates a file of an earlier call; False for a file that cannot be read."""
        header_hash = hash(repr({k: v for k, v in header.items() if k != OTHERS}))  # OTHERS depends on the encoding
        if self.first.setdefault(header_hash, path) is path:
            return False
        if header_hash not in self.contents:
            self.contents[header_hash] = {_bytes(self.first[header_hash])}
            self.unparsed[header_hash] = [self.first[header_hash]]
        seen, unparsed = self.contents[header_hash], self.unparsed[header_hash]
        if (byte_hash := _bytes(path)) in seen:
            return True
        seen.update(_elements(other) for other in unparsed)
        unparsed.clear()
        if (element_hash := _elements(path)) in seen:
            return True
        seen |= {byte_hash, element_hash}
        return False


def _bytes(path: Path) -> str:
    """Hash transfer syntax and data set, not the rest of the file meta group; the path if the file is unreadable."""
    try:
        with open(path, "rb") as file:
            _, syntax = file_meta(file, file.read(132)[128:] == b"DICM")
            digest = hashlib.sha256(syntax.encode())
            while block := file.read(2**20):
                digest.update(block)
        return digest.hexdigest()
    except Exception:  # pydicom raises arbitrary exceptions; reading the volume reports the error
        return str(path)


def _elements(path: Path) -> str:
    """Hash the decoded elements and pixel values; the path if the file is unreadable.

    The hash depends neither on the compression nor on how the ends of elements are encoded (PS3.5 7.5).
    """
    try:
        dataset = dcmread(path, force=True)
        digest = hashlib.sha256(_pixels(dataset))
        _digest(dataset, digest)
        return f"elements {digest.hexdigest()}"
    except Exception:
        return str(path)


def _pixels(dataset: Dataset) -> bytes:
    """Remove and return the decoded pixel values; if they cannot be decoded, return the transfer syntax."""
    try:
        values = dataset.pixel_array.tobytes()
        del dataset.PixelData
        return values
    except Exception:  # no pixel data, no decoder, or damaged pixel data
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
