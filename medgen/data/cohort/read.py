"""Read cohort folders and datalists into cases with patients, and compare the grids of paired images.

Layouts: one folder per contrast (source/ target/ labels/ with CASE.nii.gz and labels.json, or t1/ flair/ t2/), one
folder per case (patient07/t1.nii.gz), a MONAI or Decathlon datalist JSON, and the nnU-Net raw layout
(imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz).
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medgen.data.cohort.datalist import is_datalist
from medgen.data.cohort.datalist_cases import datalist
from medgen.data.cohort.layouts import Contrasts, Found, case_folders, domain_folders, folders, shortened_list
from medgen.data.cohort.nnunet import is_nnunet, nnunet
from medgen.data.cohort.patients import Known, Records, identified
from medgen.data.cohort.split import real_cases, stated_folds, with_stated_fold
from medgen.data.cohort.split_files import unread_patients, unread_splits
from medgen.data.labels.names import names_in_header, refuse_other_names
from medgen.data.labels.resampling import nearly_whole
from medgen.errors import InputError
from medgen.io.grids import same_grid
from medgen.io.paths import ENDINGS, require_path
from medgen.io.read import read_geometry, read_volume
from medgen.io.text import read_json
from medgen.types import Case


@dataclass(frozen=True)
class Cohort:
    """Cases of a cohort.

    cases         sorted by name; names are unique
    label_values  structure -> voxel value, without the background
    missing       case -> missing contrasts of a side (source or target) that is ignored because it is incomplete
    warnings      sentences about ignored files and about contradictions in the dataset
    stated        description of the dataset's own fold that determines the split, "" for none
    known         identity of each case according to ``records``
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

    A side (source or target) of a case is used only if all its contrasts exist. Labels without names are called
    label_1, label_2, ... by their voxel values.

    Args:
        sources, targets: contrast names: subfolders of ``root``, files in a case folder, or channel names in
            dataset.json.
        domains: subfolders of a cohort without sources and targets; each image is both, and a case is named
            DOMAIN/CASE.
        source_channels, target_channels: channel numbers of the contrasts, for numbered images (nnU-Net, Decathlon).
        patient_pattern: regular expression that finds the patient in the case name (first group, or whole match);
            used for cases whose patient is not in the datalist. None: use records, folders and names, see
            ``data.cohort.patients``.
        fold: validation fold, if the dataset states folds; None: ignore the stated training and validation subsets,
            so that a split can be drawn.

    Raises:
        InputError: no cases, two files for one case, a label map without an image, a listed file that does not
            exist, malformed JSON, a pattern that does not match, an unknown fold.
    """
    root = require_path(root)
    contrasts = Contrasts(sources, targets, source_channels, target_channels)
    found = domain_folders(root, domains) if domains else _found(root, contrasts, fold)
    cases = [case for case in found.cases if case.source or case.target]
    if found.missing and not cases:
        name, absent = next(iter(found.missing.items()))
        raise InputError(
            "cohort-contrast-missing",
            f"{root}: no case has all its contrasts; for example, {name} lacks {' and '.join(absent)}; add the files",
        )
    if not cases:
        folders_named = " and ".join(f"{name}/" for name in contrasts.names)
        deep = next((root / name for name in contrasts.names if any((root / name).glob("*/"))), None)
        if deep:
            raise InputError(
                "cohort-folders-too-deep",
                f"{deep} holds folders but no volumes; put the images directly into it, as {deep.name}/CASE.nii.gz, or "
                f"use one folder per case, as CASE/{deep.name}.nii.gz",
            )
        raise InputError(
            "folder-no-volumes",
            f"{root} holds no volumes ({' '.join(ENDINGS)}); put the images into its subfolders {folders_named}",
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
    has_validation = any(case.part == "validation" for case in cases)  # takes precedence over stated folds
    use_folder_files = root.is_dir() or root.name == "dataset.json"  # other lists do not use files in their folder
    if fold is not None and use_folder_files and not (domains or has_validation) and (stated := stated_folds(folder)):
        cases, more = with_stated_fold(cases, *stated, fold)
        warnings += more
        found.stated = f"validation fold {fold} of {stated[0].name}"
    if fold is not None and use_folder_files and not any(case.part for case in cases):
        warnings += unread_splits(folder)
    if patient_pattern is None:
        real = real_cases(cases)
        warnings += records.without_case(case.name for case in real if case.name not in listed)
        if use_folder_files:
            warnings += unread_patients(folder, {case.name: case.patient for case in real})
    values = _label_values(found.labels, cases)
    return Cohort(root, cases, values, found.missing, [*found.warnings, *warnings], found.stated, known, records)


def _found(root: Path, contrasts: Contrasts, fold: int | None) -> Found:
    """Detect the layout of a folder or file and read it."""
    if root.is_file():
        if root.suffix.lower() != ".json":
            raise InputError(
                "cohort-root-invalid", f"{root} is neither a folder nor a datalist .json; give the cohort folder"
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
            f"{root} has no known layout: no {'/ or '.join(contrasts.names)}/, no CASE/{contrasts.names[0]}.nii.gz, "
            "no imagesTr/ and no datalist dataset.json; check data.root, data.sources and data.targets",
        )
    return found


def with_patients(cases: list[Case], known: dict[str, Known]) -> list[Case]:
    """Set ``patient`` of each case and, for synthetic cases, ``made_of``, from ``known``."""
    identities = identified([known[case.name] for case in cases])
    return [
        replace(c, patient=patient, made_of=made_of) for c, (patient, made_of) in zip(cases, identities, strict=True)
    ]


def _without_record(known: dict[str, Known]) -> list[str]:
    """Return a warning about cases that only their names mark as synthetic."""
    names = [name for name, one in known.items() if one.unrecorded]
    if not names:
        return []
    return [
        f"{shortened_list(sorted(names))} have names of synthetic cases, but no provenance.json states whose "
        "images they contain; each is assumed to contain only images of the case in its name; restore provenance.json"
    ]


def check_pairs(cases: Iterable[Case]) -> None:
    """Compare the grids of each case's files by their headers; raise InputError with both geometries if they differ."""
    for case in cases:
        files = [*(("target", p) for p in case.target), *(("source", p) for p in case.source)]
        files += [("labels", case.labels)] if case.labels is not None else []
        grids = [(role, path, read_geometry(path)) for role, path in files]
        for role, path, grid in grids[1:]:
            first_role, first_path, first = grids[0]
            if not same_grid(first, grid):
                raise InputError(
                    "pair-grid-differs",
                    f"case {case.name}: {first_role} and {role} are on different grids: {first_path} is "
                    f"[{first.describe()}], {path} is [{grid.describe()}]; "
                    "set data.align to resample, rigid or bspline",
                )


def _label_values(named: dict[str, int] | None, cases: list[Case]) -> dict[str, int]:
    """Return ``named`` or, if it is None, the values that occur in the label maps; this reads all maps.

    Tables in the headers of label maps name these values.

    Raises:
        InputError: a header contradicts ``named`` or another header, or a map holds values that are not labels.
    """
    names = {value: name for name, value in (named or {}).items()}
    whose: Path | str = "the data set"
    for file in (case.labels for case in cases if case.labels is not None):
        if in_header := names_in_header(file):
            refuse_other_names(names, whose, in_header, file)
            if named is None:
                names = in_header | names
                whose = "another label map"
    if named is not None:
        return named
    values: set[int] = set()
    for case in cases:
        if case.labels is not None:
            found = np.unique(nearly_whole(read_volume(case.labels).data))
            if (found < 0).any() or (found != np.rint(found)).any():
                raise InputError(
                    "labels-values-invalid",
                    f"{case.labels} holds values that are not labels; labels must be whole numbers of 0 or more",
                )
            values |= set(found.astype(int).tolist())
    return {names.get(value, f"label_{value}"): value for value in sorted(values - {0})}
