"""Files beside a dataset that seem to state its split or patients and are not read are named, never passed over."""

import csv
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from medgen.data.cohort.datalist import FOLD, PART_KEYS, PATIENT, UNREAD_PARTS, part_of
from medgen.data.cohort.layouts import some
from medgen.errors import InputError
from medgen.io.text import read_text

TABLES = (".csv", ".tsv")
LISTS = (*TABLES, ".txt", ".lst", ".list", ".json", ".pkl", ".pickle", ".npy", ".npz", ".yaml", ".yml")
SPLIT_NAME = re.compile(r"(.+[\s_-])?((cv|k)?fold|split)s?([\s_-]?(final|\d+))?", re.IGNORECASE)
READ = re.compile(r"splits_final\.json|datalist_fold\d+\.json")  # see ``split.stated_folds``
MOST_BYTES = 2**22


def unread_splits(root: Path) -> list[str]:
    """A sentence on the files in the folder ``root`` that are called like a part of a split, or have a column of them.

    Such as train.txt, splits_final.pkl, or TotalSegmentator's meta.csv with its column "split".
    """
    found = []
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if path.name.startswith(".") or path.suffix.lower() not in LISTS or READ.fullmatch(path.name):
            continue
        column = _column(path) if path.suffix.lower() in TABLES and path.is_file() else None
        if column or part_of(path.stem) or SPLIT_NAME.fullmatch(path.stem):
            found.append(path.name + f" (column '{column}')" * bool(column))
    if not found:
        return []
    return [
        f"{root}: {some(found)} seems to state a split and is not read; write it as splits_final.json "
        '([{"train": names, "val": names}]), or for training as data.split '
        '({"train": names, "validation": names, "test": names})'
    ]


def unread_patients(root: Path, patients: Mapping[str, str]) -> list[str]:
    """A sentence on the tables in the folder ``root`` that name patients of several cases, where no record does.

    Args:
        patients: {case: patient as known}. Nothing is said where some patient has two cases already, or where the
            table lists patients by the names of cases.
    """
    if len(set(patients.values())) < len(patients):
        return []
    found = []
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if path.name.startswith(".") or path.suffix.lower() not in TABLES or not path.is_file():
            continue
        for name, values in _columns(path):
            shared = [value for value, times in Counter(filter(None, values)).items() if times > 1]
            if PATIENT.fullmatch(_plain(name)) and shared and not set(values) & patients.keys():
                found.append(f"{path.name} (column '{name}')")
                break
    if not found:
        return []
    return [
        f"{root}: {some(found)} seems to name patients of several cases and is not read: each case is taken for a "
        "patient; write provenance.json, or a datalist with patient in its entries, or set data.patient_pattern"
    ]


def _columns(path: Path) -> list[tuple[str, list[str]]]:
    """The name and values of each column of a table; none of one that cannot be read."""
    try:
        lines = read_text(path, MOST_BYTES).splitlines()
        mark = max(",;\t|", key=lines[0].count) if lines else ","
        rows = list(csv.DictReader(lines, delimiter=mark))
    except (OSError, InputError, csv.Error):
        return []
    return [(str(n), [str(row.get(n) or "").strip() for row in rows]) for n in (rows[0] if rows else {}) or ()]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _column(path: Path) -> str | None:
    """The first column of a table that names parts or numbers folds."""
    for name, listed in _columns(path):
        key, values = _plain(name), set(listed)
        parts = {part_of(value) or value.lower() for value in values if part_of(value) or value.lower() in UNREAD_PARTS}
        if (parts and key in PART_KEYS) or len(parts) > 1 or FOLD.fullmatch(key):
            return name
    return None
