"""A dataset is the same after writing and reading in either layout; failed cases leave no files."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labelled import LABELS, save, voxels, write_decathlon, write_folders, write_nnunet
from refusal import refused

from medgen.augmentation.dataset.read import read_case
from medgen.augmentation.dataset.write import DatasetWriter, label_on, relabelled, write_dataset
from medgen.augmentation.read import read_dataset
from medgen.io.claim import claimed
from medgen.io.read import read_volume
from medgen.io.volume import Volume


def content(dataset):
    """Return the content of a dataset without file paths."""
    cases = []
    for case in dataset.cases:
        images, label = read_case(dataset, case)
        about = {k: v for k, v in (case.record or {}).items() if k not in ("files", "images", "made_of", "medgen")}
        arrays = [v.data.tolist() for v in images] + [label.data.tolist() if label else None]
        affine = [np.round(v.affine, 4).tolist() for v in images]
        cases.append((case.name, case.patient, case.test, about, arrays, affine))
    return dataset.name, dataset.channels, dict(dataset.labels), dict(dataset.about), cases


def statuses(results):
    return [entry.status for entry in results]


def add_synthetic(root):
    """Turn case1 into a synthetic case of case0's patient."""
    for path in sorted(root.rglob("case1*.nii.gz")):
        path.rename(path.with_name(path.name.replace("case1", "case0__syn000")))
    if "training" in (table := json.loads((root / "dataset.json").read_text())):
        text = json.dumps(table).replace("case1.", "case0__syn000.")
        (root / "dataset.json").write_text(text)
    record = {"patient": "case0", "source": "case0", "seed": 3, "operations": [{"operation": "paste"}]}
    (root / "provenance.json").write_text(json.dumps({"real": {}, "synthetic": {"case0__syn000": record}}))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    given_as=st.sampled_from([write_nnunet, write_decathlon]),
    first=st.sampled_from(["nnunet", "decathlon"]),
    then=st.sampled_from(["nnunet", "decathlon"]),
    channels=st.sampled_from([("CT",), ("T1", "T2"), ("a", "b", "c")]),
    tests=st.integers(0, 1),
)
def test_round_trip(tmp_path_factory, given_as, first, then, channels, tests):
    folder = tmp_path_factory.mktemp("trip")
    root = given_as(folder / "given", cases=3, channels=channels, tests=tests)
    add_synthetic(root)
    before = read_dataset(root)
    assert statuses(write_dataset(before, folder / "one", first)) == ["written"] * (3 + tests)
    assert statuses(write_dataset(read_dataset(folder / "one"), folder / "two", then)) == ["written"] * (3 + tests)
    assert content(read_dataset(folder / "one")) == content(before)
    assert content(read_dataset(folder / "two")) == content(before)


def test_values_with_gaps_become_contiguous_for_nnunet_alone(tmp_path):
    root = write_folders(tmp_path / "given")
    write_dataset(read_dataset(root), tmp_path / "n", "nnunet")
    write_dataset(read_dataset(root), tmp_path / "d", "decathlon")
    assert dict(read_dataset(tmp_path / "n").labels) == LABELS
    assert dict(read_dataset(tmp_path / "d").labels) == {"background": 0, "liver": 3, "lesion": 6}
    for i in range(3):
        label = voxels(i)[1]
        np.testing.assert_array_equal(read_volume(tmp_path / f"n/labelsTr/case{i}.nii.gz").data, label)
        np.testing.assert_array_equal(read_volume(tmp_path / f"d/labelsTr/case{i}.nii.gz").data, label * 3)


@given(st.permutations([0, 1, 2, 5, 9]), st.permutations([0, 1, 2, 3, 4]))
def test_relabelling_follows_the_names(old, new):
    data = np.array(old * 2 + old[:2], np.float32).reshape(2, 3, 2)
    a, b = (dict(zip("abcde", values, strict=True)) for values in (old, new))
    there = relabelled(Volume(data, np.eye(4)), a, b)
    assert there.data.ravel().tolist() == new * 2 + new[:2]
    np.testing.assert_array_equal(relabelled(there, b, a).data, data)


def test_real_images_are_copied_to_the_byte_and_labels_have_their_header(tmp_path):
    root = write_nnunet(tmp_path / "given")
    save(root / "imagesTr/case0_0000.nii.gz", voxels(0)[0][..., 0], descrip=b"scanner 7", scl_slope=2.0, scl_inter=-5.0)
    save(root / "labelsTr/case0.nii.gz", voxels(0)[1].astype(np.float32))
    write_dataset(read_dataset(root), tmp_path / "out", "nnunet")
    for path in root.glob("imagesTr/*"):
        assert path.read_bytes() == (tmp_path / "out/imagesTr" / path.name).read_bytes()
    image, label = (nib.load(tmp_path / "out" / p) for p in ("imagesTr/case0_0000.nii.gz", "labelsTr/case0.nii.gz"))
    assert (image.dataobj.slope, image.dataobj.inter) == (2, -5)
    assert label.get_data_dtype() == np.uint8 and label.dataobj.slope == 1 and label.dataobj.inter == 0
    for form in ("qform", "sform"):
        np.testing.assert_array_equal(getattr(image.header, f"get_{form}")(), getattr(label.header, f"get_{form}")())


def test_a_label_beyond_255_widens():
    image = Volume(np.zeros((2, 2, 2)), np.eye(4))
    assert label_on(image, np.full((2, 2, 2), 300.0)).dtype == np.uint16
    assert label_on(image, np.zeros((2, 2, 2))).dtype == np.uint8


def test_a_channel_a_hair_off_is_put_on_the_first_ones_grid(tmp_path):
    root = write_nnunet(tmp_path / "given", channels=("CT", "PET"))
    path = root / "imagesTr/case1_0001.nii.gz"
    image = nib.load(path)
    hair = image.affine.copy()
    hair[:3, 3] += 0.004
    save(path, np.asanyarray(image.dataobj), hair)
    assert statuses(write_dataset(read_dataset(root), tmp_path / "out", "nnunet")) == ["written"] * 3
    first, second = (nib.load(tmp_path / f"out/imagesTr/case1_000{c}.nii.gz") for c in (0, 1))
    np.testing.assert_array_equal(first.affine, second.affine)


def test_bad_cases_are_reported_and_not_written(tmp_path):
    root = write_nnunet(tmp_path / "given", cases=5)
    save(root / "labelsTr/case1.nii.gz", voxels(0)[1] * 9)
    (root / "labelsTr/case2.nii.gz").unlink()
    results = write_dataset(read_dataset(root), tmp_path / "out", "nnunet")
    assert statuses(results) == ["written", "failed", "failed", "written", "written"]
    assert "the value 9" in results[1].error and "no label map for case case2" in results[2].error
    assert {path.name[:5] for path in (tmp_path / "out").rglob("*.nii.gz")} == {"case0", "case3", "case4"}
    assert json.loads((tmp_path / "out/dataset.json").read_text())["numTraining"] == 3


def test_complete_cases_are_not_written_again(tmp_path):
    root, out = write_nnunet(tmp_path / "given", cases=4), tmp_path / "out"
    write_dataset(read_dataset(root), out, "nnunet")
    (out / "imagesTr/case0_0000.nii.gz").unlink()
    (out / "labelsTr/case1.nii.gz").write_bytes(b"damaged")
    save(root / "imagesTr/case2_0000.nii.gz", voxels(7)[0][..., 0])
    assert statuses(write_dataset(read_dataset(root), out, "nnunet")) == ["written"] * 3 + ["skipped"]
    assert statuses(write_dataset(read_dataset(root), out, "nnunet")) == ["skipped"] * 4
    # another patient is another record
    again = write_dataset(read_dataset(root, patient_pattern=r"\d"), out, "nnunet")
    assert statuses(again) == ["written"] * 4 and [c.patient for c in read_dataset(out).cases] == list("0123")


def test_cases_no_longer_in_the_dataset_are_removed(tmp_path):
    root, out = write_nnunet(tmp_path / "given", cases=4), tmp_path / "out"
    write_dataset(read_dataset(root), out, "nnunet")
    for path in (root / "imagesTr/case0_0000.nii.gz", root / "labelsTr/case0.nii.gz"):
        path.unlink()
    write_dataset(read_dataset(root), out, "nnunet")
    assert [path.name for path in sorted((out / "labelsTr").iterdir())] == [f"case{i}.nii.gz" for i in (1, 2, 3)]
    with refused("folder-not-empty", names=("format", "nnunet", "decathlon")):
        write_dataset(read_dataset(root), out, "decathlon")


def test_a_record_from_elsewhere_cannot_remove_files_outside(tmp_path):
    root, out = write_nnunet(tmp_path / "given"), tmp_path / "out"
    keep = tmp_path / "keep.txt"
    keep.write_text("mine")
    write_dataset(read_dataset(root), out, "nnunet")
    (out / "notes.txt").write_text("mine")
    record = {"files": {"../keep.txt": "", str(keep): "", "notes.txt": ""}}
    (out / "provenance.json").write_text(json.dumps({"real": {"gone": record}, "synthetic": {}}))
    write_dataset(read_dataset(root), out, "nnunet")
    assert (out / "notes.txt").read_text() == "mine"
    assert keep.read_text() == "mine"
    assert "gone" not in json.loads((out / "provenance.json").read_text())["real"]


def test_a_run_killed_before_the_first_case_can_be_resumed(tmp_path):
    root, out = write_nnunet(tmp_path / "given"), tmp_path / "out"

    def kill(entry, i, n):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(read_dataset(root), out, "nnunet", done=kill)
    (out / "imagesTr/case0_0000.nii.gz").write_bytes(b"half")
    assert statuses(write_dataset(read_dataset(root), out, "nnunet")) == ["written"] * 3


def test_unusable_output_paths_are_refused(tmp_path):
    dataset = read_dataset(write_nnunet(tmp_path / "given"))
    with refused("output-is-input"):
        write_dataset(dataset, tmp_path, "nnunet")
    with refused("output-is-file"):
        write_dataset(dataset, tmp_path / "given/dataset.json", "nnunet")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("")
    with refused("folder-not-empty", names="thesis.txt"):
        write_dataset(dataset, tmp_path / "mine", "nnunet")
    with refused("option-format-unknown", names="zip"):
        write_dataset(dataset, tmp_path / "out", "zip")
    write_dataset(dataset, tmp_path / "out", "nnunet")
    with refused("output-is-input"):
        write_dataset(read_dataset(tmp_path / "out"), tmp_path / "out", "nnunet")


def test_one_patient_is_refused_before_anything_is_written(tmp_path):
    dataset = read_dataset(write_nnunet(tmp_path / "given", cases=1))
    with refused("dataset-too-few-patients"):
        write_dataset(dataset, tmp_path / "out", "nnunet")
    assert not (tmp_path / "out").exists()


def made(writer, case, **change):
    """Add a synthetic case of ``case``: its own images and label, changed as asked."""
    images, label = writer.read(case)
    images, label = change.get("images", lambda v: v)(images), change.get("label", lambda v: v)(label)
    record = {"operations": change.get("operations", [])}
    fake = replace(case, name=f"{case.name}__syn000", record={"source": case.name})
    return writer.add(fake, lambda: "x", lambda: (images, label, record))


@pytest.mark.parametrize(
    "change, match",
    [
        ({"images": lambda v: v * 2}, "made with 2 channels, but the dataset has 1"),
        ({"images": lambda v: [Volume(v[0].data[1:], v[0].affine)]}, "on different grids"),
        ({"label": lambda v: v.replaced(v.data * 5)}, "made for case case0__syn000 contains the value 5"),
        ({"images": lambda v: [v[0].replaced(v[0].data * np.nan)]}, "NaN or infinite"),
        ({"operations": [{"patients": ["test3"]}]}, "made with images of patient test3, who is in the test set"),
    ],
)
def test_synthetic_cases_that_do_not_fit(tmp_path, change, match):
    dataset = read_dataset(write_nnunet(tmp_path / "given", tests=1))
    writer = DatasetWriter(dataset, tmp_path / "out", "nnunet")
    entry = made(writer, dataset.cases[0], **change)
    assert entry.status == "failed" and "\n" not in entry.error and match in entry.error
    for case in dataset.cases:
        writer.copy(case)
    writer.finish()
    assert not list((tmp_path / "out").rglob("*__syn*"))


def test_a_file_changed_by_the_user_is_kept_with_a_warning(tmp_path):
    root, out = write_nnunet(tmp_path / "given", cases=3), tmp_path / "out"
    write_dataset(read_dataset(root), out, "nnunet")
    first = (out / "labelsTr/case1.nii.gz").read_bytes()
    for mine in (b"corrected", b"again"):
        (out / "labelsTr/case1.nii.gz").write_bytes(mine)
        _, entry, _ = write_dataset(read_dataset(root), out, "nnunet")
        (text,) = entry.warnings
        assert entry.status == "written" and "case1.nii.gz was changed since medgen wrote it" in text
        assert Path(text.rpartition(" moved to ")[2]).read_bytes() == mine and "/.changed/" in text
        assert (out / "labelsTr/case1.nii.gz").read_bytes() == first
    assert write_dataset(read_dataset(root), out, "nnunet")[1].status == "skipped"
    assert len(list((out / ".changed").rglob("*case1*"))) == 2


def test_labels_a_rounding_error_off_are_read(tmp_path):
    root = write_nnunet(tmp_path / "given", cases=3)
    image, label = voxels(1)
    save(root / "labelsTr/case1.nii.gz", label * np.float32(0.99999994))
    assert statuses(write_dataset(read_dataset(root), tmp_path / "out", "nnunet")) == ["written"] * 3
    assert np.array_equal(read_volume(tmp_path / "out/labelsTr/case1.nii.gz").data, label)
    save(root / "labelsTr/case1.nii.gz", label * np.float32(0.99))
    (_, entry, _) = write_dataset(read_dataset(root), tmp_path / "other", "nnunet")
    assert entry.status == "failed" and "contains the value 0.99" in entry.error


def test_synthetic_cases_of_absent_patients_and_lost_folds_are_told(tmp_path):
    """The user took the real case of a patient out of an augmented dataset, perhaps to test on it."""
    given = write_nnunet(tmp_path / "given", cases=5)
    add_synthetic(given)
    names = [f"case{i}" for i in (0, 2, 3, 4)]
    folds = [{"train": [n for n in names if n != val], "val": [val]} for val in names]
    (given / "splits_final.json").write_text(json.dumps(folds))
    for path in [*given.rglob("case0.nii.gz"), *given.rglob("case0_0000.nii.gz")]:
        path.unlink()
    dataset = read_dataset(given)
    with claimed(tmp_path / "out", {"command": "test"}):
        writer = DatasetWriter(dataset, tmp_path / "out", "nnunet")
        for case in dataset.cases:
            writer.copy(case)
        writer.finish()
    assert any("no real case here (case0__syn000)" in text for text in writer.warnings)
    assert any("1 of the dataset's 4 folds" in text for text in writer.warnings)
