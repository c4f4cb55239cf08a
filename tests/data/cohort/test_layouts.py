"""One folder per case (patient07/t1.nii.gz), for training and for augmentation."""

import json
import os
from unicodedata import normalize

import pytest
from labelled import save, voxels, write_folders
from refusal import refused

from medgen.augmentation.read import read_dataset
from medgen.data.cohort.read import read_cohort

PAIR = {"sources": ("t1",), "targets": ("t2",)}


def put(root, *names):
    for number, name in enumerate(names):
        save(root / name, voxels(number)[0][..., 0])


def found(root, **how):
    return {c.name: (c.patient, len(c.source), len(c.target)) for c in read_cohort(root, **{**PAIR, **how}).cases}


def test_case_folders_with_plain_and_prefixed_names_and_sessions(tmp_path):
    put(tmp_path, "patient07/t1.nii.gz", "patient07/t2.nii.gz")
    put(tmp_path, "B01/B01_t1.nii.gz", "B01/B01-t2.nii", "B01/B01_post_t3.nii")
    for day in ("day1", "day2"):
        put(tmp_path, f"p3/{day}/t1.nii.gz", f"p3/{day}/t2.nii.gz")
    put(tmp_path, "lonely/t2.nii.gz", "other/flair.nii.gz")
    assert found(tmp_path) == {
        "patient07": ("patient07", 1, 1), "B01": ("B01", 1, 1), "p3_day1": ("p3", 1, 1), "p3_day2": ("p3", 1, 1),
        "lonely": ("lonely", 0, 1),
    }  # fmt: skip
    assert "ignored folders without t1 or t2: other" in read_cohort(tmp_path, **PAIR).warnings[0]


@pytest.mark.parametrize("held_out", ["holdout", "Holdout_2", "external_test", "hold-out", "validation_internal"])
def test_folders_that_seem_to_be_held_out_are_refused(tmp_path, held_out):
    put(tmp_path, "train/a/t1.nii.gz", "train/a/t2.nii.gz", f"{held_out}/b/t1.nii.gz", f"{held_out}/b/t2.nii.gz")
    with refused("cohort-folder-part-unknown", names=held_out):
        found(tmp_path)
    (tmp_path / "labels.json").write_text('{"liver": 1}')
    with refused("cohort-folder-part-unknown", names=held_out):
        read_dataset(tmp_path, channels=["t1"])


def test_an_exact_name_takes_precedence_and_two_longer_names_are_refused(tmp_path):
    put(tmp_path, "a/t1.nii.gz", "a/post_t1.nii.gz", "a/t2.nii.gz")
    assert read_cohort(tmp_path, **PAIR).cases[0].source[0].name == "t1.nii.gz"
    put(tmp_path, "b/pre_t1.nii.gz", "b/post_t1.nii.gz")
    with refused("folder-case-twice", names=("post_t1.nii.gz", "pre_t1.nii.gz")):
        read_cohort(tmp_path, **PAIR)


def test_an_unknown_layout_is_refused(tmp_path):
    put(tmp_path, "a/flair.nii.gz")
    with refused("cohort-layout-unknown"):
        read_cohort(tmp_path, **PAIR)


@pytest.mark.parametrize("name", ["segmentation", "labels", "seg", "label"])
def test_kits_as_folders_is_augmented_and_trained_on(tmp_path, name):
    for i in range(3):
        images, label = voxels(i)
        save(tmp_path / f"case_{i:05}/imaging.nii.gz", images[..., 0])
        save(tmp_path / f"case_{i:05}/{name}.nii.gz", label)
    with refused("dataset-layout-unknown", names="--channels imaging"):
        read_dataset(tmp_path)
    with refused("labels-table-missing", names="labels.json"):
        read_dataset(tmp_path, channels=("imaging",))
    (tmp_path / "labels.json").write_text(json.dumps({"liver": 1, "lesion": 2}))
    dataset = read_dataset(tmp_path, channels=("imaging",))
    assert [(c.name, c.patient, c.fault) for c in dataset.cases] == [(f"case_{i:05}",) * 2 + (None,) for i in range(3)]
    assert dataset.channels == ("CT",)
    cohort = read_cohort(tmp_path, sources=("imaging",), targets=("imaging",))
    assert len(cohort.cases) == 3 and all(case.labels for case in cohort.cases)


# Patients, and the split stated by folder names ------------------------------------------------


def patients(root, *folders, **how):
    """Return {case: patient} of folders with one pair each."""
    put(root, *(f"{folder}/{name}.nii" for folder in folders for name in ("t1", "t2")))
    return {case.name: case.patient for case in read_cohort(root, **PAIR, **how).cases}


@pytest.mark.parametrize(
    "folders, expected",
    [
        (["siteA/patient0", "siteA/patient1", "siteB/patient2"], ["patient0", "patient1", "patient2"]),
        (["siteA/X1", "centre_2/X2", "HGG/X3"], ["X1", "X2", "X3"]),
        (["day1/X1", "day2/X1", "baseline/X2"], ["X1", "X1", "X2"]),
        (["X1/day1", "X1/day2", "X2/day1"], ["X1", "X1", "X2"]),
        (["train/X1/day1", "train/X1/day2", "val/X2/day1"], ["X1", "X1", "X2"]),
        (["sub-01_ses-1", "sub-01_ses-2", "sub-AB_ses-1"], ["sub-01", "sub-01", "sub-AB"]),
        (["sub-01/ses-1/anat", "sub-01/ses-2/anat", "sub-02/ses-1/anat"], ["sub-01", "sub-01", "sub-02"]),
        (["BraTS-GLI-00005-100", "data/BraTS-GLI-00005-101", "B01"], ["BraTS-GLI-00005", "BraTS-GLI-00005", "B01"]),
    ],
)
def test_the_patient_is_taken_from_the_folder_names(tmp_path, folders, expected):
    assert patients(tmp_path, *folders) == dict(
        sorted(zip((folder.replace("/", "_") for folder in folders), expected, strict=True))
    )


def test_a_patient_pattern_takes_precedence_over_folder_names(tmp_path):
    found = patients(tmp_path, "A_1/x", "A_2/x", "B_1/x", patient_pattern=r"^(.)_")
    assert list(found.values()) == ["A", "A", "B"]


@pytest.mark.parametrize(
    "train, val, test",
    [("train", "val", "test"), ("Training", "VALIDATION", "TestData"), ("site/train", "x/valid", "y/testing")],
)
def test_folder_names_state_subsets(tmp_path, train, val, test):
    for i, folder in enumerate((train, train, val, test)):
        images, label = voxels(i)
        for name, data in (("t1", images[..., 0]), ("t2", images[..., 0] + 1), ("seg", label)):
            save(tmp_path / folder / f"patient{i}/{name}.nii", data)
    (tmp_path / "labels.json").write_text(json.dumps({"liver": 1, "lesion": 2}))

    def parts(**how):
        return {case.patient: case.part for case in read_cohort(tmp_path, **PAIR, **how).cases}

    assert parts() == {"patient0": "train", "patient1": "train", "patient2": "validation", "patient3": "test"}
    assert parts(fold=None) == {"patient0": "", "patient1": "", "patient2": "", "patient3": "test"}
    dataset = read_dataset(tmp_path, channels=("t1",))
    assert {c.patient: (c.held, c.test) for c in dataset.cases} == {
        "patient0": (False, False), "patient1": (False, False), "patient2": (True, False), "patient3": (False, True),
    }  # fmt: skip
    (fold,) = dataset.folds
    assert len(fold["train"]) == 2 and fold["val"] == [c.name for c in dataset.cases if c.held]


def test_a_case_folder_named_test_is_a_case_not_a_subset(tmp_path):
    put(tmp_path, "test/t1.nii", "test/t2.nii", "other/t1.nii", "other/t2.nii")
    assert {case.name: case.part for case in read_cohort(tmp_path, **PAIR).cases} == {"other": "", "test": ""}


def test_derivatives_beside_their_images_are_ignored_with_a_warning(tmp_path):
    inner = tmp_path / "derivatives"
    patients(inner, "prep/sub-01/anat", "prep/sub-02/anat")
    assert len(read_cohort(tmp_path, **PAIR).cases) == 2  # no other cases exist
    assert patients(tmp_path, "sub-01/anat", "sub-02/anat") == {"sub-01_anat": "sub-01", "sub-02_anat": "sub-02"}
    (tmp_path / "labels.json").write_text(json.dumps({"liver": 1}))
    for found in (read_cohort(tmp_path, **PAIR), read_dataset(tmp_path, channels=("t1",))):
        assert len(found.cases) == 2 and "ignored derivatives/, which holds derived images" in found.warnings[0]


@pytest.mark.parametrize("layout", ["list", "nnunet"])
def test_folds_beside_dataset_json_are_used_for_the_file_and_for_its_folder(tmp_path, layout):
    put(tmp_path, *(f"imagesTr/c{i}{end}.nii" for i in range(4) for end in ("_0000", "_0001")))
    table = {"channel_names": {"0": "t1", "1": "t2"}}
    names = [f"c{i}" for i in range(4)]
    if layout == "list":
        table = {"training": [{"image": [f"imagesTr/{n}_000{c}.nii" for c in (0, 1)], "name": n} for n in names]}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": names[1:], "val": names[:1]}]))
    for root in (tmp_path, tmp_path / "dataset.json"):
        cohort = read_cohort(root)
        assert [case.part for case in cohort.cases] == ["validation", "train", "train", "train"] and cohort.stated
        assert not any(case.part == "validation" for case in read_cohort(root, fold=None).cases)


@pytest.mark.parametrize("layout", ["nnunet", "decathlon"])
def test_a_name_that_no_channel_has_does_not_choose_one(tmp_path, layout):
    """T1 is no T1w of a data set that also has other channels, and must not become its first one."""
    if layout == "nnunet":
        put(tmp_path, *(f"imagesTr/c{i}_000{k}.nii" for i in range(2) for k in range(4)))
        table = {"channel_names": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}}
    else:
        put(tmp_path, *(f"imagesTr/c{i}.nii" for i in range(2)))
        table = {"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}}
        table |= {"training": [{"image": f"imagesTr/c{i}.nii", "label": f"labelsTr/c{i}.nii"} for i in range(2)]}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    with refused("config-channel-unknown", names=("T1", "FLAIR, T1w, t1gd, T2w", "data.source_channels")):
        read_cohort(tmp_path, sources=("T1",), targets=("T2w",))


def test_a_name_of_two_channels_does_not_choose_one(tmp_path):
    put(tmp_path, *(f"imagesTr/c{i}{end}.nii" for i in range(2) for end in ("_0000", "_0001", "_0002")))
    names = {"channel_names": {"0": "MRI", "1": "mri", "2": "CT"}}
    (tmp_path / "dataset.json").write_text(json.dumps(names))
    with refused("config-channels-same-name", names="MRI"):
        read_cohort(tmp_path, sources=("MRI",), targets=("CT",))
    (case, _) = read_cohort(tmp_path, sources=("MRI",), targets=("CT",), source_channels=(1,)).cases
    assert [path.name for path in (*case.source, *case.target)] == ["c0_0001.nii", "c0_0002.nii"]


def test_augmentation_uses_the_folds_beside_case_folders(tmp_path):
    write_folders(tmp_path)
    folds = [{"train": ["case0", "case1"], "val": ["case2"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    assert read_dataset(tmp_path).folds == folds


def test_a_link_to_a_parent_is_not_followed_and_one_elsewhere_is(tmp_path):
    root = tmp_path / "cohort"
    put(root, "patient01/t1.nii.gz", "patient01/t2.nii.gz")
    put(tmp_path, "away/t1.nii.gz", "away/t2.nii.gz")
    for name, to in (("patient01/up", ".."), ("patient01/self", "."), ("patient02", tmp_path / "away")):
        (root / name).symlink_to(to)
    assert sorted(found(root)) == ["patient01", "patient02"]


@pytest.mark.parametrize(
    "make, code",
    [(lambda path: path.symlink_to("/nowhere"), "file-missing"), (os.mkfifo, "file-not-regular")],
)
@pytest.mark.parametrize("name", ["provenance.json", "splits_final.json", "labels.json", "dataset.json"])
def test_dataset_files_that_are_not_regular_are_refused_by_name(tmp_path, name, make, code):
    put(tmp_path, *(f"patient0{i}/t{c}.nii.gz" for i in range(3) for c in (1, 2)))
    make(tmp_path / name)
    with refused(code, names=name):
        read_cohort(tmp_path, **PAIR)


@pytest.mark.parametrize("layout", ["{side}/{name}", "imagesTr/{name}_000{channel}"])
def test_accents_in_both_unicode_forms_are_one_name(tmp_path, layout):
    for channel, (side, form) in enumerate((("source", "NFC"), ("target", "NFD"))):
        name = normalize(form, "Jos\u00e9")
        put(tmp_path, layout.format(side=side, name=name, channel=channel) + ".nii.gz")
    (case,) = read_cohort(tmp_path).cases
    assert case.name == "Jos\u00e9" and case.source and case.target


def test_case_folder_files_match_exact_case_first_then_any_case(tmp_path):
    put(tmp_path, "p1/T1.nii.gz", "p1/x_T2.nii.gz", "p2/t1.nii.gz", "p2/T1.nii", "p2/t2.nii.gz")
    one, two = read_cohort(tmp_path, sources=("t1",), targets=("T2",)).cases
    assert [file.name for file in (*one.source, *one.target)] == ["T1.nii.gz", "x_T2.nii.gz"]
    assert [file.name for file in (*two.source, *two.target)] == ["t1.nii.gz", "t2.nii.gz"]


def test_folders_inside_a_contrast_folder_are_refused(tmp_path):
    put(tmp_path, "source/P01/scan.nii.gz", "target/P01/scan.nii.gz")
    with refused("cohort-folders-too-deep", names="source/CASE.nii.gz"):
        read_cohort(tmp_path)


@pytest.mark.parametrize("beside", ["labels.json", "labels/labels.json"])
def test_the_table_of_labels_lies_in_the_root_or_beside_the_label_maps(tmp_path, beside):
    """``medgen segment`` writes it beside the label maps."""
    write_folders(tmp_path)
    table = json.loads((tmp_path / "labels.json").read_text())
    (tmp_path / "labels.json").rename(tmp_path / beside)
    how = {"sources": (next(p.name for p in tmp_path.iterdir() if p.name in ("images", "source")),), "targets": ()}
    assert read_cohort(tmp_path, **how).label_values == {k: v for k, v in table.items() if k != "background"}
    assert read_dataset(tmp_path).labels == read_dataset(tmp_path).labels and "liver" in read_dataset(tmp_path).labels
    (tmp_path / "labels.json").write_text(json.dumps({"kidney": 1}))
    (tmp_path / "labels" / "labels.json").write_text(json.dumps({"liver": 1}))
    for read in (lambda: read_cohort(tmp_path, **how), lambda: read_dataset(tmp_path)):
        with refused("labels-tables-disagree", names="labels"):
            read()
