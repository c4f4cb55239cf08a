"""The command line end to end: working calls, and one clear sentence for each error."""

import csv
import gzip
import json
import os
import re
import signal
import sys

import nibabel as nib
import numpy as np
import pytest
import yaml
from programs import run_program
from small import SMALL_METHOD, make_model, small_settings, write_cohort

from medgen import cli
from medgen.checkpoint import FORMAT, save_model
from medgen.commands.shared import config_names, model_names
from medgen.io.atomic import atomic_folder


@pytest.fixture
def run(capsys, monkeypatch):
    """Run ``medgen ARGUMENTS`` in this process; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["medgen", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        shown = capsys.readouterr()
        code = caught.value.code
        return (0 if code is None else code), shown.out, shown.err

    return call


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "best"
    model = make_model()
    with atomic_folder(folder) as saved:
        save_model(saved, model.generator, model.info)
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    values = {
        "data": {"validation": 0.25},
        "intensity": {"source": {"outside": "preserve"}},
        "sampling": {"patch": [16, 16, 16]},
        "method": SMALL_METHOD,
        "train": {"steps": 2, "validate_every": 2},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def image(path, data, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([2.0, 2, 2, 1]) if affine is None else affine), path)
    return path


def good(path):
    return image(path, np.full((12, 12, 12), 40, np.int16) - 1000 * (np.arange(12) < 3).astype(np.int16)[:, None, None])


def assert_refused(result, *words):
    code, _, err = result
    assert code == 2
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("medgen: error:")]
    assert len(lines) == 1, err
    for word in words:
        assert re.search(str(word), lines[0], re.IGNORECASE), (word, lines[0])


# Working calls


def test_output_for_scripts_is_one_object(run, model_folder, cohort, tmp_path):
    scans = tmp_path / "scans"
    good(scans / "a.nii.gz")
    (scans / "b.nii.gz").write_bytes(b"no volume")
    code, out, err = run("translate", model_folder, scans, "--json", tmp_path / "out")
    found = json.loads(out)
    assert code == found["exit_code"] == 2 and "[1/2] a: converted" in err and "--json" not in found["command"]
    assert {case["case"]: case["status"] for case in found["cases"]} == {"a": "converted", "b": "failed"}
    assert found["errors"] == [case["error"] for case in found["cases"] if case["error"]]
    code, out, err = run("--json", "translate", tmp_path / "gone", scans, tmp_path / "out")
    assert (code, json.loads(out)["error_code"]) == (2, "model-json-missing") and "medgen: error:" in err
    code, out, _ = run("translate", "--nonsense", "--json")
    assert (code, json.loads(out)["errors"]) == (2, ["see standard error"])
    roles = ["--prediction", cohort / "target", "--reference", cohort / "target"]
    code, out, _ = run("evaluate", *roles, "--out", tmp_path / "results", "--json")
    summary = json.loads(out)["summary"]
    assert code == 0 and summary["metrics"]["mae"]["mean"] == 0 and len(summary["cases"]) == 4
    for command in ("configs", "models", "doctor"):
        code, out, _ = run(command, "--json")
        assert code == 0 and json.loads(out)["exit_code"] == 0 and len(json.loads(out)) > 4


def test_names_are_completed():
    assert "ct_contrast_regression" in config_names("ct_") and config_names("au") == ["auto"]
    assert model_names("ct-n") == ["ct-noncontrast"]


def test_version_help_and_doctor(run):
    assert run("--version")[1].startswith("medgen ")
    for command in ("phantom", "train", "translate", "synthesize", "evaluate", "report", "doctor"):
        code, out, _ = run(command, "--help")
        assert code == 0 and "Usage" in out
    code, out, _ = run("doctor")
    assert code == 0 and "torch" in out and "cuda" in out


def test_phantom_writes_a_folder_for_every_phase(run, tmp_path):
    small = ["--patients", 1, "--size", 12, 10, 8, "--spacing", 32]
    code, out, err = run("phantom", tmp_path / "paired", "--phases", *small)
    assert code == 0 and "1 patients written to" in out, err
    code, out, err = run("phantom", tmp_path / "unpaired", "--phases", "--unpaired", *small)
    assert code == 0 and "1 patients per folder written to" in out, err
    for phase in ("none", "arterial", "portal_venous", "late"):
        assert [p.name for p in (tmp_path / "paired" / phase).iterdir()] == ["patient_000.nii.gz"]
        assert len(list((tmp_path / "unpaired" / phase).iterdir())) == 1
    assert len(list((tmp_path / "unpaired/labels").iterdir())) == 4
    assert_refused(run("phantom", tmp_path / "paired", *small), "another run .phase was all")


def test_train_translate_evaluate(run, cohort, config, tmp_path):
    code, out, _ = run("train", config, f"data.root={cohort}", "--out", tmp_path / "run")
    assert code == 0 and "best model" in out
    code, out, err = run("translate", tmp_path / "run/best", cohort / "source", tmp_path / "converted")
    assert code == 0, err
    for path in (cohort / "source").iterdir():
        a, b = nib.load(path), nib.load(tmp_path / "converted" / path.name)
        assert a.shape == b.shape and np.array_equal(a.affine, b.affine) and b.get_data_dtype() == np.int16
    manifest = json.loads((tmp_path / "converted/manifest.json").read_text())
    assert {c["status"] for c in manifest["cases"].values()} == {"converted"}
    assert (tmp_path / "converted/report.html").exists()
    code, out, err = run(
        "evaluate", "--reference", cohort / "target", "--prediction", tmp_path / "converted",
        "--source", cohort / "source", "--out", tmp_path / "results",
    )  # fmt: skip
    assert code == 0, err
    rows = list(csv.DictReader(open(tmp_path / "results/cases.csv")))
    assert len(rows) == 4
    for row in rows:
        truth = nib.load(cohort / "target" / f"{row['case']}.nii.gz").get_fdata()
        made = nib.load(tmp_path / "converted" / f"{row['case']}.nii.gz").get_fdata()
        assert float(row["mae"]) == pytest.approx(np.abs(truth - made).mean(), rel=1e-4)
    code, out, err = run("report", tmp_path / "results", "--out", tmp_path / "again.html", "--title", "Once more")
    assert code == 0 and "Once more" in (tmp_path / "again.html").read_text(), err
    assert_refused(run("report", tmp_path / "run", "--out", tmp_path / "other.html"), "summary.json")


def test_second_run_skips_what_is_done_and_converts_what_changed(run, model_folder, tmp_path):
    for name in "abc":
        good(tmp_path / "in" / f"{name}.nii.gz")
    assert run("translate", model_folder, tmp_path / "in", tmp_path / "out", "--no-report")[0] == 0
    image(tmp_path / "in/b.nii.gz", np.random.default_rng(0).integers(-1000, 500, (12, 12, 12)).astype(np.int16))
    (tmp_path / "out/c.nii.gz").write_bytes(b"damaged")
    _, out, _ = run("translate", model_folder, tmp_path / "in", tmp_path / "out", "--no-report")
    status = dict(re.findall(r"\] (\w): (\w+)", out))
    assert status == {"a": "skipped", "b": "converted", "c": "converted"}


def test_formats_follow_the_input_or_the_flag(run, model_folder, tmp_path):
    import SimpleITK as sitk

    volume = sitk.GetImageFromArray(np.random.default_rng(0).integers(-1000, 500, (9, 10, 11)).astype(np.int16))
    volume.SetSpacing((2, 2, 2))
    (tmp_path / "in").mkdir()
    sitk.WriteImage(volume, str(tmp_path / "in/a.mha"))
    assert run("translate", model_folder, tmp_path / "in", tmp_path / "out", "--no-report")[0] == 0
    back = sitk.ReadImage(str(tmp_path / "out/a.mha"))
    assert (back.GetSize(), back.GetSpacing(), back.GetOrigin()) == (
        volume.GetSize(), volume.GetSpacing(), volume.GetOrigin(),
    )  # fmt: skip
    assert run("translate", model_folder, tmp_path / "in/a.mha", tmp_path / "x/b.nii.gz")[0] == 0
    assert nib.load(tmp_path / "x/b.nii.gz").shape == (11, 10, 9)
    assert run("translate", model_folder, tmp_path / "in", tmp_path / "n", "--format", "nifti", "--no-report")[0] == 0
    assert (tmp_path / "n/a.nii.gz").exists()


def test_a_scan_unlike_the_training_data_is_flagged(run, model_folder, tmp_path):
    good(tmp_path / "in/a.nii.gz")
    image(
        tmp_path / "in/b.nii.gz",
        np.full((12, 12, 12), 900, np.int16) - 1900 * (np.arange(12) < 3)[:, None, None].astype(np.int16),
    )
    _, out, _ = run("translate", model_folder, tmp_path / "in", tmp_path / "out")
    assert "outside the training distribution" in out
    assert "outside the training distribution" in (tmp_path / "out/report.html").read_text()


def test_one_bad_case_never_stops_the_others(run, model_folder, tmp_path):
    good(tmp_path / "in/a.nii.gz")
    (tmp_path / "in/b.nii.gz").write_text("this is not an image")
    good(tmp_path / "in/c.nii.gz")
    result = run("translate", model_folder, tmp_path / "in", tmp_path / "out")
    assert_refused(result, "b.nii.gz")
    assert (tmp_path / "out/a.nii.gz").exists() and (tmp_path / "out/c.nii.gz").exists()
    assert not (tmp_path / "out/b.nii.gz").exists()
    assert "1 of 3 cases failed" in result[2]
    assert json.loads((tmp_path / "out/manifest.json").read_text())["cases"]["b"]["status"] == "failed"


KILLER = """
import os, signal, sys
import medgen.io.formats.nifti, medgen.inference.output as output
calls = {"n": 0}
write = output.write_volume
def killed(path, volume, **options):
    calls["n"] += 1
    if calls["n"] == 2:
        real = os.replace
        def die(*_): os.kill(os.getpid(), signal.SIGKILL)
        os.replace = die   # the new file is complete beside its place, but not yet there
    write(path, volume, **options)
output.write_volume = killed
from medgen.cli import main
sys.argv = ["medgen", "translate", *sys.argv[1:], "--no-report"]
main()
"""


def test_sigkill_during_a_conversion_then_the_rest(run, model_folder, tmp_path):
    for name in "abc":
        good(tmp_path / "in" / f"{name}.nii.gz")
    result = run_program(KILLER, model_folder, tmp_path / "in", tmp_path / "out")
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert [p.name for p in (tmp_path / "out").glob("*.nii.gz") if not p.name.startswith(".")] == ["a.nii.gz"]
    assert run("translate", model_folder, tmp_path / "in", tmp_path / "out", "--no-report")[0] == 0
    assert run("translate", model_folder, tmp_path / "in", tmp_path / "fresh", "--no-report")[0] == 0
    for name in "abc":
        made, fresh = (nib.load(tmp_path / d / f"{name}.nii.gz").get_fdata() for d in ("out", "fresh"))
        assert np.array_equal(made, fresh)


# Errors: one sentence, exit code 2


def spoil(kind, folder):
    path = folder / "scan.nii.gz"
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "missing":
        return path
    if kind == "truncated":
        good(path)
        path.write_bytes(path.read_bytes()[:-60])
    elif kind == "text":
        path.write_text("hello")
    elif kind == "gzipped text":
        path.write_bytes(gzip.compress(b"hello" * 200))
    elif kind == "empty file":
        path.write_bytes(b"")
    elif kind == "zero size":
        good(path)
        raw = bytearray(gzip.decompress(path.read_bytes()))
        raw[42:44] = b"\0\0"  # dim[1]
        path.write_bytes(gzip.compress(bytes(raw)))
    elif kind == "nan":
        data = np.zeros((8, 8, 8), np.float32)
        data[1, 2, 3] = np.nan
        image(path, data)
    elif kind == "4d":
        image(path, np.zeros((8, 8, 8, 3), np.int16))
    elif kind == "2d":
        image(path, np.zeros((8, 8), np.int16))
    return path


@pytest.mark.parametrize(
    "kind, words",
    [
        ("missing", ["scan.nii.gz", "not exist"]),
        ("truncated", ["scan.nii.gz", "truncated|incomplete|damaged"]),
        ("text", ["scan.nii.gz"]),
        ("gzipped text", ["scan.nii.gz"]),
        ("empty file", ["scan.nii.gz"]),
        ("zero size", ["scan.nii.gz", "0|zero|empty"]),
        ("nan", ["scan.nii.gz", "NaN|finite"]),
        ("4d", ["scan.nii.gz", "4D|8 x 8 x 8 x 3|volumes"]),
        ("2d", ["scan.nii.gz", "2D|3D"]),
    ],
)
def test_bad_volumes(run, model_folder, tmp_path, kind, words):
    path = spoil(kind, tmp_path / "in")
    assert_refused(run("translate", model_folder, path, tmp_path / "out.nii.gz"), *words)
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize("kind", ["truncated", "text", "zero size", "nan", "4d"])
def test_bad_volumes_in_a_training_cohort(run, config, tmp_path, kind):
    write_cohort(tmp_path / "cohort")
    bad = spoil(kind, tmp_path / "bad")
    for i in range(4):
        (tmp_path / f"cohort/source/case{i}.nii.gz").write_bytes(bad.read_bytes())
    result = run("train", config, f"data.root={tmp_path / 'cohort'}", "--out", tmp_path / "run")
    assert_refused(result, r"source/case\d.nii.gz")


def test_pair_of_different_grids_shows_both(run, config, tmp_path):
    write_cohort(tmp_path / "cohort")
    image(tmp_path / "cohort/target/case1.nii.gz", np.zeros((10, 11, 12), np.int16))
    result = run("train", config, f"data.root={tmp_path / 'cohort'}", "--out", tmp_path / "run")
    assert_refused(result, "case1", "20 x 24 x 16", "10 x 11 x 12", "data.align")


def test_label_without_image(run, config, tmp_path):
    write_cohort(tmp_path / "cohort")
    image(tmp_path / "cohort/labels/nobody.nii.gz", np.zeros((20, 24, 16), np.uint8))
    (tmp_path / "cohort/labels.json").write_text('{"liver": 1}')
    assert_refused(run("train", config, f"data.root={tmp_path / 'cohort'}", "--out", tmp_path / "run"), "nobody")


def test_config_faults(run, config, cohort, tmp_path):
    assert_refused(run("train", config, "train.stepz=3", "--out", tmp_path / "r"), "train.stepz", "train.steps")
    assert_refused(run("train", config, "train.steps=three", "--out", tmp_path / "r"), "train.steps", "integer")
    assert_refused(run("train", tmp_path / "none.yaml", "--out", tmp_path / "r"), "none.yaml")
    assert_refused(run("train", "/dev/zero", "--out", tmp_path / "r"), "pipe or device")
    spacing = [f"data.spacing=[{mm},1,1]" for mm in ("0", "-1", "1e-9", "1e9", ".inf")]
    for override in (*spacing, "inference.memory_gb=.inf"):
        assert_refused(run("train", config, override, "--out", tmp_path / "r"), override.partition("=")[0])


@pytest.mark.parametrize("command, option", [("translate", "--memory-gb"), ("synthesize", "--memory-gb"),
                                             ("synthesize", "--samples"), ("augment", "--per-case")])  # fmt: skip
@pytest.mark.parametrize("value", ["inf", "1000000000", "0"])
def test_options_without_bound(run, tmp_path, command, option, value):
    found = run(command, tmp_path, tmp_path, tmp_path / "out", option, value)
    assert found[0] == 2 and option in found[2] and "Traceback" not in found[2] and not (tmp_path / "out").exists()


def test_a_report_is_a_page_and_replaces_no_table(run, tmp_path):
    for name in ("cases.csv", "report", "report.pdf"):
        assert_refused(run("report", tmp_path, "--out", tmp_path / name), name, "end it in .html")


def test_results_that_are_a_pipe(run, tmp_path):
    os.mkfifo(tmp_path / "summary.json")
    assert_refused(run("report", tmp_path, "--out", tmp_path / "r.html"), "summary.json", "pipe")


def test_empty_folders(run, model_folder, config, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_refused(run("translate", model_folder, tmp_path / "empty", tmp_path / "out"), "empty")
    assert_refused(run("train", config, f"data.root={tmp_path / 'empty'}", "--out", tmp_path / "r"), "empty")
    arguments = ["--reference", tmp_path / "empty", "--prediction", tmp_path / "empty", "--out", tmp_path / "res"]
    assert_refused(run("evaluate", *arguments), "empty")


def test_unwritable_outputs(run, model_folder, config, cohort, tmp_path):
    scan = good(tmp_path / "in/a.nii.gz")
    (tmp_path / "file").write_text("in the way")
    blocked = tmp_path / "file" / "sub"
    assert_refused(run("translate", model_folder, scan, blocked), "file/sub")
    assert_refused(run("translate", model_folder, scan, blocked / "out.nii.gz"), "file/sub")
    assert_refused(run("train", config, f"data.root={cohort}", "--out", blocked), "file/sub")
    assert_refused(run("phantom", blocked, "--patients", 1), "file/sub")
    arguments = ["--reference", cohort / "target", "--prediction", cohort / "source", "--out", blocked]
    assert_refused(run("evaluate", *arguments), "file/sub")


def test_limits_of_the_structure_check_need_a_source(run, cohort, tmp_path):
    given = ("evaluate", "--reference", cohort / "target", "--prediction", cohort / "source")
    for option in (("--qa-limits", "general"), ("--qa-limits", "ct_contrast")):
        assert_refused(run(*given, *option, "--out", tmp_path / "results"), "give --source")


def test_model_of_another_version_and_no_model(run, model_folder, tmp_path):
    import shutil

    scan = good(tmp_path / "in/a.nii.gz")
    shutil.copytree(model_folder, tmp_path / "other")
    info = json.loads((tmp_path / "other/model.json").read_text())
    (tmp_path / "other/model.json").write_text(json.dumps({**info, "format": 1}))
    assert_refused(
        run("translate", tmp_path / "other", scan, tmp_path / "o.nii.gz"), "other", "format 1", f"format {FORMAT}"
    )
    assert_refused(run("translate", tmp_path, scan, tmp_path / "o.nii.gz"), "not a model folder")


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (5, 40, 3)])
def test_too_small_a_volume_is_padded_not_refused(run, model_folder, tmp_path, shape):
    scan = image(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(-1000, 400, shape).astype(np.int16))
    code, _, err = run("translate", model_folder, scan, tmp_path / "out.nii.gz")
    assert code == 0, err
    assert nib.load(tmp_path / "out.nii.gz").shape == nib.load(scan).shape


def test_output_is_never_the_input(run, model_folder, tmp_path):
    scan = good(tmp_path / "a.nii.gz")
    before = scan.read_bytes()
    assert_refused(run("translate", model_folder, scan, scan), "a.nii.gz", "another output")
    assert scan.read_bytes() == before


def test_evaluation_of_other_grids_and_missing_predictions(run, cohort, tmp_path):
    import shutil

    shutil.copytree(cohort / "source", tmp_path / "made")
    (tmp_path / "made/case0.nii.gz").unlink()
    image(tmp_path / "made/case1.nii.gz", np.zeros((5, 5, 5), np.int16))
    code, _, err = run(
        "evaluate", "--reference", cohort / "target", "--prediction", tmp_path / "made", "--out", tmp_path / "res"
    )
    assert code == 2 and "Traceback" not in err
    assert "case0" in err and "case1" in err and "5 x 5 x 5" in err
    assert len(list(csv.DictReader(open(tmp_path / "res/cases.csv")))) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("evaluate", "--prediction", "a", "--window", 3, "--out", "b"), "two numbers, such as -160 240; '--out'"),
        (("phantom", "a", "--size", 12, "--seed", 3), "three whole numbers, such as 160 128 96; '--seed'"),
    ],
)
def test_an_option_with_too_few_numbers_is_named_in_the_error(run, arguments, words):
    code, _, err = run(*arguments)
    assert code == 2 and f"expected {words} is not a number" in err


def test_device_that_is_not_there(run, model_folder, tmp_path):
    scan = good(tmp_path / "a.nii.gz")
    assert_refused(run("translate", model_folder, scan, tmp_path / "o.nii.gz", "--device", "cuda:77"), "cuda:77")


def test_translate_to_a_chosen_domain(run, cohort, tmp_path):
    generator = {"name": "unet", "filters": 4, "levels": 2, "residual": True}
    small = {"generator": generator, "adversary": {"filters": 4}, "classifier_filters": 4}
    method = {"name": "multi_domain", **small}
    model = make_model(small_settings(data={"domains": ["none", "arterial"], "paired": False}, method=method))
    with atomic_folder(tmp_path / "model") as saved:
        save_model(saved, model.generator, model.info)
    words = ("translate", tmp_path / "model", cohort / "source", tmp_path / "out", "--no-report")
    code, _, err = run(*words)
    assert code == 2 and "none, arterial" in err and "--target" in err
    made = []
    for target, more in (("none", []), ("arterial", ["--overwrite"])):  # another target is another conversion
        if more:
            assert_refused(run(*words, "--target", target), "another run .target was none, is now arterial")
        code, out, _ = run(*words, "--target", target, *more)
        assert code == 0 and "4 converted, 0 skipped" in out
        made.append(np.asarray(nib.load(tmp_path / "out" / "case0.nii.gz").dataobj))
    assert not np.array_equal(*made)
    assert "0 converted, 4 skipped" in run(*words, "--target", "arterial")[1]


def test_doctor_measures_the_alignment_of_pairs(run, tmp_path, monkeypatch):
    from medgen.qa.measures import misalignment

    small = ["--patients", 2, "--size", 12, 10, 8, "--spacing", 32]
    assert run("phantom", tmp_path / "cohort", *small)[0] == 0
    code, out, _ = run("doctor", tmp_path / "cohort")
    assert code == 0 and "patient_000: not measured" in out
    monkeypatch.setattr(misalignment, "misalignment", lambda a, b: misalignment.Misalignment(2.0, 3.0, 9, 0.5))
    code, out, _ = run("doctor", tmp_path / "cohort")
    assert code == 0 and "2 of 2 pairs are misaligned" in out
    (tmp_path / "cohort" / "target" / "patient_001.nii.gz").write_bytes(b"no image")
    code, out, err = run("doctor", tmp_path / "cohort")
    assert code == 2 and "patient_001" in err and "patient_000: median" in out
    patient = "patient_000.nii.gz"
    (tmp_path / "cohort/target" / patient).write_bytes((tmp_path / "cohort/source" / patient).read_bytes())
    (tmp_path / "cohort/target/patient_001.nii.gz").rename(tmp_path / "cohort/target/other.nii.gz")
    code, out, _ = run("doctor", tmp_path / "cohort")
    assert "source or target is missing: other, patient_001" in out and "patient_000 are the same image" in out
    code, _, err = run("doctor", tmp_path / "cohort", "--sources", "none", "--targets", "source")
    assert code == 2 and "no case with both a source and a target" in err
