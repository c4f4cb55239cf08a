"""Identify images by a hash of their voxels, regardless of file name, data type, compression and axis order."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from medgen.errors import InputError
from medgen.io.atomic import write_text
from medgen.io.hashes import file_states
from medgen.io.read import read_volume

LENGTH = 20  # hexadecimal digits: a chance collision among a million images has p < 1e-12
FILE = "content.json"


def content_hash(data: np.ndarray) -> str | None:
    """Return a hash of an image's values (X, Y, Z); None for a constant image, which cannot be identified.

    The hash does not depend on the order or direction of the axes. Each value is mixed into 64 bits and summed over the
    planes across each axis, modulo 2**64, so that the summation order has no effect. The sums of each axis are read in
    both directions, the smaller result is used, and the results of the three axes are sorted.
    """
    if not data.size or data.min() == data.max():
        return None
    sums = [np.zeros(n, np.uint64) for n in data.shape]
    for k in range(data.shape[2]):  # slice by slice to limit memory
        mixed = _mixed(data[..., k])
        sums[0] += mixed.sum(1)
        sums[1] += mixed.sum(0)
        sums[2][k] = mixed.sum()
    ends = sorted(min(each.astype("<u8").tobytes(), each[::-1].astype("<u8").tobytes()) for each in sums)
    return hashlib.sha256(b"|".join([json.dumps(sorted(data.shape)).encode(), *ends])).hexdigest()[:LENGTH]


def _mixed(values: np.ndarray) -> np.ndarray:
    """Mix each float32 value into 64 bits (splitmix64, Steele 2014, doi 10.1145/2714064.2660195); -0 equals 0."""
    bits = np.ascontiguousarray(values, np.float32) + np.float32(0)
    z = bits.view(np.uint32).astype(np.uint64)
    z += np.uint64(0x9E3779B97F4A7C15)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def content_hashes(files: Iterable[Path], folder: Path) -> dict[Path, str | None]:
    """Return the hash of each file's image; None if it is constant, "" if it cannot be read (training says why).

    Hashes are cached in ``folder``/content.json by the paths, sizes and times of its files.
    """
    store = folder / FILE
    known = _stored(store)
    found: dict[Path, str | None] = {}
    new = False
    for file in dict.fromkeys(files):
        try:
            key = json.dumps(file_states(file))
            if key not in known:
                known[key], new = content_hash(read_volume(file).data), True
            found[file] = known[key]
        except (InputError, OSError):
            found[file] = ""
    if new:
        write_text(store, json.dumps(known, indent=0))
    return found


def _stored(store: Path) -> dict[str, str | None]:
    try:
        known = json.loads(store.read_text())
        return known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        return {}
