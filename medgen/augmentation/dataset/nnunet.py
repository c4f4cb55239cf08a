"""Write the raw layout of nnU-Net v2 (Isensee 2021, doi 10.1038/s41592-020-01008-z; documentation/dataset_format.md).

imagesTr/CASE_0000.nii.gz (one file per channel), labelsTr/CASE.nii.gz, imagesTs, labelsTs, dataset.json, and
splits_final.json, which nnU-Net expects in its folder of preprocessed data.
"""

import json
from dataclasses import replace
from pathlib import Path

from medgen.augmentation.dataset.read import LabelledCase, LabelledDataset
from medgen.io.atomic import write_text

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")  # 3D formats that both nnU-Net and medgen read


def adapted(dataset: LabelledDataset) -> LabelledDataset:
    """Return the dataset with consecutive label values, "ignore" highest, and a file ending that nnU-Net reads."""
    labels = {name: value for value, name in enumerate(dataset.labels)}
    return replace(dataset, labels=labels, ending=dataset.ending if dataset.ending in ENDINGS else ".nii.gz")


def placed(case: LabelledCase, dataset: LabelledDataset, root: Path) -> LabelledCase:
    """Return the case with its file paths in this layout."""
    part = "Ts" if case.test else "Tr"
    images = [root / f"images{part}" / f"{case.name}_{c:04d}{dataset.ending}" for c in range(len(dataset.channels))]
    label = root / f"labels{part}" / f"{case.name}{dataset.ending}"
    return replace(case, images=tuple(images), label=None if case.label is None else label)


def write_index(dataset: LabelledDataset) -> list[Path]:
    """Write ``dataset.json`` and ``splits_final.json``; return the path of the latter in a list. Call it last."""
    training = [case for case in dataset.cases if not case.test]
    content = {
        "name": dataset.name,
        **dataset.about,
        "channel_names": {str(c): name for c, name in enumerate(dataset.channels)},
        "labels": dict(dataset.labels),
        "numTraining": len(training),
        "file_ending": dataset.ending,
    }
    splits = dataset.root / "splits_final.json"
    for path, values in ((splits, dataset.folds), (dataset.root / "dataset.json", content)):
        write_text(path, json.dumps(values, indent=1) + "\n")
    return [splits]
