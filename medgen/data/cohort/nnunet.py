"""nnU-Net's raw layout, read (Isensee 2021, doi 10.1038/s41592-020-01008-z): images by channel numbers, its table."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

from medgen.data.cohort.datalist import count_faults, is_there, listed_file, refuse_other_parts
from medgen.data.cohort.layouts import (
    Contrasts,
    Found,
    Missing,
    by_case,
    contrast_case,
    named_labels,
    read_json,
    refuse_orphans,
    some,
    unread,
)
from medgen.errors import InputError
from medgen.io.names import checked_name
from medgen.io.paths import ENDINGS, case_name, has_ending
from medgen.io.read import find_volumes

NUMBERED = re.compile(r"(.+)_(\d{4})")


def nnunet(root: Path, contrasts: Contrasts) -> Found:
    """imagesTr/CASE_0000 (last four digits: the channel), labelsTr/CASE, imagesTs, dataset.json with "labels"."""
    table = root / "dataset.json"
    content = read_json(table) if os.path.lexists(table) else {}
    nnunet_ending(content, table)
    refuse_other_parts(content, table)
    contrasts = contrasts.numbered(root, channel_names(content))
    wanted = [*contrasts.source_channels, *contrasts.target_channels]
    missing: Missing = {}
    cases, counts, warnings = [], {}, []
    for part, stated in (("Tr", ""), ("Ts", "test")):
        images, labels, odd = part_files(root, part, content)
        names, channels = {name for name, _ in images}, {channel for _, channel in images}
        if part == "Tr" and images and not set(wanted) & channels:
            raise InputError(
                "cohort-channel-missing",
                f"{root} has channels {sorted(channels)}, not {' and '.join(map(str, wanted))}; "
                "set data.source_channels and data.target_channels",
            )
        refuse_orphans(labels, names, root)
        for n in sorted(names):
            source = {c: images.get((n, i)) for c, i in zip(contrasts.sources, contrasts.source_channels, strict=True)}
            target = {c: images.get((n, i)) for c, i in zip(contrasts.targets, contrasts.target_channels, strict=True)}
            case = contrast_case(n, source, target, labels.get(n), missing)
            cases.append(replace(case, part=stated))
        counts[part] = len(names)
        warnings += other_endings((*images.values(), *labels.values()), content, table)
        warnings += [*odd, *unread(root / f"images{part}", root / f"labels{part}")]
    warnings += count_faults(content, {"numTraining": counts["Tr"]}, table)
    return Found(cases, named_labels(content.get("labels"), table) if content else None, missing, warnings)


def part_files(
    root: Path, part: str, content: Mapping[str, Any]
) -> tuple[dict[tuple[str, int], Path], dict[str, Path], list[str]]:
    """Of the training ("Tr") or test part ("Ts"): {(CASE, channel): image}, {CASE: label map} and what is left out.

    Training files are those that "dataset" lists, if it is there, as nnU-Net v2 takes them; else those in the folders.

    Raises:
        InputError: a list in another form, or a file in it that is not there.
    """
    listed, table = content.get("dataset"), root / "dataset.json"
    if part == "Ts" or not isinstance(listed, dict):
        images, odd = numbered_images(root / f"images{part}")
        return images, by_case(root / f"labels{part}"), odd
    images = {}
    labels: dict[str, Path] = {}
    for name, entry in listed.items():
        checked_name(name, table)
        given = entry.get("images") if isinstance(entry, dict) else None
        if not isinstance(given, list):
            raise InputError(
                "dataset-entry-form",
                f"{table}: {name} under 'dataset' must be {{'images': [...], 'label': ...}}; correct it",
            )
        images |= {(name, channel): listed_file(value, table) for channel, value in enumerate(given)}
        labels |= {name: listed_file(entry["label"], table)} if entry.get("label") else {}
    if absent := next((file for file in (*images.values(), *labels.values()) if not is_there(file)), None):
        raise InputError("datalist-file-missing", f"{table} lists {absent}, which does not exist; correct the list")
    return images, labels, []


def is_nnunet(root: Path, content: Any) -> bool:
    """Whether a folder with this ``dataset.json`` is nnU-Net's, whose files are what counts, not a list left over.

    Version 2 has "channel_names" or "file_ending"; version 1 a list of files without the channel number that they have.
    """
    if isinstance(content, dict) and isinstance(content.get("dataset"), dict) and "channel_names" in content:
        return True
    images = find_volumes(root / "imagesTr") if (root / "imagesTr").is_dir() else []
    count = sum(numbered(file) is not None for file in images)
    if not isinstance(content, dict) or not count:
        return False
    if "channel_names" in content or "file_ending" in content:
        return True
    if count < len(images):
        return False
    if not isinstance(content.get("training"), list):
        return True
    first = next((entry.get("image") for entry in content["training"] if isinstance(entry, dict)), None)
    return isinstance(first, str) and not is_there(listed_file(first, root / "dataset.json"))


def nnunet_ending(content: Mapping[str, Any], table: Path) -> str:
    """The ``file_ending`` of nnU-Net's table in lower case. Raises InputError for one that is not read."""
    given = content.get("file_ending", ".nii.gz")
    ending = f".{given.lower().lstrip('.')}" if isinstance(given, str) else given
    if ending not in ENDINGS:
        raise InputError(
            "dataset-file-ending", f"{table}: file_ending {given!r} is no volume's; medgen reads {' '.join(ENDINGS)}"
        )
    return ending


def other_endings(files: Iterable[Path], content: Mapping[str, Any], table: Path) -> list[str]:
    """A sentence where files end otherwise than the table says: they are read, but nnU-Net itself passes them over."""
    ending = nnunet_ending(content, table)
    other = [file.name for file in files if "file_ending" in content and not has_ending(file, (ending,))]
    return [f"{table} says file_ending {ending}; {some(other)} is read all the same"] if other else []


def channel_names(content: Mapping[str, Any]) -> list[str]:
    """The names of a dataset's channels in order, by "channel_names" or "modality"; none where they have no names."""
    named = content.get("channel_names", content.get("modality"))
    if not isinstance(named, dict) or sorted(named) != sorted(map(str, range(len(named)))):
        return []
    return [str(named[str(number)]) for number in range(len(named))]


def numbered_images(folder: Path) -> tuple[dict[tuple[str, int], Path], list[str]]:
    """{(CASE, channel): file} of the images in a folder, and a sentence where others are left out.

    Raises:
        InputError: no image has a channel number; two files of one channel.
    """
    images = by_case(folder, numbered)
    odd = [file.name for file in (find_volumes(folder) if folder.is_dir() else []) if numbered(file) is None]
    lacks = f"{folder}: {some(odd)} lacks the channel number that nnU-Net's layout asks for (CASE_0000)"
    if odd and not images:
        raise InputError("cohort-channel-number-missing", f"{lacks}; rename the images")
    return images, [f"{lacks} and is left out"] if odd else []


def numbered(path: Path) -> tuple[str, int] | None:
    """(CASE, channel) of nnU-Net's CASE_0000; None of another name."""
    match = NUMBERED.fullmatch(case_name(path))
    return (normalize("NFC", match[1]), int(match[2])) if match else None
