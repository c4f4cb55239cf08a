"""A labelled dataset: its cases of images and label, and what reading one checks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medgen.data.labels.resampling import nearly_whole
from medgen.errors import InputError
from medgen.io.grids import on_axes_of, same_grid
from medgen.io.read import read_channels, read_volume
from medgen.io.volume import Volume

Folds = list[dict[str, list[str]]]  # {"train": names, "val": names} of each fold


@dataclass(frozen=True)
class LabelledCase:
    """``images``: one file a channel, or one that holds all (4D). ``label`` is None in a test set without truth.

    ``record``: what ``provenance.json`` says of a synthetic case; None: a real one. ``donors``: the patients that it
    names. ``held``: the dataset itself keeps it for validation. ``fault``: why it cannot be used.
    """

    name: str
    patient: str
    images: tuple[Path, ...]
    label: Path | None
    test: bool = False
    record: Mapping[str, Any] | None = None
    fault: str | None = None
    donors: frozenset[str] = frozenset()
    held: bool = False

    @property
    def patients(self) -> frozenset[str]:
        """Whose images are in it: those of a synthetic case's donors too, which its operations name."""
        operations = (self.record or {}).get("operations", ())
        return self.donors.union({self.patient}, *(operation.get("patients", ()) for operation in operations))

    @property
    def to_learn_from(self) -> bool:
        """Whether synthetic cases may be made of it: a real one that is neither tested nor validated."""
        return not (self.test or self.held or self.record is not None)


@dataclass(frozen=True)
class LabelledDataset:
    """``channels`` by name; ``labels``: structure -> voxel value, background 0 first; ``ending`` of its files.

    ``cases`` sorted by name, names unique. ``about``: licence, reference and the like, in their own words. ``folds``:
    those that the dataset states; none: they are to be drawn. ``warnings``: sentences on what is not as it says.
    """

    name: str
    channels: tuple[str, ...]
    labels: Mapping[str, int]
    ending: str
    cases: tuple[LabelledCase, ...]
    root: Path
    about: Mapping[str, str] = field(default_factory=dict)
    folds: Folds = field(default_factory=list)
    warnings: tuple[str, ...] = ()


def read_case(dataset: LabelledDataset, case: LabelledCase) -> tuple[list[Volume], Volume | None]:
    """The images, one a channel, and the label, with one affine: that of the first image.

    Raises:
        InputError: the case has a fault, a file is unreadable, or channels, grids or values are not the dataset's.
    """
    if case.fault:
        raise InputError("dataset-case-faulty", case.fault)
    images = [volume for path in case.images for volume in read_channels(path)]
    if len(images) != len(dataset.channels):
        raise InputError(
            "dataset-channel-count-differs",
            f"{case.images[0]} gives case {case.name} {len(images)} channels, but the dataset has "
            f"{len(dataset.channels)} ({', '.join(dataset.channels)}); mend the file or the dataset's table",
        )
    images = [images[0], *(_on_grid(volume, images[0]) for volume in images[1:])]
    if case.label is None:
        return images, None
    label = _on_grid(read_volume(case.label), images[0])
    label = label.replaced(nearly_whole(label.data))
    check_values(label.data, dataset.labels, str(case.label))
    return images, label


def check_values(label: np.ndarray, labels: Mapping[str, int], what: str) -> None:
    """Raises InputError where a label map holds a value that is not in the table."""
    unknown = np.setdiff1d(label, list(labels.values()))
    if unknown.size:
        raise InputError(
            "labels-value-unknown",
            f"{what} holds the value {unknown[0]:.8g}, which is no label of the dataset "
            f"({', '.join(f'{value} {name}' for name, value in labels.items())}); mend the file or the table",
        )


def _on_grid(volume: Volume, first: Volume) -> Volume:
    """On the axes of ``first``, whose grid it is on; ``path`` goes where that changes the volume."""
    if not same_grid(first.geometry, volume.geometry):
        raise InputError(
            "dataset-grid-differs",
            f"{volume.path} [{volume.geometry.describe()}] is not on the grid of {first.path} "
            f"[{first.geometry.describe()}]; resample it onto that grid",
        )
    return on_axes_of(volume, first)
