"""Cache of decompressed volumes on disk, so that training reads single patches instead of gzip streams.

Each volume is stored once as a memory-mapped ``.npy`` on the model's grid (canonical axes, resampled if a spacing is
set), as int16 where that is lossless, with its intensity range and a sample of its body voxels. The file name contains
a hash of the input's path, size and modification time and of the settings, so a changed input gets a new entry.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medgen.data.body_mask import body_mask, looks_like_hu
from medgen.data.fingerprint import Thinned, describe, describe_thinned, thinned
from medgen.data.intensity import Code, Range, fit_range, masked_value
from medgen.errors import InputError
from medgen.io.claim import record_written
from medgen.io.hashes import file_states
from medgen.io.read import read_volume
from medgen.io.volume import Volume, canonical_view, contiguous

VERSION = 8  # increase when a change of this file invalidates old entries
FEWEST_MASKED = 0.02  # share of a masked background, at least
BODY_VOXELS = 20_000  # sample size; enough for choosing patch centres
THREADS = 2  # entries filled at once: decompression releases Python's lock, and two volumes fit into memory
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Cached:
    """One cached volume.

    ``body``: (n, 3) indices of a sample of the body voxels. ``fingerprint``: see ``fingerprint.describe``.
    """

    path: Path
    body: np.ndarray
    range: Code
    spacing: tuple[float, float, float]
    fingerprint: dict[str, Any]
    warnings: tuple[str, ...] = ()  # from reading the file, see ``Volume``

    @property
    def data(self) -> np.ndarray:
        """(X, Y, Z) in the image's units, memory-mapped, read-only: loader workers receive only the path."""
        return mapped(self.path)

    @cached_property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest index (3,) of the sampled body voxels; the whole volume if there are none."""
        if not len(self.body):
            return np.zeros(3), np.asarray(self.data.shape, float)
        return self.body.min(0).astype(float), self.body.max(0).astype(float)


def mapped(path: Path) -> np.ndarray:
    """Return the array of a ``.npy`` file, memory-mapped, read-only. Maps of unchanged files are kept and reused.

    Opening a map takes about 0.4 ms, as long as cutting a patch of 64³ from it.
    """
    state = os.stat(path)
    return _map(path, state.st_ino, state.st_mtime_ns)


@lru_cache(maxsize=256)  # each map holds a file descriptor; systems allow 1024 or fewer
def _map(path: Path, inode: int, changed: int) -> np.ndarray:
    return np.asarray(np.load(path, mmap_mode="r"))


Channels = tuple[Cached, ...]  # the contrasts of a case's source or target, on one grid


def cached(
    folder: Path,
    path: Path,
    intensity: dict[str, Any],
    *,
    spacing: tuple[float, ...] | None,
    make: Callable[[], Volume] | None = None,
    key: str = "",
) -> Cached:
    """Return the cache entry of one file; create it on first use.

    Args:
        folder: cache folder, created if missing.
        path: file of the volume.
        intensity: arguments of ``fit_range``.
        spacing: voxel spacing of the model's grid in mm; None: the file's own.
        make: returns the volume to store instead of the file's content (an aligned source).
        key: identifies what ``make`` returns.

    Raises:
        InputError: unreadable volume, or a constant one.
    """
    text = json.dumps([VERSION, file_states(path), intensity, spacing, key if make else ""])
    stem = folder / f"{path.name.split('.')[0]}-{hashlib.sha1(text.encode()).hexdigest()[:16]}"
    info = stem.with_suffix(".json")
    if not info.exists():  # written last: its presence means that the entry is complete
        _fill(stem, path, make, intensity, spacing)
    values = json.loads(info.read_text())
    body = np.load(stem.with_suffix(".body.npy"))
    path = stem.with_suffix(".npy")
    read_warnings = tuple(values["warnings"])
    return Cached(path, body, Range(**values["range"]), tuple(values["spacing"]), values["fingerprint"], read_warnings)


def _fill(
    stem: Path,
    path: Path,
    make: Callable[[], Volume] | None,
    intensity: dict[str, Any],
    spacing: tuple[float, ...] | None,
) -> None:
    from medgen.data.grid import resample  # here: SimpleITK is slow to import and rarely needed

    own = read_volume(path)
    read_warnings, own = own.warnings, canonical_view(own)  # views: only what is stored is brought into order
    volume = canonical_view(make()) if make else own
    if spacing is not None and not np.allclose(volume.spacing, spacing, rtol=0.02):
        volume = resample(volume, spacing, background=masked_value(volume.data, intensity.get("background")))
    try:
        codes = fit_range(volume.data, **intensity)
        # New scans are compared as they are, so the fingerprint is that of the file: another field of view or grid
        # has other quantiles.
        thin = thinned(volume.data, volume.spacing)
        mask = body_mask(thin.data)
        if volume is own:
            fingerprint = describe_thinned(thin, mask, own.spacing, codes)
        else:
            fingerprint = describe(own.data, own.spacing, fit_range(own.data, **intensity))
    except InputError as error:
        raise InputError("volume-constant", f"{path}: {error}") from None
    set_to = intensity.get("background")
    if set_to is not None and looks_like_hu(own.data) and (share := np.mean(own.data == set_to)) < FEWEST_MASKED:
        read_warnings = (
            *read_warnings,
            f"{path}: only {share:.1%} of the voxels are {set_to:g} HU, which background={set_to:g} takes for masked; "
            "remove intensity.*.background unless the outside of these CTs is set to this value",
        )
    body = _body_voxels(mask, thin, volume.data.shape)
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        save_array(stem.with_suffix(".npy"), _compact(volume.data))
        save_array(stem.with_suffix(".body.npy"), body)
        entry = {"range": codes.to_dict(), "spacing": volume.spacing, "fingerprint": fingerprint, "path": str(path)}
        save_text(stem.with_suffix(".json"), json.dumps(entry | {"warnings": read_warnings}))
    except OSError as error:
        raise InputError(
            "cache-not-writable",
            f"cannot write the cache {stem.parent}: {error.strerror or error}; set data.cache to a writable folder",
        ) from None


def _body_voxels(mask: np.ndarray, thin: Thinned, shape: tuple[int, ...]) -> np.ndarray:
    """Indices (n, 3) of a sample of the body's voxels, found on a part of the voxels: in an eighth of the time."""
    rng, inside = np.random.default_rng(0), np.flatnonzero(mask)
    if len(inside) > BODY_VOXELS:
        inside = rng.choice(inside, BODY_VOXELS, replace=False)
    body = np.stack(np.unravel_index(inside, mask.shape), 1) * thin.step
    body += rng.integers(0, thin.step, body.shape)  # any voxel of a block, not only its first
    return np.minimum(body, np.array(shape) - 1).astype(np.int32)


def _compact(data: np.ndarray) -> np.ndarray:
    """The volume as int16 if this is lossless, else float32; contiguous."""
    with np.errstate(invalid="ignore"):  # values that do not fit differ from their conversion
        integers = data.astype(np.int16)
    return contiguous(integers if np.array_equal(integers, data) else np.asarray(data, np.float32))


def on_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield the results in the order of ``items``, computed on a few threads; an error cancels what has not begun."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(function, items)


def _aside(path: Path) -> Path:
    """Temporary name of this thread."""
    return path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.tmp")


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a ``.npy`` file atomically."""
    temporary = _aside(path)
    with open(temporary, "wb") as file:
        np.save(file, array)
    record_written(path, temporary)
    os.replace(temporary, path)


def save_text(path: Path, text: str) -> None:
    """Write a text file atomically, also when several processes write it at the same time."""
    temporary = _aside(path)
    temporary.write_text(text)
    record_written(path, temporary)
    os.replace(temporary, path)
