"""Read cohort folders into cases and label names: one folder per contrast, per case or per domain.

Readers leave ``Case.patient`` empty unless the layout states it.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

from medgen.data.cohort.datalist import part_of, seems_held_out
from medgen.data.cohort.datalist_checks import duplicates
from medgen.errors import InputError
from medgen.io.paths import ENDINGS, SIDECAR_ENDINGS, case_name, has_ending
from medgen.io.read import find_volumes
from medgen.io.text import read_json
from medgen.types import Case

Labels = dict[str, int] | None
Missing = dict[str, list[str]]
LABEL_FILES = ("labels", "label", "segmentation", "seg")  # names of the label map in a case folder
SEGMENTATION = ".seg"  # ending of 3D Slicer's segmentations: p1.seg.nrrd
DERIVED = "derivatives"  # BIDS folder of images computed from those of the patients
DEEPEST = 4  # folder levels searched below the cohort folder


@dataclass
class Found:
    """Result of a layout reader.

    labels    {structure: value}; None if the labels have no names
    missing   case -> missing contrasts, if other contrasts of that side (source or target) exist
    warnings  what was ignored and why
    stated    description of the fold that was used, "" for none
    """

    cases: list[Case]
    labels: Labels
    missing: Missing = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    stated: str = ""


@dataclass(frozen=True)
class Contrasts:
    """Names of the source and target contrasts, and their channel numbers for layouts that number channels."""

    sources: tuple[str, ...] = ("source",)
    targets: tuple[str, ...] = ("target",)
    source_channels: tuple[int, ...] = (0,)
    target_channels: tuple[int, ...] = (1,)

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.sources, *self.targets)

    def numbered(self, table: Path, channels: Sequence[str] = ()) -> "Contrasts":
        """Return a copy with channel numbers looked up by name in ``channels``, the dataset's channel names in order.

        Raises:
            InputError: the number of a contrast is unknown, no channel or two channels have its name, or the configured
                number contradicts its name.
        """
        names = [name.lower() for name in channels]
        found = self
        for side, usual in (("source", (0,)), ("target", (1,) if self.sources else (0,))):
            requested, numbers = getattr(self, f"{side}s"), getattr(self, f"{side}_channels")
            given = [names[n] if n < len(names) else "" for n in numbers]
            if numbers != usual and given == [name.lower() for name in requested]:
                continue
            if twice := [name for name in requested if names.count(name.lower()) > 1]:
                raise InputError(
                    "config-channels-same-name",
                    f"{table} has several channels named {twice[0]}, so the name does not tell which is meant; set "
                    f"data.{side}_channels, or give each channel a name of its own there",
                )
            if all(name.lower() in names for name in requested):
                named = tuple(names.index(name.lower()) for name in requested)
                if numbers not in (named, usual):
                    raise InputError(
                        "config-channels-conflict",
                        f"{table}: the channels {', '.join(requested)} have the numbers {list(named)}, but "
                        f"data.{side}_channels = {list(numbers)}; correct or remove this setting",
                    )
                found = replace(found, **{f"{side}_channels": named})  # type: ignore[arg-type]
            elif len(requested) != len(numbers):
                raise InputError(
                    "config-channel-numbers-needed",
                    f"{table} numbers its channels, so each of data.{side}s = {list(requested)} needs a number; "
                    f"set data.{side}_channels",
                )
            elif len(names) > 1 and numbers == usual and requested != (side,):
                unknown = next(name for name in requested if name.lower() not in names)
                raise InputError(
                    "config-channel-unknown",
                    f"{table} has no channel named {unknown}; it has {', '.join(channels)}. Give data.{side}s a name "
                    f"of these, or data.{side}_channels its number",
                )
        return found


def folders(root: Path, contrasts: Contrasts) -> Found:
    """Read CONTRAST/CASE in any supported format, labels/CASE, and labels.json ({structure: value})."""
    found = {name: by_case(root / name) for name in contrasts.names}
    labels = by_case(root / "labels", label_case)
    names = set().union(*found.values())
    refuse_orphans(labels, names, root)
    missing: Missing = {}
    cases = []
    for n in sorted(names):
        source = {c: found[c].get(n) for c in contrasts.sources}
        target = {c: found[c].get(n) for c in contrasts.targets}
        cases.append(contrast_case(n, source, target, labels.get(n), missing))
    return Found(
        cases, _table(root), missing, unsupported_files(*(root / name for name in dict.fromkeys(contrasts.names)))
    )


def case_folders(root: Path, contrasts: Contrasts) -> Found:
    """Read CASE/CONTRAST, such as patient07/t1.nii.gz or patient07/day1/patient07_t1.nii.gz, and labels.json.

    The case name is made of its folder names; a parent folder such as train/ states its subset. See ``Records.known``
    for its patient. The label map of a case is named labels, label, segmentation or seg. The result is empty if no
    folder holds any of the contrasts.
    """
    missing: Missing = {}
    cases = []
    places = case_places(root, contrasts.names)
    for folder in places:
        place = folder.relative_to(root)
        files = {name: named_file(folder, name) for name in contrasts.names}
        found = [file for name in LABEL_FILES if (file := named_file(folder, name))]
        if len(found) > 1:
            raise InputError(
                "cohort-two-label-maps", f"{folder} has two label maps, {found[0].name} and {found[1].name}; keep one"
            )
        source, target = ({c: files[c] for c in side} for side in (contrasts.sources, contrasts.targets))
        case = contrast_case("_".join(place.parts), source, target, found[0] if found else None, missing)
        cases.append(replace(case, part=stated_part(place)))
    if name := next(iter(duplicates([case.name for case in cases])), None):
        raise InputError("cohort-two-folders", f"{root} has two folders that give the case name {name}; rename one")
    return Found(cases, _table(root) if cases else None, missing, folders_without_case(root, places, contrasts.names))


def stated_part(place: Path) -> str:
    """Return the subset stated by a parent folder, "" for none. ``place``: the case folder relative to the root.

    Raises:
        InputError: a folder seems to hold cases that are not for training, such as holdout/ or external_test/.
    """
    part = next((part for name in place.parts[:-1] if (part := part_of(name))), "")
    unread = next((name for name in place.parts[:-1] if not part and seems_held_out(name)), None)
    if unread:
        raise InputError(
            "cohort-folder-part-unknown",
            f"{unread}/ (of {place}) seems to hold cases that are not for training; rename it to train, validation or "
            "test, or, if it is something else, to a name without such a word",
        )
    return part


def folders_without_case(root: Path, places: Sequence[Path], names: Sequence[str]) -> list[str]:
    """Return warnings about folders of ``root`` that contain no case; ``places``: the case folders."""
    used = {place.relative_to(root).parts[0] for place in places}
    empty = [path.name for path in _folders_in(root) if path.name not in used]
    messages = {
        f"{root}: ignored folders without {' or '.join(names)}: {{}}": [name for name in empty if name != DERIVED],
        f"{root}: ignored {{}}/, which holds derived images": [n for n in empty if n == DERIVED],
    }
    return [text.format(shortened_list(found)) for text, found in messages.items() if found and places]


def case_places(root: Path, names: Sequence[str]) -> list[Path]:
    """Return the folders below ``root`` that hold a volume with one of these names.

    BIDS's derivatives/ is used only if no other folder has such a volume. A link to one of its own parent folders is
    not followed, because it would duplicate all cases.
    """
    found, level = [], _folders_in(root)
    for _ in range(DEEPEST):
        found += [folder for folder in level if any(named_file(folder, name) for name in names)]
        level = [inner for folder in level for inner in _folders_in(folder)]
    originals = [folder for folder in found if folder.relative_to(root).parts[0] != DERIVED]
    return sorted(originals or found)


def named_file(folder: Path, name: str) -> Path | None:
    """Return the volume NAME or ..._NAME in a case folder, else None. An exact match precedes one that ignores case.

    Raises InputError if two files match equally well.
    """
    named = [(case_name(file), file) for file in find_volumes(folder)]
    lower = [(stem.lower(), file) for stem, file in named]
    found = [file for stem, file in named if stem == name]
    for stems, end in ((named, name), (lower, name.lower())):
        found = found or [file for stem, file in stems if stem == end or stem.endswith((f"_{end}", f"-{end}"))]
    if len(found) > 1:
        raise InputError(
            "folder-case-twice", f"{folder} has two files for {name}, {found[0].name} and {found[1].name}; keep one"
        )
    return found[0] if found else None


def _folders_in(folder: Path) -> list[Path]:
    try:
        inner = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        return sorted(path for path in inner if not path.parent.resolve().is_relative_to(path.resolve()))
    except OSError as error:
        raise InputError(
            "folder-unlistable", f"{folder} cannot be listed ({error.strerror}); check its permissions"
        ) from error


def domain_folders(root: Path, domains: tuple[str, ...]) -> Found:
    """Read DOMAIN/CASE, labels/CASE and labels.json; a case is named DOMAIN/CASE and is both source and target."""
    labels = by_case(root / "labels", label_case)
    found = {d: by_case(root / d) for d in domains}
    for domain, files in found.items():
        if not files:
            raise InputError(
                "cohort-domain-empty",
                f"{root / domain} holds no volumes; put the domain's images there, or correct data.domains",
            )
    refuse_orphans(labels, set().union(*found.values()), root)
    cases = [
        Case(f"{d}/{name}", "", (path,), (path,), labels.get(name))
        for d, files in found.items()
        for name, path in files.items()
    ]
    return Found(cases, _table(root), {}, unsupported_files(*(root / d for d in domains)))


def label_table_file(root: Path) -> Path | None:
    """Return labels.json of a data set, else that beside its label maps, where ``medgen segment`` writes it, else None.

    Raises:
        InputError: there are both, and they differ.
    """
    found = [path for path in (root / "labels.json", root / "labels" / "labels.json") if os.path.lexists(path)]
    if len(found) == 2 and named_labels(read_json(found[0]), found[0]) != named_labels(read_json(found[1]), found[1]):
        raise InputError(
            "labels-tables-disagree", f"{found[0]} and {found[1]} give labels other names; correct or remove one"
        )
    return found[0] if found else None


def _table(root: Path) -> Labels:
    """Return the content of `label_table_file`; None if there is no such file."""
    path = label_table_file(root)
    return None if path is None else named_labels(read_json(path), path)


def unsupported_files(*folders: Path) -> list[str]:
    """Return a warning for each folder of volumes that also holds files of an unsupported kind."""
    warnings = []
    for folder in folders:
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        unsupported = [
            path.name + "/" * path.is_dir()
            for path in entries
            if not path.name.startswith(".") and not has_ending(path, (*ENDINGS, *SIDECAR_ENDINGS))
        ]
        if unsupported and len(unsupported) < len(entries):
            warnings.append(
                f"{folder}: ignored {shortened_list(unsupported)}; supported extensions are {' '.join(ENDINGS)}"
            )
    return warnings


def shortened_list(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def contrast_case(
    name: str,
    source: Mapping[str, Path | None],
    target: Mapping[str, Path | None],
    labels: Path | None,
    missing: Missing,
) -> Case:
    """Return a case; a side (source or target) is used only if all its contrasts exist.

    If only some exist, the missing ones are added to ``missing``.
    """

    def side(files: Mapping[str, Path | None]) -> tuple[Path, ...]:
        absent = [contrast for contrast, path in files.items() if path is None]
        if 0 < len(absent) < len(files):
            missing.setdefault(name, []).extend(absent)
        return () if absent else tuple(path for path in files.values() if path is not None)

    return Case(name, "", side(source), side(target), labels)


def by_case(folder: Path, name: Callable[[Path], Any] = case_name) -> dict[Any, Path]:
    """Return {case: file} for the volumes in a folder; empty if the folder does not exist.

    Args:
        name: file -> case; files for which it returns None are ignored. Text is normalised to Unicode NFC, because
            macOS stores accents decomposed.

    Raises:
        InputError: two files have the same case name.
    """
    found: dict[Any, Path] = {}
    for path in find_volumes(folder) if folder.exists() else []:
        key = name(path)
        if key is None:
            continue
        key = normalize("NFC", key) if isinstance(key, str) else key
        if key in found:
            raise InputError(
                "folder-case-twice", f"{folder} has two files for one case, {found[key].name} and {path.name}; keep one"
            )
        found[key] = path
    return found


def label_case(path: Path) -> str:
    """The case name of a label map, without 3D Slicer's ending: "p1" for p1.seg.nrrd."""
    return case_name(path).removesuffix(SEGMENTATION)


def case_of_entry(name: str) -> str:
    """Return the case name of an entry in a record or list, which may be a file name: "c0" for c0.nii.gz."""
    return case_name(name) if has_ending(Path(name), ENDINGS) else name


def refuse_orphans(labels: dict[str, Path], names: Iterable[str], root: Path) -> None:
    for name in sorted(labels.keys() - set(names)):
        raise InputError(
            "labels-without-image",
            f"{labels[name]} is a label map of case {name}, but it has no image in {root}; add one or remove the map",
        )


def named_labels(labels: Any, path: Path, *, ignored: bool = False) -> Labels:
    """Return {structure: value} without the background; None if ``labels`` is None.

    Decathlon's {"1": structure} is inverted. nnU-Net's regions (lists of values) are dropped, and so is its "ignore"
    label unless ``ignored`` is true.
    """
    if labels is None:
        return None
    if not isinstance(labels, dict):
        raise InputError(
            "labels-table-type", f"{path}: labels must be {{structure: value}}, not {type(labels).__name__}; correct it"
        )
    if labels and all(key.isdecimal() and isinstance(value, str) for key, value in labels.items()):
        labels = {name: int(value[:12]) for value, name in labels.items()}
    found: dict[str, int] = {}
    for name, value in labels.items():
        if isinstance(value, list) or (name == "ignore" and not ignored):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise InputError(
                "labels-table-value",
                f"{path}: label {name} has the value {repr(value)[:50]}; use a whole number of 0 or more",
            )
        if value in found.values():
            raise InputError(
                "labels-table-value-twice", f"{path}: two labels have the value {value}; give each structure its own"
            )
        if value > 0:
            found[name] = value
    return found
