"""Datasets with synthetic cases: records, resumed and killed runs, and failing cases."""

import json
from dataclasses import replace

import numpy as np
import pytest
from labelled import save, voxels, write_decathlon, write_nnunet
from refusal import refused

from medgen.augmentation.augment import augment
from medgen.augmentation.augmenter import Augmenter
from medgen.augmentation.dataset.provenance import file_hash
from medgen.augmentation.dataset.read import read_case
from medgen.augmentation.read import read_dataset
from medgen.errors import InputError


def brighten(images, label, names, rng):
    """Adds a whole number of HU to the liver, and one voxel of lesion."""
    step = int(rng.integers(1, 10**6))
    drawn = label.data.copy()
    drawn[0, 0, 0] = names["lesion"]
    made = [v.replaced(v.data + step % 100 * (label.data == names["liver"])) for v in images]
    return made, label.replaced(drawn), [{"operation": "brighten", "step": step}]


BRIGHTEN = Augmenter((brighten,), {"name": "brighten"})


def steps(out):
    records = json.loads((out / "provenance.json").read_text())["synthetic"]
    return {name: record["operations"][0]["step"] for name, record in records.items()}


def statuses(results):
    return {entry.case: entry.status for entry in results}


def test_a_dataset_with_two_synthetic_cases_per_case(tmp_path):
    dataset = read_dataset(write_nnunet(tmp_path / "given", cases=3, tests=1))
    results, folds = augment(dataset, BRIGHTEN, tmp_path / "out", per_case=2, seed=5)
    assert [entry.case for entry in results if entry.synthetic] == [
        f"case{i}__syn00{k}" for i in range(3) for k in range(2)
    ]
    assert set(statuses(results).values()) == {"written"} and folds == [tmp_path / "out/splits_final.json"]
    out = read_dataset(tmp_path / "out")
    assert json.loads((tmp_path / "out/dataset.json").read_text())["numTraining"] == 9
    for case in out.cases:
        images, label = read_case(out, case)
        number = int(case.name[4])
        if case.record is None:
            np.testing.assert_array_equal(images[0].data, voxels(number)[0][..., 0])
            continue
        assert (case.patient, case.record["source"], case.record["seed"]) == (f"case{number}", f"case{number}", 5)
        step = case.record["operations"][0]["step"]
        truth, drawn = voxels(number)
        np.testing.assert_array_equal(images[0].data, truth[..., 0] + step % 100 * (drawn == 1))
        assert label.data[0, 0, 0] == 2 and case.record["model"] == {"name": "brighten"}
        assert case.record["medgen"] and set(case.record["files"]) == {
            f"imagesTr/{case.name}_0000.nii.gz",
            f"labelsTr/{case.name}.nii.gz",
        }
        for name, sha256 in case.record["files"].items():
            assert file_hash(tmp_path / "out" / name) == sha256
    assert len(set(steps(tmp_path / "out").values())) == 6


def test_synthetic_cases_are_trained_on_with_their_patient_only(tmp_path):
    dataset = read_dataset(write_nnunet(tmp_path / "given", cases=6, tests=1), patient_pattern=r"case[0-2]|test|case")
    for format in ("nnunet", "decathlon"):
        augment(dataset, BRIGHTEN, tmp_path / format, per_case=2, format=format)
    folds = json.loads((tmp_path / "nnunet/splits_final.json").read_text())
    patient = {case.name: case.patient for case in read_dataset(tmp_path / "nnunet").cases}
    assert len(folds) == 4 and set(patient.values()) == {"case0", "case1", "case2", "case", "test"}
    for i, fold in enumerate(folds):
        assert not any("__syn" in name for name in fold["val"])
        assert not {patient[name] for name in fold["train"]} & {patient[name] for name in fold["val"]}
        held = {patient[name] for name in fold["val"]}
        assert set(fold["train"]) == {name for name in patient if patient[name] not in held | {"test"}}
        listed = json.loads((tmp_path / f"decathlon/datalist_fold{i}.json").read_text())
        for part, ours in (("training", "train"), ("validation", "val")):
            assert [e["image"] for e in listed[part]] == [f"./imagesTr/{name}.nii.gz" for name in fold[ours]]


def test_values_of_the_labels_are_those_written(tmp_path):
    root = write_decathlon(tmp_path / "given", labels={"0": "background", "1": "liver", "7": "lesion"})
    for i in range(3):
        label = voxels(i)[1]
        save(root / f"labelsTr/case{i}.nii.gz", np.where(label == 2, 7, label).astype(np.uint8))
    augment(read_dataset(root), BRIGHTEN, tmp_path / "out", format="nnunet")
    out = read_dataset(tmp_path / "out")
    case = next(case for case in out.cases if case.record)
    assert read_case(out, case)[1].data[0, 0, 0] == out.labels["lesion"] == 2


def test_a_case_depends_on_seed_and_number_not_on_the_others(tmp_path):
    dataset = read_dataset(write_nnunet(tmp_path / "given"))
    augment(dataset, BRIGHTEN, tmp_path / "a", per_case=2, seed=1)
    fewer = replace(dataset, cases=dataset.cases[1:])
    augment(fewer, BRIGHTEN, tmp_path / "b", per_case=1, seed=1)
    augment(dataset, BRIGHTEN, tmp_path / "c", per_case=2, seed=2)
    a, b, c = (steps(tmp_path / name) for name in "abc")
    assert len(b) == 2 and b.items() <= a.items() and not set(a.values()) & set(c.values())


def test_a_second_run_makes_only_incomplete_cases(tmp_path):
    dataset, out = read_dataset(write_nnunet(tmp_path / "given")), tmp_path / "out"
    augment(dataset, BRIGHTEN, out, per_case=2)

    def files():
        return {p: p.read_bytes() for p in out.rglob("[!.]*") if p.is_file() and ".changed" not in p.parts}

    before = files()
    assert set(statuses(augment(dataset, BRIGHTEN, out, per_case=2)[0]).values()) == {"skipped"}
    (out / "imagesTr/case1__syn001_0000.nii.gz").write_bytes(b"half")
    (out / "labelsTr/case2__syn000.nii.gz").unlink()
    again = statuses(augment(dataset, BRIGHTEN, out, per_case=2)[0])
    assert {name for name, status in again.items() if status == "written"} == {"case1__syn001", "case2__syn000"}
    assert files() == before


def test_a_kill_between_two_cases_and_fewer_asked_for(tmp_path):
    dataset, out = read_dataset(write_nnunet(tmp_path / "given")), tmp_path / "out"

    def kill(entry, i, n):
        if i == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        augment(dataset, BRIGHTEN, out, per_case=2, done=kill)
    assert not (out / "dataset.json").exists()
    counts = list(statuses(augment(dataset, BRIGHTEN, out, per_case=2)[0]).values())
    assert (counts.count("skipped"), counts.count("written")) == (5, 4)
    with refused("folder-not-empty", names="per case"):
        augment(dataset, BRIGHTEN, out, per_case=1)
    augment(dataset, BRIGHTEN, out, per_case=1, overwrite=True)
    assert sorted(steps(out)) == ["case0__syn000", "case1__syn000", "case2__syn000"]
    assert len(list((out / "imagesTr").iterdir())) == len(list((out / "labelsTr").iterdir())) == 6


def test_another_model_seed_or_source_is_another_case(tmp_path):
    root, out = write_nnunet(tmp_path / "given"), tmp_path / "out"
    dataset = read_dataset(root)

    def remade(augmenter=BRIGHTEN, **how):
        found = statuses(augment(read_dataset(root), augmenter, out, **how)[0])
        return sorted(name for name, status in found.items() if status == "written")

    augment(dataset, BRIGHTEN, out)
    before, other = steps(out), Augmenter((brighten,), {"name": "x"})
    assert remade() == []
    for by, how in ((BRIGHTEN, {"seed": 1}), (other, {}), (BRIGHTEN, {"format": "decathlon"})):
        with refused("folder-not-empty"):
            remade(by, **how)
    elsewhere = write_nnunet(tmp_path / "elsewhere", cases=4)
    with refused("folder-not-empty", names="dataset"):
        augment(read_dataset(elsewhere), BRIGHTEN, out)
    assert steps(out) == before
    augment(read_dataset(elsewhere), BRIGHTEN, out, overwrite=True)
    assert len(steps(out)) == 4
    remade(overwrite=True)
    save(root / "imagesTr/case1_0000.nii.gz", voxels(9)[0][..., 0])
    assert remade() == ["case1", "case1__syn000"]


def test_bad_cases_are_reported_once_and_the_others_are_written(tmp_path):
    root = write_nnunet(tmp_path / "given", cases=4)
    save(root / "labelsTr/case1.nii.gz", voxels(0)[1] * 9)
    dataset = read_dataset(root)

    def unlucky(images, label, names, rng):
        if np.array_equal(images[0].data, voxels(2)[0][..., 0]):
            raise InputError("lesions-no-room", "there is no healthy liver to put a lesion into")
        if np.array_equal(images[0].data, voxels(3)[0][..., 0]):
            raise MemoryError("too large")
        return brighten(images, label, names, rng)

    seen = []
    results, _ = augment(
        dataset, Augmenter((unlucky,), {"name": "u"}), tmp_path / "out", done=lambda *a: seen.append(a)
    )
    errors = {entry.case: entry.error for entry in results if entry.error}
    assert errors.keys() == {"case1", "case2__syn000", "case3__syn000"}
    assert errors["case2__syn000"] == "case case2__syn000: there is no healthy liver to put a lesion into"
    assert errors["case3__syn000"] == "case case3__syn000: MemoryError: too large"
    assert [i for _, i, _ in seen] == list(range(1, 8)) and seen[-1][2] == 7
    assert [case.name for case in read_dataset(tmp_path / "out").cases] == ["case0", "case0__syn000", "case2", "case3"]


def test_synthetic_cases_are_not_augmented_again(tmp_path):
    augment(read_dataset(write_nnunet(tmp_path / "given")), BRIGHTEN, tmp_path / "one", per_case=2)
    results, _ = augment(read_dataset(tmp_path / "one"), BRIGHTEN, tmp_path / "two", seed=9)
    assert len(results) == 9 + 3
    one, two = (json.loads((tmp_path / n / "provenance.json").read_text())["synthetic"] for n in ("one", "two"))
    assert set(two) - set(one) == {"case0__syn002", "case1__syn002", "case2__syn002"}
    assert {record["source"] for record in two.values()} == {"case0", "case1", "case2"}
    for name, record in one.items():
        assert record["operations"] == two[name]["operations"] and record["files"] == two[name]["files"]


def test_an_augmenter_that_does_not_fit(tmp_path):
    dataset = read_dataset(write_nnunet(tmp_path / "given"))
    fixed = Augmenter((brighten,) * 2, {"name": "m"}, random=False, channels=2)
    with refused("dataset-channel-count-differs"):
        augment(dataset, fixed, tmp_path / "out")
    fixed = replace(fixed, channels=1)
    with refused("option-per-case-exceeds", names="--per-case 3"):
        augment(dataset, fixed, tmp_path / "out", per_case=3)
    with refused("option-per-case-exceeds", names="--per-case 0"):
        augment(dataset, BRIGHTEN, tmp_path / "out", per_case=0)
    assert not (tmp_path / "out").exists()
    assert len(augment(dataset, fixed, tmp_path / "out")[0]) == 9  # one a way


def test_transforms_are_used_in_turn(tmp_path):
    def way(number):
        return lambda images, label, names, rng: (images, label, [{"operation": "way", "step": number}])

    dataset = read_dataset(write_nnunet(tmp_path / "given", cases=2))
    augment(dataset, Augmenter((way(0), way(1)), {"name": "two"}), tmp_path / "out", per_case=3)
    assert [steps(tmp_path / "out")[f"case1__syn00{k}"] for k in range(3)] == [0, 1, 0]


def donors(images, label, names, rng):
    """Each synthetic case also uses images of case1."""
    made, drawn, _ = brighten(images, label, names, rng)
    return made, drawn, [{"operation": "paste", "patients": ["case1"]}]


def folds_of(out):
    return json.loads((out / "splits_final.json").read_text())


def test_stated_validation_and_test_cases_are_kept_and_not_augmented(tmp_path):
    root, messages = write_nnunet(tmp_path / "given", cases=5), []
    entry = [
        {"image": f"imagesTr/case{i}_0000.nii.gz", "label": f"labelsTr/case{i}.nii.gz", "name": f"case{i}"}
        for i in range(5)
    ]
    content = {"labels": {"background": 0, "liver": 1, "lesion": 2}, "training": entry[:3]}
    (root / "list.json").write_text(json.dumps(content | {"validation": entry[3:4], "testing": entry[4:]}))
    dataset = read_dataset(root / "list.json")
    augment(dataset, Augmenter((brighten,), {"name": "bright"}), tmp_path / "out", say=messages.append)
    made = ["case0__syn000", "case1__syn000", "case2__syn000"]
    assert folds_of(tmp_path / "out") == [{"train": sorted([f"case{i}" for i in range(3)] + made), "val": ["case3"]}]
    assert (tmp_path / "out/imagesTs/case4_0000.nii.gz").is_file() and messages == []
    augment(dataset, Augmenter((brighten,), {"name": "bright"}), tmp_path / "deca", format="decathlon")
    again = read_dataset(tmp_path / "deca")
    assert [(c.name, c.held, c.test) for c in again.cases if c.record is None] == [
        (f"case{i}", i == 3, i == 4) for i in range(5)
    ]
    assert again.folds[0]["val"] == ["case3"]


def test_synthetic_cases_in_no_fold_are_counted_in_a_warning(tmp_path):
    messages = []
    dataset = read_dataset(write_nnunet(tmp_path / "given", cases=2))
    augment(dataset, Augmenter((donors,), {"name": "x"}), tmp_path / "out", say=messages.append)
    (text,) = messages
    assert text.startswith("warning: 1 synthetic cases are in no fold") and "case0__syn000" in text
    assert not any("case0__syn000" in names for fold in folds_of(tmp_path / "out") for names in fold.values())


def test_a_scan_under_two_names_is_one_patient_in_the_folds_with_a_warning(tmp_path):
    root, messages = write_nnunet(tmp_path / "given", cases=4, tests=1), []
    images, label = voxels(0)
    save(root / "imagesTr/copy_0000.nii.gz", images[..., 0].astype(np.float32))
    save(root / "labelsTr/copy.nii.gz", label)
    save(root / "imagesTs/again_0000.nii.gz", voxels(1)[0][..., 0].astype(np.int32))
    for _ in range(2):  # the second run finds every case complete
        messages.clear()
        augment(read_dataset(root), Augmenter((brighten,), {"name": "x"}), tmp_path / "out", say=messages.append)
        assert sorted(text.partition(" have the same image")[0] for text in messages if "numTraining" not in text) == [
            "warning: cases again and case1", "warning: cases case0 and copy",
        ]  # fmt: skip
        assert sum("one of them is a test case" in text for text in messages) == 1
    for fold in folds_of(tmp_path / "out"):
        both = [{"case0", "copy", "case0__syn000", "copy__syn000"} & set(fold[part]) for part in ("train", "val")]
        assert not (both[0] and both[1])
