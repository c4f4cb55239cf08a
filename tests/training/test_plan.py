"""A plan follows from what the cohort holds, and trains as it is."""

import json

import nibabel as nib
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from refusal import refused
from typer.testing import CliRunner

from medgen.cli import app
from medgen.config import load_settings
from medgen.phantom.cohort import make_patient
from medgen.training.plan import PATCH_VOXELS, SIDE, look, patch_for, plan


def save(path, data, mm=(2.0, 2.0, 2.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(data, np.float32), np.diag([*mm, 1.0])), path)


def brain(seed, masked=True, shape=(30, 34, 24)):
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = sum(g**2 for g in grids) < 0.7
    data = np.where(inside, 500 + 90 * np.sin(5 * grids[0]) + rng.normal(0, 20, shape), 0)
    return data if masked else data + np.abs(rng.normal(0, 9, shape))


@given(st.lists(st.integers(1, 700), min_size=3, max_size=3))
def test_patches_are_bounded_and_hold_small_volumes(voxels):
    sides = patch_for(voxels)
    assert all(side % SIDE == 0 and side >= SIDE for side in sides) and np.prod(sides) <= PATCH_VOXELS
    if np.prod(np.ceil(np.divide(voxels, SIDE)) * SIDE) <= PATCH_VOXELS:
        assert all(side >= n for side, n in zip(sides, voxels, strict=True))


def test_pairs_of_ct_with_and_without_contrast_medium_use_the_shipped_model(tmp_path):
    for seed in range(2):
        patient = make_patient(seed, size=(100, 76, 24), spacing=(3.5, 3.5, 5.0))
        save(tmp_path / f"source/p{seed}.nii.gz", patient.contrast, (3.5, 3.5, 5.0))
        save(tmp_path / f"target/p{seed}.nii.gz", patient.noncontrast, (3.5, 3.5, 5.0))
    facts = look(tmp_path)
    assert facts.hu == (True, True) and facts.removal and facts.one_grid and not facts.masked and not facts.apart
    values = yaml.safe_load(plan(facts))
    assert values["train"]["start_from"] == "ct-noncontrast" and values["data"]["removes_contrast"]
    assert values["data"]["spacing"] == [1.5, 1.5, 1.5] and values["intensity"]["source"]["kind"] == "window"
    facts = look(tmp_path, ("target",), ("source",))  # the other way round is another task
    assert not facts.removal and "start_from" not in yaml.safe_load(plan(facts))["train"]


def test_pairs_whose_alignment_cannot_be_measured_are_named(tmp_path, monkeypatch):
    for i in range(2):
        save(tmp_path / f"case{i}/t1.nii.gz", brain(i))
        save(tmp_path / f"case{i}/t2.nii.gz", brain(i))
    monkeypatch.setattr("medgen.training.plan.misalignment", lambda source, target: None)
    facts = look(tmp_path, ("t1",), ("t2",))
    assert facts.unmeasured == ("case0", "case1")
    assert any("could not be measured: case0, case1" in line for line in facts.lines())


@pytest.mark.parametrize("masked", [True, False])
def test_mr_pairs(tmp_path, masked):
    for i in range(6):
        save(tmp_path / f"case{i}/t1.nii.gz", brain(i, masked))
        save(tmp_path / f"case{i}/t2.nii.gz", 900 - brain(i, masked) * (brain(i) > 0))
    facts = look(tmp_path, ("t1",), ("t2",))
    text = plan(facts, hours=0.5)
    values = yaml.safe_load(text)
    assert values["method"]["name"] == "regression" and values["method"]["keep_background"] == masked
    assert ("background" in values["intensity"]["source"]) == masked and values["train"]["minutes"] == 30
    assert values["sampling"]["patch"] == [32, 48, 32] and values["data"]["spacing"] is None
    assert "# pairs lie on one grid" in text and values["data"]["align"] == "refuse"


def test_other_grids_are_resampled_and_a_patient_of_few_is_held_out(tmp_path):
    for i in range(3):
        save(tmp_path / f"t1/p{i}.nii.gz", brain(i, shape=(30, 34, 12)), (2.0, 2.0, 4.0))
        save(tmp_path / f"t2/p{i}.nii.gz", brain(i))
    values = yaml.safe_load(plan(look(tmp_path, ("t1",), ("t2",))))
    assert values["data"]["align"] == "resample" and values["data"]["spacing"] == "median"
    assert 1 / 3 < values["data"]["validation"] < 0.4


def test_unpaired_images_are_planned_for_cut_and_one_side_is_refused(tmp_path):
    for i in range(3):
        save(tmp_path / f"t1/a{i}.nii.gz", brain(i))
    with refused("plan-one-side", names="only sources (t1)"):
        look(tmp_path, ("t1",), ("t2",))
    for i in range(3):
        save(tmp_path / f"t2/b{i}.nii.gz", brain(i + 9))
    facts = look(tmp_path, ("t1",), ("t2",))
    values = yaml.safe_load(plan(facts))
    assert not facts.paired and values["method"]["name"] == "cut" and values["data"]["paired"] is False


def test_a_plan_is_written_once_and_trains_as_train_auto_does(tmp_path):
    for i in range(4):
        save(tmp_path / f"c/source/p{i}.nii.gz", brain(i))
        save(tmp_path / f"c/target/p{i}.nii.gz", brain(i) * 0.5)
    runner = CliRunner()
    arguments = ["plan", str(tmp_path / "c"), "--out", str(tmp_path / "plan.yaml"), "--hours", "1"]
    assert runner.invoke(app, arguments).exit_code == 0
    assert load_settings(tmp_path / "plan.yaml").train.minutes == 60
    assert "already exists" in str(runner.invoke(app, arguments).exception)
    small = ["train.steps=2", "method.generator.filters=4", "train.validate_every=2", "sampling.batch=1"]
    result = runner.invoke(
        app, ["train", "auto", f"data.root={tmp_path / 'c'}", *small, "--out", str(tmp_path / "run")]
    )
    assert result.exit_code == 0, result.output
    assert "4 cases of 4 patients" in result.output and "  keep_background: true  # masked images\n" in result.output
    assert json.loads((tmp_path / "run/best/model.json").read_text())
    with refused("plan-without-root"):
        raise runner.invoke(app, ["train", "auto", "--out", str(tmp_path / "x")]).exception
