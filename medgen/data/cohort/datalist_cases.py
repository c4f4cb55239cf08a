"""Read the cases of a datalist: images listed by side or by channel, as separate files or one 4D file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medgen.data.cohort.datalist import Entry, folds_of, read_entries, unread_keys, with_fold
from medgen.data.cohort.datalist_checks import (
    count_mismatches,
    distinct_names,
    duplicates,
    entries_without_fold_warning,
    entry_counts,
    file_exists,
    listed_file,
)
from medgen.data.cohort.layouts import Contrasts, Found, Missing, contrast_case, named_labels, shortened_list
from medgen.data.cohort.nnunet import channel_names
from medgen.errors import InputError
from medgen.io.names import checked_name
from medgen.io.read import channel_count
from medgen.io.text import read_json
from medgen.types import Case


def datalist(path: Path, contrasts: Contrasts, fold: int | None = 0) -> Found:
    """Read a list of entries, or {"training": entries, "validation": entries, "test": entries, "labels": ...}.

    Paths are relative to the file's folder. An entry has "source" and "target" (one path, or one per contrast), or
    "image" (one path, one per channel, or one 4D file); "label", "patient", "name" and "fold" are optional.

    Args:
        fold: validation fold, if entries state folds, see `datalist.with_fold`.

    Raises:
        InputError: malformed entries, missing files, duplicate case names, unknown fold.
    """
    content = read_json(path, (dict, list))
    entries = read_entries(content, path)
    table = content if isinstance(content, dict) else {}
    warnings = count_mismatches(table, entry_counts(entries, table), path)
    folds = folds_of(entries)
    warnings += entries_without_fold_warning(entries, path)
    if unread := unread_keys(entries):
        warnings.append(
            f"{path}: the entries' keys {shortened_list(unread)} are not used; see docs/reference/cohorts.md"
        )
    if any(e.fold is not None for e in entries) and not folds:
        warnings.append(f"{path} has folds and a validation list; the validation list is used")
    entries, absent = _split_off_absent(with_fold(entries, fold, path), path)
    if absent:
        warnings.append(
            f"{path} lists {len(absent)} test images that do not exist ({shortened_list(absent)}); they are ignored"
        )
    named = channel_names(table)
    if any(entry.images("image") for entry in entries):
        contrasts = contrasts.numbered(path, named)
    listed = [_listed(entry, path, contrasts, named) for entry in entries]
    names = distinct_names([one.first for one in listed], [one.name for one in listed])
    if bare := sorted(set(absent) & set(names)):
        raise InputError(
            "datalist-test-bare-names",
            f"{path}: the test list has the case names {shortened_list(bare)} instead of paths; write them as entries",
        )
    missing: Missing = {}
    cases = []
    for name, one, entry in zip(names, listed, entries, strict=True):
        checked_name(name, path)
        case = contrast_case(name, one.source, one.target, one.labels, missing)
        channels = one.channels if case.source or case.target else ((), ())
        cases.append(replace(case, patient=entry.patient, part=entry.part, channels=channels))
    _refuse_twice(cases, path)
    stated = f"validation fold {fold} of {path.name}" if folds and fold is not None else ""
    return Found(cases, named_labels(table.get("labels"), path), missing, warnings, stated)


def _split_off_absent(entries: Sequence[Entry], path: Path) -> tuple[list[Entry], list[str]]:
    """Remove the test entries with a missing file; return the other entries and the names of the missing files."""
    missing_files = [_absent(entry, path) if entry.part == "test" else None for entry in entries]
    return [e for e, name in zip(entries, missing_files, strict=True) if name is None], [
        name for name in missing_files if name
    ]


def _absent(entry: Entry, path: Path) -> str | None:
    values = [value for key in ("image", "source", "target") for value in entry.images(key) if value]
    return next((str(value) for value in values if not file_exists(listed_file(value, path))), None)


def _refuse_twice(cases: Sequence[Case], path: Path) -> None:
    for name in duplicates([case.name for case in cases]):
        parts = sorted({case.part or "one list" for case in cases if case.name == name})
        times = sum(case.name == name for case in cases)
        once = "; list it once, or give different names to different scans"
        advice = f", in {' and '.join(parts)}; keep it in one" if len(parts) > 1 else once
        raise InputError("datalist-case-twice", f"{path} lists case {name} {times} times{advice}")


@dataclass(frozen=True)
class _Listed:
    """Files of a datalist entry. ``first``: its first image; ``name``: its explicit name, or ""."""

    source: dict[str, Path | None]
    target: dict[str, Path | None]
    labels: Path | None
    name: str
    first: Path
    channels: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())


def _listed(entry: Entry, path: Path, contrasts: Contrasts, named: Sequence[str]) -> _Listed:
    images = entry.images("image")
    count = channel_count(_existing(images[0], path)) if len(images) == 1 else 0
    stacked = count > 1
    if named and (stacked or (count and len(named) > 1)) and count != len(named):
        raise InputError(
            "cohort-channel-count",
            f"{images[0]} has {count} channel{'s' * (count != 1)}, but {path} names {len(named)} "
            f"({', '.join(named)}); the last axis of a 4D file must hold the named channels in their order: correct "
            "the file or the names",
        )
    sides: dict[str, dict[str, Path | None]] = {}
    for side in ("source", "target"):
        names, numbers = getattr(contrasts, f"{side}s"), getattr(contrasts, f"{side}_channels")
        listed_images = entry.images(side) or _of_channels(images, numbers, stacked, path)
        listed_images = listed_images if any(listed_images) else [None] * len(names)
        if len(listed_images) != len(names):
            raise InputError(
                "datalist-image-count-differs",
                f"{path}: the entry {entry.shown} has {len(listed_images)} {side} images, but "
                f"data.{side}s has {len(names)} ({', '.join(names)}); list one image for each",
            )
        sides[side] = {n: None if v is None else _existing(v, path) for n, v in zip(names, listed_images, strict=True)}
    first = next((file for side in sides.values() for file in side.values() if file is not None), None)
    if first is None:
        raise InputError(
            "datalist-image-missing", f"{path}: the entry {entry.shown} has no image{_which(images, contrasts)}"
        )
    labels = None if entry.label is None else _existing(entry.label, path)
    channels = (contrasts.source_channels, contrasts.target_channels) if stacked else ((), ())
    return _Listed(sides["source"], sides["target"], labels, str(entry.content.get("name") or ""), first, channels)


def _which(images: Sequence[Any], contrasts: Contrasts) -> str:
    if not images:
        return "; give it a source or a target"
    required = [*contrasts.source_channels, *contrasts.target_channels]
    return f" with the number {' or '.join(map(str, required))}; set data.source_channels and data.target_channels"


def _of_channels(images: Sequence[Any], numbers: Sequence[int], stacked: bool, path: Path) -> list[Any]:
    """Return the image of each channel number; for a 4D file, that file for every channel."""
    if not stacked:
        return [images[n] if n < len(images) else None for n in numbers]
    count = channel_count(_existing(images[0], path))
    if max(numbers) >= count:
        raise InputError(
            "cohort-channel-missing",
            f"{images[0]} has {count} channels (0 to {count - 1}), but channel {max(numbers)} is requested; correct "
            "data.source_channels and data.target_channels",
        )
    return [images[0]] * len(numbers)


def _existing(value: Any, path: Path) -> Path:
    file = listed_file(value, path)
    if not file_exists(file):
        raise InputError(
            "datalist-file-missing", f"{path} lists {value}, but the file {file} does not exist; correct the list"
        )
    return file
