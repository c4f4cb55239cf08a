"""Warn about files in a dataset folder that seem to state its split or patients but are not read."""

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from medgen.data.cohort.datalist import FOLD, PART_KEYS, PATIENT, UNREAD_PARTS, part_of
from medgen.data.cohort.layouts import shortened_list
from medgen.errors import InputError
from medgen.io.text import read_text

TABLES = (".csv", ".tsv", ".json")
LISTS = (".csv", ".tsv", ".json", ".txt", ".lst", ".list", ".pkl", ".pickle", ".npy", ".npz", ".yaml", ".yml")
SPLIT_NAME = re.compile(r"(.+[\s_-])?((cv|k)?fold|split)s?([\s_-]?(final|\d+))?", re.IGNORECASE)
READ = re.compile(r"splits_final\.json|datalist_fold\d+\.json")  # see ``split.stated_folds``
MOST_BYTES = 2**22


def unread_splits(root: Path) -> list[str]:
    """Return a warning about files in ``root`` that are named like a split or a subset, or have a column of subsets.

    Examples: train.txt, splits_final.pkl, or TotalSegmentator's meta.csv with its column "split".
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
        f"{root}: {shortened_list(found)} seems to state a split, but this format is not read; write splits_final.json "
        '([{"train": names, "val": names}]), or set data.split to a JSON file '
        '({"train": names, "validation": names, "test": names})'
    ]


def unread_patients(root: Path, patients: Mapping[str, str]) -> list[str]:
    """Return a warning about tables in ``root`` that seem to assign several cases to one patient.

    Args:
        patients: {case: patient}, as known so far. There is no warning if a patient has two cases already, or if
            the table's patient column contains case names.
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
        f"{root}: {shortened_list(found)} seems to name patients with several cases, but is not read; each case "
        "counts as a patient; write provenance.json or a datalist with patient in its entries, or set "
        "data.patient_pattern"
    ]


def _columns(path: Path) -> list[tuple[str, list[str]]]:
    """Return the name and values of each column of a table (CSV, or a JSON list of objects); empty if it is none."""
    try:
        text = read_text(path, MOST_BYTES)
        if path.suffix.lower() == ".json":
            content = json.loads(text)
            rows = content if isinstance(content, list) and all(isinstance(row, dict) for row in content) else []
        else:
            lines = text.splitlines()
            mark = max(",;\t|", key=lines[0].count) if lines else ","
            rows = list(csv.DictReader(lines, delimiter=mark))
    except (OSError, InputError, csv.Error, ValueError, RecursionError):
        return []
    return [(str(n), [str(row.get(n) or "").strip() for row in rows]) for n in (rows[0] if rows else {}) or ()]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _column(path: Path) -> str | None:
    """Return the name of the first column of a table that holds subsets or folds, else None."""
    for name, listed in _columns(path):
        key, values = _plain(name), set(listed)
        parts = {part_of(value) or value.lower() for value in values if part_of(value) or value.lower() in UNREAD_PARTS}
        if (parts and key in PART_KEYS) or len(parts) > 1 or FOLD.fullmatch(key):
            return name
    return None
