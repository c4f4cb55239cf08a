"""Labelled datasets in three layouts; a bad case gives one message and does not affect the others."""

import json

import nibabel as nib
import numpy as np
import pytest
from labelled import LABELS, OBLIQUE, SHAPE, save, voxels, with_header, write_decathlon, write_folders, write_nnunet
from refusal import refused

from medgen.augmentation.dataset.read import read_case
from medgen.augmentation.read import read_dataset
from medgen.errors import InputError


def refused_reading(root, code, names=(), **how):
    with refused(code, names=names) as info:
        read_dataset(root, **how)
    assert "\n" not in str(info.value)


def test_a_header_that_contradicts_the_table_is_a_fault_of_the_case(tmp_path):
    write_nnunet(tmp_path)
    with_header(tmp_path / "labelsTr/case0.nii.gz", {1: "Liver", 2: "lesion"})
    with_header(tmp_path / "labelsTr/case1.nii.gz", {1: "lesion", 2: "liver"})
    assert list(faults(tmp_path)) == ["case1"] and "in its table of labels" in faults(tmp_path)["case1"]


def faults(root, **how):
    """Return {case: error message} of a dataset, after reading all voxels."""
    dataset, found = read_dataset(root, **how), {}
    for case in dataset.cases:
        try:
            read_case(dataset, case)
        except InputError as error:
            found[case.name] = str(error)
    assert all("\n" not in sentence for sentence in found.values())
    return found


def edit(root, **table):
    path = root / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | table))


# Layouts -------------------------------------------------------------------------------------------------


def test_nnunet_with_two_channels_and_tests(tmp_path):
    root = write_nnunet(tmp_path / "Dataset001_X", channels=("CT", "PET"), tests=1, licence="CC0")
    dataset = read_dataset(root)
    assert dataset.name == "Dataset001_X" and dataset.channels == ("CT", "PET") and dataset.ending == ".nii.gz"
    assert dict(dataset.labels) == LABELS and dict(dataset.about) == {"licence": "CC0"}
    assert [(c.name, c.patient, c.test) for c in dataset.cases] == [
        *((f"case{i}", f"case{i}", False) for i in range(3)),
        ("test3", "test3", True),
    ]
    images, label = read_case(dataset, dataset.cases[1])
    expected = voxels(1, 2)
    np.testing.assert_array_equal(np.stack([v.data for v in images], -1), expected[0])
    np.testing.assert_array_equal(label.data, expected[1])
    assert read_case(dataset, dataset.cases[3])[1] is None


def test_decathlon_with_channels_in_one_file_and_bare_test_paths(tmp_path):
    dataset = read_dataset(write_decathlon(tmp_path))
    assert dataset.name == "Task" and dataset.channels == ("FLAIR", "T1") and dict(dataset.labels) == LABELS
    assert dataset.about["licence"] == "CC-BY-SA 4.0"
    assert [(c.name, c.test) for c in dataset.cases] == [*((f"case{i}", False) for i in range(3)), ("test3", True)]
    images, label = read_case(dataset, dataset.cases[2])
    np.testing.assert_array_equal(np.stack([v.data for v in images], -1), voxels(2, 2)[0])
    np.testing.assert_allclose(label.affine, OBLIQUE, atol=1e-4)


def test_a_datalist_with_patients_and_a_file_a_channel(tmp_path):
    root = write_nnunet(tmp_path, channels=("CT", "PET"))
    entry = {"image": ["imagesTr/case0_0000.nii.gz", "imagesTr/case0_0001.nii.gz"], "label": "labelsTr/case0.nii.gz"}
    content = {
        "modality": {"0": "CT", "1": "PET"},
        "labels": LABELS,
        "training": [{**entry, "patient": 7, "name": "a"}],
    }
    (root / "list.json").write_text(json.dumps(content))
    (case,) = read_dataset(root / "list.json").cases
    assert (case.name, case.patient, len(case.images)) == ("a", "7", 2)


@pytest.mark.parametrize("folder", ["images", "source"])
def test_folders_of_medgen(tmp_path, folder):
    dataset = read_dataset(write_folders(tmp_path, folder=folder))
    assert dataset.channels == ("CT",) and dict(dataset.labels) == {"background": 0, "liver": 3, "lesion": 6}
    assert [case.name for case in dataset.cases] == ["case0", "case1", "case2"]
    assert faults(tmp_path) == {}


def test_folders_one_a_channel(tmp_path):
    write_folders(tmp_path, folder="t1"), write_folders(tmp_path, folder="flair")
    (tmp_path / "flair/case1.nii.gz").unlink()
    dataset = read_dataset(tmp_path, channels=("t1", "flair"))
    assert dataset.channels == ("t1", "flair") and dataset.cases[0].images[1].parent.name == "flair"
    assert list(faults(tmp_path, channels=("t1", "flair"))) == ["case1"]
    refused_reading(tmp_path, "dataset-layout-unknown", "t2/", channels=("t1", "t2"))


def test_images_without_air_are_not_called_ct(tmp_path):
    write_folders(tmp_path)
    for path in (tmp_path / "images").iterdir():
        save(path, np.ones(SHAPE, np.int16))
    assert read_dataset(tmp_path).channels == ("image",)


def test_patients_by_pattern(tmp_path):
    root = write_folders(tmp_path)
    assert {case.patient for case in read_dataset(root, patient_pattern="^cas").cases} == {"cas"}
    refused_reading(root, "config-patient-pattern-unmatched", patient_pattern="nobody")


# Tables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table, code, names",
    [
        ({"labels": {"background": 0, "tumour": [1, 2], "core": 2}}, "labels-region-unsupported", "tumour = [1, 2]"),
        ({"labels": {}}, "labels-key-missing", "labels"),
        ({"labels": {"background": 1, "liver": 2}}, "labels-background-not-zero", "background"),
        ({"labels": {"liver": 1, "lesion": 1}}, "labels-table-value-twice", "1"),
        ({"channel_names": {"1": "CT"}}, "dataset-channels-unnamed", "channel_names"),
        ({"channel_names": None}, "dataset-channels-unnamed", "channel_names"),
        ({"file_ending": ".png"}, "dataset-file-ending", ".png"),
        ({"dataset": {"case0": {}}}, "dataset-entry-form", ("case0", "dataset")),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, table, code, names):
    edit(write_nnunet(tmp_path), **table)
    refused_reading(tmp_path, code, names)


@pytest.mark.parametrize(
    "table, code, names",
    [
        ({"training": [{"label": "x"}]}, "dataset-entry-form", ("image", "label")),
        ({"training": [7]}, "datalist-not-entries", "training"),
        ({"training": [], "extra": ["a.nii.gz"]}, "datalist-unknown-list", "extra"),
        ({"training": [{"image": "a.nii.gz", "fold": "x"}]}, "datalist-fold-not-integer", '"x"'),
        ({"training": []}, "dataset-ending-unmatched", "list.json"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, table, code, names):
    (tmp_path / "list.json").write_text(json.dumps({"labels": LABELS, **table}))
    refused_reading(tmp_path / "list.json", code, names)


def test_the_ignored_label_stays_and_regions_of_one_value_are_labels(tmp_path):
    edit(write_nnunet(tmp_path), labels={"ignore": 3, "background": 0, "lesion": [2], "liver": 1})
    assert list(read_dataset(tmp_path).labels.items()) == [
        ("background", 0),
        ("liver", 1),
        ("lesion", 2),
        ("ignore", 3),
    ]
    edit(write_decathlon(tmp_path / "d"), labels={"0": "background", "1": "ignore", "2": "liver"})
    assert list(read_dataset(tmp_path / "d").labels.items()) == [("background", 0), ("liver", 2), ("ignore", 1)]


def test_no_dataset_at_all(tmp_path):
    refused_reading(tmp_path / "absent", "file-missing")
    refused_reading(tmp_path, "dataset-layout-unknown")
    (tmp_path / "images").mkdir()
    refused_reading(tmp_path, "labels-table-missing", "labels.json")
    (tmp_path / "labels.json").write_text('{"liver": 1}')
    refused_reading(tmp_path, "dataset-ending-unmatched")
    (tmp_path / "dataset.json").write_text("{")
    refused_reading(tmp_path, "json-unreadable", "dataset.json")


# Cases ---------------------------------------------------------------------------------------------------


def test_missing_files_of_nnunet(tmp_path):
    root = write_nnunet(tmp_path, cases=5, channels=("CT", "PET"))
    (root / "imagesTr/case0_0001.nii.gz").unlink()
    (root / "labelsTr/case1.nii.gz").unlink()
    for c in (0, 1):
        (root / f"imagesTr/case2_000{c}.nii.gz").unlink()
    save(root / "imagesTr/case3_0002.nii.gz", voxels(0)[0][..., 0])
    found = faults(root)
    assert sorted(found) == ["case0", "case1", "case2", "case3"]
    assert "no image case0_0001 (PET)" in found["case0"] and "no label map for case case1" in found["case1"]
    assert "no image case2_0000 (CT)" in found["case2"]
    assert "case3_0002.nii.gz" in found["case3"] and "channel that dataset.json does not list" in found["case3"]


def test_missing_files_and_names_outside_the_folder_of_a_decathlon_list(tmp_path):
    root = write_decathlon(tmp_path)
    (root / "labelsTr/case1.nii.gz").unlink()
    content = json.loads((root / "dataset.json").read_text())
    content["training"][2]["name"] = "../../case2"
    content["training"][0] = {"image": content["training"][0]["image"]}
    (root / "dataset.json").write_text(json.dumps(content))
    found = faults(root)
    assert sorted(found) == ["../../case2", "case0", "case1"]
    assert "is not a file name" in found["../../case2"] and "has no label map for case case0" in found["case0"]
    assert "labelsTr/case1.nii.gz for case case1, but the file is missing" in found["case1"]


def test_wrong_channels_values_grids_and_broken_files(tmp_path):
    root = write_nnunet(tmp_path, cases=7)
    images, label = voxels(0, 3)
    save(root / "imagesTr/case0_0000.nii.gz", images)
    save(root / "labelsTr/case1.nii.gz", label * 4)
    save(root / "labelsTr/case2.nii.gz", label + np.float32(0.5))
    save(root / "labelsTr/case3.nii.gz", label[1:])
    moved = OBLIQUE.copy()
    moved[0, 3] += 1
    save(root / "labelsTr/case4.nii.gz", label, moved)
    (root / "imagesTr/case5_0000.nii.gz").write_bytes((root / "imagesTr/case5_0000.nii.gz").read_bytes()[:-200])
    found = faults(root)
    assert sorted(found) == [f"case{i}" for i in range(6)]
    assert "3 channels, but the dataset has 1 (CT)" in found["case0"]
    assert "case1.nii.gz contains the value 4, which is not a label" in found["case1"]
    assert "(0 background, 1 liver, 2 lesion)" in found["case1"]
    assert "contains the value 0.5" in found["case2"]
    assert "11 x 14 x 10" in found["case3"] and "12 x 14 x 10" in found["case3"]
    assert "is not on the grid of" in found["case4"] and "truncated" in found["case5"]


def test_a_label_a_hair_off_the_image_gets_its_affine(tmp_path):
    root = write_nnunet(tmp_path)
    hair = OBLIQUE.copy()
    hair[:3, 3] += 0.005
    save(root / "labelsTr/case0.nii.gz", voxels(0)[1], hair)
    dataset = read_dataset(root)
    images, label = read_case(dataset, dataset.cases[0])
    np.testing.assert_array_equal(label.affine, images[0].affine)


def test_a_patient_in_training_and_test_and_a_case_twice(tmp_path):
    root = write_nnunet(tmp_path, cases=3, tests=1)
    for part in ("Tr", "Ts"):
        for path in (root / f"images{part}").iterdir():
            path.rename(path.with_name(path.name.replace("test3", "case2b")))
    found = faults(root, patient_pattern=r"case\d")
    assert list(found) == ["case2"] and "patient case2, who is also in the test set" in found["case2"]
    content = {
        "labels": LABELS,
        "training": [{"image": "imagesTr/case0_0000.nii.gz", "label": "labelsTr/case0.nii.gz"}] * 2,
    }
    (root / "dataset.json").write_text(json.dumps(content))
    assert "more than once" in faults(root)["case0_0000"]


def test_a_synthetic_name_without_its_record(tmp_path):
    root = write_nnunet(tmp_path)
    for path in (root / "imagesTr/case1_0000.nii.gz", root / "labelsTr/case1.nii.gz"):
        path.rename(path.with_name(path.name.replace("case1", "case0__syn000")))
    assert "provenance.json does not record its source" in faults(root)["case0__syn000"]
    record = {"patient": "case0", "operations": []}
    (root / "provenance.json").write_text(json.dumps({"real": {}, "synthetic": {"case0__syn000": record}}))
    dataset = read_dataset(root)
    assert faults(root) == {} and [case.patient for case in dataset.cases] == ["case0", "case0", "case2"]
    assert [case.record is None for case in dataset.cases] == [True, False, True]


@pytest.mark.parametrize(
    "content, code",
    [
        ("[]", "json-wrong-type"),
        ("{}", "dataset-record-foreign"),
        ('{"real": [], "synthetic": {}}', "dataset-record-foreign"),
        ('{"real": {}, "synthetic": {"a": {"patient": "a"}}}', "dataset-record-incomplete"),
        ('{"real": {}, "synthetic": {"a": {"patient": "a", "operations": [1]}}}', "dataset-record-incomplete"),
    ],
)
def test_an_invalid_record_is_refused(tmp_path, content, code):
    write_nnunet(tmp_path)
    (tmp_path / "provenance.json").write_text(content)
    refused_reading(tmp_path, code, "provenance.json")


def test_reading_leaves_the_dataset_as_it_was(tmp_path):
    root = write_decathlon(tmp_path)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    faults(root)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert nib.load(root / "imagesTr/case0.nii.gz").shape == (*SHAPE, 2)


# Split stated by a dataset --------------------------------------------------------------------------------


def entries(*numbers, **more):
    return [
        {"image": f"imagesTr/case{i}_0000.nii.gz", "label": f"labelsTr/case{i}.nii.gz", "name": f"c{i}", **more}
        for i in numbers
    ]


def listed(root, content, name="list.json"):
    (root / name).write_text(json.dumps({"labels": LABELS, **content}))
    return read_dataset(root / name)


def test_lists_of_every_name_are_read(tmp_path):
    write_nnunet(tmp_path, cases=4)
    content = {"training": entries(0, 1), "val": entries(2), "testing": ["imagesTr/case3_0000.nii.gz"]}
    dataset = listed(tmp_path, content)
    assert [(c.name, c.held, c.test) for c in dataset.cases] == [
        ("c0", False, False), ("c1", False, False), ("c2", True, False), ("case3_0000", False, True),
    ]  # fmt: skip
    assert dataset.folds == [{"train": ["c0", "c1"], "val": ["c2"]}]
    assert [case.to_learn_from for case in dataset.cases] == [True, True, False, False]


def test_folds_of_a_list_and_beside_a_dataset(tmp_path):
    root = write_nnunet(tmp_path, cases=4)
    dataset = listed(root, {"training": [one for i in range(4) for one in entries(i, fold=i % 2)]})
    assert [fold["val"] for fold in dataset.folds] == [["c0", "c2"], ["c1", "c3"]]
    folds = [{"train": ["case0"], "val": ["case1", "case2", "case3"]}]
    (root / "splits_final.json").write_text(json.dumps(folds))
    assert read_dataset(root).folds == folds


@pytest.mark.parametrize("slash", ["/", "\\"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_cases_are_named_by_their_folders(tmp_path, slash, encoding):
    for i in range(3):
        images, label = voxels(i)
        save(tmp_path / f"case_{i:05}/imaging.nii.gz", images[..., 0])
        save(tmp_path / f"case_{i:05}/segmentation.nii.gz", label)
    cases = [f"case_{i:05}{slash}" for i in range(3)]
    training = [{"image": f"{c}imaging.nii.gz", "label": f"{c}segmentation.nii.gz"} for c in cases]
    (tmp_path / "kits.json").write_text(json.dumps({"labels": LABELS, "training": training}), encoding=encoding)
    found = read_dataset(tmp_path / "kits.json").cases
    assert [(c.name, c.patient, c.fault) for c in found] == [
        (f"case_{i:05}_imaging", f"case_{i:05}", None) for i in range(3)
    ]


def test_two_label_maps_in_the_folder_of_a_case_are_a_fault(tmp_path):
    for i in range(2):
        images, label = voxels(i)
        for name, data in (("imaging", images[..., 0]), ("segmentation", label)):
            save(tmp_path / f"case_{i}/{name}.nii.gz", data)
    save(tmp_path / "case_1/label.nii.gz", label)
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    first, second = read_dataset(tmp_path, channels=["imaging"]).cases
    assert first.fault is None and "two label maps, label.nii.gz and segmentation.nii.gz" in second.fault


def test_a_label_and_channels_stored_in_another_order_of_axes_are_turned(tmp_path):
    root = write_nnunet(tmp_path, channels=("CT", "PET"))
    mirrored = OBLIQUE.copy()
    mirrored[:3, 3] += OBLIQUE[:3, 0] * (SHAPE[0] - 1)
    mirrored[:3, 0] *= -1
    order = np.eye(4)[[0, 2, 1, 3]]
    images, label = voxels(0, 2)
    save(root / "labelsTr/case0.nii.gz", label[::-1].transpose(0, 2, 1), mirrored @ order)
    save(root / "imagesTr/case0_0001.nii.gz", images[::-1, ..., 1], mirrored, scl_slope=0.5, scl_inter=0)
    dataset = read_dataset(root)
    (ct, pet), found = read_case(dataset, dataset.cases[0])
    np.testing.assert_array_equal(found.data, label)
    np.testing.assert_array_equal(ct.affine, pet.affine)
    assert found.path is None and pet.path is None and dataset.cases[0].fault is None
