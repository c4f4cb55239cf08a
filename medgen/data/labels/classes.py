"""Classes of a cohort's labels: their names, the class maps of the sources, and patch centres on chosen classes."""

from pathlib import Path
from typing import Any

import numpy as np

from medgen.data.case_reader import Side, reference_image
from medgen.data.cohort.read import Cohort
from medgen.data.labels.names import label_named
from medgen.data.labels.training import cached_labels, part_voxels
from medgen.errors import InputError
from medgen.settings import Settings
from medgen.types import Case


def class_names(cohort: Cohort, settings: Settings) -> list[str]:
    """Names by class, background first: those of data.class_groups, or the labels in the order of their values."""
    if settings.data.class_groups is not None:
        return ["background", *settings.data.class_groups]
    return ["background", *sorted(cohort.label_values, key=lambda name: cohort.label_values[name])]


def check_class_count(cohort: Cohort, settings: Settings) -> None:
    """Raises InputError where ``data.classes`` is not the number of classes of the cohort."""
    data, names = settings.data, class_names(cohort, settings)
    if data.classes != len(names):
        raise InputError(
            "config-classes-differ",
            f"data.classes = {data.classes}, but {data.root} has {len(names)} classes ({', '.join(names)}); "
            f"set data.classes={len(names)}",
        )


def class_maps(cases: list[Case], cohort: Cohort, settings: Settings, folder: Path) -> dict[str, Path]:
    """Cache the class maps of the cases that have a source, or without ``data.sources`` a target.

    Args:
        folder: cache folder.

    Returns:
        Case name → file of the classes on that image's grid, see ``cached_labels``.

    Raises:
        InputError: data.classes or data.class_groups does not fit the cohort, or a case has no label map.
    """
    data = settings.data
    check_class_count(cohort, settings)
    values = [0, *sorted(cohort.label_values.values())]
    classes = None if data.class_groups is None else _grouped(values, cohort, data.class_groups)
    files = {}
    side: Side = "target" if settings.generative else "source"
    for case in cases:
        if not getattr(case, side):
            continue
        if case.labels is None:
            raise InputError(
                "label-missing", f"case {case.name} in {data.root} has no label map; add it or set data.labels to false"
            )
        fixed = reference_image(case, side, settings)
        movable = data.align == "resample" or fixed in getattr(case, side)
        options: dict[str, Any] = {"spacing": data.spacing, "movable": movable}
        files[case.name] = cached_labels(folder, case.labels, fixed, values, classes, **options)
    return files


def _grouped(values: list[int], cohort: Cohort, groups: dict[str, tuple[str, ...]]) -> list[int]:
    """The class of each label value: the position of its group, from 1; 0 for labels without a group."""
    requested = {name: i for i, names in enumerate(groups.values(), start=1) for name in names}
    class_of = {label_named(name, cohort.label_values): i for name, i in requested.items()}
    unknown = [name for name in requested if label_named(name, cohort.label_values) is None]
    if unknown:
        raise InputError(
            "config-structure-unknown",
            f"data.class_groups names {unknown[0]}, which is not a label of {cohort.root}; "
            f"choose from {', '.join(cohort.label_values)}",
        )
    name_of = {value: name for name, value in cohort.label_values.items()}
    return [class_of.get(name_of.get(value, ""), 0) for value in values]


def patch_centres(labels: dict[str, Path], cohort: Cohort, settings: Settings) -> dict[str, np.ndarray]:
    """Voxels (n, 3) of ``sampling.foreground_classes`` in each case that has any.

    Args:
        labels: case name → file of its classes.

    Raises:
        InputError: an unknown class, or no case has any of the classes.
    """
    requested, names = settings.sampling.foreground_classes, class_names(cohort, settings)
    unknown = [name for name in requested if label_named(name, names) is None]
    if unknown:
        raise InputError(
            "config-centred-class-unknown",
            f"sampling.foreground_classes names {unknown[0]}, which is not a class; choose from {', '.join(names)}",
        )
    if not requested:
        return {}
    numbers = [names.index(label_named(name, names) or name) for name in requested]
    voxels = {case: part_voxels(np.load(file, mmap_mode="r"), numbers) for case, file in labels.items()}
    if not any(len(places) for places in voxels.values()):
        raise InputError(
            "cohort-centred-class-absent",
            f"{settings.data.root}: no training case has {' or '.join(requested)}; correct "
            "sampling.foreground_classes or the label maps",
        )
    return {case: places for case, places in voxels.items() if len(places)}
