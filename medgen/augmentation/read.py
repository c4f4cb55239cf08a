"""A labelled dataset on disk -> its cases: nnU-Net v2 raw, Decathlon, or folders.

A case that cannot be used is found with its fault said, so that the others go on.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medgen.augmentation.dataset.read import Folds, LabelledCase, LabelledDataset
from medgen.data.body_mask import looks_like_hu
from medgen.data.cohort.datalist import (
    Entry,
    count_faults,
    counted,
    distinct_names,
    folds_of,
    is_datalist,
    is_there,
    listed_file,
    read_entries,
    refuse_other_parts,
    without_fold,
)
from medgen.data.cohort.layouts import (
    LABEL_FILES,
    by_case,
    case_places,
    named_file,
    named_labels,
    read_json,
    stated_part,
    unread,
    without_case,
)
from medgen.data.cohort.nnunet import channel_names, is_nnunet, nnunet_ending, other_endings, part_files
from medgen.data.cohort.patients import Known, Records, identified, read_provenance
from medgen.data.cohort.split import stated_folds
from medgen.data.cohort.split_files import unread_patients, unread_splits
from medgen.errors import InputError
from medgen.io.paths import ENDINGS, has_ending, require_path
from medgen.io.read import read_volume

ABOUT = ("description", "reference", "licence", "license", "release")  # kept as they are: others' terms and words


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
    root = require_path(root)
    table = root if root.is_file() else root / "dataset.json"
    content = read_json(table, (dict, list)) if os.path.lexists(table) else None
    if content is None:
        dataset = _folders(root, channels)
    elif table.name != "dataset.json" or (is_datalist(content) and not is_nnunet(table.parent, content)):
        dataset = _decathlon(table, content)
    else:
        dataset = _nnunet(table.parent, content)
    if not dataset.cases:
        raise InputError(
            "dataset-ending-unmatched",
            f"{root} holds no cases with the ending {dataset.ending}; check the path and its dataset.json",
        )
    return _with_patients(dataset, patient_pattern)


def _with_patients(dataset: LabelledDataset, pattern: str | None) -> LabelledDataset:
    """Patients and records from ``provenance.json``, then the pattern; and the faults that only the whole shows."""
    records, given = Records(), sorted(dataset.cases, key=lambda case: case.name)
    synthetic = read_provenance(dataset.root)["synthetic"]
    known = [
        records.known(case.name, case.images, listed=case.patient, pattern=pattern, root=dataset.root) for case in given
    ]
    cases = [
        replace(case, patient=patient, donors=donors, record=_record(one, synthetic))
        for case, one, (patient, donors) in zip(given, known, identified(known), strict=True)
    ]
    tested = {case.patient for case in cases if case.test}
    stated = bool(dataset.folds) or any(case.test or case.held for case in cases)
    warnings = [*dataset.warnings, *([] if stated else unread_splits(dataset.root))]
    if pattern is None:
        listed = {case.name for case in given if case.patient}
        real = {c.name: c.patient for c, one in zip(cases, known, strict=True) if not one.synthetic}
        warnings += records.without_case(name for name in real if name not in listed)
        warnings += unread_patients(dataset.root, real)
    dataset = replace(dataset, warnings=tuple(warnings))
    times = Counter(case.name for case in cases)
    return replace(dataset, cases=tuple(_checked(case, tested, times[case.name] > 1) for case in cases))


def _record(known: Known, synthetic: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What tells that a case is synthetic; of one of ``medgen synthesize`` no more than that."""
    made: dict[str, Any] | None = {"operations": []} if known.synthetic and not known.unrecorded else None
    return synthetic.get(known.name, made)


def _checked(case: LabelledCase, tested: set[str], twice: bool) -> LabelledCase:
    fault = case.fault
    if twice:
        fault = fault or f"case {case.name} is in the dataset more than once; rename one"
    if case.record is None and case.donors:
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


# The three layouts ---------------------------------------------------------------------------------------


def _nnunet(root: Path, content: dict[str, Any]) -> LabelledDataset:
    table = root / "dataset.json"
    ending = nnunet_ending(content, table)
    refuse_other_parts(content, table)
    channels = _channels(content, table)
    cases: list[LabelledCase] = []
    warnings = []
    for part in ("Tr", "Ts"):
        images: dict[str, dict[int, Path]] = {}
        found, labels, odd = part_files(root, part, content)
        for (name, channel), path in found.items():
            images.setdefault(name, {})[channel] = path
        for name in sorted(images.keys() | labels.keys()):
            files = images.get(name, {})
            fault = _number_fault(root / f"images{part}", name, files, channels)
            paths = tuple(files[number] for number in sorted(files))
            cases.append(_case(name, paths, labels.get(name), fault, root / f"labels{part}", test=part == "Ts"))
        given = [*(path for each in images.values() for path in each.values()), *labels.values()]
        warnings += other_endings(given, content, table)
        warnings += [*odd, *unread(root / f"images{part}", root / f"labels{part}")]
    warnings += count_faults(content, {"numTraining": sum(not case.test for case in cases)}, table)
    dataset = _dataset(content, table, channels, ending, cases)
    return replace(dataset, folds=_folds_beside(root), warnings=tuple(warnings))


def _number_fault(folder: Path, name: str, files: Mapping[int, Path], channels: Sequence[str]) -> str | None:
    absent = [number for number in range(len(channels)) if number not in files]
    if absent:
        wanted = f"{name}_{absent[0]:04d}"
        return f"{folder} holds no image {wanted} ({channels[absent[0]]}) of case {name}; add it or remove the case"
    if max(files) >= len(channels):
        return f"{files[max(files)]} is a channel that dataset.json does not name; name it there or remove the file"
    return None


def _decathlon(table: Path, content: dict[str, Any] | list[Any]) -> LabelledDataset:
    entries = read_entries(content, table)
    content = content if isinstance(content, dict) else {}
    channels = _channels({"modality": {"0": "image"}, **content}, table)
    files = [_listed_images(entry, table) for entry in entries]
    names = distinct_names([each[0] for each in files], [str(e.content.get("name") or "") for e in entries])
    cases = [_listed(entry, name, images, table) for entry, name, images in zip(entries, names, files, strict=True)]
    warnings = [*count_faults(content, counted(entries, content), table), *without_fold(entries, table)]
    folds = _listed_folds(entries, names)
    if not folds and table.name == "dataset.json":
        folds = _folds_beside(table.parent)
    if any(entry.fold is not None for entry in entries) and not folds_of(entries):
        warnings.append(f"{table} names folds and a validation list: the validation list counts")
    dataset = _dataset(content, table, channels, ".nii.gz", cases)
    return replace(dataset, folds=folds, warnings=tuple(warnings))


def _listed_folds(entries: Sequence[Entry], names: Sequence[str]) -> Folds:
    """The folds that a list states: one by its validation list, or those that its entries name."""
    real = [(entry, name) for entry, name in zip(entries, names, strict=True) if entry.part != "test"]
    if any(entry.part == "validation" for entry, _ in real):
        held = [{name for entry, name in real if entry.part == "validation"}]
    else:
        held = [{name for entry, name in real if entry.fold == fold} for fold in folds_of(entries)]
    return [
        {"train": [name for _, name in real if name not in each], "val": [name for _, name in real if name in each]}
        for each in held
    ]


def _listed_images(entry: Entry, table: Path) -> list[Path]:
    given = entry.images("image")
    if not given or not all(isinstance(value, str) and value for value in given):
        raise InputError(
            "dataset-entry-form", f"{table}: the entry {entry.shown} must name 'image' and 'label' as paths"
        )
    return [listed_file(value, table) for value in given]


def _listed(entry: Entry, name: str, images: Sequence[Path], table: Path) -> LabelledCase:
    if not isinstance(entry.label, str | None):
        raise InputError(
            "dataset-entry-form", f"{table}: the entry {entry.shown} must name 'image' and 'label' as paths"
        )
    label = listed_file(entry.label, table) if entry.label else None
    absent = next((path for path in (*images, label) if path is not None and not is_there(path)), None)
    fault = f"{table} lists {absent} for case {name}, which does not exist; correct the list" if absent else None
    if Path(name).name != name or name in ("", ".", ".."):
        fault = f"{table}: the name {name!r} is no file name; leave out slashes"
    test, held = entry.part == "test", entry.part == "validation"
    return replace(_case(name, tuple(images), label, fault, table, test=test, patient=entry.patient), held=held)


def _folders(root: Path, channels: Sequence[str]) -> LabelledDataset:
    folders = list(channels) or [name for name in ("images", "source") if (root / name).is_dir()][:1]
    absent = [name for name in folders if not (root / name).is_dir()]
    places = case_places(root, folders) if folders and len(absent) == len(folders) else []
    if not places and (not folders or absent):
        lacks = f"no folder {absent[0]}/" if absent else "no dataset.json, images/ or source/"
        raise InputError(
            "dataset-layout-unknown",
            f"{root} is no labelled dataset: it has {lacks}; give nnU-Net raw, Decathlon or such folders, or with a "
            "folder for each case the names of its images (--channels imaging for case_00000/imaging.nii.gz)",
        )
    table = root / "labels.json"
    if not os.path.lexists(table):
        raise InputError(
            "labels-table-missing",
            f'{table} does not exist; write the names of the labels there, such as {{"liver": 1}}',
        )
    cases = _of_case_folders(root, places, folders) if places else _of_folders(root, folders)
    endings = {next(e for e in ENDINGS if has_ending(path, (e,))) for case in cases for path in case.images}
    ending = endings.pop() if len(endings) == 1 else ".nii.gz"
    named = (_kind(cases),) if places and len(folders) == 1 else tuple(channels) or (_kind(cases),)
    dataset = _dataset({"labels": read_json(table)}, table, named, ending, cases)
    left = without_case(root, places, folders) if places else unread(*(root / name for name in (*folders, "labels")))
    return replace(dataset, folds=_held_fold(cases) or _folds_beside(root), warnings=tuple(left))


def _held_fold(cases: Sequence[LabelledCase]) -> Folds:
    """The one fold of cases of which some are kept for validation; none where no case is."""
    parts = {"train": [c.name for c in cases if not (c.held or c.test)], "val": [c.name for c in cases if c.held]}
    return [parts] if parts["val"] else []


def _folds_beside(root: Path) -> Folds:
    stated = stated_folds(root)
    return stated[1] if stated else []


def _of_folders(root: Path, folders: Sequence[str]) -> list[LabelledCase]:
    """The cases of FOLDER/CASE and labels/CASE."""
    images = {name: by_case(root / name) for name in folders}
    labels = by_case(root / "labels")
    cases = []
    for name in sorted(set().union(labels, *images.values())):
        lacking = next((folder for folder in folders if name not in images[folder]), None)
        fault = f"{root / lacking} holds no image of case {name}; add it or remove the case" if lacking else None
        paths = tuple(images[folder][name] for folder in folders if name in images[folder])
        cases.append(_case(name, paths, labels.get(name), fault, root / "labels"))
    return cases


def _of_case_folders(root: Path, places: Sequence[Path], names: Sequence[str]) -> list[LabelledCase]:
    """The cases of CASE/NAME and CASE/labels, /label, /segmentation or /seg; a folder such as test/ says their part."""
    cases = []
    for place in places:
        inner = place.relative_to(root)
        part = stated_part(inner)
        files = {name: named_file(place, name) for name in names}
        label = next((file for name in LABEL_FILES if (file := named_file(place, name))), None)
        lacking = next((name for name, file in files.items() if file is None), None)
        fault = f"{place} holds no image {lacking}; add it or remove the case" if lacking else None
        images = tuple(file for file in files.values() if file is not None)
        case = _case("_".join(inner.parts), images, label, fault, place, test=part == "test")
        cases.append(replace(case, held=part == "validation"))
    return cases


def _kind(cases: Sequence[LabelledCase]) -> str:
    """CT or image: by its channel's name nnU-Net knows whether to normalise as for CT."""
    for case in cases:
        try:
            return "CT" if looks_like_hu(read_volume(case.images[0]).data) else "image"
        except (InputError, IndexError):
            continue  # its own fault is told when its turn comes
    return "image"


# What they share -----------------------------------------------------------------------------------------


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


def _channels(content: Mapping[str, Any], table: Path) -> tuple[str, ...]:
    names = channel_names(content)
    if not names:
        raise InputError(
            "dataset-channels-unnamed",
            f'{table} must name its channels by number, such as "channel_names": {{"0": "CT"}}',
        )
    return tuple(names)


def label_table(labels: Any, table: Path) -> dict[str, int]:
    """{structure: value}, background 0 first, by value; nnU-Net's "ignore" stays and comes last.

    Raises:
        InputError: no table, or nnU-Net's regions, whose unions of values are no structures to add to.
    """
    if not isinstance(labels, dict) or not labels:
        raise InputError("labels-key-missing", f'{table} has no "labels"; name each structure with its value there')
    labels = {name: v[0] if isinstance(v, list) and len(v) == 1 else v for name, v in labels.items()}
    region = next((name for name, value in labels.items() if isinstance(value, list)), None)
    if region is not None:
        raise InputError(
            "labels-region-unsupported",
            f"{table} defines the region {region} = {labels[region]}; medgen writes plain labels only, so give each "
            "value a name of its own here and define the regions in the dataset that is written",
        )
    named = named_labels(labels, table, ignored=True) or {}
    if "background" in named:
        raise InputError(
            "labels-background-not-zero",
            f"{table} gives background the value {named['background']}; it is 0 in every layout",
        )
    return {"background": 0, **dict(sorted(named.items(), key=lambda item: (item[0] == "ignore", item[1])))}
