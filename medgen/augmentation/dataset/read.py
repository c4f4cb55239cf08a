"""A labelled dataset with its cases, and the reading and checking of the files of one case."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medgen.data.labels.resampling import nearly_whole
from medgen.errors import InputError
from medgen.io.grids import on_axes_of, on_whole_grid, same_grid
from medgen.io.read import read_channels, read_volume
from medgen.io.volume import Volume

Folds = list[dict[str, list[str]]]  # one {"train": names, "val": names} per fold


@dataclass(frozen=True)
class LabelledCase:
    """One case of a labelled dataset.

    Attributes:
        images: one file per channel, or one 4D file with all channels.
        label: file of the label map; None for a test case without reference labels.
        test: whether the case is in the test set.
        record: the record of a synthetic case in ``provenance.json``; None for a real case.
        fault: why the case cannot be used; None if it can.
        donors: the patients that the record names.
        held: whether the dataset holds the case out for validation.
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
        """All patients whose images are in the case, including the donors named in a synthetic case's operations."""
        operations = (self.record or {}).get("operations", ())
        return self.donors.union({self.patient}, *(operation.get("patients", ()) for operation in operations))

    @property
    def to_learn_from(self) -> bool:
        """Whether synthetic cases may be made from it: it is real and not held out for testing or validation."""
        return not (self.test or self.held or self.record is not None)


@dataclass(frozen=True)
class LabelledDataset:
    """A labelled dataset.

    Attributes:
        channels: channel names.
        labels: structure -> voxel value, background 0 first.
        ending: ending of the image and label files.
        cases: sorted by name; names are unique.
        about: licence, reference and similar texts of the dataset, unchanged.
        folds: folds that the dataset defines; empty: folds are drawn when it is written.
        warnings: one sentence per inconsistency between the dataset's tables and its files.
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
    """Read the images, one per channel, and the label map of a case, all with the affine of the first image.

    Raises:
        InputError: the case has a fault, a file is unreadable, or channels, grids or label values do not match the
            dataset.
    """
    if case.fault:
        raise InputError("dataset-case-faulty", case.fault)
    images = [volume for path in case.images for volume in read_channels(path)]
    if len(images) != len(dataset.channels):
        raise InputError(
            "dataset-channel-count-differs",
            f"{case.images[0]} gives case {case.name} {len(images)} channels, but the dataset has "
            f"{len(dataset.channels)} ({', '.join(dataset.channels)}); correct the file or the dataset's table",
        )
    images = [images[0], *(_on_grid(volume, images[0]) for volume in images[1:])]
    if case.label is None:
        return images, None
    label = _on_grid(on_whole_grid(read_volume(case.label), images[0]), images[0])
    label = label.replaced(nearly_whole(label.data))
    check_values(label.data, dataset.labels, str(case.label))
    return images, label


def check_values(label: np.ndarray, labels: Mapping[str, int], what: str) -> None:
    """Raise InputError if a label map contains a value that is not in the label table."""
    unknown = np.setdiff1d(label, list(labels.values()))
    if unknown.size:
        raise InputError(
            "labels-value-unknown",
            f"{what} contains the value {unknown[0]:.8g}, which is not a label of the dataset "
            f"({', '.join(f'{value} {name}' for name, value in labels.items())}); correct the file or the table",
        )


def _on_grid(volume: Volume, first: Volume) -> Volume:
    """Return the volume on the axes of ``first``; raise InputError if the grids differ.

    The result has no ``path`` if the volume had to be changed.
    """
    if not same_grid(first.geometry, volume.geometry):
        raise InputError(
            "dataset-grid-differs",
            f"{volume.path} [{volume.geometry.describe()}] is not on the grid of {first.path} "
            f"[{first.geometry.describe()}]; resample it onto that grid",
        )
    return on_axes_of(volume, first)
