"""Folders of volumes matched by case name, and the table of label names beside them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medgen.data.labels.names import label_names
from medgen.data.labels.resampling import nearly_whole
from medgen.errors import InputError
from medgen.io.paths import case_name
from medgen.io.read import find_volumes, read_volume
from medgen.io.volume import GRID_TOLERANCE, Volume, same_geometry, to_canonical


@dataclass(frozen=True)
class Folders:
    """The files of every case by role, and how the user named the folders.

    ``cases`` = {case: {role: file}} holds the cases to measure, in the order of the leading folder (the reference,
    or the prediction where there is none); a role whose file is missing is absent. ``extra``: predictions without
    a reference. ``names`` = {label value: structure}.
    """

    cases: Mapping[str, Mapping[str, Path]]
    given: Mapping[str, Path]
    extra: Collection[Path]
    names: Mapping[int, str]


def match_folders(given: Mapping[str, Path | None], wanted: Collection[str] | None = None) -> Folders:
    """Find the files of every case.

    Args:
        given: role → folder of volumes or a single file, None for roles that were not given: reference, prediction,
            source, labels, mask, prediction_labels. A single file stands for the only case whatever its name.
        wanted: names of the leading folder's cases that count; None for all.

    Raises `InputError` for a path that does not exist or holds no volume, a case twice, a wanted case that is
    missing, a ``labels.json`` that is not one, and folders without a case in common.
    """
    paths = {role: Path(path) for role, path in given.items() if path is not None}
    lead = "reference" if "reference" in paths else "prediction"
    found = {lead: _files(paths[lead], {}, lead)}
    if wanted is not None:
        missing = sorted(set(wanted) - set(found[lead]))
        if missing:
            raise InputError(
                "evaluation-case-missing",
                f"{paths[lead]} holds no case named {missing[0]}; it has {_first(found[lead])}, ...",
            )
        found[lead] = {name: file for name, file in found[lead].items() if name in wanted}
    cases = found[lead]
    for role, path in paths.items():
        if role == lead:
            continue
        if path.is_file() and len(cases) > 1:
            raise InputError(
                "evaluation-file-for-folder",
                f"{path} is one file but {paths[lead]} holds {len(cases)} cases: give a folder",
            )
        found[role] = _files(path, cases, role)
        if not set(cases) & set(found[role]):
            raise InputError(
                "folder-names-unmatched",
                f"no volume in {path} ({role.replace('_', ' ')}) has the name of one in {paths[lead]} (the first there "
                f"is {_first(found[role])}, the {lead}'s {_first(cases)}): rename the files to match",
            )
    by_case = {case: {role: files[case] for role, files in found.items() if case in files} for case in cases}
    extra = [file for name, file in found["prediction"].items() if name not in cases]
    tables = ("labels", "prediction_labels")
    names: dict[str, dict[int, str]] = {role: label_names(paths[role]) for role in tables if role in paths}
    _refuse_other_numbers(names, paths)
    return Folders(by_case, paths, extra, names.get("labels", {}))


def _refuse_other_numbers(names: Mapping[str, Mapping[int, str]], paths: Mapping[str, Path]) -> None:
    """Raises InputError where the label maps of predictions number structures in another way: they are compared by
    number, so a liver would be held against a spleen."""
    truth, found = names.get("labels", {}), names.get("prediction_labels", {})
    numbers = {name.lower(): value for value, name in truth.items()}
    for value, name in found.items():
        other = truth.get(value, name)
        if numbers.get(name.lower(), value) != value or other.lower() != name.lower():
            raise InputError(
                "labels-tables-differ",
                f"{paths['prediction_labels']} has {name} as {value} by its table of labels, but {paths['labels']} has "
                f"{name} as {numbers.get(name.lower(), 'nothing')} and {value} as {other}; bring both to one table",
            )


def read_case(files: Mapping[str, Path]) -> dict[str, Volume]:
    """The volumes of a case in closest RAS order, refused unless they share the first one's grid and are finite."""
    stored = {role: read_volume(path) for role, path in files.items()}
    volumes = {role: to_canonical(volume) for role, volume in stored.items()}
    for role in {"labels", "prediction_labels"} & volumes.keys():
        volumes[role] = volumes[role].replaced(nearly_whole(volumes[role].data))
    lead = next(iter(volumes))
    # The tolerance of training pairs: a prediction has its source's affine, not the truth's to the last digit.
    tolerance = GRID_TOLERANCE * min(volumes[lead].spacing)
    for role, volume in volumes.items():
        if not same_geometry(volumes[lead].geometry, volume.geometry, tolerance):
            raise InputError(
                "evaluation-grid-differs",
                f"{files[role]} ({stored[role].geometry.describe()}) is not on the grid of the {lead} "
                f"{files[lead]} ({stored[lead].geometry.describe()}): resample or register it first",
            )
        if not np.isfinite(volume.data.sum(dtype=np.float64)):
            raise InputError("volume-not-finite", f"{files[role]} holds voxels that are NaN or infinite")
    return volumes


def _files(path: Path, cases: Mapping[str, Path], role: str) -> dict[str, Path]:
    """{case name: file} of a folder; a single file stands for the only case whatever its name."""
    if not path.exists():
        raise InputError("file-missing", f"--{role.replace('_', '-')} {path} does not exist; check the path")
    if path.is_file():
        return {next(iter(cases)) if len(cases) == 1 else case_name(path): path}
    found: dict[str, Path] = {}
    for file in find_volumes(path):
        if case_name(file) in found:
            raise InputError(
                "folder-case-twice", f"{found[case_name(file)]} and {file} are the same case twice: remove one"
            )
        found[case_name(file)] = file
    if not found:
        option = role.replace("_", "-")
        raise InputError(
            "folder-no-volumes",
            f"--{option} {path} holds no volumes (.nii.gz, .nii, .mha, .nrrd, ...); check the path, and convert DICOM "
            "with --format nifti",
        )
    return found


def _first(files: Mapping[str, Path]) -> str:
    return next(iter(files.values())).name
