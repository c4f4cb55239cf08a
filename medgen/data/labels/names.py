"""Read label names and match them without regard to case, because programs write Liver, liver and LIVER."""

import os
import re
import unicodedata
from collections.abc import Collection, Mapping
from itertools import combinations
from pathlib import Path

from medgen.data.cohort.layouts import named_labels
from medgen.errors import InputError
from medgen.io.label_headers import header_names
from medgen.io.names import folded
from medgen.io.text import read_json
from medgen.terminology import side_of, words

TABLES = ("labels.json", "dataset.json")  # files with the names of labels, the first one preferred
NUMBERED = re.compile(r"(segment|label|class|region|roi)[\s_-]*\d*$", re.IGNORECASE)  # a name that says nothing


def label_named(name: str, known: Collection[str]) -> str | None:
    """Return the name in ``known`` that equals ``name``, else the only one that differs just in case, else None."""
    if name in known:
        return name
    alike = [other for other in known if folded(other) == folded(name)]
    return alike[0] if len(alike) == 1 else None


def label_names(labels: Path) -> dict[int, str]:
    """Return {value: structure} from ``labels.json``, else from ``dataset.json``, in the folder of ``labels``, else in
    its parent; empty if there is none.

    Raises:
        InputError: a table is malformed, or two of `tables_of` give a value different names.
    """
    files = tables_of(labels if labels.is_dir() else labels.parent)
    return consistent_names({file: _read_label_names(file) for file in files}) if files else {}


def tables_of(folder: Path) -> list[Path]:
    """Return the label tables of a folder of label maps: its own, else those of its parent.

    Both, if the folder is called labels (labelsTr, ...): then the table of its parent speaks of them too.
    """
    own, above = ([file for name in TABLES if os.path.lexists(file := p / name)] for p in (folder, folder.parent))
    return own + above if not own or folded(folder.name).startswith("label") else own


def consistent_names(tables: Mapping[Path, dict[int, str]]) -> dict[int, str]:
    """Return the first of the tables {value: name}.

    Raises:
        InputError: two tables give a value different names; case is ignored.
    """
    for (file, names), (other, others) in combinations(tables.items(), 2):
        for value in sorted(names.keys() & others.keys()):
            if folded(names[value]) != folded(others[value]):
                raise InputError(
                    "labels-tables-disagree",
                    f"{file} calls label {value} {names[value]}, but {other} calls it {others[value]}; correct or "
                    "remove one",
                )
    return next(iter(tables.values()))


def names_in_header(label_map: Path) -> dict[int, str]:
    """Return {value: structure} of a label map's own header (TotalSegmentator, 3D Slicer), without the background and
    names that say nothing, such as Segment_1; empty if there is none."""
    return {value: name for value, name in header_names(label_map).items() if value and not NUMBERED.match(name)}


def refuse_other_names(
    names: Mapping[int, str], whose: Path | str, found: Mapping[int, str], where: Path | str
) -> None:
    """Raise InputError if the names ``found`` in ``where`` give structures other values than ``names`` of ``whose``.

    Labels are used by value, so a liver would be taken for a spleen. Structures that only one of them has are allowed.
    """
    plain = {value: _plain(name) for value, name in names.items()}
    values = {name: value for value, name in plain.items()}
    for value, name in found.items():
        theirs = values.get(_plain(name), value)
        if theirs != value or plain.get(value, _plain(name)) != _plain(name):
            known = f"{name} as {values[_plain(name)]}" if _plain(name) in values else f"no {name}"
            other = f" and {value} as {names[value]}" if value in names else ""
            raise InputError(
                "labels-tables-differ",
                f"{where} has {name} as {value} in its table of labels, but {whose} has {known}{other}; use the same "
                "table for both",
            )


def _plain(name: str) -> tuple[tuple[str, ...], str]:
    """What a name means, whatever the order of its words: ``kidney_left`` and ``Left kidney`` are equal."""
    name = unicodedata.normalize("NFC", re.sub("(?i)umour", "umor", name))
    return tuple(sorted(words(name))), side_of(name)


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
