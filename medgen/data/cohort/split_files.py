"""Files beside a dataset that seem to state its split in a form that is not read: they are named, never passed over."""

import csv
import re
from pathlib import Path

from medgen.data.cohort.datalist import FOLD, PART_KEYS, UNREAD_PARTS, part_of
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


def _column(path: Path) -> str | None:
    """The first column of a table that names parts or numbers folds."""
    try:
        lines = read_text(path, MOST_BYTES).splitlines()
        mark = max(",;\t|", key=lines[0].count) if lines else ","
        rows = list(csv.DictReader(lines, delimiter=mark))
    except (OSError, InputError, csv.Error):
        return None
    for name in (rows[0] if rows else {}) or ():
        key = re.sub(r"[\s_-]", "", str(name)).lower()
        values = {str(row.get(name) or "").strip() for row in rows}
        parts = {part_of(value) or value.lower() for value in values if part_of(value) or value.lower() in UNREAD_PARTS}
        if (parts and key in PART_KEYS) or len(parts) > 1 or FOLD.fullmatch(key):
            return str(name)
    return None
