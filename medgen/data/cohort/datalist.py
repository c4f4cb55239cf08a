"""Read the entries of a datalist JSON (MONAI, Auto3DSeg, Medical Segmentation Decathlon) and the split it states."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medgen.errors import InputError
from medgen.io.paths import ENDINGS, has_ending

PARTS = {  # subsets of the split, and the names that their lists may have (case is ignored)
    "train": ("training", "train"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
BESIDE_PART = {"set", "data", "dataset", "cases", "images"}  # words allowed beside such a name
# Keys of an entry in lower case, without spaces, "-" and "_".
PATIENT_KEYS = ("patient", "patientid", "subject", "subjectid", "pid", "mrn")
_ID = "(u?id|identifier|name|no|nr|num(ber)?|code|index)"
PATIENT = re.compile(
    rf"(bids|source|study|anon(ymi[sz]ed)?)?((patient|subj(ect)?|sub|participant){_ID}?|(pat|pt|person|individual|animal){_ID})"
    r"|pid|mrn"
)
PART_KEYS = ("split", "subset", "set", "partition", "phase")
# Ambiguous subset names, which are rejected.
UNREAD_PARTS = set("dev development eval evaluation holdout heldout inference predict".split())
FOLD = re.compile(r"(cv|k|val|valid|validation|test|outer|inner)?fold(id|idx|index|number|no|nr)?|cv")
IMAGE_KEYS = ("image", "images", "source", "target", "label", "labels")


@dataclass(frozen=True)
class Entry:
    """One case of a datalist.

    content  the entry's values; keys in lower case, without spaces, "-" and "_"
    part     subset, a key of `PARTS`; "" if the list does not state it
    fold     fold in which this case is validated
    """

    content: Mapping[str, Any]
    part: str
    fold: int | None
    patient: str

    @property
    def shown(self) -> str:
        return json.dumps(self.content)[:200]

    def images(self, key: str) -> list[Any]:
        """Return the value of a key as a list; empty if the key is absent."""
        value = self.content.get(key)
        return value if isinstance(value, list) else [] if value is None else [value]

    @property
    def label(self) -> Any:
        return self.content.get("label", self.content.get("labels"))


def read_entries(content: Mapping[str, Any] | list[Any], path: Path) -> list[Entry]:
    """Return the entries of all lists; a bare path is an entry with one image.

    Raises:
        InputError: a subset is not a list, a key states a split in an unsupported form, or the subset or fold of an
            entry cannot be interpreted.
    """
    if isinstance(content, list):
        return _entries(content, "", path, "the list")
    refuse_other_parts(content, path)
    found = []
    for key, values in content.items():
        part = part_of(key)
        if part is not None:
            if not isinstance(values, list):
                raise InputError(
                    "datalist-not-entries",
                    f"{path}: '{key}' must be a list of entries such as {{'source': ..., 'target': ...}}",
                )
            found += _entries(values, part, path, f"'{key}'")
        elif isinstance(values, list) and any(map(_is_case, values)):
            known = ", ".join(name for names in PARTS.values() for name in names)
            raise InputError(
                "datalist-unknown-list",
                f"{path} has a list '{key}' of cases, but no subset of the split has this name; use one of: {known}",
            )
    return found


def is_datalist(content: Any) -> bool:
    """Return whether the content of a JSON file is a list of cases or contains one."""
    return isinstance(content, list) or any(part_of(key) and isinstance(content[key], list) for key in content)


def part_of(key: str) -> str | None:
    """Return the subset that a list name, folder name or "split" value means ("train" for TrainingData), else None."""
    words = [word for word in _words(key) if word not in BESIDE_PART]
    return next((part for part, names in PARTS.items() if len(words) == 1 and words[0] in names), None)


def seems_held_out(name: str) -> bool:
    """Return whether a name has a word for a subset that is not for training, such as external_test or holdout."""
    held_out = {word for part in ("validation", "test") for word in PARTS[part]} | UNREAD_PARTS
    return bool(held_out.intersection(_words(name))) or "".join(_words(name)) in UNREAD_PARTS


def _words(key: str) -> list[str]:
    """Split a name into words in lower case: [train, set] for train_set, "Train set" and TrainSet."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key).lower().replace("_", " ").replace("-", " ").split()


def _is_case(value: Any) -> bool:
    if isinstance(value, str):
        return has_ending(Path(value), ENDINGS)
    return isinstance(value, dict) and any(str(key).lower() in IMAGE_KEYS for key in value)


def _entries(values: Iterable[Any], part: str, path: Path, list_name: str) -> list[Entry]:
    """Return the entries of the list of subset ``part``."""
    contents = [_content({"image": value} if isinstance(value, str) else value, path, list_name) for value in values]
    _refuse_valid(contents, path)
    keys = _part_keys(contents)
    return [_entry(content, keys, part, path) for content in contents]


def _content(value: Any, path: Path, list_name: str) -> dict[str, Any]:
    """Return an entry with normalised keys, see `Entry`."""
    if not isinstance(value, dict):
        raise InputError(
            "datalist-not-entries",
            f"{path}: {list_name} must be a list of entries such as {{'source': ..., 'target': ...}}",
        )
    found: dict[str, Any] = {}
    for key, each in value.items():
        if each != each:  # pandas writes missing values as NaN
            each = None
        if found.setdefault(plain := re.sub(r"[\s_-]", "", key).lower(), each) != each:
            raise InputError(
                "datalist-key-twice",
                f"{path}: an entry has the key '{plain}' twice, with {found[plain]!r:.50} and {each!r:.50}; keep one",
            )
    return found


def _part_keys(contents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values are subsets.

    These are "split", keys of `PART_KEYS` with at least one subset name, and other keys with two or more.
    """
    named: dict[str, set[str]] = {"split": set(PARTS)}
    for key, value in (item for content in contents for item in content.items()):
        if isinstance(value, str) and key not in (*IMAGE_KEYS, "name") and not PATIENT.fullmatch(key):
            unread = UNREAD_PARTS & {"".join(_words(value))}
            if part := part_of(value) or next(iter(unread), None):
                named.setdefault(key, set()).add(part)
    return [key for key, parts in named.items() if (key in PART_KEYS or len(parts) > 1) and parts & set(PARTS)]


def _refuse_valid(contents: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Raise InputError if "valid" is true in some entries and false in others.

    It may mean that a case is for validation or that it is usable.
    """
    for key in ("valid", "isvalid"):
        if {_flag("is" + key, content.get(key)) for content in contents} >= {True, False}:
            raise InputError(
                "datalist-flag-ambiguous",
                f'{path}: \'{key}\' may mean validation case or usable case; use "is_val" or "split", or remove it',
            )


def _flagged(content: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Return {key: subset} for the flags of an entry that are true, such as "is_test": true.

    Raises:
        InputError: the entry is marked as no training case, without another subset.
    """
    flags = {
        key: (part, _flag(key, value))
        for key, value in content.items()
        if (part := part_of(_unprefixed(key))) and not key.endswith("valid")
    }
    unread = [key for key in content if _unprefixed(key) in UNREAD_PARTS]
    if held := [key for key in unread if _flag(key, content[key])]:
        raise InputError(
            "datalist-part-unknown",
            f"{path}: an entry is marked as {held[0]}; state validation or test, for example with 'split'",
        )
    found = {key: part for key, (part, flag) in flags.items() if flag}
    if not found and ("train", False) in flags.values():
        raise InputError(
            "datalist-part-missing",
            f"{path}: an entry is marked as not for training; state validation or test, for example with 'split'",
        )
    return found


def _unprefixed(key: str) -> str:
    return re.sub("^(is|in)(?=.)", "", key)


def _flag(key: str, value: Any) -> bool | None:
    """Return the value of a flag, or None if it is not a flag.

    Numbers and text such as 1 or "yes" count for names of subsets (test) and for keys that start with "is" or "in".
    """
    if isinstance(value, bool):
        return value
    named = key != _unprefixed(key) or part_of(key) is not None or key in UNREAD_PARTS
    text = str(value).strip().lower().removesuffix(".0") if named else ""
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text)


def _entry(content: Mapping[str, Any], keys: Sequence[str], part: str, path: Path) -> Entry:
    explicit = {key: content[key] for key in keys if content.get(key) is not None}
    subsets = {key: part_of(value) if isinstance(value, str) else None for key, value in explicit.items()}
    for key in subsets:
        if subsets[key] is None:
            shown = json.dumps(explicit[key])[:50]
            raise InputError(
                "datalist-part-unknown", f"{path}: an entry has {key} = {shown}; use training, validation or test"
            )
    subsets |= (flagged := _flagged(content, path))
    if len(set(subsets.values())) > 1:
        conflict = " and ".join(f"{k} = {v}" for k, v in (explicit | dict.fromkeys(flagged, "true")).items())
        raise InputError(
            "datalist-part-contradiction", f"{path}: the subsets of an entry disagree: {conflict}; keep one"
        )
    folds = [_fold(value, path) for key, value in content.items() if FOLD.fullmatch(key) and key not in keys]
    if len(set(folds)) > 1:
        raise InputError(
            "datalist-fold-contradiction",
            f"{path}: an entry states the folds {' and '.join(map(str, folds))}; keep one",
        )
    return Entry(content, next(iter(subsets.values()), None) or part, folds[0] if folds else None, _patient(content))


def _patient(content: Mapping[str, Any]) -> str:
    """Return the patient of an entry, from `PATIENT_KEYS` first, then from keys that match `PATIENT`; "" if absent."""
    keys = [*PATIENT_KEYS, *sorted(key for key in content if PATIENT.fullmatch(key))]
    return next((name for key in keys if (name := patient_name(content.get(key)))), "")


def patient_name(value: Any) -> str:
    """Return a patient identifier as text: 8, 8.0, " 8" and "8.0" give "8", None gives "".

    A table program writes a column of whole numbers that has a gap as 8.0.
    """
    text = "" if value is None else str(value).strip()
    return text.split(".")[0] if re.fullmatch(r"-?\d+\.0+", text) else text


def unread_keys(entries: Sequence[Entry]) -> list[str]:
    """Return the keys of the entries that nothing reads, sorted: they could mean a split, a group or a patient."""

    def is_read(key: str) -> bool:
        bare = _unprefixed(key)
        named = (*IMAGE_KEYS, "name", *PATIENT_KEYS, *PART_KEYS, *UNREAD_PARTS)
        return key in named or bare in UNREAD_PARTS or any(p.fullmatch(key) for p in (PATIENT, FOLD))

    keys = {key for entry in entries for key, value in entry.content.items() if value not in (None, "")}
    columns = {key: [entry.content.get(key) for entry in entries] for key in keys if not is_read(key)}
    flags = {key for key, values in columns.items() if part_of(_unprefixed(key)) and any(_flag(key, v) for v in values)}
    parts = {key for key in _part_keys([entry.content for entry in entries])}
    return sorted(columns.keys() - flags - parts)


def _fold(value: Any, path: Path) -> int | None:
    """Parse a fold number; 0.0, "0.0" and "fold_0" give 0. Return None for no fold, written as null, "" or -1."""
    if isinstance(value, str) and (
        match := re.fullmatch(r"(?:fold[\s_-]*)?(-?\d{1,6})(?:\.0+)?|", value.strip().lower())
    ):
        value = int(match[1]) if match[1] else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value if value is None or value >= 0 else None
    raise InputError(
        "datalist-fold-not-integer", f"{path}: an entry has the fold {json.dumps(value)[:50]}; use a whole number"
    )


def folds_of(entries: Sequence[Entry]) -> list[int]:
    """Return the folds stated by the training entries; empty if there is a validation list, which takes precedence."""
    if any(entry.part == "validation" for entry in entries):
        return []
    return sorted({e.fold for e in entries if e.fold is not None and e.part in ("train", "")})


def with_fold(entries: Sequence[Entry], fold: int | None, path: Path) -> list[Entry]:
    """Assign the entries of fold ``fold`` to validation and the others to training; test entries stay.

    Without folds in the list the entries stay unchanged. ``fold`` None removes the training and validation subsets, so
    that a new split can be drawn.

    Raises:
        InputError: the list has folds, but not this one.
    """
    folds = folds_of(entries)
    if fold is None:
        return [replace(e, part="") if e.part != "test" else e for e in entries]
    if not folds:
        return list(entries)
    if fold not in folds:
        raise InputError(
            "split-fold-unknown",
            f"{path} has the folds {', '.join(map(str, folds))}, not {fold}; set data.fold to one of them",
        )
    return [e if e.part == "test" else replace(e, part="validation" if e.fold == fold else "train") for e in entries]


def refuse_other_parts(content: Mapping[str, Any], path: Path) -> None:
    """Raise InputError if a key states a split in an unsupported form, such as a list of folds."""
    for key, value in content.items():
        if key == "labels" or part_of(key) is not None or not isinstance(value, list | dict):
            continue
        named = any(part_of(word) or re.fullmatch(r"(cv|k)?(fold|split)s?\d*", word) for word in _words(key))
        if (named and _has_names(value)) or _has_parts(value):
            raise InputError(
                "datalist-split-form",
                f"{path}: '{key}' seems to state a split, but this form is not supported; remove it, and name the "
                'lists training, validation and test, or add a "fold" or "split" key to each entry',
            )


def _has_parts(value: Any) -> bool:
    """Return whether a subset name is, at any depth, the key of a list or an object."""
    if isinstance(value, dict):
        return any(isinstance(v, list | dict) and (part_of(k) or _has_parts(v)) for k, v in value.items())
    return isinstance(value, list) and any(map(_has_parts, value))


def _has_names(value: Any) -> bool:
    """Return whether the value holds, at any depth, case names (strings) or fold numbers (integers)."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(each, str | int) or _has_names(each) for each in inner)
