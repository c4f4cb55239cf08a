"""Write the layout of the Medical Segmentation Decathlon (Antonelli 2022, doi 10.1038/s41467-022-30695-9).

imagesTr/CASE.nii.gz (several channels: one 4D file), labelsTr/CASE.nii.gz, imagesTs, labelsTs, dataset.json, and
one MONAI datalist per fold (datalist_fold0.json, ...), with "training", "validation" and "test".
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medgen.augmentation.dataset.read import LabelledCase, LabelledDataset
from medgen.io.atomic import write_text


def adapted(dataset: LabelledDataset) -> LabelledDataset:
    """Return the dataset with the file ending of this layout, gzipped NIfTI."""
    return replace(dataset, ending=".nii.gz")


def placed(case: LabelledCase, dataset: LabelledDataset, root: Path) -> LabelledCase:
    """Return the case with its file paths in this layout."""
    part, file = ("Ts" if case.test else "Tr"), f"{case.name}.nii.gz"
    label = None if case.label is None else root / f"labels{part}" / file
    return replace(case, images=(root / f"images{part}" / file,), label=label)


def write_index(dataset: LabelledDataset) -> list[Path]:
    """Write ``dataset.json`` and one datalist per fold; return the paths of the datalists. Call it last.

    In ``dataset.json``, cases held out for validation are in a list of their own, "validation".
    """
    training = [case for case in dataset.cases if not case.test]
    tests = [case for case in dataset.cases if case.test]
    test = _entries(tests, dataset.root)
    if not any(case.label for case in tests):
        test = [entry["image"] for entry in test]  # type: ignore[misc]  # the Decathlon lists test cases as image paths only
    head = {
        "name": dataset.name,
        **dataset.about,
        "tensorImageSize": "3D" if len(dataset.channels) == 1 else "4D",
        "modality": {str(c): name for c, name in enumerate(dataset.channels)},
        "labels": {str(value): name for name, value in dataset.labels.items()},
    }
    lists: dict[str, Any] = {}
    for i, fold in enumerate(dataset.folds):
        parts = {
            key: _entries([c for c in training if c.name in fold[part]], dataset.root)
            for key, part in (("training", "train"), ("validation", "val"))
        }
        lists[f"datalist_fold{i}.json"] = {**head, **parts, "test": test}
    held = [case for case in training if case.held]
    whole: dict[str, Any] = {"numTraining": len(training) - len(held), "numTest": len(tests)}
    whole["training"] = _entries([case for case in training if not case.held], dataset.root)
    whole |= {"validation": _entries(held, dataset.root)} if held else {}
    lists["dataset.json"] = {**head, **whole, "test": test}
    for name, content in lists.items():
        write_text(dataset.root / name, json.dumps(content, indent=1) + "\n")
    return [dataset.root / name for name in lists if name != "dataset.json"]


def _entries(cases: Sequence[LabelledCase], root: Path) -> list[dict[str, str]]:
    entries = []
    for case in cases:
        files = {"image": case.images[0]} | ({"label": case.label} if case.label else {})
        paths = {key: f"./{path.relative_to(root).as_posix()}" for key, path in files.items()}
        entries.append({**paths, "patient": case.patient})
    return entries
