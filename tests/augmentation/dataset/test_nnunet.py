"""The rules of nnU-Net v2: its documentation/dataset_format.md and verify_dataset_integrity, without nnU-Net."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from labelled import LABELS, save, voxels, write_decathlon, write_folders, write_nnunet

from medgen.augmentation.dataset.write import write_dataset
from medgen.augmentation.read import read_dataset
from medgen.io.read import read_volume
from medgen.io.write import write_volume


def check(root):
    """Check the rules of nnU-Net's verify_dataset_integrity without nnU-Net."""
    table = json.loads((root / "dataset.json").read_text())
    assert {"labels", "channel_names", "numTraining", "file_ending"} <= table.keys()
    values = [value for name, value in table["labels"].items() if name != "ignore"]
    assert table["labels"]["background"] == 0 and sorted(values) == list(range(len(values)))
    if "ignore" in table["labels"]:
        assert table["labels"]["ignore"] == len(values)
    channels, ending = table["channel_names"], table["file_ending"]
    assert list(channels) == [str(c) for c in range(len(channels))]
    files = [path.name for path in (root / "imagesTr").iterdir()]
    assert all(re.fullmatch(r".+_\d{4}" + re.escape(ending), name) for name in files)
    cases = {name[: -len(ending) - 5] for name in files}
    assert len(cases) == table["numTraining"] and len(files) == len(cases) * len(channels)
    assert {path.name for path in (root / "labelsTr").iterdir()} == {name + ending for name in cases}
    for name in cases:
        label = sitk.ReadImage(str(root / "labelsTr" / (name + ending)))
        assert set(np.unique(sitk.GetArrayFromImage(label))) <= set(table["labels"].values())
        assert "integer" in label.GetPixelIDTypeAsString()
        for c in range(len(channels)):
            image = sitk.ReadImage(str(root / "imagesTr" / f"{name}_{c:04d}{ending}"))
            for of in ("Size", "Spacing", "Origin", "Direction"):
                np.testing.assert_allclose(getattr(image, f"Get{of}")(), getattr(label, f"Get{of}")())
    folds = json.loads((root / "splits_final.json").read_text())
    for fold in folds:
        assert set(fold) == {"train", "val"} and fold["train"] and fold["val"]
        assert set(fold["train"]) | set(fold["val"]) <= cases and not set(fold["train"]) & set(fold["val"])
    return table, folds


@pytest.mark.parametrize(
    "write, how",
    [
        (write_nnunet, {"channels": ("CT", "PET"), "cases": 6, "tests": 1}),
        (write_nnunet, {"labels": {"ignore": 3, **LABELS}}),
        (write_decathlon, {"channels": ("FLAIR", "T1", "T2")}),
        (write_folders, {}),
    ],
)
def test_a_written_dataset_meets_nnunets_rules(tmp_path, write, how):
    write_dataset(read_dataset(write(tmp_path / "given", **how)), tmp_path / "out", "nnunet")
    table, folds = check(tmp_path / "out")
    assert len(folds) == min(5, table["numTraining"])
    tests = {path.name for path in (tmp_path / "out").glob("imagesTs/*")}
    assert len(tests) == len(table["channel_names"]) * (write is write_decathlon or how.get("tests", 0))


def test_ct_is_named_so_that_nnunet_normalises_it_as_such(tmp_path):
    write_dataset(read_dataset(write_folders(tmp_path / "given")), tmp_path / "out", "nnunet")
    assert check(tmp_path / "out")[0]["channel_names"] == {"0": "CT"}


@pytest.mark.parametrize(
    "ending, written", [(".mha", ".mha"), (".nrrd", ".nrrd"), (".nii", ".nii"), (".mhd", ".nii.gz")]
)
def test_the_ending_is_the_datasets_where_nnunet_reads_it(tmp_path, ending, written):
    root = write_nnunet(tmp_path / "given", file_ending=ending)
    for path in list(root.rglob("*.nii.gz")):
        write_volume(path.with_name(path.name.replace(".nii.gz", ending)), read_volume(path))
        path.unlink()
    write_dataset(read_dataset(root), tmp_path / "out", "nnunet")
    assert check(tmp_path / "out")[0]["file_ending"] == written


def test_forms_that_disagree_are_the_same_in_image_and_label(tmp_path):
    """ITK, used by nnU-Net, can read the other one of qform and sform than nibabel."""
    root = write_nnunet(tmp_path / "given")
    path = root / "imagesTr/case0_0000.nii.gz"
    image = nib.load(path)
    image.header.set_qform(np.diag([2.0, 2.0, 2.5, 1.0]), 1)
    nib.save(image, path)
    write_dataset(read_dataset(root), tmp_path / "out", "nnunet")
    check(tmp_path / "out")


def test_licence_and_reference_go_along(tmp_path):
    root = write_nnunet(tmp_path / "given", licence="CC-BY", reference="us", release="1.0", extra="x")
    write_dataset(read_dataset(root), tmp_path / "out", "nnunet")
    table = json.loads((tmp_path / "out/dataset.json").read_text())
    assert (table["licence"], table["reference"], table["release"]) == ("CC-BY", "us", "1.0") and "extra" not in table


def test_a_label_file_of_floats_becomes_integers(tmp_path):
    root = write_nnunet(tmp_path / "given")
    save(root / "labelsTr/case0.nii.gz", voxels(0)[1].astype(np.float64))
    write_dataset(read_dataset(root), tmp_path / "out", "nnunet")
    check(tmp_path / "out")
