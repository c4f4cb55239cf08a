"""A folder a case (patient07/t1.nii.gz), for training and for augmentation."""

import json

import pytest
from labelled import save, voxels

from medgen.augmentation.read import read_dataset
from medgen.data.cohort import read_cohort
from medgen.types import InputError

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
    assert "no t1 or t2 in other, which is left out" in read_cohort(tmp_path, **PAIR).warnings[0]


def test_an_exact_name_counts_before_a_longer_one_and_two_are_refused(tmp_path):
    put(tmp_path, "a/t1.nii.gz", "a/post_t1.nii.gz", "a/t2.nii.gz")
    assert read_cohort(tmp_path, **PAIR).cases[0].source[0].name == "t1.nii.gz"
    put(tmp_path, "b/pre_t1.nii.gz", "b/post_t1.nii.gz")
    with pytest.raises(InputError, match="two files for t1, post_t1.nii.gz and pre_t1.nii.gz"):
        read_cohort(tmp_path, **PAIR)


def test_no_such_name_says_what_layouts_there_are(tmp_path):
    put(tmp_path, "a/flair.nii.gz")
    with pytest.raises(InputError, match="no CASE/t1.nii.gz, no imagesTr/"):
        read_cohort(tmp_path, **PAIR)


@pytest.mark.parametrize("name", ["segmentation", "labels", "seg", "label"])
def test_kits_as_folders_is_augmented_and_trained_on(tmp_path, name):
    for i in range(3):
        images, label = voxels(i)
        save(tmp_path / f"case_{i:05}/imaging.nii.gz", images[..., 0])
        save(tmp_path / f"case_{i:05}/{name}.nii.gz", label)
    with pytest.raises(InputError, match="--channels imaging"):
        read_dataset(tmp_path)
    with pytest.raises(InputError, match="labels.json does not exist"):
        read_dataset(tmp_path, channels=("imaging",))
    (tmp_path / "labels.json").write_text(json.dumps({"liver": 1, "lesion": 2}))
    dataset = read_dataset(tmp_path, channels=("imaging",))
    assert [(c.name, c.patient, c.fault) for c in dataset.cases] == [(f"case_{i:05}",) * 2 + (None,) for i in range(3)]
    assert dataset.channels == ("CT",)
    cohort = read_cohort(tmp_path, sources=("imaging",), targets=("imaging",))
    assert len(cohort.cases) == 3 and all(case.labels for case in cohort.cases)
