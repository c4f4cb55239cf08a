"""Datalists: stated splits are kept, paths of any operating system are read, folders make names unique."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusal import refused

from medgen.data.cohort.datalist import PARTS, patient_name, read_entries, unread_keys
from medgen.data.cohort.datalist_checks import distinct_names
from medgen.data.cohort.read import read_cohort
from medgen.io.volume import Volume
from medgen.io.write import write_channels, write_volume

GRID = np.diag([2.0, 2, 2, 1])


def put(path, value=0):
    write_volume(path, Volume(np.full((3, 4, 5), value, np.float32), GRID, np.dtype("i2")))
    return path


@pytest.fixture
def listed(tmp_path):
    """Return a function that writes a datalist of eight pairs and returns its path."""
    for i in range(8):
        put(tmp_path / f"src/c{i}.nii", i), put(tmp_path / f"tgt/c{i}.nii", i)

    def write(content, name="list.json", **how):
        (tmp_path / name).write_text(json.dumps(content), **how)
        return tmp_path / name

    return write


def entries(*numbers, slash="/", **more):
    return [{"source": f"src{slash}c{i}.nii", "target": f"tgt{slash}c{i}.nii", **more} for i in numbers]


def parts(file, **how):
    return {case.name: case.part for case in read_cohort(file, **how).cases}


@pytest.mark.parametrize("key, part", [(key, part) for part, keys in PARTS.items() for key in keys])
@pytest.mark.parametrize("written", [str, str.title, str.upper])
def test_every_name_of_a_subset_list_is_kept(listed, key, part, written):
    found = parts(
        listed({"training": entries(0, 1), written(key): entries(2)} if part != "train" else {key: entries(2)})
    )
    assert found["c2"] == part


def test_a_list_with_an_unknown_name_is_refused(listed):
    for cases in (entries(2), ["src/c2.nii"]):
        with refused("datalist-unknown-list", names="holdout"):
            parts(listed({"training": entries(0, 1), "holdout": cases}))
    assert parts(listed({"training": entries(0), "holdout": [1, 2], "tags": ["x"]})) == {"c0": "train"}


def test_an_entry_can_state_its_subset(listed):
    assert parts(listed([*entries(0, split="train"), *entries(1, split="val"), *entries(2)])) == {
        "c0": "train", "c1": "validation", "c2": "",
    }  # fmt: skip
    with refused("datalist-part-unknown", names="hold"):
        parts(listed(entries(0, split="hold")))


@pytest.mark.parametrize("key", ["Split", "SPLIT ", "subset", "Set", "partition", "Phase", "data_split", "my own"])
def test_any_key_whose_values_are_subsets_states_them(listed, key):
    found = [*entries(0, 1, **{key: "Train"}), *entries(2, **{key: "val"}), *entries(3, **{key: "test_set"})]
    expected = {"c0": "train", "c1": "train", "c2": "validation", "c3": "test"}
    assert parts(listed(found)) == parts(listed({"training": found})) == expected
    with refused("datalist-part-unknown", names="holdout"):
        parts(listed([*found, *entries(4, **{key: "holdout"})]))
    with refused("datalist-part-contradiction"):
        parts(listed([*found, *entries(4, **{key: "test", "subset" if key != "subset" else "set": "train"})]))


def test_other_keys_state_no_subset(listed):
    found = [*entries(0, phase="arterial", quality="valid"), *entries(1, phase="portal", quality="poor")]
    assert parts(listed([*found, *entries(2, name="train")])) == {"c0": "", "c1": "", "train": ""}


@pytest.mark.parametrize("key", ["Fold", "FOLD", "fold_id", "cv-fold", "kfold", "Fold Number", "cv"])
def test_folds_by_any_usual_key(listed, key):
    cases = [one for i in range(4) for one in entries(i, folder="x", **{key: str(i % 2)})]
    assert {name for name, part in parts(listed(cases)).items() if part == "validation"} == {"c0", "c2"}
    code = "datalist-key-twice" if key.lower() == "fold" else "datalist-fold-contradiction"
    for more in ({"fold": 3}, {"f old": 3}):
        with refused(code):
            parts(listed([*cases, *entries(5, **{key: 1}, **more)]))


NAMES = {"train": ["c0", "c1"], "val": ["c2"]}


@pytest.mark.parametrize(
    "more, code, name",
    [
        ({"folds": [NAMES]}, "datalist-split-form", "'folds'"),
        ({"Folds": {"c0": 0, "c1": 1}}, "datalist-split-form", "'Folds'"),
        ({"splits": {"0": NAMES}}, "datalist-split-form", "'splits'"),
        ({"fold_1": {"training": entries(0), "validation": entries(1)}}, "datalist-split-form", "'fold_1'"),
        ({"cross validation": [NAMES]}, "datalist-split-form", "'cross validation'"),
        ({"val_ids": ["c2"]}, "datalist-split-form", "'val_ids'"),
        ({"testIds": ["c2"]}, "datalist-split-form", "'testIds'"),
        ({"meta": {"more": [{"Validation": [1]}]}}, "datalist-split-form", "'meta'"),
        ({"test_cases": ["c2"]}, "datalist-test-bare-names", "c2"),
        ({"test": ["c2"]}, "datalist-test-bare-names", "c2"),
        ({"dev": [{"Image": "src/c2.nii"}]}, "datalist-unknown-list", "'dev'"),
    ],
)
def test_subsets_in_an_unsupported_form_are_refused_by_name(listed, more, code, name):
    with refused(code, names=name):
        parts(listed({"training": entries(0, 1, 2), **more}))


def test_tables_that_state_no_split_are_accepted(listed):
    more = {
        "numTraining": 2, "labels": {"1": "train"}, "numFolds": 5, "val_fraction": 0.2, "shares": {"train": 0.8},
        "intensity": {"mean": [1.5], "train": 3}, "split_ratio": [0.8, 0.2], "tags": ["x"], "modality": {"0": "CT"},
    }  # fmt: skip
    assert parts(listed({"training": entries(0, 1), **more})) == {"c0": "train", "c1": "train"}


@pytest.mark.parametrize("wrap", [lambda cases: cases, lambda cases: {"training": cases}])
@pytest.mark.parametrize("kind", [int, str])
def test_one_fold_is_the_validation_set(listed, wrap, kind):
    cases = [one for i in range(6) for one in entries(i, fold=kind(i % 3))]
    file = listed(wrap([*cases, *entries(6)]))
    for fold in range(3):
        found = parts(file, fold=fold)
        assert {name for name, part in found.items() if part == "validation"} == {f"c{fold}", f"c{fold + 3}"}
        assert found["c6"] == "train" and read_cohort(file, fold=fold).stated == f"validation fold {fold} of list.json"
    assert set(parts(file, fold=None).values()) == {""}
    with refused("split-fold-unknown", names=("0, 1, 2", "5", "data.fold")):
        parts(file, fold=5)
    with refused("datalist-fold-not-integer", names="true"):
        parts(listed(entries(0, fold=True)))


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "VAL", "testing set")])
def test_a_fold_may_name_the_subset(listed, names):
    found = parts(listed([one for i in range(3) for one in entries(i, fold=names[i])]))
    assert found == {"c0": "train", "c1": "validation", "c2": "test"}
    with refused("datalist-part-unknown", names="1"):
        parts(listed([*entries(0, fold="train"), *entries(1, fold="val"), *entries(2, fold=1)]))


def test_a_validation_list_takes_precedence_over_folds_with_a_warning(listed):
    file = listed({"training": entries(0, 1, fold=0), "validation": entries(2)})
    assert parts(file) == {"c0": "train", "c1": "train", "c2": "validation"}
    assert "has folds and a validation list; the validation list is used" in read_cohort(file).warnings[0]


def test_test_cases_stay_test_cases_and_bare_paths_are_images(listed):
    file = listed({"training": entries(0, 1), "testing": ["src/c2.nii", {"image": "src/c3.nii"}], "val": []})
    assert parts(file, fold=None) == {"c0": "", "c1": "", "c2": "test", "c3": "test"}
    gone = listed({"training": entries(0, 1), "test": ["src/c2.nii", "gone.nii"]})
    assert parts(gone) == {"c0": "train", "c1": "train", "c2": "test"}
    assert "1 test images that do not exist (gone.nii)" in read_cohort(gone).warnings[0]


def test_a_case_in_two_lists_is_refused(listed):
    with refused("datalist-case-twice", names=("c1", "train", "validation")):
        parts(listed({"training": entries(0, 1), "validation": entries(1)}))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
@pytest.mark.parametrize("slash", ["/", "\\"])
def test_lists_written_on_windows(listed, encoding, slash):
    cases = read_cohort(listed(entries(0, 1, slash=slash), encoding=encoding)).cases
    assert [case.name for case in cases] == ["c0", "c1"] and cases[0].source[0].is_file()


def test_wrong_case_counts_give_a_warning(listed):
    warnings = read_cohort(listed({"numTraining": 3, "numTest": 0, "training": entries(0, 1)})).warnings
    assert len(warnings) == 1 and "numTraining = 3, but 2 such cases" in warnings[0]


@pytest.mark.parametrize(
    "key", ["patient", "patient_id", "PatientID", "Patient ID", "patient-id", "subject", "subject_id", "PID", "mrn"]
)
def test_patients_by_any_usual_key(listed, key):
    cases = read_cohort(listed([*entries(0, **{key: 7}), *entries(1, **{key: "7"}), *entries(2)])).cases
    assert [case.patient for case in cases] == ["7", "7", "c2"]


@pytest.mark.parametrize(
    "key",
    [
        "participant_id",
        "Participant",
        "PatientName",
        "patient_uid",
        "subj",
        "sub",
        "bids_subject",
        "pat_id",
        "animal_id",
    ]
    + ["Anonymized Patient ID", "person no", "subject_number", "patient-nr", "StudySubjectID", "participant code"],
)
def test_patients_by_any_key_that_names_a_person(listed, key):
    cases = read_cohort(listed([*entries(0, **{key: 7}), *entries(1, **{key: "7"}), *entries(2, **{key: 8})])).cases
    assert [case.patient for case in cases] == ["7", "7", "8"]
    ids = [*entries(0, **{key: "x", "patient_id": 1}), *entries(1, **{key: "x", "patient_id": 2})]
    assert [case.patient for case in read_cohort(listed(ids)).cases] == ["1", "2"]  # an id comes first


@pytest.mark.parametrize(
    "key", ["pt", "patient_label", "patient_age", "animal", "subset", "site", "patients_total", "person"]
)
def test_keys_that_name_no_patient(listed, key):
    cases = read_cohort(listed([*entries(0, **{key: "x"}), *entries(1, **{key: "x"})])).cases
    assert [case.patient for case in cases] == ["c0", "c1"]


@given(st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=4), min_size=1, max_size=8, unique_by=tuple))
def test_case_names_use_as_few_folders_as_needed(folders):
    files = [Path("/", *parts, "t1.nii.gz") for parts in folders]
    names = distinct_names(files, [""] * len(files))
    for name, parts_of in zip(names, folders, strict=True):
        assert "_".join(["", *parts_of, "t1"]).endswith(f"_{name}")
        assert names.count(name) == 1 or name == "_".join([*parts_of, "t1"])
    assert len(files) > 1 or names == ["t1"]


# Channels ------------------------------------------------------------------------------------------------


@pytest.fixture
def brats(tmp_path):
    for i in range(2):
        channels = [Volume(np.full((3, 4, 5), 10 * i + c, np.float32), GRID, np.dtype("i2")) for c in range(3)]
        write_channels(tmp_path / f"imagesTr/B{i}.nii.gz", channels)
    content = {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "T2w"},
        "training": [{"image": f"./imagesTr/B{i}.nii.gz"} for i in range(2)],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(
    "how, channels",
    [
        ({"source_channels": (1,), "target_channels": (2,)}, ((1,), (2,))),
        ({"sources": ("t1W",), "targets": ("T2w",)}, ((1,), (2,))),
        ({"sources": ("T1w", "FLAIR"), "targets": ("T2w",)}, ((1, 0), (2,))),
        ({"sources": ("T1w",), "source_channels": (1,), "targets": ("new",), "target_channels": (0,)}, ((1,), (0,))),
    ],
)
def test_channels_of_4d_files_by_number_and_by_name(brats, how, channels):
    case = read_cohort(brats, **how).cases[0]
    assert case.channels == channels
    assert len(case.source) == len(channels[0]) and {path.name for path in case.source} == {"B0.nii.gz"}


@pytest.mark.parametrize(
    "how, code, names",
    [
        ({"source_channels": (1,), "target_channels": (3,)}, "cohort-channel-missing", "channel 3"),
        ({"sources": ("T1w",), "source_channels": (2,)}, "config-channels-conflict", "T1w"),
        ({"sources": ("T1w", "odd")}, "config-channel-numbers-needed", "odd"),
    ],
)
def test_missing_channels_are_refused(brats, how, code, names):
    with refused(code, names=names):
        read_cohort(brats, **how)


@pytest.mark.parametrize(
    "keys", [("is_val", "is_test"), ("isValidation", "IS_TEST"), ("val", "test"), ("In Val", "in-test")]
)
@pytest.mark.parametrize("yes, no", [(True, False), (1, 0), ("True", "false"), ("yes", "")])
def test_flags_state_the_subset(listed, keys, yes, no):
    val, test = keys
    found = [*entries(0, 1, **{val: no, test: no}), *entries(2, **{val: yes}), *entries(3, **{test: yes})]
    expected = {"c0": "", "c1": "", "c2": "validation", "c3": "test"}
    assert parts(listed(found)) == expected


def test_flags_that_leave_a_subset_open_or_contradict_are_refused(listed):
    assert parts(listed([*entries(0, is_train=True), *entries(1, is_train=False, is_val=True)])) == {
        "c0": "train", "c1": "validation",
    }  # fmt: skip
    with refused("datalist-part-missing"):
        parts(listed([*entries(0, is_train=True), *entries(1, is_train=False)]))
    with refused("datalist-part-contradiction", names="istest"):
        parts(listed(entries(0, split="train", is_test=1)))
    assert parts(listed(entries(0, test="PSA 3.1", valid="ok", train=7))) == {"c0": ""}


@pytest.mark.parametrize("key", ["valid", "is_valid", "IsValid"])
def test_the_ambiguous_flag_valid_is_refused(listed, key):
    assert set(parts(listed(entries(0, 1, **{key: True}))).values()) == {""}
    with refused("datalist-flag-ambiguous"):
        parts(listed([*entries(0, **{key: True}), *entries(1, **{key: False})]))


@pytest.mark.parametrize("word", ["dev", "eval", "Hold-out", "evaluation"])
def test_unknown_subset_names_are_refused_beside_known_ones(listed, word):
    with refused("datalist-part-unknown"):
        parts(listed([*entries(0, 1, usage="train"), *entries(2, usage=word)]))
    assert set(parts(listed([*entries(0, usage=word), *entries(1, usage="other")])).values()) == {""}


@pytest.mark.parametrize("kind", [float, "fold_{}".format, "Fold {}".format, " {} ".format, "{}.0".format])
def test_folds_in_the_notations_of_other_programs(listed, kind):
    cases = [one for i in range(6) for one in entries(i, fold=kind(i % 3))]
    assert [name for name, part in parts(listed(cases), fold=1).items() if part == "validation"] == ["c1", "c4"]


@pytest.mark.parametrize("none", [None, -1, "-1", "", float("nan")])
def test_entries_without_a_fold_are_counted(listed, none):
    file = listed([*(one for i in range(4) for one in entries(i, fold=i % 2)), *entries(4, 5, fold=none)])
    found = read_cohort(file)
    assert [text for text in found.warnings if "2 entries have no fold and are training cases in every fold" in text]
    assert {case.name: case.part for case in found.cases}["c4"] == "train"
    assert not read_cohort(listed(entries(0, 1, fold=none))).warnings


def test_patient_numbers_match_in_any_notation(listed):
    found = read_cohort(listed([e for i, p in enumerate([8, "8", 8.0, " 8 ", None, ""]) for e in entries(i, pid=p)]))
    assert [case.patient for case in found.cases] == ["8", "8", "8", "8", "c4", "c5"]


@pytest.mark.parametrize("text", ['{"training": [%s], "training": [%s]}', '[{"fold": 0, "fold": 1, "source": %s%.0s}]'])
def test_a_duplicate_json_key_is_refused(listed, tmp_path, text):
    listed([])
    (tmp_path / "list.json").write_text(text % ('"src/c0.nii"', '"src/c1.nii"'))
    with refused("json-key-twice"):
        read_cohort(tmp_path / "list.json")


@pytest.mark.parametrize("value", [8, 8.0, " 8", "8.0", "8.00 "])
def test_a_patient_identifier_is_the_same_as_number_and_as_text(value):
    assert patient_name(value) == "8"


@pytest.mark.parametrize("value", ["8.01", "v8.0", "08", "1.2.840.0", "p8"])
def test_other_identifiers_are_kept(value):
    assert patient_name(value) == value


@pytest.mark.parametrize("named", [{"0": "T1w", "1": "T2w"}, {"0": "a", "1": "b", "2": "c", "3": "d"}])
def test_a_4d_file_with_other_channels_than_those_named_is_refused(brats, named):
    """An additional series first, or the channels on the first axis: the numbers would mean other contrasts."""
    content = json.loads((brats / "dataset.json").read_text())
    (brats / "dataset.json").write_text(json.dumps(content | {"modality": named}))
    with refused("cohort-channel-count", names=("3 channels", f"names {len(named)}")):
        read_cohort(brats, source_channels=(0,), target_channels=(1,))


@pytest.mark.parametrize("value", [1, 1.0, "1", True])
def test_flags_may_be_numbers(tmp_path, value):
    content = [{"image": "a.nii", "test": value}, {"image": "b.nii", "test": type(value)(0)}]
    assert [entry.part for entry in read_entries(content, Path("x.json"))] == ["test", ""]


@pytest.mark.parametrize("key", ["holdout", "held_out", "is_holdout"])
def test_a_flag_of_held_out_cases_is_refused(key):
    with refused("datalist-part-unknown", names=key.replace("_", "")):
        read_entries([{"image": "a.nii", key: True}, {"image": "b.nii", key: False}], Path("x.json"))
    read_entries([{"image": "a.nii", key: False}], Path("x.json"))


@pytest.mark.parametrize("key", ["val_fold", "outer_fold", "validationFold"])
def test_folds_of_validation_in_other_spellings_count(key):
    found = read_entries([{"image": f"{n}.nii", key: n % 2} for n in range(4)], Path("x.json"))
    assert [entry.fold for entry in found] == [0, 1, 0, 1]


def test_keys_that_are_not_used_are_named():
    """A column that states a split in a spelling that is not known would else be ignored without a word."""
    rows = [
        {
            "image": f"{n}.nii",
            "label": "x",
            "Subject ID": n,
            "fold": n % 2,
            "is_test": n == 3,
            "Site": "a",
            "val_set_2": n,
        }
        for n in range(4)
    ]
    assert unread_keys(read_entries(rows, Path("x.json"))) == ["site", "valset2"]
    rows = [{"image": f"{n}.nii", "partition": ("train", "test")[n % 2], "age": None} for n in range(4)]
    assert unread_keys(read_entries(rows, Path("x.json"))) == []
