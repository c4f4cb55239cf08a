"""The Decathlon's layout, as MONAI reads it."""

import json

import numpy as np
import pytest
from labelled import LABELS, OBLIQUE, SHAPE, voxels, write_decathlon, write_nnunet
from monai.data import load_decathlon_datalist
from monai.transforms import LoadImage

from medgen.augmentation.dataset.write import write_dataset
from medgen.augmentation.read import read_dataset
from medgen.data.cohort.read import read_cohort


@pytest.mark.parametrize("channels", [("CT",), ("FLAIR", "T1", "T2")])
def test_monai_reads_what_is_written(tmp_path, channels):
    root = write_nnunet(tmp_path / "given", channels=channels, tests=1)
    write_dataset(read_dataset(root), tmp_path / "out", "decathlon")
    entries = load_decathlon_datalist(tmp_path / "out/dataset.json", True, "training")
    assert [entry["patient"] for entry in entries] == ["case0", "case1", "case2"]
    for i, entry in enumerate(entries):
        image, label = (LoadImage(image_only=True, ensure_channel_first=True)(entry[key]) for key in ("image", "label"))
        images, expected = voxels(i, len(channels))
        np.testing.assert_array_equal(image, np.moveaxis(images, -1, 0))
        np.testing.assert_array_equal(label[0], expected)
        np.testing.assert_allclose(image.affine, label.affine)
        np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-4)
        assert image.shape == (len(channels), *SHAPE)
    (test,) = load_decathlon_datalist(tmp_path / "out/dataset.json", True, "test")
    assert LoadImage(image_only=True)(test["image"]).shape[:3] == SHAPE


def test_the_table_has_the_decathlons_fields(tmp_path):
    write_dataset(read_dataset(write_decathlon(tmp_path / "given")), tmp_path / "out", "decathlon")
    table = json.loads((tmp_path / "out/dataset.json").read_text())
    assert table["labels"] == {str(value): name for name, value in LABELS.items()}
    assert table["modality"] == {"0": "FLAIR", "1": "T1"} and table["tensorImageSize"] == "4D"
    assert (table["numTraining"], table["numTest"], table["licence"]) == (3, 1, "CC-BY-SA 4.0")
    assert table["test"] == ["./imagesTs/test3.nii.gz"]


def test_a_datalist_a_fold(tmp_path):
    root = write_nnunet(tmp_path / "given", cases=4, tests=1)
    write_dataset(read_dataset(root, patient_pattern=r"\d"), tmp_path / "out", "decathlon")
    files = sorted((tmp_path / "out").glob("datalist_fold*.json"))
    assert len(files) == 4
    held = []
    for file in files:
        train, validation = (load_decathlon_datalist(file, True, key) for key in ("training", "validation"))
        assert not {e["patient"] for e in train} & {e["patient"] for e in validation}
        assert len(train) + len(validation) == 4 and len(load_decathlon_datalist(file, True, "test")) == 1
        held += [e["patient"] for e in validation]
    assert sorted(held) == list("0123")


def test_tests_with_labels_keep_them(tmp_path):
    root = write_nnunet(tmp_path / "given", tests=2)
    (root / "labelsTs").mkdir()
    (root / "labelsTs/test3.nii.gz").write_bytes((root / "labelsTr/case0.nii.gz").read_bytes())
    write_dataset(read_dataset(root), tmp_path / "out", "decathlon")
    tests = load_decathlon_datalist(tmp_path / "out/dataset.json", True, "test")
    assert ["label" in entry for entry in tests] == [True, False]
    assert [case.label is not None for case in read_dataset(tmp_path / "out").cases if case.test] == [True, False]


def test_medgen_trains_on_it(tmp_path):
    write_dataset(read_dataset(write_nnunet(tmp_path / "given")), tmp_path / "out", "decathlon")
    cohort = read_cohort(tmp_path / "out")
    assert [case.patient for case in cohort.cases] == ["case0", "case1", "case2"]
    assert cohort.label_values == {"liver": 1, "lesion": 2}
