"""The three layouts of a cohort on disk -> cases and the names of their labels.

Each reader returns cases whose ``patient`` is empty unless the layout names it, {structure: value} or None where
the labels have no names, and {case: contrasts that are missing beside others of their side}.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medgen.io.names import checked_name
from medgen.io.volume import case_name, find_volumes
from medgen.types import Case, InputError

Labels = dict[str, int] | None
Missing = dict[str, list[str]]


@dataclass(frozen=True)
class Contrasts:
    """What a case consists of: the names of its contrasts and, where the layout counts them, their numbers."""

    sources: tuple[str, ...] = ("source",)
    targets: tuple[str, ...] = ("target",)
    source_channels: tuple[int, ...] = (0,)
    target_channels: tuple[int, ...] = (1,)

    def check_numbers(self, root: Path) -> None:
        """Raises InputError where a contrast has no number."""
        for side in ("source", "target"):
            names, numbers = getattr(self, f"{side}s"), getattr(self, f"{side}_channels")
            if len(names) != len(numbers):
                raise InputError(
                    f"{root} counts its channels, and data.{side}s = {list(names)} needs a number for each; "
                    f"set data.{side}_channels"
                )


def folders(root: Path, contrasts: Contrasts) -> tuple[list[Case], Labels, Missing]:
    """CONTRAST/CASE in any known format, labels/CASE, and labels.json = {structure: value}."""
    found = {name: by_case(root / name) for name in (*contrasts.sources, *contrasts.targets)}
    labels = by_case(root / "labels")
    names = set().union(*found.values())
    _refuse_orphans(labels, names, root)
    missing: Missing = {}
    cases = []
    for n in sorted(names):
        source = {c: found[c].get(n) for c in contrasts.sources}
        target = {c: found[c].get(n) for c in contrasts.targets}
        cases.append(_case(n, source, target, labels.get(n), missing))
    named = root / "labels.json"
    return cases, named_labels(read_json(named), named) if named.exists() else None, missing


def domain_folders(root: Path, domains: tuple[str, ...]) -> tuple[list[Case], Labels, Missing]:
    """DOMAIN/CASE, labels/CASE and labels.json; a case is called DOMAIN/CASE and is source and target in one."""
    labels = by_case(root / "labels")
    found = {d: by_case(root / d) for d in domains}
    for domain, files in found.items():
        if not files:
            raise InputError(f"{root / domain} holds no volumes; put the domain's images there, or mend data.domains")
    _refuse_orphans(labels, set().union(*found.values()), root)
    cases = [
        Case(f"{d}/{name}", "", (path,), (path,), labels.get(name))
        for d, files in found.items()
        for name, path in files.items()
    ]
    named = root / "labels.json"
    return cases, named_labels(read_json(named), named) if named.exists() else None, {}


def _case(
    name: str,
    source: Mapping[str, Path | None],
    target: Mapping[str, Path | None],
    labels: Path | None,
    missing: Missing,
) -> Case:
    """A side counts when all its contrasts are there; the names of those absent beside others go to ``missing``."""

    def side(files: Mapping[str, Path | None]) -> tuple[Path, ...]:
        absent = [contrast for contrast, path in files.items() if path is None]
        if 0 < len(absent) < len(files):
            missing.setdefault(name, []).extend(absent)
        return () if absent else tuple(path for path in files.values() if path is not None)

    return Case(name, "", side(source), side(target), labels)


def by_case(folder: Path, name: Callable[[Path], Any] = case_name) -> dict[Any, Path]:
    """{case: file} of the volumes in a folder; empty where it is absent. Raises InputError for two files of a case."""
    found: dict[Any, Path] = {}
    for path in find_volumes(folder) if folder.exists() else []:
        key = name(path)
        if key in found:
            raise InputError(f"{folder} has two files for one case, {found[key].name} and {path.name}; keep one")
        found[key] = path
    return found


def _refuse_orphans(labels: dict[str, Path], names: Iterable[str], root: Path) -> None:
    for name in sorted(labels.keys() - set(names)):
        raise InputError(f"{labels[name]} labels case {name}, which has no image in {root}; add it or remove it")


def nnunet(root: Path, contrasts: Contrasts) -> tuple[list[Case], Labels, Missing]:
    """imagesTr/CASE_0000 (last four digits: the channel), labelsTr/CASE, dataset.json with "labels"."""
    contrasts.check_numbers(root)
    images = by_case(root / "imagesTr", numbered)
    names, channels = {name for name, _ in images}, {channel for _, channel in images}
    wanted = [*contrasts.source_channels, *contrasts.target_channels]
    if images and not set(wanted) & channels:
        raise InputError(
            f"{root} has channels {sorted(channels)}, not {' and '.join(map(str, wanted))}; "
            "set data.source_channels and data.target_channels"
        )
    labels = by_case(root / "labelsTr")
    _refuse_orphans(labels, names, root)
    missing: Missing = {}
    cases = []
    for n in sorted(names):
        source = {c: images.get((n, i)) for c, i in zip(contrasts.sources, contrasts.source_channels, strict=True)}
        target = {c: images.get((n, i)) for c, i in zip(contrasts.targets, contrasts.target_channels, strict=True)}
        cases.append(_case(n, source, target, labels.get(n), missing))
    named = root / "dataset.json"
    return cases, named_labels(read_json(named).get("labels"), named) if named.exists() else None, missing


def numbered(path: Path) -> tuple[str, int]:
    """(CASE, channel) of nnU-Net's CASE_0000. Raises InputError."""
    match = re.fullmatch(r"(.+)_(\d{4})", case_name(path))
    if match is None:
        raise InputError(f"{path} lacks the channel number that nnU-Net's layout asks for (CASE_0000)")
    return match[1], int(match[2])


def datalist(path: Path, contrasts: Contrasts) -> tuple[list[Case], Labels, Missing]:
    """A list of entries, or {"training": entries, "validation": entries, "labels": ...}.

    Paths start at the file's folder. An entry has "source" and "target" (one path, or one per contrast), or
    "image" (one path, or one per channel); "label", "patient" and "name" are optional.
    """
    content = read_json(path, (dict, list))
    if isinstance(content, list):
        content = {"training": content}
    entries = [*listed_entries(content, "training", path), *listed_entries(content, "validation", path)]
    listed = [_listed(entry, path, contrasts) for entry in entries]
    counts = Counter(name for name, _ in listed)
    missing: Missing = {}
    cases = []
    for name, entry in listed:
        # patient07/t1.nii.gz and patient19/t1.nii.gz: the folder tells them apart
        name = f"{entry.folder}_{name}" if counts[name] > 1 else name
        case = _case(name, entry.source, entry.target, entry.labels, missing)
        cases.append(replace(case, patient=entry.patient))
    name, times = Counter(case.name for case in cases).most_common(1)[0] if cases else ("", 0)
    if times > 1:
        raise InputError(f"{path} lists case {name} {times} times; give its entries different 'name's")
    return cases, named_labels(content.get("labels"), path), missing


def listed_entries(content: dict, key: str, path: Path) -> list[dict]:
    """The entries of a part of a datalist. Raises InputError."""
    entries = content.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path}: '{key}' must be a list of entries such as {{'source': ..., 'target': ...}}")
    return entries


@dataclass(frozen=True)
class _Entry:
    """The files of a datalist's entry; ``folder`` of its first image."""

    source: dict[str, Path | None]
    target: dict[str, Path | None]
    labels: Path | None
    patient: str
    folder: str


def _listed(entry: dict, path: Path, contrasts: Contrasts) -> tuple[str, _Entry]:
    images = _as_list(entry.get("image"))
    if images:
        contrasts.check_numbers(path)
    sides: dict[str, dict[str, Path | None]] = {}
    for side in ("source", "target"):
        names, numbers = getattr(contrasts, f"{side}s"), getattr(contrasts, f"{side}_channels")
        given = _as_list(entry.get(side)) or [images[n] if n < len(images) else None for n in numbers]
        given = given if any(given) else [None] * len(names)
        if len(given) != len(names):
            raise InputError(
                f"{path}: the entry {json.dumps(entry)[:200]} has {len(given)} {side} images where "
                f"data.{side}s names {len(names)} ({', '.join(names)}); list one each"
            )
        sides[side] = {n: None if v is None else _listed_file(v, path) for n, v in zip(names, given, strict=True)}
    first = next((file for side in sides.values() for file in side.values() if file is not None), None)
    if first is None:
        raise InputError(f"{path}: the entry {json.dumps(entry)[:200]} has no image; give it a source or a target")
    name = str(entry.get("name") or case_name(first))
    checked_name(name, path)
    labels = entry.get("label", entry.get("labels"))
    file = None if labels is None else _listed_file(labels, path)
    patient = str(entry.get("patient") or "")
    return name, _Entry(**sides, labels=file, patient=patient, folder=first.resolve().parent.name)


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def _listed_file(value: Any, path: Path) -> Path:
    if not isinstance(value, str):
        raise InputError(f"{path}: {json.dumps(value)[:200]} is not the path of a file; give one path as text")
    file = path.parent / value
    if not os.path.isfile(file):  # Path.is_file raises on names that are too long
        raise InputError(f"{path} lists {value}, but there is no file {file}; correct the list")
    return file


def named_labels(labels: Any, path: Path, *, ignored: bool = False) -> Labels:
    """{structure: value}, background left out; None where there are none.

    Decathlon's {"1": structure} is turned round; nnU-Net's regions (lists of values) go, and "ignore" unless
    ``ignored``.
    """
    if labels is None:
        return None
    if not isinstance(labels, dict):
        raise InputError(f"{path}: labels must be {{structure: value}}, not {type(labels).__name__}; correct it")
    if labels and all(key.isdecimal() and isinstance(value, str) for key, value in labels.items()):
        labels = {name: int(value[:12]) for value, name in labels.items()}
    found: dict[str, int] = {}
    for name, value in labels.items():
        if isinstance(value, list) or (name == "ignore" and not ignored):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise InputError(f"{path}: label {name} has the value {repr(value)[:50]}; give a whole number of 0 or more")
        if value in found.values():
            raise InputError(f"{path}: two labels have the value {value}; give each structure its own")
        if value > 0:
            found[name] = value
    return found


def read_json(path: Path, kinds: tuple[type, ...] = (dict,)) -> Any:
    """The content of a JSON file of one of ``kinds``. Raises InputError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON ({error}); correct it") from error
    if not isinstance(content, kinds):
        raise InputError(f"{path} must hold a JSON object, not {type(content).__name__}; correct it")
    return content
