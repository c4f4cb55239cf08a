"""Write the channels of 4D files (such as Decathlon's BraTS) to separate files, because later steps need volumes."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from medgen.io.hashes import file_states
from medgen.io.paths import case_name
from medgen.io.read import read_channels
from medgen.io.write import write_volume
from medgen.types import Case


def split_channels(cases: Iterable[Case], folder: Path) -> list[Case]:
    """Write the channels that the cases need into ``folder``, unless they exist; return the cases with these files.

    Raises:
        InputError: a file cannot be read or the folder cannot be written.
    """
    return [_unstacked(case, folder) if any(case.channels) else case for case in cases]


def _unstacked(case: Case, folder: Path) -> Case:
    path = (*case.source, *case.target)[0]
    key = hashlib.sha1(json.dumps(file_states(path)).encode()).hexdigest()[:16]
    numbers = dict(zip(("source", "target"), case.channels, strict=True))
    files = {n: folder / f"{case_name(path)}-{key}_{n:04}.nii.gz" for each in numbers.values() for n in each}
    _write(path, {n: file for n, file in files.items() if not file.exists()})
    source, target = (tuple(files[n] for n in numbers[side]) for side in ("source", "target"))
    return replace(case, source=source if case.source else (), target=target if case.target else (), channels=((), ()))


def _write(path: Path, files: dict[int, Path]) -> None:
    if not files:
        return
    volumes: Sequence = read_channels(path)
    for number, file in files.items():
        write_volume(file, volumes[number])
