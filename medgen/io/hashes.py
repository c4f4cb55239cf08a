"""SHA-256 hashes of the files of volumes."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from medgen.errors import InputError
from medgen.io.formats.itk import data_files
from medgen.io.names import of_system
from medgen.io.paths import ENDINGS, has_ending


def sha256(paths: Sequence[Path]) -> str:
    """Hash the files of volumes in the given order; the files of a DICOM folder are sorted by path.

    Files of the operating system in such a folder do not count, see ``names.of_system``.
    """
    return sha256_of(file for path in paths for file in _files(path))


def sha256_of(files: Iterable[Path]) -> str:
    """Hash files in the given order. Raises InputError if one is unreadable."""
    digest = hashlib.sha256()
    for file in files:
        try:
            with open(file, "rb") as stream:
                while block := stream.read(2**20):
                    digest.update(block)
        except OSError as error:
            raise InputError(
                "file-unreadable", f"{file} cannot be read ({error.strerror}); check its permissions"
            ) from None
    return digest.hexdigest()


def file_states(path: Path) -> list[list[str | int]]:
    """Path, size, modification and change time of a file and of the data files of its header, as key of a cache.

    The change time tells a file that was replaced by another of the same size and modification time, as ``cp -p`` and
    some archives do. Raises OSError.
    """
    files = [(file, file.stat()) for file in (path, *data_files(path))]
    return [[str(file.resolve()), s.st_size, s.st_mtime_ns, s.st_ctime_ns] for file, s in files]


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir() or not has_ending(path, ENDINGS):  # a DICOM file stands for all files in its folder
        files = (path if path.is_dir() else path.parent).rglob("*")
        yield from sorted(file for file in files if file.is_file() and not of_system(file.name))
    else:
        yield path
        yield from data_files(path)
