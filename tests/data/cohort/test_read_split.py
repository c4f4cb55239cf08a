"""Splitting a cohort on disk: stated subsets are kept, excluded cases are reported, one image is one patient."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from labelled import write_nnunet
from refusal import refused
from small import small_settings, write_cohort

from medgen.augmentation.dataset.write import write_dataset
from medgen.augmentation.read import read_dataset
from medgen.data.cohort.read_split import _content_warnings, _padded_numbers, read_split
from medgen.data.prepare import prepare
from medgen.types import Case


def parts(root, out, resume=False, sections=None, **data):
    """Return {part: names} of a cohort, the hashes of images, and the messages."""
    messages = []
    data = {"validation": 0.25, **data}
    settings = small_settings(data={"root": str(root), **data}, **(sections or {}))
    _, split, content = read_split(settings, out, out / "cache", resume=resume, say=messages.append)
    recorded = {part: sorted(names) for part, names in json.loads((out / "split.json").read_text()).items()}
    assert recorded == {part: [case.name for case in cases] for part, cases in split.items()}
    return recorded, content, messages


def copy(root, old, new, side, mirrored=False):
    image = nib.load(root / side / f"{old}.nii.gz")
    data, affine = np.asarray(image.dataobj).astype(np.float32), image.affine.copy()
    if mirrored:
        affine[:, 3] += affine[:, 0] * (len(data) - 1)
        affine[:, 0] *= -1
        data = data[::-1]
    nib.save(nib.Nifti1Image(data, affine), root / side / f"{new}.nii")


def test_cases_that_became_test_cases_stop_a_resumed_run(tmp_path):
    root = write_cohort(tmp_path / "cohort")
    entries = [{s: f"{s}/case{i}.nii.gz" for s in ("source", "target")} for i in range(4)]
    (root / "datalist.json").write_text(json.dumps({"training": entries}))
    before, *_ = parts(root / "datalist.json", tmp_path / "run")
    assert parts(root / "datalist.json", tmp_path / "run", resume=True)[0] == before
    number = int(before["train"][0][-1])
    lists = {"training": entries[:number] + entries[number + 1 :], "test": [entries[number]]}
    (root / "datalist.json").write_text(json.dumps(lists))
    with refused("split-test-cases-moved", names=before["train"][0]):
        parts(root / "datalist.json", tmp_path / "run", resume=True)


def test_no_other_test_patients_are_drawn_where_a_test_set_without_targets_is_stated(tmp_path):
    root = write_cohort(tmp_path / "cohort", cases=5)
    entries = [{s: f"{s}/case{i}.nii.gz" for s in ("source", "target")} for i in range(4)]
    lists = {"training": entries, "test": [{"source": "source/case4.nii.gz"}]}
    (root / "datalist.json").write_text(json.dumps(lists))
    found, *_ = parts(root / "datalist.json", tmp_path / "run", test=0.25)
    assert found["test"] == [] and len(found["train"] + found["validation"]) == 4


@pytest.mark.parametrize("sides", [["source", "target"], ["source"], ["target"]])
def test_one_scan_with_two_names_is_never_in_two_subsets(tmp_path, sides):
    root = write_cohort(tmp_path / "cohort", cases=3)
    for i in range(3):
        for side in ("source", "target"):
            copy(root, f"case{i}", f"other{2 - i}", side, mirrored=True)
            if side not in sides:
                path = root / side / f"other{2 - i}.nii"
                image = nib.load(path)
                nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 1, image.affine), path)
    for seed in range(3):
        split, _, messages = parts(root, tmp_path / f"run{seed}", sections={"train": {"seed": seed}}, test=0.3)
        part = {name: key for key, names in split.items() for name in names}
        assert len(part) == 6 and all(part[f"case{i}"] == part[f"other{2 - i}"] for i in range(3))
        assert sum("have the same image and count as one patient" in text for text in messages) == 3


@pytest.mark.parametrize("sides", [("source", "target"), ("source",)], ids=["pair", "source only"])
def test_a_patient_of_the_training_and_the_test_list_is_refused(tmp_path, sides):
    root = write_cohort(tmp_path / "cohort", cases=5)
    entries = [{s: f"{s}/case{i}.nii.gz" for s in ("source", "target")} | {"patient": f"p{i % 4}"} for i in range(5)]
    tested = {key: value for key, value in entries[4].items() if key in (*sides, "patient")}
    (root / "list.json").write_text(json.dumps({"training": entries[:4], "test": [tested]}))
    with refused("split-patient-in-both", names=("patient p0", "case0", "case4")):
        parts(root / "list.json", tmp_path / "run")


def test_a_case_in_no_list_of_a_test_patient_becomes_a_test_case_and_is_told(tmp_path):
    root = write_cohort(tmp_path / "cohort", cases=5)
    for name in ("train/p1", "p2", "p3", "day2/p1", "test/p1"):
        for i, side in enumerate(("source", "target")):
            place = tmp_path / "cases" / name / f"{side}.nii.gz"
            place.parent.mkdir(parents=True, exist_ok=True)
            image = nib.load(root / side / f"case{len(name) % 5}.nii.gz")
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + i + len(name), image.affine), place)
    with refused("split-patient-in-both", names="patient p1"):
        parts(tmp_path / "cases", tmp_path / "run")
    (tmp_path / "cases/train/p1").rename(tmp_path / "cases/train/p4")
    found, _, messages = parts(tmp_path / "cases", tmp_path / "run2")
    assert found["test"] == ["day2_p1", "test_p1"]
    assert any("day2_p1 are of patients with test cases" in text for text in messages)


def test_copies_of_a_scan_in_two_stated_subsets_are_refused(tmp_path):
    root = write_cohort(tmp_path / "cohort")
    copy(root, "case0", "again", "source"), copy(root, "case0", "again", "target")
    entry = {
        n: {"source": f"source/{n}", "target": f"target/{n}"} for n in ("case0.nii.gz", "case1.nii.gz", "again.nii")
    }
    lists = {"training": [entry["case0.nii.gz"], entry["case1.nii.gz"]], "validation": [entry["again.nii"]]}
    (root / "list.json").write_text(json.dumps(lists))
    with refused("split-patient-in-both", names="list.json"):
        parts(root / "list.json", tmp_path / "run")


@pytest.mark.parametrize("format", ["nnunet", "decathlon"])
def test_a_dataset_written_by_medgen_keeps_its_folds_and_synthetic_cases(tmp_path, format):
    given = write_nnunet(tmp_path / "given", cases=4)
    synthetic = {
        f"case{i}__syn000": {"patient": f"case{i}", "source": f"case{i}", "operations": [{"patients": [donor]}]}
        for i, donor in enumerate(("case0", "case1", "case0", "case3"))
    }
    for name in list(synthetic):
        for folder, end in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
            source = given / folder / f"{name[:5]}{end}"
            (given / folder / f"{name}{end}").write_bytes(source.read_bytes())
    (given / "provenance.json").write_text(json.dumps({"real": {}, "synthetic": synthetic}))
    write_dataset(read_dataset(given), tmp_path / "out", format)
    moved = (tmp_path / "out").rename(tmp_path / "elsewhere")
    seen = set()
    for fold in range(4):
        split, _, messages = parts(moved, tmp_path / f"run{fold}", target_channels=[0], fold=fold)
        (held,) = (name for name in split["validation"] if "syn" not in name)
        seen.add(held)
        assert split["validation"] == sorted([held, f"{held}__syn000"])
        assert held not in "".join(split["train"]) and ("case2__syn000" in split["train"]) == (
            held not in ("case0", "case2")
        )
        assert any(f"(validation fold {fold} of" in text for text in messages)
        assert any("1 synthetic cases belong to held-out patients" in text for text in messages)
    assert seen == {f"case{i}" for i in range(4)}
    redrawn, _, messages = parts(moved, tmp_path / "redrawn", target_channels=[0], fold=None, validation=0.5)
    assert sum("syn" not in name for name in redrawn["validation"]) == 2 and not any(
        "fold" in text for text in messages
    )


def test_synthetic_cases_are_not_validated_and_exclusion_is_reported(tmp_path):
    root = write_cohort(tmp_path / "cohort")
    for i in range(4):
        copy(root, f"case{i}", f"case{i}__syn000", "source"), copy(root, f"case{i}", f"case{i}__syn000", "target")
    settings = small_settings(data={"root": str(root), "validation": 0.25})
    messages = []
    found = prepare(settings, tmp_path / "run", say=messages.append)
    record = found.model.training_data
    assert len(found.patches.sources) == 6
    assert [case.name for case in found.validation.cases] == record["validation"]
    assert len(record["validation"]) == 1 and not any("syn" in name for name in record["validation"])
    assert any("no provenance.json states whose images" in text for text in messages)
    assert set(record["images"].values()) >= set(record["validation"])


def test_a_resumed_run_keeps_its_split_and_reports_new_cases(tmp_path):
    root = write_cohort(tmp_path / "cohort")
    first, _, _ = parts(root, tmp_path / "run")
    for side in ("source", "target"):
        image = nib.load(root / side / "case0.nii.gz")
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 3, image.affine), root / side / "new.nii.gz")
    again, _, messages = parts(root, tmp_path / "run", resume=True)
    assert again == first and any("1 cases are in no subset of" in text and "new" in text for text in messages)


def test_channels_of_4d_files_are_trained_on(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        (tmp_path / "imagesTr").mkdir(exist_ok=True)
        data = rng.integers(-1000, 100, (16, 16, 16, 3)).astype(np.int16)
        nib.save(nib.Nifti1Image(data, np.diag([2, 2, 2, 1])), tmp_path / f"imagesTr/B{i}.nii.gz")
    listed = [{"image": f"imagesTr/B{i}.nii.gz"} for i in range(4)]
    names = {"0": "FLAIR", "1": "T1w", "2": "T2w"}
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": names, "training": listed}))
    settings = small_settings(data={"root": str(tmp_path), "sources": ["T2w"], "targets": ["FLAIR"]})
    found = prepare(settings, tmp_path / "run", say=lambda _: None)
    for name, (source,) in found.patches.sources.items():
        stack = np.asarray(nib.load(tmp_path / f"imagesTr/{name}.nii.gz").dataobj)
        np.testing.assert_array_equal(source.data, stack[..., 2])
        np.testing.assert_array_equal(found.patches.targets[name][0].data, stack[..., 0])


MR, CT = {"kind": "percentile", "low": 0}, {"kind": "window", "low": -150, "high": 250}


@pytest.mark.parametrize(
    "intensity, lift, expected",
    [(CT, 1024, "contain no fat or air in HU"), (MR, 0, "look like CT in HU"), (CT, 0, None), (MR, 1024, None)],
)
def test_a_ct_config_on_mr_and_the_reverse_give_a_warning(tmp_path, intensity, lift, expected):
    root = write_cohort(tmp_path / "cohort")
    for path in (*(root / "source").iterdir(), *(root / "target").iterdir()):
        image = nib.load(path)
        nib.save(
            nib.Nifti1Image(np.maximum(np.asarray(image.dataobj) + lift, 0 if lift else -1100), image.affine), path
        )
    messages = []
    settings = small_settings(data={"root": str(root)}, intensity={"source": intensity, "target": intensity})
    prepare(settings, tmp_path / "run", say=messages.append)
    found = [text for text in messages if "intensity." in text]
    assert len(found) == (2 if expected else 0) and all(expected in text for text in found)


def test_label_names_match_regardless_of_case(tmp_path):
    root = write_cohort(tmp_path / "cohort", labels=True)
    (root / "labels.json").write_text('{"Organ": 7, "BODY": 3}')
    data = {"root": str(root), "labels": True, "class_groups": {"Host": ["body"], "Lesion": ["ORGAN"]}}
    sampling = {"patch": [16, 16, 16], "foreground_fraction": 1.0, "foreground_classes": ["lesion"]}
    found = prepare(small_settings(data=data, sampling=sampling), tmp_path / "run", say=lambda _: None)
    assert found.patches.centres and found.model.training_data["labels"] == {"background": 0, "Host": 1, "Lesion": 2}


def test_a_renamed_synthetic_case_is_recognised_by_its_image(tmp_path):
    given = write_nnunet(tmp_path / "given", cases=4)
    record = {"patient": "case0", "source": "case0", "operations": [{"patients": ["case1"]}]}
    for folder, end in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        image = nib.load(given / folder / f"case0{end}")
        data = np.asarray(image.dataobj) + (folder == "imagesTr")
        nib.save(nib.Nifti1Image(data, image.affine), given / folder / f"case0__syn000{end}")
    (given / "provenance.json").write_text(json.dumps({"real": {}, "synthetic": {"case0__syn000": record}}))
    write_dataset(read_dataset(given), tmp_path / "out", "nnunet")
    (tmp_path / "out/splits_final.json").unlink()
    for path in [*(tmp_path / "out").rglob("case0__syn000*"), *(tmp_path / "out").rglob("case2*")]:
        path.rename(path.with_name(path.name.replace("case0__syn000", "one").replace("case2", "two")))
    for seed in range(4):
        sections = {"train": {"seed": seed}}
        split, _, messages = parts(tmp_path / "out", tmp_path / f"run{seed}", sections=sections, target_channels=[0])
        assert ("one" in split["train"]) == (not {"case0", "case1"} & set(split["validation"]))
        assert any("one are synthetic: provenance.json lists their images" in text for text in messages)


def test_a_listed_synthetic_case_is_validated_only_if_its_patient_is(tmp_path):
    root = write_cohort(tmp_path / "cohort")
    for i in (0, 1):
        copy(root, f"case{i}", f"case{i}__syn000", "source"), copy(root, f"case{i}", f"case{i}__syn000", "target")
    entry = [{"source": f"source/case{i}.nii.gz", "target": f"target/case{i}.nii.gz"} for i in range(4)]
    made = [{"source": f"source/case{i}__syn000.nii", "target": f"target/case{i}__syn000.nii"} for i in (0, 1)]
    (root / "list.json").write_text(json.dumps({"training": entry[1:], "validation": [entry[0], *made]}))
    messages = []
    found = prepare(small_settings(data={"root": str(root / "list.json")}), tmp_path / "run", say=messages.append)
    assert found.model.training_data["validation"] == ["case0", "case0__syn000"]
    assert "case1__syn000" in found.patches.sources
    assert any(
        "1 synthetic cases were moved to the subset of their patients" in text and "case1__syn000" in text
        for text in messages
    )


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_single_ct_stored_without_its_offset_gives_a_warning(tmp_path, side):
    root = write_cohort(tmp_path / "cohort")
    settings = small_settings(data={"root": str(root)}, intensity={"source": CT, "target": CT})
    messages = []
    prepare(settings, tmp_path / "before", say=messages.append)
    assert not any("unlike most" in text for text in messages)
    train = json.loads((tmp_path / "before/split.json").read_text())["train"]
    path = root / side / f"{min(train)}.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + np.int16(1024), image.affine), path)
    prepare(settings, tmp_path / "after", say=messages.append)
    assert any(
        f"the {side} images of {min(train)} contain no fat or air in HU, unlike most" in text for text in messages
    )


def test_pairs_of_one_image_and_empty_images_are_reported(tmp_path):
    root = write_cohort(tmp_path / "cohort", cases=4)
    copy(root, "case0", "case0", "source", mirrored=True)
    (root / "source/case0.nii.gz").unlink()
    (root / "target/case0.nii.gz").unlink()
    (root / "target/case0.nii").write_bytes((root / "source/case0.nii").read_bytes())
    image = nib.load(root / "target/case1.nii.gz")
    nib.save(nib.Nifti1Image(np.full(image.shape, -1024, np.int16), image.affine), root / "target/case1.nii.gz")
    *_, messages = parts(root, tmp_path / "run")
    assert [text for text in messages if "same image" in text or "one value" in text] == [
        "warning: source and target of case0 are the same image: right for a scan that needs no change, such as one "
        "without contrast medium; otherwise a wrong copy, so replace one of them",
        "warning: no content in case1.nii.gz: one value everywhere; export them again",
    ]
    write_cohort(tmp_path / "good", cases=4)
    *_, messages = parts(tmp_path / "good", tmp_path / "run2")
    assert not any("same image" in text or "one value" in text for text in messages)


def test_a_file_that_is_both_source_and_target_is_no_wrong_copy():
    """With domains, every scan is both; with channels, both are in one 4D file."""
    file, other = Path("a.nii.gz"), Path("b.nii.gz")
    both = Case("a", "a", (file,), (file,))
    assert _content_warnings([both], {file: "1"}, True) == []
    assert _content_warnings([replace(both, channels=((0,), (1,)))], {file: "1"}, False) == []
    assert len(_content_warnings([both], {file: "1"}, False)) == 1
    assert len(_content_warnings([Case("a", "a", (file,), (other,))], {file: "1", other: "1"}, False)) == 1
    (text,) = _content_warnings([both], {file: None}, True)
    assert text.count("a.nii.gz") == 1


@pytest.mark.parametrize("present", [True, False])
def test_a_synthetic_case_of_a_patient_without_real_case_is_told(tmp_path, present):
    given = write_nnunet(tmp_path / "given", cases=5)
    record = {"patient": "case0", "source": "case0", "operations": []}
    for path in [*given.rglob("case1.nii.gz"), *given.rglob("case1_0000.nii.gz")]:
        path.rename(path.with_name(path.name.replace("case1", "case0__syn000")))
    (given / "provenance.json").write_text(json.dumps({"real": {}, "synthetic": {"case0__syn000": record}}))
    if not present:
        for path in [*given.rglob("case0.nii.gz"), *given.rglob("case0_0000.nii.gz")]:
            path.unlink()
    *_, messages = parts(given, tmp_path / "run", target_channels=[0])
    told = [text for text in messages if "have no real case here (case0__syn000)" in text]
    assert bool(told) != present


def test_a_sample_beside_the_images_of_its_model_is_no_case_of_an_absent_patient(tmp_path):
    """The record names the sample as its own patient. If a split file lacks the sample, the message says so."""
    given = write_nnunet(tmp_path / "given", cases=5)
    operations = [{"operation": "sample", "cases": ["case0", "case2"]}]
    for path in [*given.rglob("case1.nii.gz"), *given.rglob("case1_0000.nii.gz")]:
        path.rename(path.with_name(path.name.replace("case1", "sample_synthetic_0000")))
    record = {"patient": "sample_synthetic_0000", "operations": operations}
    (given / "provenance.json").write_text(json.dumps({"real": {}, "synthetic": {"sample_synthetic_0000": record}}))
    *_, messages = parts(given, tmp_path / "run", target_channels=[0], validation=0)
    assert not any("no real case here" in text for text in messages)
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": ["case0", "case2"], "validation": ["case3"], "test": ["case4"]}))
    *_, messages = parts(given, tmp_path / "other", target_channels=[0], split=str(split))
    assert not any("held-out" in text for text in messages)
    assert any("in no subset of" in text and "sample_synthetic_0000" in text for text in messages)


def test_a_masked_background_that_is_not_there_is_told(tmp_path):
    """0 is the background of skull-stripped MR, and water in a CT."""
    root = write_cohort(tmp_path / "cohort")
    messages = []
    codec = {**CT, "background": 0}
    settings = small_settings(data={"root": str(root)}, intensity={"source": codec, "target": CT})
    prepare(settings, tmp_path / "run", say=messages.append)
    assert any("which background=0 takes for masked" in text for text in messages)


def test_one_file_listed_as_source_and_target_is_told(tmp_path):
    root = write_cohort(tmp_path / "cohort")
    entries = [{"source": f"source/case{i}.nii.gz", "target": f"target/case{i}.nii.gz"} for i in range(4)]
    entries[1]["target"] = entries[1]["source"]
    (root / "list.json").write_text(json.dumps(entries))
    messages = []
    prepare(small_settings(data={"root": str(root / "list.json")}), tmp_path / "run", say=messages.append)
    assert any("source and target of case1 are the same image" in text for text in messages)


def test_numbers_of_patients_that_differ_in_leading_zeros_are_told():
    assert _padded_numbers(["7", "07x", "08", "70", "a7"]) == []
    assert _padded_numbers(["007", "8", "7", "007"]) == [
        "patients 007 and 7 count as different; if they are one, write the number in one way"
    ]
