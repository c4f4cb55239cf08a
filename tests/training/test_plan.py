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
from medgen.training.plan import look, plan
from medgen.training.plan_size import PATCH_VOXELS, SIDE, Machine, levels_for, patch_for, size_for, training_gb


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


UNET = {"filters": 32}


def test_a_gpu_gets_the_largest_patch_and_batch_that_fit_and_a_small_one_less(tmp_path):
    large, small, tiny = (size_for((240, 240, 150), 100, Machine(True, gb), UNET, 1, 1) for gb in (48.0, 8.0, 0.5))
    assert np.prod(large.patch) > 100**3 and large.batch >= 2
    assert np.prod(tiny.patch) < np.prod(small.patch) <= np.prod(large.patch)
    for size, gb in ((large, 48.0), (small, 8.0), (tiny, 0.5)):
        assert size.memory_gb <= 0.8 * gb and size.levels == levels_for(size.patch) and size.coarsest >= 2
    cpu = size_for((240, 240, 150), 100, Machine(False, 24.0), UNET, 1, 1)
    assert np.prod(cpu.patch) <= PATCH_VOXELS and cpu.batch == 2
    few = size_for((40, 40, 40), 4, Machine(True, 48.0), UNET, 1, 1)
    assert few.patch == [48, 48, 48] and few.batch == 2 and "small cohort" in few.about_batch


def test_depth_follows_the_smallest_side():
    assert [levels_for(patch) for patch in ([64, 64, 64], [64, 64, 32], [128, 96, 16])] == [4, 4, 3]


def test_where_nothing_fits_the_network_is_narrower():
    weights, one = training_gb((16, 16, 16), 3, 32)
    size = size_for((16, 16, 16), 9, Machine(True, (weights + one) / 0.8 * 0.9), UNET, 1, 1)
    assert size.filters == 16 and "fit the memory" in size.about_filters and size.memory_gb <= (weights + one) * 0.9


def test_memory_grows_with_patch_width_and_channels():
    weights, one = training_gb((32, 32, 32), 4, 16)
    more_weights, more = training_gb((32, 32, 32), 4, 32)
    assert more_weights > 3 * weights and 1.5 * one < more < 2.5 * one
    assert training_gb((64, 32, 32), 4, 16)[1] == pytest.approx(2 * one, rel=0.05)
    # the first layer keeps its input of 8 channels per source, 4 bytes each, at half resolution
    first = 8 * 16**3 * 4
    assert training_gb((32, 32, 32), 4, 16, sources=3)[1] - one > 2 * first / 2**30


def test_pairs_of_ct_with_and_without_contrast_medium_use_the_shipped_model(tmp_path):
    for seed in range(2):
        patient = make_patient(seed, size=(100, 76, 24), spacing=(3.5, 3.5, 5.0))
        save(tmp_path / f"source/p{seed}.nii.gz", patient.contrast, (3.5, 3.5, 5.0))
        save(tmp_path / f"target/p{seed}.nii.gz", patient.noncontrast, (3.5, 3.5, 5.0))
    facts = look(tmp_path)
    assert facts.hu == (True, True) and facts.removal and facts.one_grid and not any(facts.masked) and not facts.apart
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
        save(tmp_path / f"case{i}/t2.nii.gz", np.where(brain(i, masked) == 0, 0, 900 - brain(i, masked)))
    facts = look(tmp_path, ("t1",), ("t2",))
    text = plan(facts, hours=0.5)
    values = yaml.safe_load(text)
    assert values["method"]["name"] == "regression" and values["method"]["keep_background"] == masked
    assert ("background" in values["intensity"]["source"]) == masked and values["train"]["minutes"] == 30
    assert values["sampling"]["patch"] == [32, 48, 32] and values["data"]["spacing"] is None
    assert values["method"]["generator"]["levels"] == 4 and values["data"]["folds"] is None
    assert "# levels: 16 voxels become 1" in text and "filters: as in the config" in text
    assert "# pairs lie on one grid" in text and values["data"]["align"] == "refuse"


def test_targets_that_are_masked_alone_count_less_where_they_are(tmp_path):
    """ADC maps are 0 below a noise threshold, also in tissue."""
    for i in range(2):
        save(tmp_path / f"case{i}/t2w.nii.gz", brain(i, False))
        save(tmp_path / f"case{i}/adc.nii.gz", brain(i))
    values = yaml.safe_load(plan(look(tmp_path, ("t2w",), ("adc",))))
    assert values["method"]["weight_background"] == 0.2 and not values["method"]["keep_background"]
    assert values["intensity"]["target"]["background"] == 0 and "background" not in values["intensity"]["source"]


def test_folds_are_written_and_share_the_time(tmp_path):
    for i in range(4):
        save(tmp_path / f"source/p{i}.nii.gz", brain(i))
        save(tmp_path / f"target/p{i}.nii.gz", brain(i) * 0.5)
    facts = look(tmp_path)
    text = plan(facts, hours=2, folds=4)
    values = yaml.safe_load(text)
    assert values["data"]["folds"] == 4 and values["train"]["minutes"] == 30 and "# 4 models, each patient" in text
    with refused("folds-too-many", names="4 patients"):
        plan(facts, folds=5)
    for i in range(4):
        (tmp_path / f"target/p{i}.nii.gz").rename(tmp_path / f"target/q{i}.nii.gz")
    with refused("plan-folds-unpaired"):
        plan(look(tmp_path), folds=2)


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


def test_images_without_the_offset_of_hu_among_others_are_named(tmp_path):
    for k, offset in enumerate((0, 1024, 0)):
        body = np.full((24, 24, 20), -1000.0)
        body[4:20, 4:20] = 40 + np.arange(20)
        for side in ("source", "target"):
            save(tmp_path / side / f"p{k}.nii.gz", body + (offset if side == "source" else 0))
    said = " ".join(look(tmp_path, ("source",), ("target",)).warnings)
    assert "of 3 source images that were read, those of p1 have no air in HU" in said and "target images" not in said


def test_masked_mr_to_ct_and_a_second_source_without_mask(tmp_path):
    for i in range(3):
        save(tmp_path / f"a/source/p{i}.nii.gz", brain(i))
        save(tmp_path / f"a/target/p{i}.nii.gz", np.where(brain(i) > 0, 40 + brain(i), -1024))
        for name, masked in (("t1", True), ("flair", False), ("t2", True)):
            save(tmp_path / f"b/p{i}/{name}.nii.gz", brain(i, masked))
    facts = look(tmp_path / "a")
    assert facts.hu == (False, True) and facts.masked == (True, False)
    for sources in (("t1", "flair"), ("flair", "t1")):
        assert look(tmp_path / "b", sources, ("t2",)).masked == (False, True)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_mask_on_one_side_is_encoded_on_that_side_alone(tmp_path, side):
    for i in range(3):
        save(tmp_path / f"source/p{i}.nii.gz", brain(i, side == "source"))
        save(tmp_path / f"target/p{i}.nii.gz", brain(i + 5, side == "target"))
    facts = look(tmp_path)
    assert facts.masked == (side == "source", side == "target")
    assert f"{side}s: no HU, masked background" in " ".join(facts.lines())
    values = yaml.safe_load(plan(facts))
    assert [name for name, codec in values["intensity"].items() if "background" in codec] == [side]
    assert not values["method"]["keep_background"]


def test_an_exchanged_pair_among_pairs_with_contrast_medium_is_named_on_the_console(tmp_path):
    for seed in range(3):
        patient = make_patient(seed, size=(100, 76, 24), spacing=(3.5, 3.5, 5.0))
        sides = ("source", "target") if seed != 1 else ("target", "source")
        for side, image in zip(sides, (patient.contrast, patient.noncontrast), strict=True):
            save(tmp_path / f"cohort/{side}/p{seed}.nii.gz", image, (3.5, 3.5, 5.0))
    result = CliRunner().invoke(app, ["plan", str(tmp_path / "cohort"), "--out", str(tmp_path / "plan.yaml")])
    assert "warning: of 3 pairs that were read, p1 show no contrast medium" in result.output
    assert "may be exchanged" in (tmp_path / "plan.yaml").read_text()
