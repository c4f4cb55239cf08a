"""Read the cases of a labelled dataset on disk: nnU-Net v2 raw, Decathlon, or plain folders.

A case that cannot be used is returned with its ``fault``, so that the other cases can still be processed.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medgen.augmentation.dataset.label_table import _channels, label_table
from medgen.augmentation.dataset.read import Folds, LabelledCase, LabelledDataset
from medgen.data.body_mask import looks_like_hu
from medgen.data.cohort.datalist import Entry, folds_of, is_datalist, read_entries, refuse_other_parts
from medgen.data.cohort.datalist_checks import (
    count_mismatches,
    distinct_names,
    entries_without_fold_warning,
    entry_counts,
    file_exists,
    listed_file,
)
from medgen.data.cohort.layouts import (
    LABEL_FILES,
    by_case,
    case_places,
    folders_without_case,
    label_case,
    label_table_file,
    named_file,
    stated_part,
    unsupported_files,
)
from medgen.data.cohort.nnunet import is_nnunet, nnunet_ending, other_endings, part_files
from medgen.data.cohort.patients import Known, Records, identified, read_provenance
from medgen.data.cohort.split import stated_folds
from medgen.data.cohort.split_files import unread_patients, unread_splits
from medgen.data.labels.names import names_in_header, refuse_other_names
from medgen.errors import InputError
from medgen.io.paths import ENDINGS, has_ending, require_path
from medgen.io.read import read_volume
from medgen.io.text import read_json

ABOUT = (
    "description",
    "reference",
    "licence",
    "license",
    "release",
)  # copied unchanged: terms set by the dataset's authors


def read_dataset(
    root: str | Path, *, channels: Sequence[str] = (), patient_pattern: str | None = None
) -> LabelledDataset:
    """Find the cases of a labelled dataset. Voxels are read from one image at most, to detect CT.

    Args:
        root: nnU-Net v2 raw (dataset.json with "channel_names", imagesTr/CASE_0000.nii.gz, labelsTr, imagesTs,
            labelsTs), Decathlon (dataset.json with "training", or a datalist), or a folder with images/ or source/,
            labels/ and labels.json.
        channels: image folders, one per channel, of a dataset in plain folders.
        patient_pattern: regular expression that finds the patient in a case's name if the dataset does not record it;
            None: each case is treated as a separate patient.

    Raises:
        InputError: ``root`` is not such a dataset, or its table of channels or labels is invalid.
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
            f"{root} has no cases with the file ending {dataset.ending}; check the path and its dataset.json",
        )
    return _with_patients(dataset, patient_pattern)


def _with_patients(dataset: LabelledDataset, pattern: str | None) -> LabelledDataset:
    """Add patients and records from ``provenance.json``, then from the pattern, and faults between cases."""
    records, inputs = Records(), sorted(dataset.cases, key=lambda case: case.name)
    synthetic = read_provenance(dataset.root)["synthetic"]
    known = [
        records.known(case.name, case.images, listed=case.patient, pattern=pattern, root=dataset.root)
        for case in inputs
    ]
    cases = [
        replace(case, patient=patient, donors=donors, record=_record(known_case, synthetic))
        for case, known_case, (patient, donors) in zip(inputs, known, identified(known), strict=True)
    ]
    test_patients = {case.patient for case in cases if case.test}
    known_splits = bool(dataset.folds) or any(case.test or case.held for case in cases)
    warnings = [*dataset.warnings, *([] if known_splits else unread_splits(dataset.root))]
    if pattern is None:
        listed = {case.name for case in inputs if case.patient}
        real = {c.name: c.patient for c, known_case in zip(cases, known, strict=True) if not known_case.synthetic}
        warnings += records.without_case(name for name in real if name not in listed)
        warnings += unread_patients(dataset.root, real)
    dataset = replace(dataset, warnings=tuple(warnings))
    times = Counter(case.name for case in cases)
    return replace(dataset, cases=tuple(_with_fault(case, test_patients, times[case.name] > 1) for case in cases))


def _record(known: Known, synthetic: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the record of a synthetic case, or None for a real one.

    A case of ``medgen synthesize`` gets an empty record, which only marks it as synthetic.
    """
    minimal_record: dict[str, Any] | None = {"operations": []} if known.synthetic and not known.unrecorded else None
    return synthetic.get(known.name, minimal_record)


def _with_fault(case: LabelledCase, test_patients: set[str], duplicate: bool) -> LabelledCase:
    fault = case.fault
    if duplicate:
        fault = fault or f"case {case.name} is in the dataset more than once; rename one"
    if case.record is None and case.donors:
        fault = fault or (
            f"case {case.name} has the name of a synthetic case, but provenance.json does not record its source; "
            "restore that file or rename the case"
        )
    if not case.test and case.patients & test_patients:
        fault = fault or (
            f"case {case.name} uses images of patient {min(case.patients & test_patients)}, who is also in the "
            "test set; remove one of the two cases"
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
        found, labels, part_warnings = part_files(root, part, content)
        for (name, channel), path in found.items():
            images.setdefault(name, {})[channel] = path
        for name in sorted(images.keys() | labels.keys()):
            files = images.get(name, {})
            fault = _number_fault(root / f"images{part}", name, files, channels)
            paths = tuple(files[number] for number in sorted(files))
            cases.append(_case(name, paths, labels.get(name), fault, root / f"labels{part}", test=part == "Ts"))
        inputs = [*(path for each in images.values() for path in each.values()), *labels.values()]
        warnings += other_endings(inputs, content, table)
        warnings += [*part_warnings, *unsupported_files(root / f"images{part}", root / f"labels{part}")]
    warnings += count_mismatches(content, {"numTraining": sum(not case.test for case in cases)}, table)
    dataset = _dataset(content, table, channels, ending, cases)
    return replace(dataset, folds=_folds_beside(root), warnings=tuple(warnings))


def _number_fault(folder: Path, name: str, files: Mapping[int, Path], channels: Sequence[str]) -> str | None:
    missing = [number for number in range(len(channels)) if number not in files]
    if missing:
        file_stem = f"{name}_{missing[0]:04d}"
        return f"{folder} has no image {file_stem} ({channels[missing[0]]}) of case {name}; add it or remove the case"
    if max(files) >= len(channels):
        return f"{files[max(files)]} is of a channel that dataset.json does not list; add it there or remove the file"
    return None


def _decathlon(table: Path, content: dict[str, Any] | list[Any]) -> LabelledDataset:
    entries = read_entries(content, table)
    content = content if isinstance(content, dict) else {}
    channels = _channels({"modality": {"0": "image"}, **content}, table)
    files = [_listed_images(entry, table) for entry in entries]
    names = distinct_names([each[0] for each in files], [str(e.content.get("name") or "") for e in entries])
    cases = [
        _listed_case(entry, name, images, table) for entry, name, images in zip(entries, names, files, strict=True)
    ]
    warnings = [
        *count_mismatches(content, entry_counts(entries, content), table),
        *entries_without_fold_warning(entries, table),
    ]
    folds = _listed_folds(entries, names)
    if not folds and table.name == "dataset.json":
        folds = _folds_beside(table.parent)
    if any(entry.fold is not None for entry in entries) and not folds_of(entries):
        warnings.append(f"{table} has both folds and a validation list; the validation list is used")
    dataset = _dataset(content, table, channels, ".nii.gz", cases)
    return replace(dataset, folds=folds, warnings=tuple(warnings))


def _listed_folds(entries: Sequence[Entry], names: Sequence[str]) -> Folds:
    """Return the folds of a datalist: one fold if it has a validation list, else those that its entries name."""
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
    inputs = entry.images("image")
    if not inputs or not all(isinstance(value, str) and value for value in inputs):
        raise InputError(
            "dataset-entry-form", f"{table}: the entry {entry.shown} must give 'image' and 'label' as file paths"
        )
    return [listed_file(value, table) for value in inputs]


def _listed_case(entry: Entry, name: str, images: Sequence[Path], table: Path) -> LabelledCase:
    if not isinstance(entry.label, str | None):
        raise InputError(
            "dataset-entry-form", f"{table}: the entry {entry.shown} must give 'image' and 'label' as file paths"
        )
    label = listed_file(entry.label, table) if entry.label else None
    missing = next((path for path in (*images, label) if path is not None and not file_exists(path)), None)
    fault = f"{table} lists {missing} for case {name}, but the file is missing; correct the list" if missing else None
    if Path(name).name != name or name in ("", ".", ".."):
        fault = f"{table}: the case name {name!r} is not a file name; use a name without slashes"
    test, held = entry.part == "test", entry.part == "validation"
    return replace(_case(name, tuple(images), label, fault, table, test=test, patient=entry.patient), held=held)


def _folders(root: Path, channels: Sequence[str]) -> LabelledDataset:
    known = [name for name in ("images", "source") if (root / name).is_dir()]
    folders = list(channels) or known[:1]
    missing = [name for name in folders if not (root / name).is_dir()]
    places = case_places(root, folders) if folders and len(missing) == len(folders) else []
    if not places and (not folders or missing):
        problem = f"no folder {missing[0]}/" if missing else "no dataset.json, images/ or source/"
        raise InputError(
            "dataset-layout-unknown",
            f"{root} is not a labelled dataset: it has {problem}; give a dataset in nnU-Net raw or Decathlon layout or "
            "with these folders; if each case has a folder, name its images with --channels (for example --channels "
            "imaging for case_00000/imaging.nii.gz)",
        )
    table = label_table_file(root)
    if table is None:
        raise InputError(
            "labels-table-missing",
            f"{root / 'labels.json'} does not exist; create it with the name and value of each label, such as "
            '{"liver": 1}',
        )
    cases = _of_case_folders(root, places, folders) if places else _of_folders(root, folders)
    endings = {next(e for e in ENDINGS if has_ending(path, (e,))) for case in cases for path in case.images}
    ending = endings.pop() if len(endings) == 1 else ".nii.gz"
    named = (_modality(cases),) if places and len(folders) == 1 else tuple(channels) or (_modality(cases),)
    dataset = _dataset({"labels": read_json(table)}, table, named, ending, cases)
    unread_warnings = (
        folders_without_case(root, places, folders)
        if places
        else unsupported_files(*(root / name for name in (*folders, "labels")))
    )
    if len(known) > 1 and not channels:
        unread_warnings = [*unread_warnings, f"{root} has images/ and source/; images/ is used, see --channels"]
    return replace(dataset, folds=_held_fold(cases) or _folds_beside(root), warnings=tuple(unread_warnings))


def _held_fold(cases: Sequence[LabelledCase]) -> Folds:
    """Return the single fold that is defined by cases held out for validation; empty if there are none."""
    parts = {"train": [c.name for c in cases if not (c.held or c.test)], "val": [c.name for c in cases if c.held]}
    return [parts] if parts["val"] else []


def _folds_beside(root: Path) -> Folds:
    known_splits = stated_folds(root)
    return known_splits[1] if known_splits else []


def _of_folders(root: Path, folders: Sequence[str]) -> list[LabelledCase]:
    """Return the cases of the layout FOLDER/CASE and labels/CASE."""
    images = {name: by_case(root / name) for name in folders}
    labels = by_case(root / "labels", label_case)
    cases = []
    for name in sorted(set().union(labels, *images.values())):
        missing_name = next((folder for folder in folders if name not in images[folder]), None)
        fault = (
            f"{root / missing_name} has no image of case {name}; add it or remove the case" if missing_name else None
        )
        paths = tuple(images[folder][name] for folder in folders if name in images[folder])
        cases.append(_case(name, paths, labels.get(name), fault, root / "labels"))
    return cases


def _of_case_folders(root: Path, places: Sequence[Path], names: Sequence[str]) -> list[LabelledCase]:
    """Return the cases of the layout CASE/NAME with CASE/labels, /label, /segmentation or /seg.

    A parent folder such as test/ gives the part of the split.
    """
    cases = []
    for place in places:
        inner = place.relative_to(root)
        part = stated_part(inner)
        files = {name: named_file(place, name) for name in names}
        found = [file for name in LABEL_FILES if (file := named_file(place, name))]
        missing_name = next((name for name, file in files.items() if file is None), None)
        fault = f"{place} has no image {missing_name}; add it or remove the case" if missing_name else None
        if len(found) > 1:
            fault = f"{place} has two label maps, {found[0].name} and {found[1].name}; keep one"
        images = tuple(file for file in files.values() if file is not None)
        case = _case("_".join(inner.parts), images, found[0] if found else None, fault, place, test=part == "test")
        cases.append(replace(case, held=part == "validation"))
    return cases


def _modality(cases: Sequence[LabelledCase]) -> str:
    """Return the channel name, "CT" or "image": nnU-Net chooses its intensity normalisation by this name."""
    for case in cases:
        try:
            return "CT" if looks_like_hu(read_volume(case.images[0]).data) else "image"
        except (InputError, IndexError):
            continue  # the fault of this case is reported when it is processed
    return "image"


# Shared helpers ------------------------------------------------------------------------------------------


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
        fault = f"{labels} has no label map for case {name}; add it or remove the case"
    return LabelledCase(name, patient, images, label, test, None, fault)


def _dataset(
    content: Mapping[str, Any], table: Path, channels: tuple[str, ...], ending: str, cases: list[LabelledCase]
) -> LabelledDataset:
    root = table.parent
    labels = label_table(content.get("labels"), table)
    cases = [_with_header_checked(case, labels, table) for case in cases]
    about = {key: str(content[key]) for key in ABOUT if content.get(key)}
    name = str(content.get("name") or root.resolve().name)
    return LabelledDataset(name, channels, labels, ending, tuple(cases), root, about)


def _with_header_checked(case: LabelledCase, labels: Mapping[str, int], table: Path) -> LabelledCase:
    """The case with a fault if the table in the header of its label map contradicts that of the dataset."""
    if case.fault is not None or case.label is None:
        return case
    try:
        names = {value: name for name, value in labels.items()}
        refuse_other_names(names, table, names_in_header(case.label), case.label)
    except InputError as error:
        return replace(case, fault=str(error))
    return case
