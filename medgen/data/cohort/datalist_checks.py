"""Checks of a whole datalist: listed files, repeated names, counts that differ, entries without a fold."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medgen.data.cohort.datalist import Entry, folds_of
from medgen.errors import InputError
from medgen.io.paths import case_name


def count_mismatches(content: Mapping[str, Any], counts: Mapping[str, int], table: Path) -> list[str]:
    """Return a warning for each case count in ``table`` that differs from the number of cases found.

    ``counts``: {"numTraining": cases found, "numTest": ...}.
    """
    stated = {key: content.get(key) for key in counts}
    return [
        f"{table} states {key} = {value}, but {counts[key]} such cases were found; add the missing files or correct it"
        for key, value in stated.items()
        if isinstance(value, int) and not isinstance(value, bool) and value != counts[key]
    ]


def entry_counts(entries: Sequence[Entry], content: Mapping[str, Any]) -> dict[str, int]:
    """Return the case counts of a list for ``count_mismatches``; numTraining may include the validation cases."""
    parts = Counter(entry.part or "train" for entry in entries)
    training = parts["train"]
    if content.get("numTraining") == training + parts["validation"]:
        training += parts["validation"]
    return {"numTraining": training, "numTest": parts["test"]}


def duplicates(names: Sequence[str]) -> list[str]:
    """Return the names that occur more than once."""
    return [name for name, times in Counter(names).items() if times > 1]


def entries_without_fold_warning(entries: Sequence[Entry], path: Path) -> list[str]:
    """Return a warning if only some entries have a fold: those without one are training cases in every fold."""
    count = sum(entry.fold is None and entry.part != "test" for entry in entries)
    if not folds_of(entries) or not count:
        return []
    return [
        f"{path}: {count} entries have no fold and are training cases in every fold; list cases to hold out as test"
    ]


def listed_file(value: Any, path: Path) -> Path:
    """Return the path of a listed file, relative to the list's folder; Windows backslashes are accepted.

    Does not check that the file exists, see `is_there`.

    Raises:
        InputError: the value is not text.
    """
    if not isinstance(value, str) or not value:
        raise InputError(
            "datalist-path-not-text",
            f"{path}: {json.dumps(value)[:200]} is not a file path; give one path as text",
        )
    file = path.parent / value
    return path.parent / value.replace("\\", "/") if "\\" in value and not file_exists(file) else file


def file_exists(file: Path) -> bool:
    return os.path.isfile(file)  # Path.is_file raises on names that are too long


def distinct_names(files: Sequence[Path], explicit: Sequence[str]) -> list[str]:
    """Return a case name for each file: the given name, else the file name, made unique with parent folder names.

    patient07/t1.nii.gz and patient19/t1.nii.gz become patient07_t1 and patient19_t1. A file that is listed twice has
    the same name both times.
    """
    paths = [Path(os.path.abspath(file)) for file in files]
    depths = [0] * len(paths)

    def names() -> list[str]:
        parts = [[*p.parts[1:-1][len(p.parts) - 2 - d :], case_name(p)] for p, d in zip(paths, depths, strict=True)]
        return [name or "_".join(part) for name, part in zip(explicit, parts, strict=True)]

    for _ in range(max((len(path.parts) for path in paths), default=0)):
        found = names()
        places: dict[str, set[Path]] = {}
        for name, path in zip(found, paths, strict=True):
            places.setdefault(name, set()).add(path)
        clashes = [i for i, name in enumerate(found) if len(places[name]) > 1 and not explicit[i]]
        clashes = [i for i in clashes if depths[i] < len(paths[i].parts) - 2]
        if not clashes:
            break
        for i in clashes:
            depths[i] += 1
    return names()
