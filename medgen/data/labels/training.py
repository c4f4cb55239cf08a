"""Label maps for training: classes 0..n-1 on the grid of the source, cached as the images are."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from medgen.data.cache import save_array
from medgen.data.grid import resample, resample_like
from medgen.data.labels.resampling import nearly_whole
from medgen.errors import InputError
from medgen.io.read import read_volume
from medgen.io.volume import GRID_TOLERANCE, same_geometry, to_canonical

VERSION = 2  # counts changes of this file that make old entries wrong
PER_PART = 16  # places of a connected part that patches are centred on


def cached_labels(
    folder: Path,
    path: Path,
    fixed: Path,
    values: Sequence[int],
    classes: Sequence[int] | None = None,
    *,
    spacing: tuple[float, ...] | None,
    movable: bool = True,
) -> Path:
    """A ``.npy`` (X, Y, Z) of classes, made on first use.

    Args:
        folder: cache folder.
        path: the label map's file.
        fixed: file of the image whose grid the case's images are brought to; labels that lie on another one are
            resampled, 0 outside; see ``data.labels.resampling``.
        values: voxel values, ascending, 0 (the background) first.
        classes: of each value its class; None: the i-th value is class i.
        spacing: mm of the model's grid, or None for the image's own.
        movable: whether the labels' place in the scanner is still that of the images after data.align.

    Raises:
        InputError: unreadable, values that are not listed, or on another grid and not movable.
    """
    stats = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in (path, fixed)]
    text = json.dumps([VERSION, stats, list(values), spacing, *([] if classes is None else [list(classes)])])
    file = folder / f"{path.name.split('.')[0]}-{hashlib.sha1(text.encode()).hexdigest()[:16]}.labels.npy"
    if not file.exists():
        found = _classes(path, fixed, np.asarray(values), spacing, movable)
        if classes is not None:
            found = np.asarray(classes, found.dtype)[found]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_array(file, found)
        except OSError as error:
            raise InputError(
                "cache-not-writable", f"cache {folder} cannot be written: {error.strerror or error}; set data.cache"
            ) from None
    return file


def _classes(
    path: Path, fixed: Path, values: np.ndarray, spacing: tuple[float, ...] | None, movable: bool
) -> np.ndarray:
    volume, image = to_canonical(read_volume(path)), to_canonical(read_volume(fixed))
    volume = volume.replaced(nearly_whole(volume.data))
    unknown = np.setdiff1d(volume.data, values)
    if unknown.size:
        raise InputError(
            "labels-value-unknown",
            f"{path} holds the value {unknown[0]:.8g}, which is no label of the cohort "
            f"({', '.join(map(str, values))}); add it to labels.json or remove it",
        )
    if not same_geometry(image.geometry, volume.geometry, GRID_TOLERANCE * min(image.spacing)):
        if not movable:
            raise InputError(
                "labels-grid-differs",
                f"{path} is not on the grid of {fixed}, onto which data.align moves the source without its labels; "
                "draw them on the target or set data.align to resample",
            )
        volume = image.replaced(resample_like(volume, image, labels=True))
    if spacing is not None and not np.allclose(volume.spacing, spacing, rtol=0.02):
        volume = resample(volume, spacing, labels=True)
    return np.searchsorted(values, volume.data).astype(np.uint8 if len(values) <= 256 else np.int32)


def part_voxels(classes: np.ndarray, wanted: Sequence[int]) -> np.ndarray:
    """(n, 3): some voxels of each connected part of the classes ``wanted``, of each part, small or large, as many."""
    rng, found = np.random.default_rng(0), []
    for value in wanted:
        parts, _ = ndimage.label(classes == value, np.ones((3, 3, 3)))
        for number, box in enumerate(ndimage.find_objects(parts), start=1):
            voxels = np.argwhere(parts[box] == number)
            found.append(voxels[rng.integers(len(voxels), size=PER_PART)] + [b.start for b in box])
    return np.concatenate(found) if found else np.zeros((0, 3), int)
