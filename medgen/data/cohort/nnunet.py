"""Read nnU-Net's raw layout (Isensee 2021, doi 10.1038/s41592-020-01008-z): numbered images and dataset.json."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

from medgen.data.cohort.datalist import refuse_other_parts
from medgen.data.cohort.datalist_checks import count_mismatches, file_exists, listed_file
from medgen.data.cohort.layouts import (
    Contrasts,
    Found,
    Missing,
    by_case,
    contrast_case,
    named_labels,
    refuse_orphans,
    shortened_list,
    unsupported_files,
)
from medgen.errors import InputError
from medgen.io.names import checked_name
from medgen.io.paths import ENDINGS, case_name, has_ending
from medgen.io.read import find_volumes
from medgen.io.text import read_json

NUMBERED = re.compile(r"(.+)_(\d{4})")


def nnunet(root: Path, contrasts: Contrasts) -> Found:
    """Read imagesTr/CASE_0000 (last four digits: channel number), labelsTr/CASE, imagesTs and dataset.json."""
    table = root / "dataset.json"
    content = read_json(table) if os.path.lexists(table) else {}
    nnunet_ending(content, table)
    refuse_other_parts(content, table)
    contrasts = contrasts.numbered(root, channel_names(content))
    required = [*contrasts.source_channels, *contrasts.target_channels]
    missing: Missing = {}
    cases, counts, warnings = [], {}, []
    for part, stated in (("Tr", ""), ("Ts", "test")):
        images, labels, unnumbered = part_files(root, part, content)
        names, channels = {name for name, _ in images}, {channel for _, channel in images}
        if part == "Tr" and images and not set(required) & channels:
            raise InputError(
                "cohort-channel-missing",
                f"{root} has the channels {sorted(channels)}, not {' and '.join(map(str, required))}; "
                "correct data.source_channels and data.target_channels",
            )
        refuse_orphans(labels, names, root)
        for n in sorted(names):
            source = {c: images.get((n, i)) for c, i in zip(contrasts.sources, contrasts.source_channels, strict=True)}
            target = {c: images.get((n, i)) for c, i in zip(contrasts.targets, contrasts.target_channels, strict=True)}
            case = contrast_case(n, source, target, labels.get(n), missing)
            cases.append(replace(case, part=stated))
        counts[part] = len(names)
        warnings += other_endings((*images.values(), *labels.values()), content, table)
        warnings += [*unnumbered, *unsupported_files(root / f"images{part}", root / f"labels{part}")]
    warnings += count_mismatches(content, {"numTraining": counts["Tr"]}, table)
    return Found(cases, named_labels(content.get("labels"), table) if content else None, missing, warnings)


def part_files(
    root: Path, part: str, content: Mapping[str, Any]
) -> tuple[dict[tuple[str, int], Path], dict[str, Path], list[str]]:
    """Find the files of the training ("Tr") or test set ("Ts").

    Training files are those listed under "dataset" in dataset.json, if present (nnU-Net v2), otherwise those in the
    folders.

    Returns:
        {(CASE, channel): image}, {CASE: label map}, and warnings about ignored files.

    Raises:
        InputError: a malformed list, or a listed file that does not exist.
    """
    listed, table = content.get("dataset"), root / "dataset.json"
    if part == "Ts" or not isinstance(listed, dict):
        images, unnumbered = numbered_images(root / f"images{part}")
        return images, by_case(root / f"labels{part}"), unnumbered
    images = {}
    labels: dict[str, Path] = {}
    for name, entry in listed.items():
        checked_name(name, table)
        raw_value = entry.get("images") if isinstance(entry, dict) else None
        if not isinstance(raw_value, list):
            raise InputError(
                "dataset-entry-form",
                f"{table}: {name} under 'dataset' must be {{'images': [...], 'label': ...}}; correct this entry",
            )
        images |= {(name, channel): listed_file(value, table) for channel, value in enumerate(raw_value)}
        labels |= {name: listed_file(entry["label"], table)} if entry.get("label") else {}
    if absent := next((file for file in (*images.values(), *labels.values()) if not file_exists(file)), None):
        raise InputError("datalist-file-missing", f"{table} lists {absent}, which does not exist; correct the list")
    return images, labels, []


def is_nnunet(root: Path, content: Any) -> bool:
    """Return whether a folder with this ``dataset.json`` has nnU-Net's layout and not that of a datalist.

    Version 2 has "channel_names" or "file_ending". Version 1 lists file names without the channel number that the names
    of the files have.
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
    return isinstance(first, str) and not file_exists(listed_file(first, root / "dataset.json"))


def nnunet_ending(content: Mapping[str, Any], table: Path) -> str:
    """Return ``file_ending`` of dataset.json in lower case. Raises InputError if it is not supported."""
    raw_value = content.get("file_ending", ".nii.gz")
    ending = f".{raw_value.lower().lstrip('.')}" if isinstance(raw_value, str) else raw_value
    if ending not in ENDINGS:
        raise InputError(
            "dataset-file-ending",
            f"{table}: file_ending {raw_value!r} is not supported; use one of {' '.join(ENDINGS)}",
        )
    return ending


def other_endings(files: Iterable[Path], content: Mapping[str, Any], table: Path) -> list[str]:
    """Return a warning about files whose extension is not that in dataset.json; nnU-Net itself ignores such files."""
    ending = nnunet_ending(content, table)
    other = [file.name for file in files if "file_ending" in content and not has_ending(file, (ending,))]
    return (
        [f"{table} states file_ending {ending}, but {shortened_list(other)} is also read; nnU-Net would ignore it"]
        if other
        else []
    )


def channel_names(content: Mapping[str, Any]) -> list[str]:
    """Return the channel names in order, from "channel_names" or "modality"; empty if there are none."""
    named = content.get("channel_names", content.get("modality"))
    if not isinstance(named, dict) or sorted(named) != sorted(map(str, range(len(named)))):
        return []
    return [str(named[str(number)]) for number in range(len(named))]


def numbered_images(folder: Path) -> tuple[dict[tuple[str, int], Path], list[str]]:
    """Return {(CASE, channel): file} for the images in a folder, and a warning about images without a channel number.

    Raises:
        InputError: no image has a channel number, or two files have the same case and channel.
    """
    images = by_case(folder, numbered)
    unnumbered = [file.name for file in (find_volumes(folder) if folder.is_dir() else []) if numbered(file) is None]
    problem = (
        f"{folder}: {shortened_list(unnumbered)} has no channel number, which nnU-Net's layout requires (CASE_0000)"
    )
    if unnumbered and not images:
        raise InputError("cohort-channel-number-missing", f"{problem}; rename the images")
    return images, [f"{problem}; it is ignored"] if unnumbered else []


def numbered(path: Path) -> tuple[str, int] | None:
    """Return (CASE, channel) for a file named CASE_0000, else None."""
    match = NUMBERED.fullmatch(case_name(path))
    return (normalize("NFC", match[1]), int(match[2])) if match else None
