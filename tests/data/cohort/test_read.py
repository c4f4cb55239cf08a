"""Cohorts on disk in three layouts, splits by patient, grids of pairs; every mistake is refused with one line."""

import json

import numpy as np
import pytest
from labelled import with_header
from refusal import refused

from medgen.data.cohort.read import check_pairs, read_cohort
from medgen.io.volume import Volume
from medgen.io.write import write_volume
from medgen.types import Case


def put(path, shape=(3, 4, 5), spacing=1.0, values=None):
    data = np.zeros(shape) if values is None else np.resize(values, shape)
    write_volume(path, Volume(data, np.diag([spacing, 1, 1, 1.0]), np.dtype(np.int16)))
    return path


def refused_reading(root, code, names=(), **how):
    with refused(code, names=names) as info:
        read_cohort(root, **how)
    assert "\n" not in str(info.value)


# Folder convention ---------------------------------------------------------------------------------------


def test_folders_of_mixed_formats_and_incomplete_cases(tmp_path):
    put(tmp_path / "source/b.nii.gz"), put(tmp_path / "target/b.mha"), put(tmp_path / "labels/b.nrrd")
    put(tmp_path / "source/a.nii"), put(tmp_path / "target/c.nii.gz")
    (tmp_path / "labels.json").write_text('{"liver": 3, "background": 0, "aorta": 1}')
    cohort = read_cohort(tmp_path)
    assert cohort.cases == [
        Case("a", "a", source=(tmp_path / "source/a.nii",)),
        Case("b", "b", (tmp_path / "source/b.nii.gz",), (tmp_path / "target/b.mha",), tmp_path / "labels/b.nrrd"),
        Case("c", "c", target=(tmp_path / "target/c.nii.gz",)),
    ]
    assert cohort.label_values == {"liver": 3, "aorta": 1} and cohort.root == tmp_path


def test_labels_without_names_are_numbered_as_found(tmp_path):
    put(tmp_path / "source/a.nii"), put(tmp_path / "labels/a.nii", values=[0, 2, 7])
    put(tmp_path / "source/b.nii"), put(tmp_path / "labels/b.nii", values=[0, 1])
    assert read_cohort(tmp_path).label_values == {"label_1": 1, "label_2": 2, "label_7": 7}
    put(tmp_path / "labels/b.nii", values=[-1])
    refused_reading(tmp_path, "labels-values-invalid", "b.nii")


def test_tables_in_the_headers_of_label_maps_name_the_values(tmp_path):
    for case in "ab":
        put(tmp_path / f"source/{case}.nii"), put(tmp_path / f"labels/{case}.nii", values=[0, 1, 2])
    with_header(tmp_path / "labels/a.nii", {1: "liver", 2: "kidney_left", 9: "aorta"})
    assert read_cohort(tmp_path).label_values == {"liver": 1, "kidney_left": 2}
    with_header(tmp_path / "labels/b.nii", {1: "Liver", 2: "Left kidney"})
    assert read_cohort(tmp_path).label_values == {"liver": 1, "kidney_left": 2}
    (tmp_path / "labels.json").write_text('{"kidney_left": 1, "liver": 2}')
    refused_reading(tmp_path, "labels-tables-differ", "a.nii")
    (tmp_path / "labels.json").unlink()
    put(tmp_path / "labels/b.nii", values=[0, 1, 2])
    with_header(tmp_path / "labels/b.nii", {1: "kidney_left", 2: "liver"})
    refused_reading(tmp_path, "labels-tables-differ", "b.nii")


def test_segmentations_of_3d_slicer_have_the_case_name_without_their_ending(tmp_path):
    put(tmp_path / "source/p1.nii"), put(tmp_path / "labels/p1.seg.nrrd", values=[0, 1])
    assert read_cohort(tmp_path).cases[0].labels == tmp_path / "labels/p1.seg.nrrd"


def test_patients_from_a_pattern(tmp_path):
    for name in ("p01_day1", "p01_day2", "p02_day1"):
        put(tmp_path / f"source/{name}.nii")
    assert [c.patient for c in read_cohort(tmp_path, patient_pattern=r"^(p\d+)_").cases] == [
        "p01",
        "p01",
        "p02",
    ]
    assert [c.patient for c in read_cohort(tmp_path, patient_pattern=r"p\d+").cases] == ["p01", "p01", "p02"]
    refused_reading(tmp_path, "config-patient-pattern-unmatched", "p01_day1", patient_pattern="x(.)")
    refused_reading(tmp_path, "config-patient-pattern-invalid", patient_pattern="(")


def test_mistakes_in_folders(tmp_path):
    refused_reading(tmp_path / "absent", "file-missing", "absent")
    refused_reading(tmp_path, "cohort-layout-unknown")
    (tmp_path / "source").mkdir()
    refused_reading(tmp_path, "folder-no-volumes")
    put(tmp_path / "source/a.nii.gz")
    put(tmp_path / "labels/z.nii.gz")
    refused_reading(tmp_path, "labels-without-image", ("z.nii.gz", "case z"))
    (tmp_path / "labels/z.nii.gz").unlink()
    put(tmp_path / "source/a.mha")
    refused_reading(tmp_path, "folder-case-twice", ("a.mha", "a.nii.gz"))
    (tmp_path / "note.txt").write_text("x")
    refused_reading(tmp_path / "note.txt", "cohort-root-invalid", "note.txt")


@pytest.mark.parametrize(
    "content, code, names",
    [
        ("{", "json-unreadable", "labels.json"),
        ("[1]", "json-wrong-type", "labels.json"),
        ('{"liver": "3"}', "labels-table-value", ("liver", "'3'")),
        ('{"liver": 1.5}', "labels-table-value", ("liver", "1.5")),
        ('{"liver": true}', "labels-table-value", ("liver", "True")),
        ('{"liver": -1}', "labels-table-value", ("liver", "-1")),
        ('{"liver": 2, "aorta": 2}', "labels-table-value-twice", "2"),
    ],
)
def test_ill_typed_label_names(tmp_path, content, code, names):
    put(tmp_path / "source/a.nii")
    (tmp_path / "labels.json").write_text(content)
    refused_reading(tmp_path, code, names)


# Datalists -----------------------------------------------------------------------------------------------


def test_a_datalist_of_pairs(tmp_path):
    for name in ("p1/ct.nii", "p1/nc.nii", "p1/seg.nii", "p2/ct.nii", "p2/nc.nii", "elsewhere/x.mha"):
        put(tmp_path / "data" / name)
    entries = [
        {"source": "data/p1/ct.nii", "target": "data/p1/nc.nii", "label": "data/p1/seg.nii", "patient": 7},
        {"source": "data/p2/ct.nii", "target": "data/p2/nc.nii"},
        {"target": str(tmp_path / "data/elsewhere/x.mha"), "name": "other"},
    ]
    for content in (entries, {"training": entries[:2], "validation": entries[2:], "labels": {"liver": 1}}):
        (tmp_path / "list.json").write_text(json.dumps(content))
        cases = read_cohort(tmp_path / "list.json").cases
        assert [(c.name, c.patient) for c in cases] == [
            ("other", "other"),
            ("p1_ct", "7"),
            ("p2_ct", "p2"),
        ]
        assert cases[0].source == () and cases[0].target[0].samefile(tmp_path / "data/elsewhere/x.mha")
        assert cases[1].labels.samefile(tmp_path / "data/p1/seg.nii")
    assert read_cohort(tmp_path / "list.json").label_values == {"liver": 1}


def test_decathlon(tmp_path):
    for name in (
        "imagesTr/a.nii.gz",
        "labelsTr/a.nii.gz",
        "imagesTr/b.nii.gz",
        "labelsTr/b.nii.gz",
        "imagesTs/t.nii.gz",
    ):
        put(tmp_path / name)
    content = {
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in "ab"],
        "test": ["./imagesTs/t.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    cohort = read_cohort(tmp_path)  # the folder finds its dataset.json
    assert [(c.name, c.target, c.part) for c in cohort.cases] == [
        ("a", (), "train"),
        ("b", (), "train"),
        ("t", (), "test"),
    ]
    assert cohort.cases[1].source[0].samefile(tmp_path / "imagesTr/b.nii.gz")
    assert cohort.label_values == {"Anterior": 1, "Posterior": 2}
    content["training"] = [{"image": ["imagesTr/a.nii.gz", "imagesTr/b.nii.gz"]}]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    case = read_cohort(tmp_path, source_channels=(1,), target_channels=(0,)).cases[0]
    assert (case.source[0].name, case.target[0].name) == ("b.nii.gz", "a.nii.gz")


@pytest.mark.parametrize(
    "content, code, names",
    [
        ({"training": [{"source": "gone.nii"}]}, "datalist-file-missing", "gone.nii"),
        ({"training": [{"source": "."}]}, "datalist-file-missing", "lists .,"),
        ({"training": [{"source": 3}]}, "datalist-path-not-text", "3"),
        ({"training": [{"label": "a.nii"}]}, "datalist-image-missing", "a.nii"),
        ({"training": [["a.nii"]]}, "datalist-not-entries", "training"),
        ({"training": []}, "folder-no-volumes", "list.json"),
        ([{"source": "a.nii"}, {"target": "a.nii"}], "datalist-case-twice", "case a"),
        ([{"source": "a.nii", "name": "../a"}], "case-name-invalid", "../a"),
        (3, "json-wrong-type", "list.json"),
    ],
)
def test_mistakes_in_datalists(tmp_path, content, code, names):
    put(tmp_path / "a.nii")
    (tmp_path / "list.json").write_text(json.dumps(content))
    refused_reading(tmp_path / "list.json", code, names)


# nnU-Net raw ---------------------------------------------------------------------------------------------


def nnunet(root):
    for case, channels in (("liver_1", (0, 1, 2)), ("liver_2", (0, 1, 2)), ("liver_3", (1,))):
        for channel in channels:
            put(root / f"imagesTr/{case}_{channel:04}.nii.gz")
    put(root / "labelsTr/liver_1.nii.gz")
    labels = {"background": 0, "liver": 1, "tumour": 2, "whole": [1, 2], "ignore": 3}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 3, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))


def test_nnunet_channels_are_selected(tmp_path):
    nnunet(tmp_path)
    cohort = read_cohort(tmp_path)
    assert cohort.label_values == {"liver": 1, "tumour": 2}
    assert [(c.name, c.patient, bool(c.source), bool(c.target), bool(c.labels)) for c in cohort.cases] == [
        ("liver_1", "liver_1", True, True, True),
        ("liver_2", "liver_2", True, True, False),
        ("liver_3", "liver_3", False, True, False),
    ]
    case = read_cohort(tmp_path, source_channels=(2,), target_channels=(0,)).cases[0]
    assert (case.source[0].name, case.target[0].name) == ("liver_1_0002.nii.gz", "liver_1_0000.nii.gz")
    refused_reading(tmp_path, "cohort-channel-missing", "[0, 1, 2]", source_channels=(5,), target_channels=(6,))


def test_mistakes_in_nnunet(tmp_path):
    nnunet(tmp_path)
    put(tmp_path / "labelsTr/liver_9.nii.gz")
    refused_reading(tmp_path, "labels-without-image", "liver_9.nii.gz")
    (tmp_path / "labelsTr/liver_9.nii.gz").unlink()
    put(tmp_path / "imagesTr/liver_1_0000.nrrd")
    refused_reading(tmp_path, "folder-case-twice", ("liver_1_0000.nii.gz", "liver_1_0000.nrrd"))
    (tmp_path / "imagesTr/liver_1_0000.nrrd").rename(tmp_path / "imagesTr/liver_1.nrrd")
    assert "liver_1.nrrd has no channel number" in read_cohort(tmp_path).warnings[0]


# Several contrasts ---------------------------------------------------------------------------------------


TWO = {"sources": ("t1", "flair"), "targets": ("t2",)}


def test_a_side_needs_all_its_contrasts(tmp_path):
    for case, contrasts in (("a", "t1 flair t2"), ("b", "t1 t2"), ("c", "flair"), ("d", "t1 flair")):
        for contrast in contrasts.split():
            put(tmp_path / contrast / f"{case}.nii.gz")
    cohort = read_cohort(tmp_path, **TWO)
    assert [(c.name, len(c.source), len(c.target)) for c in cohort.cases] == [("a", 2, 1), ("b", 0, 1), ("d", 2, 0)]
    assert [path.parent.name for path in cohort.cases[0].source] == ["t1", "flair"]
    assert cohort.missing == {"b": ["flair"], "c": ["t1"]}
    refused_reading(tmp_path, "cohort-contrast-missing", "a lacks t3", sources=("t1", "t3"), targets=("t4", "t3"))


def test_contrasts_of_a_datalist_and_of_nnunet(tmp_path):
    for name in ("a_t1.nii", "a_flair.nii", "a_t2.nii", "b_t1.nii"):
        put(tmp_path / name)
    entries = [
        {"name": "a", "source": ["a_t1.nii", "a_flair.nii"], "target": "a_t2.nii"},
        {"name": "b", "image": ["b_t1.nii", None, "a_t2.nii"]},
    ]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    channels = {"source_channels": (0, 1), "target_channels": (2,)}
    cohort = read_cohort(tmp_path / "list.json", **TWO, **channels)
    assert [[p.name for p in case.source] for case in cohort.cases] == [["a_t1.nii", "a_flair.nii"], []]
    assert cohort.missing == {"b": ["flair"]}
    refused_reading(tmp_path / "list.json", "config-channel-numbers-needed", "data.source_channels", **TWO)
    (tmp_path / "list.json").write_text(json.dumps([{"source": "a_t1.nii"}]))
    refused_reading(tmp_path / "list.json", "datalist-image-count-differs", "data.sources", **TWO)
    nnunet(tmp_path / "raw")
    cohort = read_cohort(tmp_path / "raw", **TWO, **channels)
    assert [p.name for p in cohort.cases[0].source] == ["liver_1_0000.nii.gz", "liver_1_0001.nii.gz"]
    assert cohort.missing == {"liver_3": ["t1"]}
    refused_reading(tmp_path / "raw", "config-channel-numbers-needed", "data.source_channels", **TWO)


# Grids ---------------------------------------------------------------------------------------------------


def test_pairs_on_different_grids_are_refused_with_both_grids(tmp_path):
    same = Case("a", "a", (put(tmp_path / "s.nii"),), (put(tmp_path / "t.mha"),), put(tmp_path / "l.nrrd"))
    alone = Case("b", "b", source=same.source)
    check_pairs([same, alone])
    for other, numbers in (
        (put(tmp_path / "spacing.nii", spacing=1.5), "1.5 x 1 x 1 mm"),
        (put(tmp_path / "shape.nii", shape=(3, 4, 6)), "3 x 4 x 6 voxels"),
    ):
        for case in (
            Case("c", "c", (other,), same.target),
            Case("c", "c", same.source, (), other),
            Case("c", "c", (*same.source, other)),
        ):
            with refused("pair-grid-differs") as info:
                check_pairs([same, case])
            for part in ("case c", str(other), numbers, "3 x 4 x 5 voxels of 1 x 1 x 1 mm", "data.align"):
                assert part in str(info.value)
