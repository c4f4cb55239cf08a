"""Folders and datalists -> cases; patients, never slices, are split; grids of pairs are compared.

Three layouts: the folder convention (source/ target/ labels/ with CASE.nii.gz and labels.json, or a folder a
contrast: t1/ flair/ t2/), a MONAI or Decathlon datalist JSON, and the nnU-Net raw layout
(imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz).
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medgen.data.layouts import Contrasts, datalist, domain_folders, folders, nnunet, read_json
from medgen.io.volume import (
    ENDINGS,
    GRID_TOLERANCE,
    existing,
    read_geometry,
    read_volume,
    same_geometry,
    written_aside,
)
from medgen.types import Case, InputError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Cohort:
    """``cases`` sorted by name, names unique; ``label_values``: structure -> voxel value (no background).

    ``missing``: case -> contrasts that it lacks beside others of their side, which does not count therefore.
    """

    root: Path
    cases: list[Case]
    label_values: dict[str, int]
    missing: dict[str, list[str]] = field(default_factory=dict)


def read_cohort(
    root: str | Path,
    *,
    sources: tuple[str, ...] = ("source",),
    targets: tuple[str, ...] = ("target",),
    domains: tuple[str, ...] = (),
    source_channels: tuple[int, ...] = (0,),
    target_channels: tuple[int, ...] = (1,),
    patient_pattern: str | None = None,
) -> Cohort:
    """Find the cases of a cohort folder, a datalist JSON (or its folder), or an nnU-Net raw folder.

    The patient is the datalist's ``patient``, else what ``patient_pattern`` (a regular expression: its first
    group, or the whole match) finds in the case name, else the case name. ``sources`` and ``targets`` name the
    contrasts, which are folders of a cohort folder; the channels say which is which where a case has numbered
    images (nnU-Net, Decathlon). A side of a case counts when all its contrasts are there. A datalist's "test"
    entries are left out: they are not for training. ``domains`` name the folders of a cohort that has neither source
    nor target: each image is both, and a case is called DOMAIN/CASE. Without names for the labels, the values found
    are called label_1, label_2, ...

    Raises:
        InputError: nothing found, two files for one case, a label without image, a listed file that does not
            exist, malformed JSON, a pattern that does not match.
    """
    root = existing(root)
    contrasts = Contrasts(sources, targets, source_channels, target_channels)
    if domains:
        cases, labels, missing = domain_folders(root, domains)
    elif root.is_file():
        if root.suffix.lower() != ".json":
            raise InputError(f"{root} is neither a folder nor a datalist .json; name the cohort folder")
        cases, labels, missing = datalist(root, contrasts)
    elif any((root / name).is_dir() for name in (*sources, *targets)):
        cases, labels, missing = folders(root, contrasts)
    elif (root / "dataset.json").is_file() and isinstance(read_json(root / "dataset.json").get("training"), list):
        cases, labels, missing = datalist(root / "dataset.json", contrasts)
    elif (root / "imagesTr").is_dir():
        cases, labels, missing = nnunet(root, contrasts)
    else:
        raise InputError(
            f"{root} is no cohort: there is no {'/ or '.join((*sources, *targets))}/, no imagesTr/ and no datalist "
            "dataset.json; set data.root, data.sources and data.targets"
        )
    cases = [case for case in cases if case.source or case.target]
    if missing and not cases:
        name, absent = next(iter(missing.items()))
        raise InputError(f"{root}: no case has all its contrasts, {name} lacks {' and '.join(absent)}; add them")
    if not cases:
        folders_named = " and ".join(f"{name}/" for name in (*sources, *targets))
        raise InputError(f"{root} holds no volumes ({' '.join(ENDINGS)}); put {folders_named} images there")
    cases = sorted((_with_patient(case, patient_pattern) for case in cases), key=lambda case: case.name)
    return Cohort(root, cases, _label_values(labels, cases), missing)


def check_pairs(cases: Iterable[Case]) -> None:
    """Compare the grids of each case's files (headers only). Raises InputError with both geometries."""
    for case in cases:
        files = [*(("target", p) for p in case.target), *(("source", p) for p in case.source)]
        files += [("labels", case.labels)] if case.labels is not None else []
        grids = [(role, path, read_geometry(path)) for role, path in files]
        for role, path, grid in grids[1:]:
            first_role, first_path, first = grids[0]
            tolerance = GRID_TOLERANCE * min(first.spacing)
            if not same_geometry(first, grid, tolerance):
                raise InputError(
                    f"case {case.name} has {first_role} and {role} on different grids: {first_path} is "
                    f"[{first.describe()}], {path} is [{grid.describe()}]; "
                    "bring them together with data.align: resample, rigid or bspline"
                )


def patient_of(name: str, pattern: str | None) -> str:
    """The patient of a case by its name: what ``pattern`` (a regular expression: its first group if it has one) finds.

    None: each case is a patient of its own. Raises `InputError` for no regular expression, and where it finds nothing.
    """
    if pattern is None:
        return name
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise InputError(f"patient_pattern = {pattern!r} is no regular expression: {error}") from error
    patient = match and (match[1] if match.re.groups else match[0])
    if not patient:
        raise InputError(f"patient_pattern = {pattern!r} finds no patient in the case name {name}")
    return patient


def _with_patient(case: Case, pattern: str | None) -> Case:
    return replace(case, patient=case.patient or patient_of(case.name.rpartition("/")[2], pattern))


def _label_values(named: dict[str, int] | None, cases: list[Case]) -> dict[str, int]:
    """``named``, or the values that occur in the label volumes (all are read: labels.json spares that)."""
    if named is not None:
        return named
    values: set[int] = set()
    for case in cases:
        if case.labels is not None:
            found = np.unique(read_volume(case.labels).data)
            if (found < 0).any() or (found != np.rint(found)).any():
                raise InputError(f"{case.labels} holds values that are no labels; use whole numbers of 0 or more")
            values |= set(found.astype(int).tolist())
    return {f"label_{value}": value for value in sorted(values - {0})}


# Splits ------------------------------------------------------------------------------------------------


def split_cases(cases: list[Case], *, validation: float, test: float, seed: int) -> dict[str, list[Case]]:
    """Split by patient into "train", "validation" and "test", each sorted by case name.

    Patients with pairs, with sources only and with targets only are split apart, so that each kind is in
    train and, from two patients on, in validation; so are those of different domains. The order is a hash of seed
    and patient: it depends on neither file order nor the other patients. One patient alone goes to train.

    Raises:
        InputError: no cases, shares outside [0, 1) or summing to 1 or more, too few patients for a test set.
    """
    if not cases:
        raise InputError("there are no cases to split; check data.root and data.paired")
    if min(validation, test) < 0 or not validation + test < 1:
        raise InputError(f"data.validation = {validation} and data.test = {test} must leave patients to train on")
    sides: dict[str, set[str]] = {}
    for case in cases:
        domain, _, _ = case.name.rpartition("/")
        kinds = (
            {domain}
            if domain
            else {"paired"}
            if case.source and case.target
            else {"source"}
            if case.source
            else {"target"}
        )
        sides.setdefault(case.patient, set()).update(kinds)
    part: dict[str, str] = {}
    kind_of = {p: "paired" if "paired" in kinds else "+".join(sorted(kinds)) for p, kinds in sides.items()}
    for kind in set(kind_of.values()):
        patients = sorted((p for p in sides if kind_of[p] == kind), key=lambda p: _rank(p, seed))
        part.update(_parts(patients, validation, test))
    if validation > 0 and "validation" not in part.values():
        spare = [p for p in sorted(sides, key=lambda p: _rank(p, seed)) if _can_spare(p, sides, part)]
        part.update(dict.fromkeys(spare[:1], "validation"))
    if test > 0 and "test" not in part.values():
        raise InputError(f"{len(sides)} patients are too few to keep some for tests; set data.test to 0")
    by_name = sorted(cases, key=lambda case: case.name)
    return {name: [case for case in by_name if part[case.patient] == name] for name in SPLITS}


def _parts(patients: list[str], validation: float, test: float) -> dict[str, str]:
    """At least one patient stays in train; validation and test get at least one where there are enough."""
    n = len(patients)
    held = min(max(math.floor(validation * n + 0.5), int(validation > 0)), n - 1)
    kept = min(max(math.floor(test * n + 0.5), int(test > 0)), n - 1 - held)
    names = ["validation"] * held + ["test"] * kept + ["train"] * (n - held - kept)
    return dict(zip(patients, names, strict=True))


def _can_spare(patient: str, sides: dict[str, set[str]], part: dict[str, str]) -> bool:
    """Whether the training cases keep every side that they have without this patient."""

    def trained(patients: Iterable[str]) -> set[str]:
        kinds = set().union(*(sides[p] for p in patients))
        return {"source", "target"} if "paired" in kinds else kinds

    train = [p for p in sides if part[p] == "train"]
    return patient in train and trained(p for p in train if p != patient) == trained(train)


def _rank(patient: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest()


def save_split(path: str | Path, split: dict[str, list[Case]]) -> None:
    """Record a split as JSON: {"train": {case: patient}, ...}; written aside, then renamed."""
    content = {name: {case.name: case.patient for case in split.get(name, [])} for name in SPLITS}
    with written_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=1) + "\n")


def load_split(path: str | Path, cases: list[Case]) -> dict[str, list[Case]]:
    """The split that ``save_split`` recorded, over today's ``cases``; cases it does not name are left out.

    Raises:
        InputError: unreadable, names a case that is not there, or has a patient in two parts.
    """
    path, known = existing(path), {case.name: case for case in cases}
    content = read_json(path)
    split: dict[str, list[Case]] = {}
    part_of: dict[str, str] = {}
    for part in SPLITS:
        names = content.get(part, {})
        if not isinstance(names, (dict, list)) or not set(content) <= set(SPLITS):
            raise InputError(f"{path} is not a split: it needs the keys {', '.join(SPLITS)} with case names")
        for name in names:
            if name not in known:
                raise InputError(f"{path} names case {name}, which this cohort lacks; use the cohort's own split")
            if part_of.setdefault(known[name].patient, part) != part:
                raise InputError(f"{path} has patient {known[name].patient} in two parts; keep each in one")
        split[part] = [known[name] for name in sorted(names)]
    return split
