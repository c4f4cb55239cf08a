"""Cross-validation: each patient is translated by a model that has not seen it, and the models form an ensemble."""

import csv
import json
import shutil
from dataclasses import replace
from functools import partial

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from refusal import refused
from typer.testing import CliRunner

from medgen.checkpoint import load_model, read_info
from medgen.cli import app
from medgen.commands.folds import _own_split, check_settings
from medgen.config import config_file, load_settings
from medgen.data.cohort.read import read_cohort
from medgen.data.cohort.split import fold_splits, split_cases
from medgen.inference import predict
from medgen.inference.predict import translate_volume
from medgen.inference.uncertainty import source_of_samples, translate_samples
from medgen.io.read import read_volume
from medgen.io.volume import Volume
from medgen.types import Case

SMALL = [
    "train.steps=2",
    "train.validate_every=2",
    "method.generator.filters=4",
    "method.generator.levels=2",
    "sampling.batch=1",
    "sampling.patch=[16, 16, 16]",
    "sampling.workers=0",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three patients in folders of their own, one with two scans, in two folds."""
    root, rng = tmp_path_factory.mktemp("folds"), np.random.default_rng(0)
    for case in ("p0", "p[1]", "p2"):
        grid = np.indices((20, 18, 16)).sum(0) % 7
        data = 100.0 + 60 * grid + rng.normal(0, 5, grid.shape)
        for name, image in (("t1", data), ("t2", 900 - data)):
            path = root / "cohort" / case / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(image.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medgen.reports.evaluation._print", lambda *_: None)  # no PDF, which takes seconds
        patch.setattr("medgen.reports.evaluation._figures", lambda *_: [])
        words = ["train", "mr_t1_to_t2_regression", f"data.root={root / 'cohort'}", *SMALL]
        result = CliRunner().invoke(app, [*words, "--folds", "2", "--out", str(root / "run")])
    assert result.exit_code == 0, result.output
    return root, result.output


def test_every_case_is_measured_once_by_a_model_that_has_not_seen_it(run):
    root, output = run
    with (root / "run/results/cases.csv").open() as file:
        assert sorted(row["case"] for row in csv.DictReader(file)) == ["p0", "p2", "p[1]"]
    for k in (0, 1):
        seen = json.loads((root / f"run/fold_{k}/best/model.json").read_text())["training_data"]["training"]
        translated = {path.name.split(".")[0] for path in (root / f"run/fold_{k}/converted").glob("*.nii.gz")}
        assert translated and not translated & set(seen) and translated | set(seen) == {"p0", "p[1]", "p2"}
    assert "Cross-validation with 2 folds" in (root / "run/report.html").read_text()
    assert "ensemble of the 2 models: medgen translate" in output


def test_folds_of_a_cohort_that_grew_are_not_those_of_the_run(run, tmp_path):
    root, _ = run
    shutil.copytree(root / "cohort", tmp_path / "cohort")
    shutil.copytree(root / "run", tmp_path / "run", symlinks=True)
    for name in ("t1", "t2"):
        (tmp_path / "cohort/p3").mkdir(exist_ok=True)
        image = nib.load(root / f"cohort/p0/{name}.nii.gz")
        nib.save(nib.Nifti1Image(image.get_fdata()[::-1] + 3, image.affine), tmp_path / f"cohort/p3/{name}.nii.gz")
    shutil.copytree(tmp_path / "cohort/p3", tmp_path / "cohort/again")  # the same patient under another name
    words = ["train", "mr_t1_to_t2_regression", f"data.root={tmp_path / 'cohort'}", *SMALL, "--folds", "2"]
    with refused("folder-not-empty", names="folds"):
        raise CliRunner().invoke(app, [*words, "--out", str(tmp_path / "run")]).exception
    (tmp_path / "run/fold_2").mkdir()
    shutil.rmtree(tmp_path / "cohort/p2")  # a patient withdrew
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medgen.reports.evaluation._print", lambda *_: None)
        patch.setattr("medgen.reports.evaluation._figures", lambda *_: [])
        result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "run"), "--overwrite"])
    assert result.exit_code == 0 and "fold_2 is a fold of an earlier run" in result.output, result.output
    with (tmp_path / "run/results/cases.csv").open() as file:
        assert sorted(row["case"] for row in csv.DictReader(file)) == ["again", "p0", "p3", "p[1]"]
    held = [json.loads((tmp_path / f"run/split_{k}.json").read_text())["validation"] for k in (0, 1)]
    assert any({"again", "p3"} <= set(names) for names in held)


def test_what_is_equal_in_all_members_stays_exact(run):
    """Values beyond the range and padding: neither rounded by the mean nor too large for a sum."""
    root, _ = run
    model = load_model(root / "run/ensemble", ensembles=True)
    members = [replace(model, members=())] * 3
    data = np.full((4, 4, 4), 1200.37, np.float32)
    data[0] = np.finfo(np.float32).min
    with pytest.MonkeyPatch.context() as patch:
        inner = predict.translate_case
        given = lambda m, volumes, **options: inner(m, volumes, **options) if m.members else [volumes[0]]  # noqa: E731
        patch.setattr(predict, "translate_case", given)
        (made,) = given(replace(model, members=members), [Volume(data, np.eye(4), np.dtype(np.float32))])
    np.testing.assert_array_equal(made.data, data)


def test_the_ensemble_translates_as_the_mean_of_its_models(run):
    root, _ = run
    scan = read_volume(root / "cohort/p0/t1.nii.gz")
    single = [translate_volume(load_model(root / f"run/fold_{k}/best"), scan).data for k in (0, 1)]
    model = load_model(root / "run/ensemble", ensembles=True)
    assert np.abs(single[0] - single[1]).max() > 1e-3, "two models"
    np.testing.assert_allclose(translate_volume(model, scan).data, (single[0] + single[1]) / 2, rtol=1e-5, atol=1e-3)
    assert model.info.training_data["training"] == ["p0", "p2", "p[1]"]
    assert model.info.weights_sha256 not in [m.info.weights_sha256 for m in model.members]
    words = ["translate", str(root / "run/ensemble"), str(root / "cohort/p0/t1.nii.gz"), str(root / "one.nii.gz")]
    words += ["--no-report", "--qa-limits", "none"]
    assert CliRunner().invoke(app, words).exit_code == 0
    np.testing.assert_allclose(read_volume(root / "one.nii.gz").data, translate_volume(model, scan).data, atol=1)


def test_samples_of_an_ensemble_are_its_members_translations(run):
    root, _ = run
    scan, model = read_volume(root / "cohort/p0/t1.nii.gz"), load_model(root / "run/ensemble", ensembles=True)
    single = np.stack([translate_volume(member, scan).data for member in model.members])
    (mean,), (deviation,) = translate_samples(model, [scan], 2)
    np.testing.assert_allclose(mean.data, single.mean(0), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(deviation.data, single.std(0, ddof=1), rtol=1e-3, atol=1e-2)
    assert source_of_samples(model, 2) == "ensemble"
    with refused("option-samples-many", names="--samples 2"):
        source_of_samples(model, 3)


def test_a_damaged_or_mixed_ensemble_is_refused_and_other_commands_name_it(run, tmp_path):
    root, _ = run
    for read in (read_info, load_model):
        with refused("model-is-ensemble"):
            read(root / "run/ensemble")
    for words in (["export", "onnx"], ["export", "bundle"], ["pack"]):
        with refused("model-is-ensemble"):
            raise CliRunner().invoke(app, [*words, str(root / "run/ensemble"), str(tmp_path / "made.onnx")]).exception
    for text in ("", "{}", '{"members": []}', '{"members": ["../fold_0"]}', '{"members": "ab"}'):
        (tmp_path / "ensemble.json").write_text(text)
        with refused("model-ensemble-damaged"):
            load_model(tmp_path, ensembles=True)


def test_folds_hold_each_patient_out_once():
    cases = [Case(f"c{i}", f"p{i // 2}", part="test" if i == 18 else "") for i in range(20)]
    cases.append(Case("made", "made", made_of=frozenset({"p0", "p1"})))
    cases.append(Case("of_test", "of_test", made_of=frozenset({"p0", "p9"})))
    splits = fold_splits(cases, 4)
    held = [case.patient for split in splits for case in split["validation"]]
    assert sorted(set(held)) == sorted({f"p{i}" for i in range(9)}) and len(held) == 18
    for split in splits:
        out = {case.patient for case in split["validation"]}
        assert not out & {case.patient for case in split["train"]} and 2 <= len(out) <= 3
        assert ("made" in {case.name for case in split["train"]}) == (not out & {"p0", "p1"})
        assert {case.name for case in split["test"]} == {"c18", "c19"}, "a patient with a test case is one"
        assert "of_test" not in {case.name for case in split["train"]}
    held = {case.name for case in split_cases(cases[:18], validation=0.2, test=0.2, seed=0)["test"]}
    for split in fold_splits(cases[:18], 3, validation=0.2, test=0.2):
        assert held and {case.name for case in split["test"]} == held, "data.test holds back the patients of other runs"
        assert not held & {case.name for part in ("train", "validation") for case in split[part]}
    with refused("folds-too-many", names="9 patients"):
        fold_splits(cases, 11)


@pytest.mark.parametrize(
    ("config", "override", "reason"),
    [
        ("mr_t1_to_t2_cut", "data.root=x", "data.paired is false"),
        ("mr_t1_to_t2_regression", "train.nodes=2", "data.root is not set"),
        ("hippocampus_spade", "data.root=x", "generates images or paints labels"),
        ("mr_thick_slices_srgan", "data.root=x", "data.degradation makes the sources"),
        ("mr_t1_to_t2_regression", "data.root=x data.spacing=[2,2,2] inference.grid=model", "inference.grid is model"),
    ],
)
def test_what_folds_cannot_do_is_refused(config, override, reason):
    with refused("folds-unsupported", names=reason):
        check_settings(load_settings(config_file(config), [*override.split(), "data.folds=2"]))


def test_folds_take_headers_with_data_files_and_judge_as_the_conversion(tmp_path, monkeypatch):
    """Targets called ``none`` make a model that removes contrast; ct.mhd names ct.raw, which a link elsewhere hides."""
    rng = np.random.default_rng(0)
    for case in ("p0", "p1"):
        body = np.full((28, 28, 20), -1000.0)
        body[3:25, 3:25] = 40
        for name, more in (("portal_venous", 200.0), ("none", 0.0)):
            data = body + rng.normal(0, 5, body.shape)
            data[8:18, 8:18, 4:16] += more
            path = tmp_path / "cohort" / name / f"{case}.mhd"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = sitk.GetImageFromArray(data.T.astype(np.int16))
            image.SetSpacing((5.0, 5.0, 5.0))
            sitk.WriteImage(image, str(path))
    monkeypatch.setattr("medgen.reports.evaluation._print", lambda *_: None)  # no PDF, which takes seconds
    monkeypatch.setattr("medgen.reports.evaluation._figures", lambda *_: [])
    config = "ct_contrast_regression"
    names = ["data.sources=[portal_venous]", "data.targets=[none]", "data.removes_contrast=false"]
    words = ["train", config, f"data.root={tmp_path / 'cohort'}", *names, *SMALL, "train.start_from=null"]
    result = CliRunner().invoke(app, [*words, "--folds", "2", "--out", str(tmp_path / "run")])
    with (tmp_path / "run/results/cases.csv").open() as file:
        joined = {row["case"]: row["verdict"] for row in csv.DictReader(file)}
    single = {}
    for k in (0, 1):
        cases = json.loads((tmp_path / f"run/fold_{k}/converted/manifest.json").read_text())["cases"]
        single |= {name.split(".")[0]: case["verdict"] for name, case in cases.items()}
    assert joined == single == {"p0": "fail", "p1": "fail"}, result.output


def test_a_start_from_a_model_that_knows_the_cases_is_refused(run, tmp_path):
    """Also if they have other names: the images count."""
    root, _ = run
    for k, case in enumerate(("p0", "p[1]", "p2")):
        shutil.copytree(root / "cohort" / case, tmp_path / "cohort" / f"other{k}")
    known = root / "run" / "fold_0" / "best"
    words = ["train", "mr_t1_to_t2_regression", f"data.root={tmp_path / 'cohort'}", f"train.start_from={known}", *SMALL]
    with refused("folds-start-from-seen", names="other"):
        CliRunner().invoke(app, [*words, "--folds", "2", "--out", str(tmp_path / "run")], catch_exceptions=False)
    assert not (tmp_path / "run").exists()


def test_a_conversion_that_fails_is_in_the_report(run, tmp_path, monkeypatch):
    root, _ = run
    monkeypatch.setattr("medgen.reports.evaluation._print", lambda *_: None)  # no PDF, which takes seconds
    monkeypatch.setattr("medgen.reports.evaluation._figures", lambda *_: [])
    shutil.copytree(root / "cohort", tmp_path / "cohort")
    damaged = tmp_path / "cohort" / "p2" / "t1.nii.gz"
    image = nib.load(damaged)
    image.header.set_intent("label")  # training reads it, conversion refuses a label map
    nib.save(image, damaged)
    words = ["train", "mr_t1_to_t2_regression", f"data.root={tmp_path / 'cohort'}", *SMALL, "--folds", "2", "--out"]
    result = CliRunner().invoke(app, [*words, str(tmp_path / "run")])
    assert result.exit_code != 0 and "1 of 3 cases failed" in result.output
    summary = json.loads((tmp_path / "run/results/summary.json").read_text())
    assert [failure["case"] for failure in summary["failures"]] == ["p2"], summary["failures"]
    assert "Cases not evaluated" in (tmp_path / "run/report.html").read_text()


def test_pairs_on_different_grids_are_refused_before_training(tmp_path):
    rng = np.random.default_rng(0)
    for case in ("p0", "p1"):
        for name, shape in (("source", (20, 18, 16)), ("target", (20, 18, 8))):
            path = tmp_path / "cohort" / name / f"{case}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            affine = np.diag([2.0, 2.0, 32.0 / shape[2], 1.0])
            nib.save(nib.Nifti1Image(rng.normal(100, 5, shape).astype(np.float32), affine), path)
    config = ["mr_t1_to_t2_regression", "data.sources=[source]", "data.targets=[target]", "data.align=resample"]
    words = ["train", *config, f"data.root={tmp_path / 'cohort'}", *SMALL, "--folds", "2", "--out"]
    with refused("folds-grids", names="p0, p1"):
        CliRunner().invoke(app, [*words, str(tmp_path / "run")], catch_exceptions=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("entries", "own"),
    [
        ([{"fold": 0}, {"fold": 1}], "folds of its own (validation fold 0 of list.json)"),
        ([{"fold": 1}, {"fold": 2}], "folds of its own"),
        ([{"split": "train"}, {"split": "validation"}], "a validation subset"),
        ([{}, {}], ""),
    ],
)
def test_a_split_of_the_dataset_that_folds_do_not_use_is_told(tmp_path, entries, own):
    listed = []
    for k, entry in enumerate(entries):
        for side in ("source", "target"):
            nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4)), tmp_path / f"{side}{k}.nii.gz")
        listed.append({"source": f"source{k}.nii.gz", "target": f"target{k}.nii.gz"} | entry)
    (tmp_path / "list.json").write_text(json.dumps({"training": listed}))
    assert _own_split(partial(read_cohort, tmp_path / "list.json")) == own
