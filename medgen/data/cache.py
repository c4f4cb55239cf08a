"""Decompressed volumes on disk: the second epoch reads a patch, not a gzip stream.

Each volume is stored once as a memory-mapped ``.npy`` on the model's grid (canonical axes, resampled if a
spacing is set), int16 where that is lossless, beside its intensity range and a sample of its body voxels.
The file's name is a hash of the input's path, size, time and the settings: a changed input is a new entry.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgen.data.body_mask import body_mask
from medgen.data.fingerprint import describe
from medgen.data.intensity import Code, Range, fit_range
from medgen.errors import InputError
from medgen.io.claim import wrote
from medgen.io.read import read_volume
from medgen.io.volume import Volume, to_canonical

VERSION = 4  # counts changes of this file that make old entries wrong
BODY_VOXELS = 20_000  # a sample of the body is enough to centre patches


@dataclass(frozen=True)
class Cached:
    """One volume ready for sampling.

    ``body``: (n, 3) voxel indices, a sample of the body. ``fingerprint``: see ``fingerprint.describe``.
    """

    path: Path
    body: np.ndarray
    range: Code
    spacing: tuple[float, float, float]
    fingerprint: dict[str, Any]
    warnings: tuple[str, ...] = ()  # of reading the file, see ``Volume``

    @property
    def data(self) -> np.ndarray:
        """(X, Y, Z) in the image's units, memory-mapped anew, so that loader workers get a name, not the voxels."""
        return np.load(self.path, mmap_mode="r")


Channels = tuple[Cached, ...]  # the contrasts of one side of a case, on one grid


def cached(
    folder: Path,
    path: Path,
    intensity: dict[str, Any],
    *,
    spacing: tuple[float, ...] | None,
    make: Callable[[], Volume] | None = None,
    key: str = "",
) -> Cached:
    """The entry of one file, made on first use.

    Args:
        folder: cache folder, made when missing.
        path: the volume's file.
        codec: arguments of ``fit_range``.
        spacing: mm of the model's grid, or None for the file's own.
        make: gives the volume in place of the file's content (an aligned source), and ``key`` says which.

    Raises:
        InputError: unreadable volume, or a constant one.
    """
    stat = path.stat()
    text = json.dumps(
        [VERSION, str(path.resolve()), stat.st_size, stat.st_mtime_ns, intensity, spacing, key if make else ""]
    )
    stem = folder / f"{path.name.split('.')[0]}-{hashlib.sha1(text.encode()).hexdigest()[:16]}"
    info = stem.with_suffix(".json")
    if not info.exists():  # written last, so its presence says the entry is whole
        _fill(stem, path, make() if make else read_volume(path), intensity, spacing)
    values = json.loads(info.read_text())
    body = np.load(stem.with_suffix(".body.npy"))
    path = stem.with_suffix(".npy")
    said = tuple(values["warnings"])
    return Cached(path, body, Range(**values["range"]), tuple(values["spacing"]), values["fingerprint"], said)


def _fill(stem: Path, path: Path, volume: Volume, intensity: dict[str, Any], spacing: tuple[float, ...] | None) -> None:
    from medgen.data.grid import resample  # here: SimpleITK is slow to import and rarely needed

    said, volume = volume.warnings, to_canonical(volume)
    if spacing is not None and not np.allclose(volume.spacing, spacing, rtol=0.02):
        volume = resample(volume, spacing)
    try:
        codes = fit_range(volume.data, **intensity)
    except InputError as error:
        raise InputError("volume-constant", f"{path}: {error}") from None
    mask = body_mask(volume.data)
    inside = np.flatnonzero(mask)
    if len(inside) > BODY_VOXELS:
        inside = np.random.default_rng(0).choice(inside, BODY_VOXELS, replace=False)
    body = np.stack(np.unravel_index(inside, mask.shape), 1).astype(np.int32)
    fingerprint = describe(volume.data, volume.spacing, codes, mask)
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        save_array(stem.with_suffix(".npy"), _compact(volume.data))
        save_array(stem.with_suffix(".body.npy"), body)
        about = {"range": codes.to_dict(), "spacing": volume.spacing, "fingerprint": fingerprint, "path": str(path)}
        save_text(stem.with_suffix(".json"), json.dumps(about | {"warnings": said}))
    except OSError as error:
        raise InputError(
            "cache-not-writable", f"cache {stem.parent} cannot be written: {error.strerror or error}; set data.cache"
        ) from None


def _compact(data: np.ndarray) -> np.ndarray:
    whole = np.abs(data).max() < 2**15 - 1 and np.array_equal(data, np.rint(data))
    return data.astype(np.int16 if whole else np.float32)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a ``.npy`` whole or not at all."""
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    with open(aside, "wb") as file:
        np.save(file, array)
    wrote(path, aside)
    os.replace(aside, path)


def save_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, also when several processes write it at a time."""
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    aside.write_text(text)
    wrote(path, aside)
    os.replace(aside, path)
