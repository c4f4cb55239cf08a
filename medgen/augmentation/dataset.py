"""A labelled dataset on disk -> cases of images and label: nnU-Net v2 raw, Decathlon, or medgen's own folders.

A case that cannot be used is found with its fault said, so that the others go on.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medgen.augmentation.provenance import read_provenance
from medgen.data.body import looks_like_hu
from medgen.data.cohort import patient_of
from medgen.data.layouts import by_case, listed_entries, named_labels, numbered, read_json
from medgen.io.volume import (
    ENDINGS,
    GRID_TOLERANCE,
    Volume,
    case_name,
    existing,
    has_ending,
    read_channels,
    read_volume,
    same_geometry,
)
from medgen.types import InputError

ABOUT = ("description", "reference", "licence", "license", "release")  # kept as they are: others' terms and words
SYNTHETIC_NAME = re.compile(r"(.+)__syn\d{3,}")


@dataclass(frozen=True)
class LabelledCase:
    """``images``: one file a channel, or one that holds all (4D). ``label`` is None in a test set without truth.

    ``record``: what ``provenance.json`` says of a synthetic case; None: a real one. ``fault``: why it cannot be used.
    """

    name: str
    patient: str
    images: tuple[Path, ...]
    label: Path | None
    test: bool = False
    record: Mapping[str, Any] | None = None
    fault: str | None = None

    @property
    def patients(self) -> frozenset[str]:
        """Whose images are in it: those of a synthetic case's donors too, which its operations name."""
        operations = (self.record or {}).get("operations", ())
        return frozenset({self.patient}.union(*(operation.get("patients", ()) for operation in operations)))


@dataclass(frozen=True)
class LabelledDataset:
    """``channels`` by name; ``labels``: structure -> voxel value, background 0 first; ``ending`` of its files.

    ``cases`` sorted by name, names unique. ``about``: licence, reference and the like, in their own words.
    """

    name: str
    channels: tuple[str, ...]
    labels: Mapping[str, int]
    ending: str
    cases: tuple[LabelledCase, ...]
    root: Path
    about: Mapping[str, str] = field(default_factory=dict)


def read_dataset(
    root: str | Path, *, channels: Sequence[str] = (), patient_pattern: str | None = None
) -> LabelledDataset:
    """Find the cases of a labelled dataset; no voxel is read but those of one image, to know CT.

    Args:
        root: nnU-Net v2 raw (dataset.json with "channel_names", imagesTr/CASE_0000.nii.gz, labelsTr, imagesTs,
            labelsTs), Decathlon (dataset.json with "training", or a datalist), or a folder with images/ or source/,
            labels/ and labels.json.
        channels: folders of the images, one a channel, where the dataset is folders.
        patient_pattern: regular expression that finds the patient in a case's name where the dataset does not tell;
            None: each case is a patient of its own.

    Raises:
        InputError: not such a dataset, or its table of channels or labels cannot be used.
    """
    root = existing(root)
    table = root if root.is_file() else root / "dataset.json"
    content = read_json(table, (dict, list)) if table.is_file() else None
    if isinstance(content, list) or (content is not None and isinstance(content.get("training"), list)):
        dataset = _decathlon(table, {"training": content} if isinstance(content, list) else content)
    elif content is not None:
        dataset = _nnunet(root, content)
    else:
        dataset = _folders(root, channels)
    if not dataset.cases:
        raise InputError(f"{root} holds no cases with the ending {dataset.ending}; check the path and its dataset.json")
    return _with_patients(dataset, patient_pattern)


def read_case(dataset: LabelledDataset, case: LabelledCase) -> tuple[list[Volume], Volume | None]:
    """The images, one a channel, and the label, with one affine: that of the first image.

    Raises:
        InputError: the case has a fault, a file is unreadable, or channels, grids or values are not the dataset's.
    """
    if case.fault:
        raise InputError(case.fault)
    images = [volume for path in case.images for volume in read_channels(path)]
    if len(images) != len(dataset.channels):
        raise InputError(
            f"{case.images[0]} gives case {case.name} {len(images)} channels, but the dataset has "
            f"{len(dataset.channels)} ({', '.join(dataset.channels)}); mend the file or the dataset's table"
        )
    images = [images[0], *(_on_grid(volume, images[0]) for volume in images[1:])]
    if case.label is None:
        return images, None
    label = _on_grid(read_volume(case.label), images[0])
    check_values(label.data, dataset.labels, str(case.label))
    return images, label


def check_values(label: np.ndarray, labels: Mapping[str, int], what: str) -> None:
    """Raises InputError where a label map holds a value that is not in the table."""
    unknown = np.setdiff1d(label, list(labels.values()))
    if unknown.size:
        raise InputError(
            f"{what} holds the value {unknown[0]:g}, which is no label of the dataset "
            f"({', '.join(f'{value} {name}' for name, value in labels.items())}); mend the file or the table"
        )


def _on_grid(volume: Volume, first: Volume) -> Volume:
    """With the affine of ``first``, which it has within tolerance; ``path`` goes where that changes the volume."""
    if not same_geometry(first.geometry, volume.geometry, GRID_TOLERANCE * min(first.spacing)):
        raise InputError(
            f"{volume.path} [{volume.geometry.describe()}] is not on the grid of {first.path} "
            f"[{first.geometry.describe()}]; resample it onto that grid"
        )
    if np.array_equal(volume.affine, first.affine):
        return volume
    return replace(volume, affine=first.affine, path=None)


# The three layouts ---------------------------------------------------------------------------------------


def _nnunet(root: Path, content: dict[str, Any]) -> LabelledDataset:
    table = root / "dataset.json"
    if "dataset" in content:
        raise InputError(f"{table} lists its files under 'dataset'; put them into imagesTr/ and labelsTr/ instead")
    channels = _channels(content.get("channel_names", content.get("modality")), table)
    ending = content.get("file_ending", ".nii.gz")
    if ending not in ENDINGS:
        raise InputError(f"{table}: file_ending {ending!r} is no volume's; medgen reads {' '.join(ENDINGS)}")
    cases: list[LabelledCase] = []
    for part in ("Tr", "Ts"):
        numbers = {key: path for key, path in by_case(root / f"images{part}", numbered).items() if _is(path, ending)}
        images: dict[str, dict[int, Path]] = {}
        for (name, channel), path in numbers.items():
            images.setdefault(name, {})[channel] = path
        labels = {n: path for n, path in by_case(root / f"labels{part}").items() if _is(path, ending)}
        for name in sorted(images.keys() | labels.keys()):
            files = images.get(name, {})
            fault = _number_fault(root / f"images{part}", name, files, channels)
            paths = tuple(files[number] for number in sorted(files))
            cases.append(_case(name, paths, labels.get(name), fault, root / f"labels{part}", test=part == "Ts"))
    return _dataset(content, table, channels, ending, cases)


def _number_fault(folder: Path, name: str, files: Mapping[int, Path], channels: Sequence[str]) -> str | None:
    absent = [number for number in range(len(channels)) if number not in files]
    if absent:
        wanted = f"{name}_{absent[0]:04d}"
        return f"{folder} holds no image {wanted} ({channels[absent[0]]}) of case {name}; add it or remove the case"
    if max(files) >= len(channels):
        return f"{files[max(files)]} is a channel that dataset.json does not name; name it there or remove the file"
    return None


def _decathlon(table: Path, content: dict[str, Any]) -> LabelledDataset:
    channels = _channels(content.get("modality", {"0": "image"}), table)
    cases = [
        _listed(entry, table, test=part == "test")
        for part in ("training", "validation", "test")
        for entry in listed_entries(content | {part: _as_entries(content.get(part, []))}, part, table)
    ]
    return _dataset(content, table, channels, ".nii.gz", cases)


def _as_entries(listed: Any) -> Any:
    """The Decathlon lists its test images as bare paths."""
    return [{"image": e} if isinstance(e, str) else e for e in listed] if isinstance(listed, list) else listed


def _listed(entry: Mapping[str, Any], table: Path, *, test: bool) -> LabelledCase:
    given, label = entry.get("image"), entry.get("label")
    listed = [path for path in (given if isinstance(given, list) else [given]) if isinstance(path, str) and path]
    if not listed or not isinstance(label, str | None):
        raise InputError(f"{table}: the entry {json.dumps(entry)[:200]} must name 'image' and 'label' as paths")
    images = tuple(table.parent / path for path in listed)
    labels = table.parent / label if label else None
    name, patient = str(entry.get("name") or case_name(images[0])), str(entry.get("patient") or "")
    absent = next((path for path in (*images, labels) if path is not None and not path.is_file()), None)
    fault = f"{table} lists {absent} for case {name}, which does not exist; correct the list" if absent else None
    if Path(name).name != name or name in ("", ".", ".."):
        fault = f"{table}: the name {name!r} is no file name; leave out slashes"
    return _case(name, images, labels, fault, table, test=test, patient=patient)


def _folders(root: Path, channels: Sequence[str]) -> LabelledDataset:
    folders = list(channels) or [name for name in ("images", "source") if (root / name).is_dir()][:1]
    absent = [name for name in folders if not (root / name).is_dir()]
    if not folders or absent:
        lacks = f"no folder {absent[0]}/" if absent else "no dataset.json, images/ or source/"
        raise InputError(f"{root} is no labelled dataset: it has {lacks}; give nnU-Net raw, Decathlon or such folders")
    table = root / "labels.json"
    if not table.is_file():
        raise InputError(f'{table} does not exist; write the names of the labels there, such as {{"liver": 1}}')
    images = {name: by_case(root / name) for name in folders}
    labels = by_case(root / "labels")
    cases = []
    for name in sorted(set().union(labels, *images.values())):
        lacking = next((folder for folder in folders if name not in images[folder]), None)
        fault = f"{root / lacking} holds no image of case {name}; add it or remove the case" if lacking else None
        paths = tuple(images[folder][name] for folder in folders if name in images[folder])
        cases.append(_case(name, paths, labels.get(name), fault, root / "labels"))
    endings = {next(e for e in ENDINGS if has_ending(path, (e,))) for case in cases for path in case.images}
    ending = endings.pop() if len(endings) == 1 else ".nii.gz"
    named = tuple(channels) or (_kind(cases),)
    return _dataset({"labels": read_json(table)}, table, named, ending, cases)


def _kind(cases: Sequence[LabelledCase]) -> str:
    """CT or image: by its channel's name nnU-Net knows whether to normalise as for CT."""
    for case in cases:
        try:
            return "CT" if looks_like_hu(read_volume(case.images[0]).data) else "image"
        except (InputError, IndexError):
            continue  # its own fault is told when its turn comes
    return "image"


# What they share -----------------------------------------------------------------------------------------


def _is(path: Path, ending: str) -> bool:
    return case_name(path) + ending == path.name


def _case(
    name: str,
    images: tuple[Path, ...],
    label: Path | None,
    fault: str | None,
    labels: Path,
    *,
    test: bool = False,
    patient: str = "",
) -> LabelledCase:
    if fault is None and label is None and not test:
        fault = f"{labels} has no label for case {name}; add it or remove the case"
    return LabelledCase(name, patient, images, label, test, None, fault)


def _dataset(
    content: Mapping[str, Any], table: Path, channels: tuple[str, ...], ending: str, cases: list[LabelledCase]
) -> LabelledDataset:
    root = table.parent
    about = {key: str(content[key]) for key in ABOUT if content.get(key)}
    name = str(content.get("name") or root.resolve().name)
    return LabelledDataset(name, channels, label_table(content.get("labels"), table), ending, tuple(cases), root, about)


def _channels(named: Any, table: Path) -> tuple[str, ...]:
    if not isinstance(named, dict) or sorted(named) != sorted(map(str, range(len(named)))) or not named:
        raise InputError(f'{table} must name its channels by number, such as "channel_names": {{"0": "CT"}}')
    return tuple(str(named[str(number)]) for number in range(len(named)))


def label_table(labels: Any, table: Path) -> dict[str, int]:
    """{structure: value}, background 0 first, by value; nnU-Net's "ignore" stays and comes last.

    Raises:
        InputError: no table, or nnU-Net's regions, whose unions of values are no structures to add to.
    """
    if not isinstance(labels, dict) or not labels:
        raise InputError(f'{table} has no "labels"; name each structure with its value there')
    labels = {name: v[0] if isinstance(v, list) and len(v) == 1 else v for name, v in labels.items()}
    region = next((name for name, value in labels.items() if isinstance(value, list)), None)
    if region is not None:
        raise InputError(
            f"{table} defines the region {region} = {labels[region]}; medgen writes plain labels only, so give each "
            "value a name of its own here and define the regions in the dataset that is written"
        )
    named = named_labels(labels, table, ignored=True) or {}
    if "background" in named:
        raise InputError(f"{table} gives background the value {named['background']}; it is 0 in every layout")
    return {"background": 0, **dict(sorted(named.items(), key=lambda item: (item[0] == "ignore", item[1])))}


def _with_patients(dataset: LabelledDataset, pattern: str | None) -> LabelledDataset:
    """Patients and records from ``provenance.json``, then the pattern; and the faults that only the whole shows."""
    told = read_provenance(dataset.root)
    cases = [_told(case, told, pattern) for case in sorted(dataset.cases, key=lambda case: case.name)]
    tested = {case.patient for case in cases if case.test}
    times = Counter(case.name for case in cases)
    return replace(dataset, cases=tuple(_checked(case, tested, times[case.name] > 1) for case in cases))


def _told(case: LabelledCase, told: Mapping[str, Any], pattern: str | None) -> LabelledCase:
    record = told["synthetic"].get(case.name)
    known = record or told["real"].get(case.name) or {}
    patient = case.patient or str(known.get("patient") or "") or patient_of(case.name, pattern)
    return replace(case, patient=patient, record=record)


def _checked(case: LabelledCase, tested: set[str], twice: bool) -> LabelledCase:
    fault = case.fault
    if twice:
        fault = fault or f"case {case.name} is in the dataset more than once; rename one"
    if case.record is None and SYNTHETIC_NAME.fullmatch(case.name):
        fault = fault or (
            f"case {case.name} has the name of a synthetic case, but provenance.json does not tell whose it is; "
            "bring that file back or rename the case"
        )
    if not case.test and case.patients & tested:
        fault = fault or (
            f"case {case.name} shows patient {min(case.patients & tested)}, who is in the test set too; "
            "remove one of them"
        )
    return replace(case, fault=fault)
