"""Lesion painters as augmenters of a dataset: donors, labels and the resulting folds."""

import json
from dataclasses import replace

import numpy as np
import pytest
from lesion_cases import KINDS, NAMES, case
from refusal import refused
from small import make_model, small_settings

from medgen.augmentation.augment import augment
from medgen.augmentation.augmenter import augmenter_for
from medgen.augmentation.dataset.read import read_case
from medgen.augmentation.read import read_dataset
from medgen.checkpoint import save_model
from medgen.io.atomic import atomic_folder
from medgen.io.write import write_volume

CASES = ("p0_a", "p0_b", "p1_a", "p2_a")  # of three patients


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("given")
    for part, names in (("Tr", CASES), ("Ts", ("p3_a",))):
        for seed, name in enumerate(names):
            image, label = case(seed)
            write_volume(root / f"images{part}" / f"{name}_0000.nii.gz", image)
            write_volume(root / f"labels{part}" / f"{name}.nii.gz", label)
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0, **NAMES}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(about))
    return read_dataset(root, patient_pattern=r"^(p\d)_")


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    window = {"kind": "window", "low": -150, "high": 250}
    structures = {"organ": ["organ"], "dark": ["dark"], "other": ["elsewhere"]}
    settings = small_settings(
        data={"sources": ["source"], "targets": ["source"], "labels": True, "class_groups": structures},
        intensity={"source": window, "target": window},
        method={
            "name": "lesion_gan", "generator": {"filters": 4, "levels": 2, "norm": "none"},
            "adversary": {"filters": 4, "layers": 1},
        },
    )  # fmt: skip
    folder, model = tmp_path_factory.mktemp("run") / "best", make_model(settings, spacing=(2.0, 2.5, 2.0))
    with atomic_folder(folder) as staging:
        save_model(staging, model.generator, model.info)
    return folder


def test_a_case_is_not_trained_on_where_its_donor_is_validated(dataset, tmp_path):
    augmenter = augmenter_for("cutpaste", dataset, host="organ", lesions=KINDS)
    results, (folds,) = augment(dataset, augmenter, tmp_path / "out")
    assert [r.error for r in results] == [None] * 9
    records = json.loads((tmp_path / "out/provenance.json").read_text())["synthetic"]
    donors = {}
    for name, record in records.items():
        donors[name] = {record["patient"]}.union(*(step["patients"] for step in record["operations"]))
        assert donors[name] <= {"p0", "p1", "p2"} and record["source"] in CASES
        for step in record["operations"]:
            assert step["donor"] == "another patient" and record["patient"] not in step["patients"]
    assert any(len(patients) > 1 for patients in donors.values())
    splits = json.loads(folds.read_text())
    assert len(splits) == 3
    for fold in splits:
        held = {name[:2] for name in fold["val"]}
        assert not any("__syn" in name for name in fold["val"])
        assert {name for name in records if name in fold["train"]} == {n for n in records if not donors[n] & held}
    made = read_dataset(tmp_path / "out")
    (old, label), (new, drawn) = (read_case(made, c) for c in made.cases if c.name in ("p0_a", "p0_a__syn000"))
    added = drawn.data != label.data
    assert added.any() and set(np.unique(label.data[added])) == {NAMES["organ"]}
    assert set(np.unique(drawn.data[added])) <= {NAMES[kind] for kind in KINDS}
    assert (new[0].data != old[0].data)[added].any()
    assert {r.status for r in augment(dataset, augmenter, tmp_path / "out")[0]} == {"skipped"}


def test_recipes_use_no_other_patients_image(dataset):
    augmenter = augmenter_for("procedural", dataset, host="organ", lesions=["dark"])
    images, label = read_case(dataset, dataset.cases[0])
    _, _, operations = augmenter.ways[0](images, label, dataset.labels, np.random.default_rng(0))
    assert augmenter.random and all(step["patients"] == [] and step["kind"] == "dark" for step in operations)


def test_a_model_knows_its_host_and_its_lesions(dataset, gan):
    augmenter = augmenter_for(str(gan), dataset)
    assert augmenter.model["lesions"] == ["dark"] and augmenter.model["host"] == "organ"
    assert len(augmenter.model["sha256"]) == 64 and augmenter.channels == 1
    images, label = read_case(dataset, dataset.cases[0])
    made, _, operations = augmenter.ways[0](images, label, dataset.labels, np.random.default_rng(0))
    assert len(made) == 1 and all(set(step["patients"]) <= {"p0", "p1", "p2"} for step in operations)
    with refused("model-lesion-unknown", names=("bright", "dark")):
        augmenter_for(str(gan), dataset, lesions=["bright"])


def test_other_lesions_are_another_augmenter(dataset):
    same, other = (augmenter_for("cutpaste", dataset, host="organ", lesions=kinds) for kinds in (KINDS, ["dark"]))
    assert same.identity == augmenter_for("cutpaste", dataset, host="organ", lesions=KINDS).identity
    assert same.identity["library"] != other.identity["library"]


@pytest.mark.parametrize(
    ("options", "code", "names"),
    [
        ({}, "option-lesion-missing", ("body, organ, dark, bright", "--lesion")),
        ({"lesions": ["cyst"]}, "labels-name-unknown", "cyst"),
        ({"lesions": ["dark"], "host": "liver"}, "labels-name-unknown", "liver"),
        ({"lesions": ["dark"], "host": "bright"}, "lesions-none-found", ("dark", "bright")),
    ],
)
def test_absent_labels_are_refused(dataset, options, code, names):
    with refused(code, names=names):
        augmenter_for("cutpaste", dataset, **options)


def test_names_of_labels_are_matched_whatever_their_case(dataset, gan):
    same = augmenter_for("cutpaste", dataset, host="organ", lesions=["dark"])
    assert augmenter_for("cutpaste", dataset, host="ORGAN", lesions=["Dark"]).identity == same.identity
    renamed = replace(dataset, labels={name.upper(): value for name, value in dataset.labels.items()})
    augmenter = augmenter_for(str(gan), renamed)
    assert augmenter.model["lesions"] == ["DARK"] and augmenter.model["host"] == "ORGAN"
    images, label = read_case(renamed, renamed.cases[0])
    made, _, operations = augmenter.ways[0](images, label, renamed.labels, np.random.default_rng(0))
    assert len(made) == 1 and {step["kind"] for step in operations} <= {"DARK"}


def test_cases_that_cannot_be_read_are_the_reason_and_not_lesions(dataset):
    faulty = replace(dataset, cases=tuple(replace(case, fault="F is not there") for case in dataset.cases))
    with refused("dataset-no-training-case", names="F "):
        augmenter_for("cutpaste", faulty, host="organ", lesions=["dark"])
