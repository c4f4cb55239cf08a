"""nnU-Net's raw folders, read for training: leftover lists are ignored, and no file is ignored without a warning."""

import json

import pytest
from labelled import save, voxels, write_nnunet
from refusal import refused

from medgen.augmentation.read import read_dataset
from medgen.data.cohort.read import read_cohort


def edit(root, *gone, **table):
    path = root / "dataset.json"
    content = json.loads(path.read_text()) | table
    path.write_text(json.dumps({key: value for key, value in content.items() if key not in gone}))


LISTED = [{"image": "./imagesTr/case0_0000.nii.gz", "label": "./labelsTr/case0.nii.gz"}]
VERSION1 = [{"image": f"./imagesTr/case{i}.nii.gz", "label": f"./labelsTr/case{i}.nii.gz"} for i in range(3)]


@pytest.mark.parametrize(
    "gone, table",
    [
        ((), {"training": LISTED}),
        ((), {"training": [], "test": []}),
        (("channel_names",), {"modality": {"0": "CT", "1": "PET"}, "training": LISTED}),
        (("channel_names", "file_ending"), {"modality": {"0": "CT", "1": "PET"}, "training": VERSION1}),
    ],
)
@pytest.mark.parametrize("by_file", [False, True])
def test_folders_take_precedence_over_a_leftover_list(tmp_path, gone, table, by_file):
    root = write_nnunet(tmp_path, channels=("CT", "PET"), tests=1)
    edit(root, *gone, **table)
    place = root / "dataset.json" if by_file else root
    dataset = read_dataset(place)
    assert dataset.channels == ("CT", "PET")
    assert [(c.name, c.test) for c in dataset.cases] == [*((f"case{i}", False) for i in range(3)), ("test3", True)]
    cohort = read_cohort(place, sources=("ct",), targets=("PET",))
    assert [(c.name, c.part) for c in cohort.cases] == [*((f"case{i}", "") for i in range(3)), ("test3", "test")]
    assert [path.name for path in (*cohort.cases[0].source, *cohort.cases[0].target)] == [
        "case0_0000.nii.gz",
        "case0_0001.nii.gz",
    ]


def test_a_decathlon_with_nnunet_file_names_stays_a_decathlon(tmp_path):
    root = write_nnunet(tmp_path)
    edit(root, "channel_names", "file_ending", modality={"0": "CT"}, training=LISTED)
    assert [case.name for case in read_dataset(root).cases] == ["case0_0000"]


@pytest.mark.parametrize("read", [read_dataset, read_cohort])
def test_folds_in_the_table_of_nnunet_are_refused_by_name(tmp_path, read):
    root = write_nnunet(tmp_path, channels=("CT", "PET"))
    edit(root, folds=[{"train": ["case0"], "val": ["case1"]}])
    with refused("datalist-split-form", names="folds"):
        read(root)


@pytest.mark.parametrize("odd", ["case0_0000_backup.nii.gz", "case0_0000 (1).nii", "case7.mha"])
@pytest.mark.parametrize("read", [read_dataset, read_cohort])
def test_an_image_without_channel_number_is_ignored_with_a_warning(tmp_path, odd, read):
    root = write_nnunet(tmp_path, channels=("CT", "PET"))
    edit(root, training=LISTED)
    save(root / "imagesTr" / odd, voxels(9)[0][..., 0]) if "nii" in odd else (root / "imagesTr" / odd).write_bytes(b"x")
    found = read(root)
    assert [case.name for case in found.cases] == ["case0", "case1", "case2"]
    assert len(found.warnings) == 1 and f"{odd} has no channel number" in found.warnings[0]


@pytest.mark.parametrize("read", [read_dataset, read_cohort])
def test_a_folder_without_any_channel_numbers_is_refused(tmp_path, read):
    root = write_nnunet(tmp_path)
    for path in (root / "imagesTr").iterdir():
        path.rename(path.with_name(path.name.replace("_0000", "")))
    with refused("cohort-channel-number-missing", names="case0.nii.gz"):
        read(root)


@pytest.mark.parametrize("ending", [".nii", ".NII.GZ", ".nrrd", ".mha"])
def test_cases_with_another_file_ending_are_read(tmp_path, ending):
    root = write_nnunet(tmp_path)
    from medgen.io.read import read_volume
    from medgen.io.write import write_volume

    for path in (root / "imagesTr/case1_0000.nii.gz", root / "labelsTr/case1.nii.gz"):
        volume = read_volume(path)
        path.unlink()
        write_volume(path.with_name(path.name.replace(".nii.gz", ending)), volume)
    assert [(c.name, c.fault) for c in read_dataset(root).cases] == [(f"case{i}", None) for i in range(3)]
    assert len(read_cohort(root, target_channels=(0,)).cases) == 3
    for read in (read_dataset, read_cohort):
        stated = [text for text in read(root).warnings if "states file_ending .nii.gz, but case1_0000" in text]
        assert len(stated) == (ending != ".NII.GZ") and len(read(root).warnings) == len(stated)


@pytest.mark.parametrize("read", [read_dataset, read_cohort])
def test_unsupported_files_and_wrong_counts_give_warnings(tmp_path, read):
    root = write_nnunet(tmp_path)
    for name in ("case7_0000.mgz", "notes.txt", ".hidden.mgz", "case8"):
        (root / "imagesTr" / name).write_bytes(b"") if "." in name else (root / "imagesTr" / name).mkdir()
    edit(root, numTraining=5)
    unread, count = read(root).warnings
    assert (
        "ignored case7_0000.mgz, case8/; supported extensions" in unread
        and "numTraining = 5, but 3 such cases" in count
    )


@pytest.mark.parametrize("read", [read_dataset, read_cohort])
def test_file_endings_that_are_not_volumes_are_refused(tmp_path, read):
    root = write_nnunet(tmp_path)
    for given in (".png", ".tif", 3):
        edit(root, file_ending=given)
        with refused("dataset-file-ending", names=repr(given)):
            read(root)
    edit(root, file_ending="NII.GZ")
    assert len(read(root).cases) == 3


@pytest.mark.parametrize("moved", [False, True])
def test_files_listed_under_dataset_are_read_from_their_paths(tmp_path, moved):
    """As nnU-Net v2 reads them: the list counts, not the folders, and its paths start at the dataset."""
    root = write_nnunet(tmp_path / "set", channels=("CT", "PET"))
    before = {case.name: case.images for case in read_dataset(root).cases}
    listed = {
        name: {"images": [f"imagesTr/{path.name}" for path in images], "label": f"labelsTr/{name}.nii.gz"}
        for name, images in before.items()
        if name != "case0"
    }
    if moved:
        (root / "imagesTr").rename(tmp_path / "elsewhere")
        for entry in listed.values():
            entry["images"] = [path.replace("imagesTr", "..\\elsewhere") for path in entry["images"]]
    edit(root, dataset=listed, numTraining=2)
    dataset, cohort = read_dataset(root), read_cohort(root, sources=("CT",), targets=("PET",))
    assert [case.name for case in dataset.cases] == [case.name for case in cohort.cases] == ["case1", "case2"]
    assert [p.name for p in dataset.cases[0].images] == ["case1_0000.nii.gz", "case1_0001.nii.gz"]
    assert all(path.is_file() for case in dataset.cases for path in (*case.images, case.label))
    for wrong, code, name in (
        ({"images": "x"}, "dataset-entry-form", "case1"),
        ({"images": ["gone.nii.gz"]}, "datalist-file-missing", "gone.nii.gz"),
    ):
        edit(root, dataset={"case1": wrong})
        for read in (read_dataset, read_cohort):
            with refused(code, names=name):
                read(root)
    edit(root, dataset={"../case1": listed["case1"]})
    for read in (read_dataset, read_cohort):
        with refused("case-name-invalid", names="../case1"):
            read(root)


def test_one_patient_is_not_in_both_test_and_training_set(tmp_path):
    root = write_nnunet(tmp_path, tests=1)
    save(root / "imagesTs/case0b_0000.nii.gz", voxels(9)[0][..., 0])
    from medgen.data.cohort.split import split_cases

    cohort = read_cohort(root, target_channels=(0,), patient_pattern=r"(?:case|test)\d")
    split = split_cases(cohort.cases, validation=0.0, test=0.0, seed=0)
    assert {case.patient for case in split["test"]}.isdisjoint({case.patient for case in split["train"]})
