"""Folders and datalists -> cases with their patients; grids of pairs are compared.

Layouts: the folder convention (source/ target/ labels/ with CASE.nii.gz and labels.json, or a folder a contrast:
t1/ flair/ t2/), a folder a case (patient07/t1.nii.gz), a MONAI or Decathlon datalist JSON, and the nnU-Net raw layout
(imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz).
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medgen.data.cohort.datalist import is_datalist
from medgen.data.cohort.datalist_cases import datalist
from medgen.data.cohort.layouts import Contrasts, Found, case_folders, domain_folders, folders, read_json, some
from medgen.data.cohort.nnunet import is_nnunet, nnunet
from medgen.data.cohort.patients import Known, Records, identified
from medgen.data.cohort.split import stated_folds, with_stated_fold
from medgen.data.cohort.split_files import unread_patients, unread_splits
from medgen.data.labels.resampling import nearly_whole
from medgen.errors import InputError
from medgen.io.grids import same_grid
from medgen.io.paths import ENDINGS, require_path
from medgen.io.read import read_geometry, read_volume
from medgen.types import Case


@dataclass(frozen=True)
class Cohort:
    """``cases`` sorted by name, names unique; ``label_values``: structure -> voxel value (no background).

    ``missing``: case -> contrasts that it lacks beside others of their side, which does not count therefore.
    ``warnings``: sentences on what was left out or is not as it says. ``stated``: which fold of the dataset's own
    decides the parts of the cases, "" for none. ``known``: what ``records`` tell of each case.
    """

    root: Path
    cases: list[Case]
    label_values: dict[str, int]
    missing: dict[str, list[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    stated: str = ""
    known: dict[str, Known] = field(default_factory=dict)
    records: Records = field(default_factory=Records)


def read_cohort(
    root: str | Path,
    *,
    sources: tuple[str, ...] = ("source",),
    targets: tuple[str, ...] = ("target",),
    domains: tuple[str, ...] = (),
    source_channels: tuple[int, ...] = (0,),
    target_channels: tuple[int, ...] = (1,),
    patient_pattern: str | None = None,
    fold: int | None = 0,
) -> Cohort:
    """Find the cases of a cohort folder, a datalist JSON (or its folder), or an nnU-Net raw folder.

    The patient is the datalist's ``patient``, else what ``patient_pattern`` (a regular expression: its first
    group, or the whole match) finds in the case name, else what records, folders and names tell, see
    ``data.cohort.patients``. ``sources`` and ``targets`` name the contrasts, which are folders of a cohort folder,
    files of a case's folder, or channels by the names of a dataset.json; the channel numbers say which is which where a
    case has numbered images (nnU-Net, Decathlon). A side of a case counts when all its contrasts are there. ``domains``
    name the
    folders of a cohort that has neither source nor target: each image is both, and a case is called DOMAIN/CASE.
    Without names for the labels, the values found are called label_1, label_2, ...

    Args:
        fold: where the dataset states folds, the one to validate; None: what it states of training and validation is
            not taken, so that a split can be drawn.

    Raises:
        InputError: nothing found, two files for one case, a label without image, a listed file that does not
            exist, malformed JSON, a pattern that does not match, a fold that is not stated.
    """
    root = require_path(root)
    contrasts = Contrasts(sources, targets, source_channels, target_channels)
    found = domain_folders(root, domains) if domains else _found(root, contrasts, fold)
    cases = [case for case in found.cases if case.source or case.target]
    if found.missing and not cases:
        name, absent = next(iter(found.missing.items()))
        raise InputError(
            "cohort-contrast-missing",
            f"{root}: no case has all its contrasts, {name} lacks {' and '.join(absent)}; add them",
        )
    if not cases:
        folders_named = " and ".join(f"{name}/" for name in contrasts.names)
        deep = next((root / name for name in contrasts.names if any((root / name).glob("*/"))), None)
        if deep:
            raise InputError(
                "cohort-folders-too-deep",
                f"{deep} holds folders and no volumes; put the images right into it, as {deep.name}/CASE.nii.gz, or "
                f"make a folder a case, as CASE/{deep.name}.nii.gz",
            )
        raise InputError(
            "folder-no-volumes", f"{root} holds no volumes ({' '.join(ENDINGS)}); put {folders_named} images there"
        )
    records, folder = Records(), root if root.is_dir() else root.parent
    listed = {case.name for case in cases if case.patient}
    known = {
        c.name: records.known(c.name, (*c.source, *c.target), listed=c.patient, pattern=patient_pattern, root=folder)
        for c in cases
    }
    if fold is None:
        cases = [case if case.part == "test" else replace(case, part="") for case in cases]
    cases, warnings = with_patients(sorted(cases, key=lambda case: case.name), known), _without_record(known)
    own = any(case.part == "validation" for case in cases)  # stated by the list itself, which then counts
    beside = root.is_dir() or root.name == "dataset.json"  # of another list the files beside it say nothing
    if fold is not None and beside and not (domains or own) and (stated := stated_folds(folder)):
        cases, more = with_stated_fold(cases, *stated, fold)
        warnings += more
        found.stated = f"fold {fold} of {stated[0].name} validates"
    if fold is not None and beside and not any(case.part for case in cases):
        warnings += unread_splits(folder)
    if patient_pattern is None:
        real = [case for case in cases if not case.synthetic]
        warnings += records.without_case(case.name for case in real if case.name not in listed)
        if beside:
            warnings += unread_patients(folder, {case.name: case.patient for case in real})
    values = _label_values(found.labels, cases)
    return Cohort(root, cases, values, found.missing, [*found.warnings, *warnings], found.stated, known, records)


def _found(root: Path, contrasts: Contrasts, fold: int | None) -> Found:
    """What the reader of the folder's or file's layout finds."""
    if root.is_file():
        if root.suffix.lower() != ".json":
            raise InputError(
                "cohort-root-invalid", f"{root} is neither a folder nor a datalist .json; name the cohort folder"
            )
        if root.name == "dataset.json" and is_nnunet(root.parent, read_json(root, (dict, list))):
            return nnunet(root.parent, contrasts)
        return datalist(root, contrasts, fold)
    if any((root / name).is_dir() for name in contrasts.names):
        return folders(root, contrasts)
    table = root / "dataset.json"
    content = read_json(table, (dict, list)) if os.path.lexists(table) else {}
    if is_nnunet(root, content):
        return nnunet(root, contrasts)
    if is_datalist(content):
        return datalist(table, contrasts, fold)
    if (root / "imagesTr").is_dir():
        return nnunet(root, contrasts)
    found = case_folders(root, contrasts)
    if not found.cases:
        raise InputError(
            "cohort-layout-unknown",
            f"{root} is no cohort: there is no {'/ or '.join(contrasts.names)}/, no CASE/{contrasts.names[0]}.nii.gz, "
            "no imagesTr/ and no datalist dataset.json; set data.root, data.sources and data.targets",
        )
    return found


def with_patients(cases: list[Case], known: dict[str, Known]) -> list[Case]:
    """The cases with the patients that ``known`` tells of each, and those whose images are in a synthetic one."""
    told = identified([known[case.name] for case in cases])
    return [replace(c, patient=patient, made_of=made_of) for c, (patient, made_of) in zip(cases, told, strict=True)]


def _without_record(known: dict[str, Known]) -> list[str]:
    """A warning of the cases that are synthetic by their names alone."""
    names = [name for name, one in known.items() if one.unrecorded]
    if not names:
        return []
    return [
        f"{some(sorted(names))} are synthetic by their names, and no provenance.json beside them tells whose images "
        "are in them: each is taken as made of the case that it is named after alone; bring provenance.json back"
    ]


def check_pairs(cases: Iterable[Case]) -> None:
    """Compare the grids of each case's files (headers only). Raises InputError with both geometries."""
    for case in cases:
        files = [*(("target", p) for p in case.target), *(("source", p) for p in case.source)]
        files += [("labels", case.labels)] if case.labels is not None else []
        grids = [(role, path, read_geometry(path)) for role, path in files]
        for role, path, grid in grids[1:]:
            first_role, first_path, first = grids[0]
            if not same_grid(first, grid):
                raise InputError(
                    "pair-grid-differs",
                    f"case {case.name} has {first_role} and {role} on different grids: {first_path} is "
                    f"[{first.describe()}], {path} is [{grid.describe()}]; "
                    "bring them together with data.align: resample, rigid or bspline",
                )


def _label_values(named: dict[str, int] | None, cases: list[Case]) -> dict[str, int]:
    """``named``, or the values that occur in the label volumes (all are read: labels.json spares that)."""
    if named is not None:
        return named
    values: set[int] = set()
    for case in cases:
        if case.labels is not None:
            found = np.unique(nearly_whole(read_volume(case.labels).data))
            if (found < 0).any() or (found != np.rint(found)).any():
                raise InputError(
                    "labels-values-invalid",
                    f"{case.labels} holds values that are no labels; use whole numbers of 0 or more",
                )
            values |= set(found.astype(int).tolist())
    return {f"label_{value}": value for value in sorted(values - {0})}
