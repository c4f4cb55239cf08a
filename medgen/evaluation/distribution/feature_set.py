"""Features of a set of volumes, computed one volume at a time, which can be saved and reused."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgen.data.body_mask import body_mask
from medgen.errors import InputError
from medgen.evaluation.distribution.frechet import RunningStatistics, Statistics, divisors
from medgen.evaluation.features.extractor import Extractor
from medgen.io.atomic import atomic_write
from medgen.io.paths import require_path
from medgen.io.read import find_volumes, read_volume
from medgen.io.volume import Volume, to_canonical

LIMIT = 10_000  # rows kept for kernels and neighbours: 160 MB at 2048 features; statistics use all rows

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of a set of volumes.

    Attributes:
        statistics: of all rows.
        rows: (n, d), all rows or a random subset of at most the limit.
        groups: (n,), index of the volume of each row.
        volumes: number of volumes.
        spacing: mean voxel spacing in mm, (3,).
        extractor, weights, preprocessing: of the extractor, see ``features.extractor``.
    """

    statistics: Statistics
    rows: Array
    groups: Array
    volumes: int
    spacing: Array
    extractor: str
    weights: str
    preprocessing: str

    def standardised(self, reference: "FeatureSet") -> "FeatureSet":
        """Standardise every feature with the reference's mean and standard deviation (1 if it is constant)."""
        base = reference.statistics
        rows = (self.rows - base.mean) / divisors(base.mean, base.deviation)
        return replace(self, statistics=self.statistics.standardised(base), rows=rows)


def volumes_in(folder: Path | str) -> Iterator[Volume]:
    """Yield the volumes of a folder, one in memory at a time; raise InputError for a folder without volumes."""
    files = find_volumes(folder)
    if not files:
        raise InputError("folder-no-volumes", f"{folder} holds no volumes; give the folder that contains the files")
    return (to_canonical(read_volume(file)) for file in files)


def collect(
    volumes: Iterable[Volume],
    extractor: Extractor,
    *,
    limit: int = LIMIT,
    seed: int = 0,
    mask_of: Callable[[Array], Array] = body_mask,
) -> FeatureSet:
    """Compute the `FeatureSet` of volumes one by one; memory does not grow with their number.

    Args:
        volumes: any iterable, such as ``volumes_in(folder)``.
        extractor: see ``medgen.evaluation.features``.
        limit: number of rows kept in addition to the statistics.
        seed: of the random choice of rows.
        mask_of: data (X, Y, Z) → mask in which features are computed.

    Raises `InputError` for fewer than 2 rows in total, a volume of one value, and for errors of the extractor, with the
    file of the volume.
    """
    running, rng = RunningStatistics(), np.random.default_rng(seed)
    keys, rows, groups = np.zeros(0), np.zeros((0, 0)), np.zeros(0, np.int64)
    spacings = []
    for number, volume in enumerate(volumes):
        try:
            if volume.data.min() == volume.data.max():
                raise InputError("features-volume-empty", "it has one value everywhere; remove it or export it again")
            new_rows = extractor(volume.data, volume.spacing, mask=mask_of(volume.data))
            running.add(new_rows)
        except InputError as error:
            raise InputError("features-volume-failed", f"{volume.path or f'volume {number}'}: {error}") from error
        spacings.append(volume.spacing)
        # The rows with the smallest random keys are a uniform sample of all rows seen so far.
        keys = np.concatenate([keys, rng.random(len(new_rows))])
        rows = np.concatenate([rows.reshape(-1, new_rows.shape[1]), new_rows])
        groups = np.concatenate([groups, np.full(len(new_rows), number)])
        if len(keys) > limit:
            kept = np.sort(np.argpartition(keys, limit)[:limit])
            keys, rows, groups = keys[kept], rows[kept], groups[kept]
    return FeatureSet(
        running.statistics(),
        rows,
        groups,
        len(spacings),
        np.mean(spacings, axis=0),
        extractor.name,
        extractor.weights,
        extractor.preprocessing,
    )


def save_features(features: FeatureSet, path: Path | str) -> None:
    """Write a `FeatureSet` to one ``.npz`` file atomically."""
    identity = {key: getattr(features, key) for key in ("extractor", "weights", "preprocessing", "volumes")}
    identity["count"] = features.statistics.count
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            identity=json.dumps(identity),
            mean=features.statistics.mean,
            factor=features.statistics.factor,
            rows=features.rows,
            groups=features.groups,
            spacing=features.spacing,
        )


def load_features(path: Path | str, extractor: Extractor) -> FeatureSet:
    """Read a file of ``save_features``.

    Raises `InputError` for other files, and for features of another extractor, weights or preprocessing, which would
    not be comparable.
    """
    path = require_path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in ("mean", "factor", "rows", "groups", "spacing")}
            identity = json.loads(str(file["identity"]))
        statistics = Statistics(content["mean"], content["factor"], int(identity["count"]))
        features = FeatureSet(
            statistics,
            content["rows"],
            content["groups"],
            int(identity["volumes"]),
            content["spacing"],
            *(str(identity[key]) for key in ("extractor", "weights", "preprocessing")),
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise InputError(
            "features-file-unreadable", f"{path} holds no saved features ({error}); compute the features again"
        ) from error
    for key, expected in (
        ("extractor", extractor.name),
        ("weights", extractor.weights),
        ("preprocessing", extractor.preprocessing),
    ):
        if getattr(features, key) != expected:
            raise InputError(
                "features-settings-differ",
                f"{path} holds features whose {key} is {getattr(features, key)!r}, not {expected!r}; compute the "
                "features again with this extractor",
            )
    return features
