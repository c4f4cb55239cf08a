"""Split cohorts by patient into training, validation and test sets: as the cohort states it, or at random."""

import hashlib
import json
import math
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from medgen.data.cohort.datalist import read_entries
from medgen.data.cohort.datalist_checks import distinct_names, listed_file
from medgen.data.cohort.layouts import case_of_entry, shortened_list
from medgen.errors import InputError
from medgen.io.atomic import write_text
from medgen.io.paths import require_path
from medgen.io.text import read_json
from medgen.types import Case

SPLITS = ("train", "validation", "test")


def split_cases(
    cases: list[Case], *, validation: float, test: float, seed: int, where: str = "the dataset"
) -> dict[str, list[Case]]:
    """Split by patient into "train", "validation" and "test", each sorted by case name.

    Subsets stated by the cohort (``Case.part``) are kept. A validation or test set that is not stated is drawn from the
    remaining patients. The draw is stratified: patients with pairs, with sources only and with targets only, and
    patients of different domains, are split separately. Each stratum is in the training set and, from two patients
    on, in the validation set. Patients are ordered by a hash of seed and patient, which depends on neither the file
    order nor the other patients. A single patient is a training patient.

    A synthetic case is a training case only if all patients whose images it contains are training patients. If its own
    patient is held out, it is listed in the subset of that patient but not used. If only another patient whose images
    it contains is held out, it is in no subset.

    Args:
        validation, test: fractions of the patients.
        where: name of the dataset, for messages.

    Raises:
        InputError: no cases, fractions below 0 or summing to 1 or more, too few patients for a test set, a patient
            in two stated subsets.
    """
    real = real_cases(cases)
    if not cases:
        raise InputError("cohort-empty", "there are no cases to split; check data.root and data.paired")
    if min(validation, test) < 0 or not validation + test < 1:
        raise InputError(
            "config-split-fractions",
            f"data.validation = {validation} and data.test = {test} must be at least 0 and sum to less than 1",
        )
    stated = stated_parts(real, where)
    part = {patient: name for patient, name in stated.items() if name != "train"}
    remaining = [case for case in real if case.patient not in part]
    validation, test = (
        0.0 if name in stated.values() else share for name, share in (("validation", validation), ("test", test))
    )
    part |= _draw(remaining, validation, test, seed)
    return _by_subset(cases, part)


def fold_splits(
    cases: list[Case], folds: int, seed: int = 0, *, validation: float = 0.0, test: float = 0.0
) -> list[dict[str, list[Case]]]:
    """Return a split per fold; each patient is in the validation subset of exactly one, drawn by hash.

    Patients of whom the dataset holds a case back for testing are in the test subset of all, and so are those that
    `split_cases` draws with the same ``validation``, ``test`` and ``seed``. Synthetic cases are for training, except
    where a patient that they contain is held out.

    Raises:
        InputError: fewer patients than folds, or an error of `split_cases`.
    """
    tested = {case.patient for case in cases if case.part == "test"}
    if test > 0:
        drawn = split_cases(cases, validation=validation, test=test, seed=seed)["test"]
        tested |= {case.patient for case in drawn}
    patients = {case.patient for case in real_cases(cases)} - tested
    ranked = sorted(patients, key=lambda p: _rank(p, seed))
    if len(patients) < folds:
        raise InputError(
            "folds-too-many", f"there are {len(patients)} patients, fewer than {folds} folds; use fewer folds"
        )
    parts = [dict.fromkeys(tested, "test") | dict.fromkeys(ranked[k::folds], "validation") for k in range(folds)]
    return [_by_subset(cases, part) for part in parts]


def real_cases(cases: Iterable[Case]) -> list[Case]:
    """Those that are not synthetic."""
    return [case for case in cases if not case.synthetic]


def stated_parts(cases: list[Case], where: str) -> dict[str, str]:
    """Return {patient: stated subset}. Raises InputError if a patient has two."""
    found: dict[str, Case] = {}
    for case in (case for case in cases if case.part):
        other = found.setdefault(case.patient, case)
        if other.part != case.part:
            raise InputError(
                "split-patient-in-both",
                f"{where} has patient {case.patient} in two subsets of the split: {other.part} (case {other.name}) "
                f"and {case.part} (case {case.name}); keep each patient in one",
            )
    return {patient: case.part for patient, case in found.items()}


def _by_subset(cases: Iterable[Case], part: dict[str, str]) -> dict[str, list[Case]]:
    """Return the sorted cases of each subset. Patients without real cases count as training patients."""
    split: dict[str, list[Case]] = {name: [] for name in SPLITS}
    for case in sorted(cases, key=lambda case: case.name):
        own = part.get(case.patient, "train")
        if own != "train" or all(part.get(patient, "train") == "train" for patient in case.made_of):
            split[own].append(case)
    return split


def _draw(cases: list[Case], validation: float, test: float, seed: int) -> dict[str, str]:
    """Draw validation and test patients by hash, stratified by kind; return {patient: subset}."""
    kinds_of: dict[str, set[str]] = {}
    for case in cases:
        kinds_of.setdefault(case.patient, set()).update({_kind(case)})
    part: dict[str, str] = {}
    stratum_of = {p: "paired" if "paired" in kinds else "+".join(sorted(kinds)) for p, kinds in kinds_of.items()}
    for kind in set(stratum_of.values()):
        patients = sorted((p for p in kinds_of if stratum_of[p] == kind), key=lambda p: _rank(p, seed))
        part.update(_parts(patients, validation, test))
    if validation > 0 and "validation" not in part.values():
        spare = [p for p in sorted(kinds_of, key=lambda p: _rank(p, seed)) if _can_spare(p, kinds_of, part)]
        part.update(dict.fromkeys(spare[:1], "validation"))
    if test > 0 and "test" not in part.values():
        raise InputError(
            "split-too-few-patients", f"{len(kinds_of)} patients are too few for a test set; set data.test to 0"
        )
    return part


def _kind(case: Case) -> str:
    domain = case.name.rpartition("/")[0]
    return domain or ("paired" if case.source and case.target else "source" if case.source else "target")


def _parts(patients: list[str], validation: float, test: float) -> dict[str, str]:
    """Assign ordered patients to subsets; one stays in train, and validation and test get one if there are enough."""
    n = len(patients)
    held = min(max(math.floor(validation * n + 0.5), int(validation > 0)), n - 1)
    kept = min(max(math.floor(test * n + 0.5), int(test > 0)), n - 1 - held)
    names = ["validation"] * held + ["test"] * kept + ["train"] * (n - held - kept)
    return dict(zip(patients, names, strict=True))


def _can_spare(patient: str, kinds_of: dict[str, set[str]], part: dict[str, str]) -> bool:
    """Return whether the training set still has the same kinds of cases without this patient."""

    def trained(patients: Iterable[str]) -> set[str]:
        kinds = set().union(*(kinds_of[p] for p in patients))
        return {"source", "target"} if "paired" in kinds else kinds

    train = [p for p in kinds_of if part[p] == "train"]
    return patient in train and trained(p for p in train if p != patient) == trained(train)


def _rank(patient: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest()


def save_split(path: str | Path, split: dict[str, list[Case]]) -> None:
    """Write a split as JSON, {"train": {case: patient}, ...}, atomically."""
    content = {name: {case.name: case.patient for case in split.get(name, [])} for name in SPLITS}
    write_text(path, json.dumps(content, indent=1) + "\n")


def load_split(path: str | Path, cases: list[Case]) -> dict[str, list[Case]]:
    """Read a split written by ``save_split``; ``cases`` that it does not name are in no subset.

    Raises:
        InputError: the file is unreadable, names an unknown case, or has a patient in two subsets.
    """
    path, known = require_path(path), {case.name: case for case in cases}
    content = read_json(path)
    if not set(content) <= set(SPLITS) or not all(isinstance(part, dict | list) for part in content.values()):
        raise InputError(
            "split-file-form", f"{path} is not a split file; it must have the keys {', '.join(SPLITS)} with case names"
        )
    split: dict[str, list[Case]] = {}
    part_of: dict[str, str] = {}
    stated: dict[str, str] = {}
    for part in SPLITS:
        names = content.get(part, {})
        for patient in {str(p) for p in names.values() if p} if isinstance(names, dict) else ():
            if stated.setdefault(patient, part) != part:
                raise InputError(
                    "split-patient-in-both", f"{path} names patient {patient} in two subsets; keep each patient in one"
                )
        for name in names:
            if name not in known:
                raise InputError(
                    "split-case-unknown",
                    f"{path} names case {name}, which is not in this cohort; use a split of this cohort",
                )
            shown = known[name].made_of if part == "train" else ()
            for patient in {known[name].patient, *shown}:
                if part_of.setdefault(patient, part) != part:
                    raise InputError(
                        "split-patient-in-both",
                        f"{path} has patient {patient} in two subsets; keep each patient in one",
                    )
        split[part] = [known[name] for name in sorted(names)]
    return split


# Folds stated by a dataset ------------------------------------------------------------------------------------


def stated_folds(root: Path) -> tuple[Path, list[dict[str, list[str]]]] | None:
    """Read the folds in nnU-Net's splits_final.json, else those in datalist_fold0.json, ... of ``medgen augment``.

    Returns:
        The (first) file, and {"train": names, "val": names} for each fold; None if there is no such file.

    Raises:
        InputError: the file has another format.
    """
    path = root / "splits_final.json"
    if os.path.lexists(path):
        folds = read_json(path, (list,))
        if not folds or not all(isinstance(fold, dict) and _names(fold) for fold in folds):
            raise InputError(
                "split-folds-form",
                f'{path} must be a list with {{"train": names, "val": names}} for each fold; correct or remove it',
            )
        folds = [{**fold, **{part: [*map(case_of_entry, fold[part])] for part in ("train", "val")}} for fold in folds]
        for number, fold in enumerate(folds):
            if both := sorted(set(fold["train"]) & set(fold["val"])):
                raise InputError(
                    "split-case-in-both",
                    f"{path} lists {shortened_list(both)} in both train and val of fold {number}; "
                    "keep each case in one",
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
        key: [name for name, part in zip(names, parts, strict=True) if part == subset]
        for key, subset in (("train", "train"), ("val", "validation"))
    }


def with_stated_fold(
    cases: list[Case], path: Path, folds: list[dict[str, list[str]]], fold: int
) -> tuple[list[Case], list[str]]:
    """Set ``Case.part`` as fold ``fold`` states; return the cases and warnings.

    Test and synthetic cases are kept; other cases that the fold does not name are removed.

    Raises:
        InputError: unknown fold, or a fold without training or validation cases in this cohort.
    """
    if not 0 <= fold < len(folds):
        raise InputError(
            "split-fold-unknown",
            f"{path} has the folds 0 to {len(folds) - 1}, not {fold}; set data.fold to one of them",
        )
    part = dict.fromkeys(folds[fold]["train"], "train") | dict.fromkeys(folds[fold]["val"], "validation")
    named = [c if c.part == "test" else replace(c, part=part.get(c.name, "")) for c in cases]
    kept = [case for case in named if case.part or case.synthetic]
    found = {case.part for case in kept if not case.synthetic}
    if not {"train", "validation"} <= found:
        raise InputError(
            "split-fold-empty",
            f"{path}: fold {fold} has no training or validation cases of this cohort (it names "
            f"{', '.join([*part][:2])}; the cohort has {', '.join([c.name for c in cases][:2])}); give the cases the "
            "same names in both, or set data.fold=null",
        )
    warnings = []
    if unknown := sorted(part.keys() - {case.name for case in cases}):
        warnings.append(f"{path} names {shortened_list(unknown)} in fold {fold}, but they are not in the cohort")
    if len(kept) < len(named):
        excluded = [case.name for case in named if case not in kept]
        warnings.append(f"{path} does not name {shortened_list(excluded)} in fold {fold}; they are excluded")
    return kept, warnings
