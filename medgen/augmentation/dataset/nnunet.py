"""nnU-Net v2's raw layout, written (Isensee 2021, doi 10.1038/s41592-020-01008-z; its documentation/dataset_format.md).

imagesTr/CASE_0000.nii.gz (a file a channel), labelsTr/CASE.nii.gz, imagesTs, labelsTs, dataset.json, and
splits_final.json, which nnU-Net looks for in its folder of preprocessed data.
"""

import json
from dataclasses import replace
from pathlib import Path

from medgen.augmentation.dataset.read import LabelledCase, LabelledDataset
from medgen.io.atomic import write_text

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")  # of 3D images, those that nnU-Net and medgen both read


def adapted(dataset: LabelledDataset) -> LabelledDataset:
    """The dataset as nnU-Net takes it: values without gaps, "ignore" the highest; an ending that it reads."""
    labels = {name: value for value, name in enumerate(dataset.labels)}
    return replace(dataset, labels=labels, ending=dataset.ending if dataset.ending in ENDINGS else ".nii.gz")


def placed(case: LabelledCase, dataset: LabelledDataset, root: Path) -> LabelledCase:
    """The case with the files that it has in this layout."""
    part = "Ts" if case.test else "Tr"
    images = [root / f"images{part}" / f"{case.name}_{c:04d}{dataset.ending}" for c in range(len(dataset.channels))]
    label = root / f"labels{part}" / f"{case.name}{dataset.ending}"
    return replace(case, images=tuple(images), label=None if case.label is None else label)


def write_index(dataset: LabelledDataset) -> list[Path]:
    """``dataset.json`` and ``splits_final.json`` of a dataset whose cases are written and whose folds are known."""
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
