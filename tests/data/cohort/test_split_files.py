"""Files that state a split in an unsupported format give a warning; other tables and texts do not."""

import numpy as np
import pytest

from medgen.augmentation.read import read_dataset
from medgen.data.cohort.read import read_cohort
from medgen.data.cohort.split_files import unread_patients, unread_splits
from medgen.io.volume import Volume
from medgen.io.write import write_volume


@pytest.mark.parametrize(
    "name, content",
    [
        ("train.txt", "p0\np1\n"),
        ("Test_set.lst", "p2"),
        ("val.json", "[]"),
        ("splits_final.pkl", b"\x80\x04"),
        ("my_split.yaml", "train: [p0]"),
        ("kfold.csv", "a,b\n"),
        ("meta.csv", "image_id;age;split\np0;4;train\np1;5;test\n"),
        ("meta.csv", "image_id,Data Split\np0,train\np1,val\n"),
        ("participants.tsv", "participant_id\tsubset\np0\ttest\n"),
        ("cases.csv", "name,usage\np0,train\np1,dev\n"),
        ("cases.csv", "name,cv_fold\np0,1\np1,2\n"),
        ("kits.json", '[{"case_id": "p0", "split": "train"}, {"case_id": "p1", "split": "test"}]'),
    ],
)
def test_files_that_seem_to_state_a_split_give_a_warning(tmp_path, name, content):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8-sig"))
    (found,) = unread_splits(tmp_path)
    assert f"{tmp_path}: {name}" in found and "seems to state a split" in found and "data.split" in found


@pytest.mark.parametrize(
    "name, content",
    [
        ("meta.csv", "image_id;age;sex\np0;4;f\np1;5;m\n"),
        ("meta.csv", "id,note\np0,train\np1,plane\n"),
        ("empty.csv", ""),
        ("binary.csv", b"\xff\xfe\x00\xd8\x80"),
        ("readme.txt", "train on these"),
        ("dataset.json", "{}"),
        ("splits_final.json", "[]"),
        (".train.txt", "p0"),
        ("train.nii", ""),
    ],
)
def test_other_files_give_no_split_warning(tmp_path, name, content):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert unread_splits(tmp_path) == []


def test_training_and_augmentation_warn_unless_the_split_is_stated(tmp_path):
    for folder in ("images", "labels"):
        for name in ("p0", "p1", "p2"):
            volume = Volume(np.arange(60, dtype=np.float32).reshape(3, 4, 5) % 2, np.eye(4), np.dtype("u1"))
            write_volume(tmp_path / folder / f"{name}.nii", volume)
    (tmp_path / "labels.json").write_text('{"liver": 1}')
    (tmp_path / "test.txt").write_text("p2")
    sides = {"sources": ("images",), "targets": ("images",)}

    def split_warnings(**how):
        return [text for text in read_cohort(tmp_path, **sides, **how).warnings if "test.txt" in text]

    assert split_warnings() and not split_warnings(fold=None)
    assert any("test.txt" in text for text in read_dataset(tmp_path).warnings)
    (tmp_path / "splits_final.json").write_text('[{"train": ["p0", "p1"], "val": ["p2"]}]')
    assert not split_warnings() and not any("test.txt" in text for text in read_dataset(tmp_path).warnings)


PAIRS = {f"p{i}": f"p{i}" for i in range(4)}


@pytest.mark.parametrize(
    "name, content",
    [
        ("patients.csv", "case,patient\np0,7\np1,7\np2,8\np3,9\n"),
        ("participants.tsv", "scan\tparticipant_id\np0\tsub-1\np1\tsub-1\n"),
        ("meta.csv", "file;Patient Name;age\na.nii.gz;X;4\nb.nii.gz;X;5\n"),
        ("kits.json", '[{"case_id": "p0", "patient_id": "K0"}, {"case_id": "p1", "patient_id": "K0"}]'),
    ],
)
def test_a_table_that_names_patients_of_several_cases_gives_a_warning(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    (found,) = unread_patients(tmp_path, PAIRS)
    assert name in found and "each case counts as a patient" in found and "patient_pattern" in found
    assert unread_patients(tmp_path, {**PAIRS, "p1": "p0"}) == []  # patients are known


@pytest.mark.parametrize(
    "content",
    [
        "case,patient\np0,1\np1,2\n",  # one case each
        "participant_id,session\np0,1\np0,2\np1,1\n",  # patients are the cases
        "case,site\np0,A\np1,A\n",
        "case,patient_label\np0,benign\np1,benign\n",
        "",
    ],
)
def test_other_tables_give_no_patient_warning(tmp_path, content):
    (tmp_path / "table.csv").write_text(content)
    assert unread_patients(tmp_path, PAIRS) == []
