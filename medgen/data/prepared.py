"""The prepared data of a training run, grouped by use: patches, validation, and the model folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgen.data.cache import Channels
from medgen.data.intensity import Code, Range


@dataclass(frozen=True)
class PatchData:
    """What ``data.patches.Patches`` draws from; all but ``domains`` hold training cases only.

    Attributes:
        sources, targets: case name → volumes, one per contrast.
        labels: case name → file of the classes on the source's grid; empty unless ``data.labels`` is set.
        centres: case name → voxels (n, 3) for ``sampling.foreground_classes``; cases without such voxels are absent.
        domains: case name → index in ``data.domains``; empty without domains.
        siblings: case name → training cases of the same patient in other domains; empty unless
            ``data.paired_domains`` is set.
    """

    sources: dict[str, Channels]
    targets: dict[str, Channels]
    labels: dict[str, Path]
    centres: dict[str, np.ndarray]
    domains: dict[str, int]
    siblings: dict[str, list[str]]


@dataclass(frozen=True)
class ValidationCase:
    """A case that validation translates.

    Attributes:
        sources: source volumes, one per contrast; empty for generative methods.
        truths: true target volumes, one per contrast; empty if unknown.
        domain: index in ``data.domains`` of the domain to translate to; None without domains.
        labels: file of the source's classes, for methods with ``needs_classes``.
    """

    name: str
    sources: Channels
    truths: Channels
    domain: int | None
    labels: Path | None


@dataclass(frozen=True)
class ValidationData:
    """``real_targets``: domain (None without domains) → real target volumes, those of held-out cases first."""

    cases: list[ValidationCase]
    real_targets: dict[int | None, list[Channels]]


@dataclass(frozen=True)
class ModelData:
    """What the model folder records of the training data; see ``model_info.ModelInfo``.

    Attributes:
        source_range, target_range: typical intensity range of each contrast, or the table of the label maps.
        spacing: mm (x, y, z) of the model's grid.
        training_scans: for each source contrast, the fingerprints of its training scans.
        training_targets: the same for each target contrast; empty if scans cannot be compared with them.
        training_data: names of the cases, hashes of their files, and the classes if labels are used.
    """

    source_range: Sequence[Code]
    target_range: list[Range]
    spacing: tuple[float, float, float]
    training_scans: list[list[dict[str, Any]]]
    training_targets: list[list[dict[str, Any]]]
    training_data: dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A cohort that is ready for training. ``test_images``: content hash → case, of the test cases of the split."""

    patches: PatchData
    validation: ValidationData
    model: ModelData
    test_images: dict[str, str]
