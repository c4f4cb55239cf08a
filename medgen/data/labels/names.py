"""Read label names and match them without regard to case, because programs write Liver, liver and LIVER."""

import os
from collections.abc import Collection, Mapping
from itertools import combinations
from pathlib import Path

from medgen.data.cohort.layouts import named_labels
from medgen.errors import InputError
from medgen.io.text import read_json

TABLES = ("labels.json", "dataset.json")  # files with the names of labels, the first one preferred


def label_named(name: str, known: Collection[str]) -> str | None:
    """Return the name in ``known`` that equals ``name``, else the only one that differs just in case, else None."""
    if name in known:
        return name
    alike = [other for other in known if other.casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 else None


def label_names(labels: Path) -> dict[int, str]:
    """Return {value: structure} from ``labels.json``, else from ``dataset.json``, in the folder of ``labels``, else in
    its parent; empty if there is none.

    Raises:
        InputError: the table is malformed, or the two files in one folder give a value different names.
    """
    folder = labels if labels.is_dir() else labels.parent
    for place in (folder, folder.parent):
        files = [file for name in TABLES if os.path.lexists(file := place / name)]
        if files:
            return consistent_names({file: _read_label_names(file) for file in files})
    return {}


def consistent_names(tables: Mapping[Path, dict[int, str]]) -> dict[int, str]:
    """Return the first of the tables {value: name}.

    Raises:
        InputError: two tables give a value different names; case is ignored.
    """
    for (file, names), (other, others) in combinations(tables.items(), 2):
        for value in sorted(names.keys() & others.keys()):
            if names[value].casefold() != others[value].casefold():
                raise InputError(
                    "labels-tables-disagree",
                    f"{file} calls label {value} {names[value]}, but {other} calls it {others[value]}; correct or "
                    "remove one",
                )
    return next(iter(tables.values()))


def _read_label_names(file: Path) -> dict[int, str]:
    table = read_json(file, (dict, list))
    if isinstance(table, dict) and file.name == "dataset.json":
        table = named_labels(table.get("labels"), file) or {}
    elif isinstance(table, dict) and all(isinstance(value, str) for value in table.values()):
        table = named_labels(table, file)  # Decathlon's {"1": "liver"}
    if not isinstance(table, dict) or not all(type(value) is int for value in table.values()):
        raise InputError("labels-table-type", f'{file} must map structures to whole numbers, such as {{"liver": 1}}')
    names: dict[int, str] = {}
    for name, value in table.items():
        if value in names:
            raise InputError(
                "labels-table-value-twice",
                f"{file} gives {names[value]} and {name} the same value {value}; use different values",
            )
        names[value] = name
    return names
