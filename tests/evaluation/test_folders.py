"""Folders of an evaluation: the names of label values, in the layouts that other commands read."""

import json
import os
from unicodedata import normalize

import nibabel as nib
import numpy as np
import pytest
from labelled import save
from refusal import refused

from medgen.data.labels.names import label_names
from medgen.evaluation.folders import check_header_names, match_folders, read_case

NAMES = {1: "aorta", 3: "portal_vein"}


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("labels.json", {"aorta": 1, "portal_vein": 3}),
        ("labels.json", {"0": "background", "1": "aorta", "3": "portal_vein"}),
        ("dataset.json", {"labels": {"background": 0, "aorta": 1, "portal_vein": 3}, "channel_names": {"0": "CT"}}),
        ("dataset.json", {"labels": {"0": "background", "1": "aorta", "3": "portal_vein"}}),
    ],
)
def test_names_of_labels(tmp_path, above, file, content):
    labels = tmp_path / "labels"
    labels.mkdir()
    ((tmp_path if above else labels) / file).write_text(json.dumps(content))
    assert label_names(labels) == NAMES


def test_two_names_of_one_value_are_refused(tmp_path):
    (tmp_path / "labels.json").write_text('{"aorta": 1, "liver": 1}')
    with refused("labels-table-value-twice"):
        label_names(tmp_path)


def volumes(root, *folders, values=(0, 1, 2)):
    for folder in folders:
        save(root / folder / "a.nii.gz", np.resize(np.asarray(values, np.float32), (4, 5, 6)))


def matched(root, truth, found):
    volumes(root, "reference", "prediction", "labels", "plabels")
    for folder, table in (("labels", truth), ("plabels", found)):
        (root / folder / "labels.json").unlink(missing_ok=True)
        if table:
            (root / folder / "labels.json").write_text(json.dumps(table))
    roles = ("reference", "prediction", "labels")
    return match_folders({**{role: root / role for role in roles}, "prediction_labels": root / "plabels"})


@pytest.mark.parametrize("found", [{}, {"liver": 1}, {"Liver": 1, "bone": 2, "spleen": 7}, {"1": "liver", "2": "bone"}])
def test_segmentations_of_predictions_may_be_named_alike(tmp_path, found):
    assert matched(tmp_path, {"liver": 1, "bone": 2}, found).names == {1: "liver", 2: "bone"}


@pytest.mark.parametrize("found", [{"bone": 1, "liver": 2}, {"liver": 3}, {"spleen": 2}, {"1": "liver", "2": "spleen"}])
def test_segmentations_with_other_label_values_are_refused(tmp_path, found):
    with refused("labels-tables-differ", names="plabels"):
        matched(tmp_path, {"liver": 1, "bone": 2}, found)


def test_names_of_labels_are_compared_without_separators_and_absent_ones_are_said_to_be_absent(tmp_path):
    table = {"kidney_left": 1, "bone": 2}
    assert matched(tmp_path, table, {"Kidney Left": 1, "bone": 2}).names == {1: "kidney_left", 2: "bone"}
    with refused("labels-tables-differ", names="has Liver as 5; use"):
        matched(tmp_path, {"liver": 5}, {"Liver": 1})


def test_labels_a_rounding_error_off_are_whole(tmp_path):
    volumes(tmp_path, "labels", "prediction", values=(0, 0.99999994, 2.0004))
    read = read_case({"prediction": tmp_path / "prediction/a.nii.gz", "labels": tmp_path / "labels/a.nii.gz"})
    assert np.unique(read["labels"].data).tolist() == [0, 1, 2]
    assert np.unique(read["prediction"].data).tolist() != [0, 1, 2]


@pytest.mark.parametrize(
    "make, code",
    [(lambda p: p.symlink_to("/nowhere/labels.json"), "file-missing"), (os.mkfifo, "file-not-regular")],
)
def test_an_unreadable_label_table_is_refused(tmp_path, make, code):
    make(tmp_path / "labels.json")
    with refused(code, names="labels.json"):
        label_names(tmp_path)


def test_names_match_in_any_encoding_of_accents(tmp_path):
    for folder, form in (("prediction", "NFD"), ("reference", "NFC"), ("source", "NFD")):
        save(tmp_path / folder / f"{normalize(form, 'Müller')}.nii.gz", np.zeros((4, 4, 4), np.int16))
        save(tmp_path / folder / "b.nii.gz", np.zeros((4, 4, 4), np.int16))
    found = match_folders({role: tmp_path / role for role in ("reference", "prediction", "source")})
    assert not found.extra and all(len(files) == 3 for files in found.cases.values()) and len(found.cases) == 2


@pytest.mark.parametrize(
    ("table", "in_header", "differs"),
    [
        ({"liver": 1, "bone": 2}, {1: "bone", 2: "liver"}, True),
        ({"liver": 1, "bone": 2}, {0: "air", 1: "Liver", 2: "bone", 9: "spleen"}, False),
        ({"liver": 1, "bone": 2}, {1: "Segment_1", 2: "Segment_2"}, False),
        (None, {1: "liver", 2: "bone"}, False),
        (None, {1: "bone", 2: "liver"}, True),
    ],
)
def test_names_in_the_header_of_label_maps_agree_with_the_table_or_the_first_header(
    tmp_path, table, in_header, differs
):
    """TotalSegmentator and 3D Slicer write the names into the file."""

    def with_header(folder, names):
        file = tmp_path / folder / "a.nii.gz"
        image = nib.load(file)
        text = "".join(f'<Label Key="{value}"><![CDATA[{name}]]></Label>' for value, name in names.items())
        image = nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine)
        image.header.extensions.append(nib.nifti1.Nifti1Extension(30, text.encode()))
        nib.save(image, file)

    matched(tmp_path, table, None)
    if table is None:
        with_header("labels", {1: "liver", 2: "bone"})
    with_header("plabels", in_header)
    folders = match_folders({role: tmp_path / role for role in ("prediction", "labels")})
    assert folders.names == {1: "liver", 2: "bone"}
    files = {"labels": tmp_path / "labels/a.nii.gz", "prediction_labels": tmp_path / "plabels/a.nii.gz"}
    if differs:
        with refused("labels-tables-differ", names="plabels/a.nii.gz"):
            check_header_names(files, folders.names)
    else:
        check_header_names(files, folders.names)


def test_segmentations_of_3d_slicer_belong_to_the_case_without_their_ending(tmp_path):
    volumes(tmp_path, "prediction", "labels")
    (tmp_path / "labels/a.nii.gz").rename(tmp_path / "labels/a.seg.nii.gz")
    folders = match_folders({role: tmp_path / role for role in ("prediction", "labels")})
    assert folders.cases["a"]["labels"].name == "a.seg.nii.gz"


def test_folders_of_nnunet_are_matched_as_they_are(tmp_path):
    """Its predictions and cross-validation (fold_0/validation) beside its images, with the files that it adds."""
    raw, fold = tmp_path / "nnUNet_raw/Dataset001_X", tmp_path / "nnUNet_results/Dataset001_X/trainer/fold_0/validation"
    image = np.resize(np.asarray([0, 1, 2], np.float32), (4, 5, 6))
    for case in ("x_01", "x_02"):
        save(raw / f"imagesTr/{case}_0000.nii.gz", image)
        save(raw / f"labelsTr/{case}.nii.gz", image)
        save(fold / f"{case}.nii.gz", image)
        for ending in (".npz", ".pkl"):
            (fold / f"{case}{ending}").write_bytes(b"")
    table = json.dumps({"labels": {"background": 0, "aorta": 1, "vein": 2}, "channel_names": {"0": "CT"}})
    (raw / "dataset.json").write_text(table)
    (fold / "summary.json").write_text("{}")
    found = match_folders(
        {
            "reference": raw / "labelsTr",
            "prediction": fold,
            "source": raw / "imagesTr",
            "labels": raw / "labelsTr",
            "prediction_labels": fold,
        }
    )
    assert list(found.cases) == ["x_01", "x_02"] and found.names == {1: "aorta", 2: "vein"} and not found.extra
    assert found.cases["x_02"]["source"].name == "x_02_0000.nii.gz"
    save(raw / "imagesTr/x_01.nii.gz", image)
    with refused("folder-case-twice", names="x_01_0000"):
        match_folders({"reference": raw / "labelsTr", "source": raw / "imagesTr"})


def test_a_reference_of_nnunet_images_and_several_channels(tmp_path):
    for folder, names in (("ref", ("a_0000", "b_0000")), ("pred", ("a", "b")), ("src", ("a_0000", "a_0001"))):
        (tmp_path / folder).mkdir()
        for name in names:
            nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.float32), np.eye(4)), tmp_path / folder / f"{name}.nii.gz")
    given = {"reference": tmp_path / "ref", "prediction": tmp_path / "pred", "source": None}
    assert {case: sorted(files) for case, files in match_folders(given).cases.items()} == {
        "a": ["prediction", "reference"], "b": ["prediction", "reference"]
    }  # fmt: skip
    given["prediction"] = tmp_path / "ref"
    assert set(match_folders(given).cases) == {"a", "b"}
    with refused("folder-channels", names="a_0001"):
        match_folders(given | {"source": tmp_path / "src"})


def test_folders_of_subjects_are_refused_for_the_true_reason(tmp_path):
    file = tmp_path / "bids/sub-01/anat/sub-01_T2w.nii.gz"
    file.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), file)
    with refused("folder-subjects", names=("bids", "BIDS")):
        match_folders({"reference": tmp_path / "bids", "prediction": file})


def test_volumes_in_a_folder_of_each_case_are_refused_for_the_true_reason(tmp_path):
    file = tmp_path / "predictions/case1/case1.nii.gz"
    file.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), file)
    with refused("folder-nested", names=("predictions", "case1")):
        match_folders({"reference": file, "prediction": tmp_path / "predictions"})
