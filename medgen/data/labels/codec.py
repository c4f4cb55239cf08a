"""Encode label maps as one-hot channels, for models whose source is a label map."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medgen.data.cache import BODY_VOXELS, Cached, save_array, save_text
from medgen.data.fingerprint import QUANTILES
from medgen.data.grid import resample, resample_like
from medgen.data.labels.resampling import nearly_whole
from medgen.data.tissue_classes import tissue_classes
from medgen.errors import InputError
from medgen.io.hashes import file_states
from medgen.io.read import read_volume
from medgen.io.volume import GRID_TOLERANCE, Volume, same_geometry, to_canonical

VERSION = 2  # increase when a change of this file makes cached entries invalid


@dataclass(frozen=True)
class LabelTable:
    """Table of label values for one-hot encoding: channel i is 1 where a voxel has the i-th smallest value.

    labels     structure → value, without the background
    tissues    number of tissue classes that the background is divided into (``data.tissue_classes``); their values
               follow the largest structure value. 0: the background is one class with value 0
    smoothing  smoothing of the tissue classes, mm
    """

    labels: dict[str, int]
    tissues: int = 0
    smoothing: float = 1.0

    @cached_property
    def names(self) -> dict[int, str]:
        """Value → name of each channel, in channel order."""
        first = max(self.labels.values(), default=0) + 1
        tissues = {first + i: f"tissue_{i + 1}" for i in range(self.tissues)} or {0: "background"}
        return dict(sorted(({v: k for k, v in self.labels.items()} | tissues).items()))

    @property
    def values(self) -> list[int]:
        return list(self.names)

    def structures(self, data: np.ndarray) -> np.ndarray:
        """Replace the tissue classes of a label map (X, Y, Z) by background 0, for segmentation training."""
        return np.where(np.isin(data, list(self.labels.values())), data, 0)

    def check(self, data: np.ndarray, path: Path | None) -> None:
        """Raise InputError if the map has values that are not in the table; 0 (background) is always allowed."""
        unknown = np.setdiff1d(data, [0, *self.values])
        if unknown.size:
            known = ", ".join(f"{value} {name}" for value, name in self.names.items())
            shown = ", ".join(f"{value:g}" for value in unknown[:10])
            raise InputError(
                "labels-value-unknown",
                f"{path} has unknown label values: {shown}; the known values are {known}; convert them first",
            )

    def filled(self, labels: Volume, image: Volume | None) -> Volume:
        """Divide the background of a label map into tissue classes, computed from the image on the same grid.

        Raises:
            InputError: unknown values, or tissue classes are needed but ``image`` is None.
        """
        self.check(labels.data, labels.path)
        background = labels.data == 0
        if not self.tissues or not background.any():
            return labels
        first = max(self.labels.values(), default=0) + 1
        if (both := np.unique(labels.data[labels.data >= first])).size:
            raise InputError(
                "labels-tissue-and-background",
                f"{labels.path} has the background 0 and also the value {both[0]:g}, which is "
                f"{self.names[int(both[0])]} to this model; give the structure of that value another number, or fill "
                "all of the background",
            )
        if image is None:
            raise InputError(
                "labels-tissue-classes-missing",
                f"{labels.path} has background voxels, but the model was trained with tissue classes; give the images "
                "of the label maps (--images), or label maps with the values "
                f"{', '.join(str(v) for v, name in self.names.items() if name.startswith('tissue_'))}",
            )
        classes = tissue_classes(image.data, background, self.tissues, image.spacing, self.smoothing)
        return labels.replaced(np.where(background, classes + np.float32(first), labels.data))

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Convert label values (X, Y, Z) to one-hot channels (channels, X, Y, Z), float32 in {0, 1}."""
        return np.stack([x == value for value in self.values]).astype(np.float32)

    def decode(self, y: np.ndarray) -> np.ndarray:
        """Convert channels (channels, X, Y, Z), such as interpolated one-hot, to the label of the largest (X, Y, Z)."""
        return np.asarray(self.values, np.float32)[y.argmax(0)]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def cached_label_map(
    folder: Path, path: Path, image: Path, table: LabelTable, *, spacing: tuple[float, ...] | None, movable: bool
) -> Cached:
    """Return the cache entry of a label map, created on first use.

    Args:
        folder: cache folder.
        path: label map file.
        image: file of the real image; it defines the grid, and its background gives the tissue classes.
        table: label table of the cohort.
        spacing: voxel spacing of the model in mm, or None to keep that of the file.
        movable: resample a label map on another grid to that of the image, see ``data.labels.resampling``.

    Raises:
        InputError: unreadable file, values that are not in the table, or another grid and not ``movable``.
    """
    stats = [file_states(p) for p in (path, image)]
    text = json.dumps([VERSION, stats, table.to_dict(), spacing])
    stem = folder / f"{path.name.split('.')[0]}-{hashlib.sha1(text.encode()).hexdigest()[:16]}.map"
    info = stem.with_suffix(".map.json")
    if not info.exists():
        stored = read_volume(path)
        stored = stored.replaced(nearly_whole(stored.data))
        volume = _on_image(to_canonical(stored), to_canonical(read_volume(image)), table, movable)
        if spacing is not None and not np.allclose(volume.spacing, spacing, rtol=0.02):
            volume = resample(volume, spacing, labels=True)
        try:
            _write(folder, stem, info, volume, table)
        except OSError as error:
            raise InputError(
                "cache-not-writable",
                f"cache {folder} cannot be written: {error.strerror or error}; set data.cache to a writable folder",
            ) from None
    values = json.loads(info.read_text())
    body = np.load(stem.with_suffix(".map.body.npy"))
    return Cached(stem.with_suffix(".map.npy"), body, table, tuple(values["spacing"]), values["fingerprint"])


def _on_image(labels: Volume, image: Volume, table: LabelTable, movable: bool) -> Volume:
    table.check(labels.data, labels.path)
    if not same_geometry(image.geometry, labels.geometry, GRID_TOLERANCE * min(image.spacing)):
        if not movable:
            raise InputError(
                "labels-grid-differs",
                f"{labels.path} has the grid [{labels.geometry.describe()}], but its image {image.path} has "
                f"[{image.geometry.describe()}]; use labels on the image grid, or set data.align to resample",
            )
        labels = replace(image, data=resample_like(labels, image, labels=True), path=labels.path)
    return table.filled(labels, image)


def _write(folder: Path, stem: Path, info: Path, volume: Volume, table: LabelTable) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    foreground = table.structures(volume.data) != 0
    inside = np.argwhere(foreground).astype(np.int32)
    if len(inside) > BODY_VOXELS:
        inside = inside[np.sort(np.random.default_rng(0).choice(len(inside), BODY_VOXELS, replace=False))]
    save_array(stem.with_suffix(".map.npy"), volume.data.astype(np.int32))
    save_array(stem.with_suffix(".map.body.npy"), inside)
    save_text(info, json.dumps({"spacing": volume.spacing, "fingerprint": describe_labels(volume, table)}))


def describe_labels(volume: Volume, table: LabelTable) -> dict[str, Any]:
    """Like ``fingerprint.describe``: extent of the labelled structures (mm) and spacing; quantiles are 0."""
    foreground = table.structures(volume.data) != 0
    sides = [np.flatnonzero(foreground.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    extent = [float(s[-1] - s[0] + 1) * mm if len(s) else 0.0 for s, mm in zip(sides, volume.spacing, strict=True)]
    return {
        "quantiles": [0.0] * len(QUANTILES),
        "extent": [round(side, 1) for side in extent],
        "spacing": [round(float(s), 4) for s in volume.spacing],
    }
