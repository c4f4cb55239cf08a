"""The three layouts of a cohort on disk -> cases and the names of their labels.

Each reader returns cases whose ``patient`` is empty unless the layout names it, and {structure: value} or
None where the labels have no names.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from medgen.io.volume import case_name, find_volumes
from medgen.types import Case, InputError

Labels = dict[str, int] | None


def folders(root: Path) -> tuple[list[Case], Labels]:
    """source/CASE, target/CASE, labels/CASE in any known format, and labels.json = {structure: value}."""
    sides = {side: _by_case(root / side) for side in ("source", "target", "labels")}
    names = sides["source"].keys() | sides["target"].keys()
    _refuse_orphans(sides["labels"], names, root)
    cases = [Case(n, "", sides["source"].get(n), sides["target"].get(n), sides["labels"].get(n)) for n in sorted(names)]
    named = root / "labels.json"
    return cases, _named_labels(read_json(named), named) if named.exists() else None


def _by_case(folder: Path, name: Callable[[Path], Any] = case_name) -> dict[Any, Path]:
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


def nnunet(root: Path, source_channel: int, target_channel: int) -> tuple[list[Case], Labels]:
    """imagesTr/CASE_0000 (last four digits: the channel), labelsTr/CASE, dataset.json with "labels"."""

    def key(path: Path) -> tuple[str, int]:
        match = re.fullmatch(r"(.+)_(\d{4})", case_name(path))
        if match is None:
            raise InputError(f"{path} lacks the channel number that nnU-Net's layout asks for (CASE_0000)")
        return match[1], int(match[2])

    images = _by_case(root / "imagesTr", key)
    names, channels = {name for name, _ in images}, {channel for _, channel in images}
    if images and not {source_channel, target_channel} & channels:
        raise InputError(
            f"{root} has channels {sorted(channels)}, not {source_channel} and {target_channel}; "
            "set data.source_channel and data.target_channel"
        )
    labels = _by_case(root / "labelsTr")
    _refuse_orphans(labels, names, root)
    pairs = {n: (images.get((n, source_channel)), images.get((n, target_channel))) for n in sorted(names)}
    cases = [Case(n, "", *pair, labels.get(n)) for n, pair in pairs.items() if any(pair)]
    named = root / "dataset.json"
    return cases, _named_labels(read_json(named).get("labels"), named) if named.exists() else None


def datalist(path: Path, source_channel: int, target_channel: int) -> tuple[list[Case], Labels]:
    """A list of entries, or {"training": entries, "validation": entries, "labels": ...}.

    Paths start at the file's folder. An entry has "source" and "target", or "image" (one path, or one per
    channel); "label", "patient" and "name" are optional.
    """
    content = read_json(path, (dict, list))
    if isinstance(content, list):
        content = {"training": content}
    entries = [*_entries(content, "training", path), *_entries(content, "validation", path)]
    cases = [_listed(entry, path, source_channel, target_channel) for entry in entries]
    counts = Counter(case.name for case in cases)
    # patient07/t1.nii.gz and patient19/t1.nii.gz: the folder tells them apart
    cases = [replace(c, name=_with_folder(c)) if counts[c.name] > 1 else c for c in cases]
    name, times = Counter(case.name for case in cases).most_common(1)[0] if cases else ("", 0)
    if times > 1:
        raise InputError(f"{path} lists case {name} {times} times; give its entries different 'name's")
    return cases, _named_labels(content.get("labels"), path)


def _entries(content: dict, key: str, path: Path) -> list[dict]:
    entries = content.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path}: '{key}' must be a list of entries such as {{'source': ..., 'target': ...}}")
    return entries


def _listed(entry: dict, path: Path, source_channel: int, target_channel: int) -> Case:
    images = entry.get("image", [])
    images = images if isinstance(images, list) else [images]
    picked = {
        "source": entry.get("source", images[source_channel] if source_channel < len(images) else None),
        "target": entry.get("target", images[target_channel] if target_channel < len(images) else None),
        "labels": entry.get("label", entry.get("labels")),
    }
    files = {role: _listed_file(value, path) for role, value in picked.items() if value is not None}
    image = files.get("source") or files.get("target")
    if image is None:
        raise InputError(f"{path}: the entry {json.dumps(entry)[:200]} has no image; give it a source or a target")
    name = str(entry.get("name") or case_name(image))
    if Path(name).name != name:
        raise InputError(f"{path}: the name {name} is no file name; leave out slashes")
    return Case(name, str(entry.get("patient") or ""), **files)


def _listed_file(value: Any, path: Path) -> Path:
    if not isinstance(value, str):
        raise InputError(f"{path}: {json.dumps(value)[:200]} is not the path of a file; give one path as text")
    file = path.parent / value
    if not file.is_file():
        raise InputError(f"{path} lists {value}, but there is no file {file}; correct the list")
    return file


def _with_folder(case: Case) -> str:
    image = case.source or case.target
    assert image is not None
    return f"{image.resolve().parent.name}_{case.name}"


def _named_labels(labels: Any, path: Path) -> Labels:
    """{structure: value}, background left out; None where there are none.

    Decathlon's {"1": structure} is turned round; nnU-Net's regions (lists of values) and "ignore" go.
    """
    if labels is None:
        return None
    if not isinstance(labels, dict):
        raise InputError(f"{path}: labels must be {{structure: value}}, not {type(labels).__name__}; correct it")
    if labels and all(key.isdecimal() and isinstance(value, str) for key, value in labels.items()):
        labels = {name: int(value) for value, name in labels.items()}
    found: dict[str, int] = {}
    for name, value in labels.items():
        if isinstance(value, list) or name == "ignore":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InputError(f"{path}: label {name} has the value {value!r}; give a whole number of 0 or more")
        if value in found.values():
            raise InputError(f"{path}: two labels have the value {value}; give each structure its own")
        if value > 0:
            found[name] = value
    return found


def read_json(path: Path, kinds: tuple[type, ...] = (dict,)) -> Any:
    """The content of a JSON file of one of ``kinds``. Raises InputError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON ({error}); correct it") from error
    if not isinstance(content, kinds):
        raise InputError(f"{path} must hold a JSON object, not {type(content).__name__}; correct it")
    return content
