"""Which patients are trained on, validated and tested: as the cohort states it, or drawn; never slices, never cases."""

import hashlib
import json
import math
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from medgen.data.cohort.datalist import distinct_names, listed_file, read_entries
from medgen.data.cohort.layouts import called, read_json, some
from medgen.errors import InputError
from medgen.io.atomic import write_text
from medgen.io.paths import require_path
from medgen.types import Case

SPLITS = ("train", "validation", "test")


def split_cases(
    cases: list[Case], *, validation: float, test: float, seed: int, where: str = "the dataset"
) -> dict[str, list[Case]]:
    """Split by patient into "train", "validation" and "test", each sorted by case name.

    What the cohort states (``Case.part``) is kept, and a share is drawn only of a part that it states nothing of, from
    the patients to train on. Patients with pairs, with sources only and with targets only are split apart, so that
    each kind is in train and, from two patients on, in validation; so are those of different domains. The order is a
    hash of seed and patient: it depends on neither file order nor the other patients. One patient alone goes to train.

    A synthetic case is trained on where all the patients are whose images are in it. One of a patient kept back lies
    with that patient, which is no use of it; else one that shows a patient kept back lies nowhere.

    Args:
        where: what the cases are of, for messages.

    Raises:
        InputError: no cases, shares outside [0, 1) or summing to 1 or more, too few patients for a test set, a patient
            in two of the parts that are stated.
    """
    real = [case for case in cases if not case.synthetic]
    if not cases:
        raise InputError("cohort-empty", "there are no cases to split; check data.root and data.paired")
    if min(validation, test) < 0 or not validation + test < 1:
        raise InputError(
            "config-split-fractions",
            f"data.validation = {validation} and data.test = {test} must leave patients to train on",
        )
    stated = _stated(real, where)
    part = {patient: name for patient, name in stated.items() if name != "train"}
    free = [case for case in real if case.patient not in part]
    validation, test = (
        0.0 if name in stated.values() else share for name, share in (("validation", validation), ("test", test))
    )
    part |= _drawn(free, validation, test, seed)
    return _sides(cases, part)


def _stated(cases: list[Case], where: str) -> dict[str, str]:
    """patient → the part that the cohort states; InputError where it states two."""
    found: dict[str, Case] = {}
    for case in (case for case in cases if case.part):
        other = found.setdefault(case.patient, case)
        if other.part != case.part:
            raise InputError(
                "split-patient-in-both",
                f"{where} puts patient {case.patient} into two parts of the split: {other.part} (case {other.name}) "
                f"and {case.part} (case {case.name}); keep each patient in one",
            )
    return {patient: case.part for patient, case in found.items()}


def _sides(cases: Iterable[Case], part: dict[str, str]) -> dict[str, list[Case]]:
    """The cases by part, sorted; of synthetic ones see ``split_cases``. Who has no real case does not count."""
    split: dict[str, list[Case]] = {name: [] for name in SPLITS}
    for case in sorted(cases, key=lambda case: case.name):
        own = part.get(case.patient, "train")
        if own != "train" or all(part.get(patient, "train") == "train" for patient in case.made_of):
            split[own].append(case)
    return split


def _drawn(cases: list[Case], validation: float, test: float, seed: int) -> dict[str, str]:
    """patient → part, of shares by a hash."""
    sides: dict[str, set[str]] = {}
    for case in cases:
        sides.setdefault(case.patient, set()).update({_kind(case)})
    part: dict[str, str] = {}
    kind_of = {p: "paired" if "paired" in kinds else "+".join(sorted(kinds)) for p, kinds in sides.items()}
    for kind in set(kind_of.values()):
        patients = sorted((p for p in sides if kind_of[p] == kind), key=lambda p: _rank(p, seed))
        part.update(_parts(patients, validation, test))
    if validation > 0 and "validation" not in part.values():
        spare = [p for p in sorted(sides, key=lambda p: _rank(p, seed)) if _can_spare(p, sides, part)]
        part.update(dict.fromkeys(spare[:1], "validation"))
    if test > 0 and "test" not in part.values():
        raise InputError(
            "split-too-few-patients", f"{len(sides)} patients are too few to keep some for tests; set data.test to 0"
        )
    return part


def _kind(case: Case) -> str:
    domain = case.name.rpartition("/")[0]
    return domain or ("paired" if case.source and case.target else "source" if case.source else "target")


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
    write_text(path, json.dumps(content, indent=1) + "\n")


def load_split(path: str | Path, cases: list[Case]) -> dict[str, list[Case]]:
    """The split that ``save_split`` recorded, over today's ``cases``; cases it does not name are left out.

    Raises:
        InputError: unreadable, names a case that is not there, or has a patient in two parts.
    """
    path, known = require_path(path), {case.name: case for case in cases}
    content = read_json(path)
    if not set(content) <= set(SPLITS) or not all(isinstance(part, dict | list) for part in content.values()):
        raise InputError(
            "split-file-form", f"{path} is not a split: it needs the keys {', '.join(SPLITS)} with case names"
        )
    split: dict[str, list[Case]] = {}
    part_of: dict[str, str] = {}
    for part in SPLITS:
        names = content.get(part, {})
        for name in names:
            if name not in known:
                raise InputError(
                    "split-case-unknown",
                    f"{path} names case {name}, which this cohort lacks; use the cohort's own split",
                )
            shown = known[name].made_of if part == "train" else ()
            for patient in {known[name].patient, *shown}:
                if part_of.setdefault(patient, part) != part:
                    raise InputError(
                        "split-patient-in-both", f"{path} has patient {patient} in two parts; keep each in one"
                    )
        split[part] = [known[name] for name in sorted(names)]
    return split


# Folds that a dataset states -----------------------------------------------------------------------------


def stated_folds(root: Path) -> tuple[Path, list[dict[str, list[str]]]] | None:
    """The folds beside a dataset, of nnU-Net's splits_final.json or the datalist_fold0.json, ... of ``medgen augment``.

    Returns:
        The (first) file, and {"train": names, "val": names} of each fold; None where there are none.

    Raises:
        InputError: a file of that name that is none.
    """
    path = root / "splits_final.json"
    if os.path.lexists(path):
        folds = read_json(path, (list,))
        if not folds or not all(isinstance(fold, dict) and _names(fold) for fold in folds):
            raise InputError(
                "split-folds-form",
                f'{path} must list {{"train": names, "val": names}} for each fold; correct or remove it',
            )
        folds = [{**fold, **{part: [*map(called, fold[part])] for part in ("train", "val")}} for fold in folds]
        for number, fold in enumerate(folds):
            if both := sorted(set(fold["train"]) & set(fold["val"])):
                raise InputError(
                    "split-case-in-both",
                    f"{path} has {some(both)} in train and in val of fold {number}; keep each in one",
                )
        return path, folds
    lists = sorted(root.glob("datalist_fold*.json"), key=lambda file: (len(file.name), file.name))
    return (lists[0], [_listed_fold(file) for file in lists]) if lists else None


def _names(fold: dict[str, Any]) -> bool:
    parts = [fold.get("train"), fold.get("val")]
    return all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in parts)


def _listed_fold(path: Path) -> dict[str, list[str]]:
    entries = read_entries(read_json(path, (dict, list)), path)
    images = [entry.images("image") for entry in entries]
    files = [listed_file(values[0] if values else None, path) for values in images]
    names = distinct_names(files, [str(entry.content.get("name") or "") for entry in entries])
    parts = [entry.part for entry in entries]
    return {
        key: [name for name, part in zip(names, parts, strict=True) if part == wanted]
        for key, wanted in (("train", "train"), ("val", "validation"))
    }


def with_stated_fold(
    cases: list[Case], path: Path, folds: list[dict[str, list[str]]], fold: int
) -> tuple[list[Case], list[str]]:
    """The cases with the part that they have in a fold, and warnings. Real cases that the fold does not name go.

    Raises:
        InputError: no such fold, or one without a case to train on or to validate.
    """
    if not 0 <= fold < len(folds):
        raise InputError(
            "split-fold-unknown",
            f"{path} states the folds 0 to {len(folds) - 1}, not {fold}; set data.fold to one of them",
        )
    part = dict.fromkeys(folds[fold]["train"], "train") | dict.fromkeys(folds[fold]["val"], "validation")
    named = [c if c.part == "test" else replace(c, part=part.get(c.name, "")) for c in cases]
    kept = [case for case in named if case.part or case.synthetic]
    found = {case.part for case in kept if not case.synthetic}
    if not {"train", "validation"} <= found:
        raise InputError(
            "split-fold-empty",
            f"{path} leaves fold {fold} without cases of this cohort; correct it, or set data.fold to null",
        )
    warnings = []
    if gone := sorted(part.keys() - {case.name for case in cases}):
        warnings.append(f"{path} names {some(gone)} in fold {fold}, which the cohort lacks")
    if len(kept) < len(named):
        left = [case.name for case in named if case not in kept]
        warnings.append(f"{path} names {some(left)} in no part of fold {fold}: left out")
    return kept, warnings
