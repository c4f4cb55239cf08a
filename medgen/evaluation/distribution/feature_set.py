"""The features of a set of volumes, gathered one volume at a time; a reference's can be saved and used again."""

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

LIMIT = 10_000  # rows kept for kernels and neighbours: 160 MB at 2048 features; statistics are of all rows

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of ``volumes`` volumes.

    statistics    of all rows
    rows          (n, d), all of them or a random choice of at most the limit
    groups        (n,) number of the volume that each row is of
    spacing       mean voxel size in mm, (3,)
    extractor, weights, preprocessing   what made the rows, see ``features.extractor``
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
        """Each feature less the reference's mean over its deviation (1 where it is constant)."""
        base = reference.statistics
        rows = (self.rows - base.mean) / divisors(base.mean, base.deviation)
        return replace(self, statistics=self.statistics.standardised(base), rows=rows)


def volumes_in(folder: Path | str) -> Iterator[Volume]:
    """The volumes of a folder, one in memory at a time; InputError for a folder without any."""
    files = find_volumes(folder)
    if not files:
        raise InputError("folder-no-volumes", f"{folder} holds no volumes; name the folder that the files lie in")
    return (to_canonical(read_volume(file)) for file in files)


def collect(
    volumes: Iterable[Volume],
    extractor: Extractor,
    *,
    limit: int = LIMIT,
    seed: int = 0,
    mask_of: Callable[[Array], Array] = body_mask,
) -> FeatureSet:
    """The `FeatureSet` of volumes that are read as they are needed; memory does not grow with their number.

    Args:
        volumes: any iterable, such as ``volumes_in(folder)``.
        extractor: see ``medgen.evaluation.features``.
        limit: rows kept beside the statistics.
        seed: of their choice.
        mask_of: data (X, Y, Z) → where features are taken.

    Raises `InputError` for fewer than 2 rows in all, and what the extractor refuses, with the volume's file.
    """
    running, rng = RunningStatistics(), np.random.default_rng(seed)
    keys, rows, groups = np.zeros(0), np.zeros((0, 0)), np.zeros(0, np.int64)
    spacings = []
    for number, volume in enumerate(volumes):
        try:
            made = extractor(volume.data, volume.spacing, mask=mask_of(volume.data))
            running.add(made)
        except InputError as error:
            raise InputError("features-volume-failed", f"{volume.path or f'volume {number}'}: {error}") from error
        spacings.append(volume.spacing)
        # The rows with the smallest of random keys are a uniform choice, whatever comes later.
        keys = np.concatenate([keys, rng.random(len(made))])
        rows = np.concatenate([rows.reshape(-1, made.shape[1]), made])
        groups = np.concatenate([groups, np.full(len(made), number)])
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
    """Write a `FeatureSet` to one ``.npz``, whole or not at all."""
    identity = {key: getattr(features, key) for key in ("extractor", "weights", "preprocessing", "volumes")}
    identity["count"] = features.statistics.count
    with atomic_write(path) as aside, open(aside, "wb") as file:
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
    """Read what ``save_features`` wrote.

    Raises `InputError` for another file, and for features of another extractor, weights or preprocessing than
    ``extractor``'s: numbers of the two would not be comparable.
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
            "features-file-unreadable", f"{path} holds no saved features ({error}); make it anew"
        ) from error
    for key, own in (
        ("extractor", extractor.name),
        ("weights", extractor.weights),
        ("preprocessing", extractor.preprocessing),
    ):
        if getattr(features, key) != own:
            raise InputError(
                "features-settings-differ",
                f"{path} holds features whose {key} is {getattr(features, key)!r}, not {own!r}: gather the reference "
                "anew with this extractor",
            )
    return features
