"""A datalist JSON (MONAI, Auto3DSeg, Medical Segmentation Decathlon) -> its entries and what they say of the split."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medgen.errors import InputError
from medgen.io.paths import ENDINGS, case_name, has_ending

PARTS = {  # of the split, and the names of their lists, in any case
    "train": ("training", "train"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
BESIDE_PART = {"set", "data", "dataset", "cases", "images"}  # words that may stand beside such a name
# Keys of an entry, without case, spaces, "-" and "_".
PATIENT_KEYS = ("patient", "patientid", "subject", "subjectid", "pid", "mrn")
_ID = "(u?id|identifier|name|no|nr|num(ber)?|code|index)"
PATIENT = re.compile(
    rf"(bids|source|study|anon(ymi[sz]ed)?)?((patient|subj(ect)?|sub|participant){_ID}?|(pat|pt|person|individual|animal){_ID})"
    r"|pid|mrn"
)
PART_KEYS = ("split", "subset", "set", "partition", "phase")
UNREAD_PARTS = set("dev development eval evaluation holdout heldout inference predict".split())  # refused, not guessed
FOLD = re.compile(r"(cv|k)?fold(id|idx|index|number|no|nr)?|cv")
IMAGE_KEYS = ("image", "images", "source", "target", "label", "labels")


@dataclass(frozen=True)
class Entry:
    """One case of a list. ``part``: see `PARTS`; "" where the list says nothing. ``fold``: the one it validates.

    ``content``: its values by their keys in lower case, without spaces, "-" and "_".
    """

    content: Mapping[str, Any]
    part: str
    fold: int | None
    patient: str

    @property
    def shown(self) -> str:
        return json.dumps(self.content)[:200]

    def images(self, key: str) -> list[Any]:
        """The values of a key as a list."""
        value = self.content.get(key)
        return value if isinstance(value, list) else [] if value is None else [value]

    @property
    def label(self) -> Any:
        return self.content.get("label", self.content.get("labels"))


def read_entries(content: Mapping[str, Any] | list[Any], path: Path) -> list[Entry]:
    """The entries of all lists; bare paths count as images.

    Raises:
        InputError: a list that is none, a key that says something of the split and is not read, an entry whose part or
            fold cannot be read.
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
                f"{path} has a list '{key}' of cases, which says no part of the split; name it {known}",
            )
    return found


def refuse_other_parts(content: Mapping[str, Any], path: Path) -> None:
    """Raises InputError where a key holds parts of the split in a form that is not read, such as a list of folds."""
    for key, value in content.items():
        if key == "labels" or part_of(key) is not None or not isinstance(value, list | dict):
            continue
        named = any(part_of(word) or re.fullmatch(r"(cv|k)?(fold|split)s?\d*", word) for word in _words(key))
        if (named and _has_names(value)) or _has_parts(value):
            raise InputError(
                "datalist-split-form",
                f"{path} has '{key}', which seems to state a split and is not read in this form; remove it, and name "
                'the lists training, validation and test or write a "fold" or "split" into each entry',
            )


def _has_parts(value: Any) -> bool:
    """Whether it holds, at any depth, a list or a table under the name of a part."""
    if isinstance(value, dict):
        return any(isinstance(v, list | dict) and (part_of(k) or _has_parts(v)) for k, v in value.items())
    return isinstance(value, list) and any(map(_has_parts, value))


def _has_names(value: Any) -> bool:
    """Whether it holds, at any depth, a text or a whole number: names of cases or numbers of folds, not shares."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(each, str | int) or _has_names(each) for each in inner)


def is_datalist(content: Any) -> bool:
    """Whether the content of a JSON file is a list of cases or has one."""
    return isinstance(content, list) or any(part_of(key) and isinstance(content[key], list) for key in content)


def part_of(key: str) -> str | None:
    """The part that the name of a list or folder, or an entry's "split", says: "train" of TrainingData; None: none."""
    words = [word for word in _words(key) if word not in BESIDE_PART]
    return next((part for part, names in PARTS.items() if len(words) == 1 and words[0] in names), None)


def _words(key: str) -> list[str]:
    """The words of a name in lower case: [train, set] of train_set, "Train set" and TrainSet."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key).lower().replace("_", " ").replace("-", " ").split()


def _is_case(value: Any) -> bool:
    if isinstance(value, str):
        return has_ending(Path(value), ENDINGS)
    return isinstance(value, dict) and any(str(key).lower() in IMAGE_KEYS for key in value)


def _entries(values: Iterable[Any], part: str, path: Path, where: str) -> list[Entry]:
    """The entries of one list, whose name says ``part``."""
    contents = [_content({"image": value} if isinstance(value, str) else value, path, where) for value in values]
    _refuse_valid(contents, path)
    keys = _part_keys(contents)
    return [_entry(content, keys, part, path) for content in contents]


def _content(value: Any, path: Path, where: str) -> dict[str, Any]:
    """An entry by plain keys, see `Entry`."""
    if not isinstance(value, dict):
        raise InputError(
            "datalist-not-entries",
            f"{path}: {where} must be a list of entries such as {{'source': ..., 'target': ...}}",
        )
    found: dict[str, Any] = {}
    for key, each in value.items():
        if each != each:  # NaN, as pandas writes a missing value
            each = None
        if found.setdefault(plain := re.sub(r"[\s_-]", "", key).lower(), each) != each:
            raise InputError(
                "datalist-key-twice",
                f"{path}: an entry has '{plain}' twice, as {found[plain]!r:.50} and {each!r:.50}; keep one",
            )
    return found


def _part_keys(contents: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that say parts of the split: "split"; usual ones that name one; any other that names two or more."""
    named: dict[str, set[str]] = {"split": set(PARTS)}
    for key, value in (item for content in contents for item in content.items()):
        if isinstance(value, str) and key not in (*IMAGE_KEYS, "name") and not PATIENT.fullmatch(key):
            unread = UNREAD_PARTS & {"".join(_words(value))}
            if part := part_of(value) or next(iter(unread), None):
                named.setdefault(key, set()).add(part)
    return [key for key, parts in named.items() if (key in PART_KEYS or len(parts) > 1) and parts & set(PARTS)]


def _refuse_valid(contents: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Raises InputError where some entries are "valid" and some not: they may be those to validate, or those to use."""
    for key in ("valid", "isvalid"):
        if {_flag("is" + key, content.get(key)) for content in contents} >= {True, False}:
            raise InputError(
                "datalist-flag-ambiguous",
                f'{path}: \'{key}\' may mean to validate or to be usable; write "is_val" or "split", or remove it',
            )


def _flagged(content: Mapping[str, Any], path: Path) -> dict[str, str]:
    """{key: part} of the flags of an entry that are set, such as "is_test": true.

    Raises:
        InputError: it is said not to be trained on, and nothing more.
    """
    flags = {
        key: (part, _flag(key, value))
        for key, value in content.items()
        if (part := part_of(_unprefixed(key))) and not key.endswith("valid")
    }
    found = {key: part for key, (part, flag) in flags.items() if flag}
    if not found and ("train", False) in flags.values():
        raise InputError(
            "datalist-part-missing",
            f"{path}: an entry is not to train on; say whether it is for validation or test ('split')",
        )
    return found


def _unprefixed(key: str) -> str:
    return re.sub("^(is|in)(?=.)", "", key)


def _flag(key: str, value: Any) -> bool | None:
    """What a flag says; None where the key is something else: without "is" before it only true and false count."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower() if key != _unprefixed(key) else ""
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text)


def _entry(content: Mapping[str, Any], keys: Sequence[str], part: str, path: Path) -> Entry:
    given = {key: content[key] for key in keys if content.get(key) is not None}
    own = {key: part_of(value) if isinstance(value, str) else None for key, value in given.items()}
    for key in own:
        if own[key] is None:
            shown = json.dumps(given[key])[:50]
            raise InputError(
                "datalist-part-unknown", f"{path}: an entry has the {key} {shown}; write training, validation or test"
            )
    own |= (flagged := _flagged(content, path))
    if len(set(own.values())) > 1:
        told = " and ".join(f"{k} = {v}" for k, v in (given | dict.fromkeys(flagged, "true")).items())
        raise InputError("datalist-part-contradiction", f"{path}: an entry says {told}; keep one")
    folds = [_fold(value, path) for key, value in content.items() if FOLD.fullmatch(key)]
    if len(set(folds)) > 1:
        raise InputError(
            "datalist-fold-contradiction", f"{path}: an entry has the folds {' and '.join(map(str, folds))}; keep one"
        )
    return Entry(content, next(iter(own.values()), None) or part, folds[0] if folds else None, _patient(content))


def _patient(content: Mapping[str, Any]) -> str:
    """The patient of an entry by the usual keys, else by any key that names one; "" for none."""
    keys = [*PATIENT_KEYS, *sorted(key for key in content if PATIENT.fullmatch(key))]
    return next((name for key in keys if (name := patient_name(content.get(key)))), "")


def patient_name(value: Any) -> str:
    """A patient as a record or list names it: 8, 8.0 and " 8" are "8"; "" for none."""
    whole = isinstance(value, float) and value.is_integer()
    return "" if value is None else str(int(value) if whole else value).strip()


def _fold(value: Any, path: Path) -> int | None:
    """The number of a fold, also of 0.0, "0.0" and "fold_0"; None for none, which -1 says, too."""
    if isinstance(value, str) and (
        match := re.fullmatch(r"(?:fold[\s_-]*)?(-?\d{1,6})(?:\.0+)?|", value.strip().lower())
    ):
        value = int(match[1]) if match[1] else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value if value is None or value >= 0 else None
    raise InputError(
        "datalist-fold-not-integer", f"{path}: an entry has the fold {json.dumps(value)[:50]}; give a whole number"
    )


def folds_of(entries: Sequence[Entry]) -> list[int]:
    """The folds that the training entries name; none where a validation list is there, which then counts."""
    if any(entry.part == "validation" for entry in entries):
        return []
    return sorted({e.fold for e in entries if e.fold is not None and e.part in ("train", "")})


def with_fold(entries: Sequence[Entry], fold: int | None, path: Path) -> list[Entry]:
    """The entries of fold ``fold`` to validate, the others to train on; None: as they are, to be split again.

    Raises:
        InputError: the list names folds, and not this one.
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


def listed_file(value: Any, path: Path) -> Path:
    """The file that a list names, relative to the list's folder; with back-slashes too, as Windows writes them.

    Raises:
        InputError: no text. Whether it is there is not looked at, see `is_there`.
    """
    if not isinstance(value, str) or not value:
        raise InputError(
            "datalist-path-not-text",
            f"{path}: {json.dumps(value)[:200]} is not the path of a file; give one path as text",
        )
    file = path.parent / value
    return path.parent / value.replace("\\", "/") if "\\" in value and not is_there(file) else file


def is_there(file: Path) -> bool:
    return os.path.isfile(file)  # Path.is_file raises on names that are too long


def distinct_names(files: Sequence[Path], given: Sequence[str]) -> list[str]:
    """The name of each case: as given, else its file's with as many folders before as tell it from the others'.

    patient07/t1.nii.gz and patient19/t1.nii.gz are patient07_t1 and patient19_t1. One file listed twice keeps one
    name for both.
    """
    paths = [Path(os.path.abspath(file)) for file in files]
    depths = [0] * len(paths)

    def names() -> list[str]:
        parts = [[*p.parts[1:-1][len(p.parts) - 2 - d :], case_name(p)] for p, d in zip(paths, depths, strict=True)]
        return [name or "_".join(part) for name, part in zip(given, parts, strict=True)]

    for _ in range(max((len(path.parts) for path in paths), default=0)):
        found = names()
        places: dict[str, set[Path]] = {}
        for name, path in zip(found, paths, strict=True):
            places.setdefault(name, set()).add(path)
        again = [i for i, name in enumerate(found) if len(places[name]) > 1 and not given[i]]
        again = [i for i in again if depths[i] < len(paths[i].parts) - 2]
        if not again:
            break
        for i in again:
            depths[i] += 1
    return names()


def count_faults(content: Mapping[str, Any], counts: Mapping[str, int], table: Path) -> list[str]:
    """A sentence for each count of cases that a table states and that the dataset does not have.

    ``counts``: {"numTraining": cases found, "numTest": ...}.
    """
    stated = {key: content.get(key) for key in counts}
    return [
        f"{table} says {key} = {value}, but {counts[key]} such cases are there; add the missing files or correct it"
        for key, value in stated.items()
        if isinstance(value, int) and not isinstance(value, bool) and value != counts[key]
    ]


def counted(entries: Sequence[Entry], content: Mapping[str, Any]) -> dict[str, int]:
    """The counts of a list, as ``count_faults`` takes them; cases to validate may be among those to train on."""
    parts = Counter(entry.part or "train" for entry in entries)
    training = parts["train"]
    if content.get("numTraining") == training + parts["validation"]:
        training += parts["validation"]
    return {"numTraining": training, "numTest": parts["test"]}


def twice(names: Sequence[str]) -> list[str]:
    """Names that occur more than once."""
    return [name for name, times in Counter(names).items() if times > 1]


def without_fold(entries: Sequence[Entry], path: Path) -> list[str]:
    """A sentence on the entries that name no fold beside others that do: they are trained on, whatever validates."""
    count = sum(entry.fold is None and entry.part != "test" for entry in entries)
    if not folds_of(entries) or not count:
        return []
    return [
        f"{path}: {count} entries name no fold and are trained on in every one; list as test what is to be kept back"
    ]
