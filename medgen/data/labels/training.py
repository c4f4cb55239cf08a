"""Prepare label maps for training: classes 0..n-1 on the grid of the source, cached like the images."""

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
from medgen.io.hashes import file_states
from medgen.io.read import read_volume
from medgen.io.volume import GRID_TOLERANCE, same_geometry, to_canonical

VERSION = 2  # increase when a change of this file makes cached entries invalid
PER_PART = 16  # number of voxels drawn from each connected component as patch centres


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
    """Return the path of a cached ``.npy`` map of classes (X, Y, Z), which is created on first use.

    Args:
        folder: cache folder.
        path: label map file.
        fixed: file of the image that defines the grid of the case; labels on another grid are resampled, and
            voxels outside them are 0, see ``data.labels.resampling``.
        values: voxel values, ascending, starting with 0 (background).
        classes: class of each value; None: the i-th value is class i.
        spacing: voxel spacing of the model in mm, or None to keep that of the image.
        movable: whether the labels may be resampled: their world coordinates still match those of the images after
            data.align.

    Raises:
        InputError: an unreadable file, values that are not listed, or labels on another grid that are not ``movable``.
    """
    stats = [file_states(p) for p in (path, fixed)]
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
                "cache-not-writable",
                f"cache {folder} cannot be written: {error.strerror or error}; set data.cache to a writable folder",
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
            f"{path} has the value {unknown[0]:.8g}, which is not a label of the cohort "
            f"({', '.join(map(str, values))}); add it to labels.json or remove it",
        )
    if not same_geometry(image.geometry, volume.geometry, GRID_TOLERANCE * min(image.spacing)):
        if not movable:
            raise InputError(
                "labels-grid-differs",
                f"{path} is not on the grid of {fixed}, and data.align moves the source, but not its labels; "
                "use labels on the target grid, or set data.align to resample",
            )
        volume = image.replaced(resample_like(volume, image, labels=True))
    if spacing is not None and not np.allclose(volume.spacing, spacing, rtol=0.02):
        volume = resample(volume, spacing, labels=True)
    return np.searchsorted(values, volume.data).astype(np.uint8 if len(values) <= 256 else np.int32)


def part_voxels(classes: np.ndarray, selected: Sequence[int]) -> np.ndarray:
    """Draw `PER_PART` voxels from each connected component of the ``selected`` classes; return (n, 3) indices."""
    rng, found = np.random.default_rng(0), []
    for value in selected:
        parts, _ = ndimage.label(classes == value, np.ones((3, 3, 3)))
        for number, box in enumerate(ndimage.find_objects(parts), start=1):
            voxels = np.argwhere(parts[box] == number)
            found.append(voxels[rng.integers(len(voxels), size=PER_PART)] + [b.start for b in box])
    return np.concatenate(found) if found else np.zeros((0, 3), int)
