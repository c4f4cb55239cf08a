import csv
import json
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from labelled import write_folders
from patients import coarse_patient

from medgen.phantom.cohort import LABELS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two converters of three patients: ``close`` leaves 10 % of the contrast, ``far`` half of it."""
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(3):
        patient = coarse_patient(seed)
        truth, scan = patient.noncontrast, patient.contrast
        volumes = {"target": truth, "source": scan, "close": truth + (scan - truth) / 10, "far": (truth + scan) / 2}
        volumes["labels"] = patient.labels
        for name, data in volumes.items():
            (folder / name).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(data.astype(np.float32), patient.affine), folder / name / f"p{seed}.nii.gz")
    (folder / "labels.json").write_text(json.dumps(LABELS))
    return folder


def pipeline(name, *words):
    """Run the script as a program in this process, to save the start of Python and torch."""
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [name, *map(str, words)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "pipelines" / name), run_name="__main__")
    return SimpleNamespace(returncode=end.value.code, stdout=out.getvalue(), stderr=err.getvalue())


def evaluation(cohort, out, *more):
    folders = ["--reference", cohort / "target", "--source", cohort / "source"]
    return pipeline("clinical_evaluation.py", out, *more, *folders)


def test_two_converters_in_one_report(cohort, tmp_path):
    run = evaluation(cohort, tmp_path, "--prediction", f"close={cohort / 'close'}", f"far={cohort / 'far'}")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("structure check: ") == 2
    page = (tmp_path / "report.html").read_text()
    assert "close" in page and "far" in page and "p (Holm)" in page
    assert (tmp_path / "close" / "summary.json").exists() and (tmp_path / "far" / "cases.csv").exists()


@pytest.fixture
def unprinted(monkeypatch):
    """Reports without PDF, which takes seconds each."""
    monkeypatch.setattr("medgen.reports.evaluation._print", lambda *_: None)


@pytest.mark.usefixtures("unprinted")
def test_a_system_that_cannot_be_evaluated_leaves_the_others_their_report(cohort, tmp_path):
    run = evaluation(cohort, tmp_path, "--prediction", f"gone={cohort / 'gone'}", f"close={cohort / 'close'}")
    assert run.returncode == 2 and "gone could not be evaluated: " in run.stderr
    page = (tmp_path / "report.html").read_text()
    assert "gone could not be evaluated: " in page and "closer to the truth" in page


@pytest.mark.usefixtures("unprinted")
def test_limits_and_lesion_masks_reach_the_report(cohort, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for seed in range(3):
        scan = nib.load(cohort / "source" / f"p{seed}.nii.gz")
        lesion = np.zeros(scan.shape, np.uint8)
        lesion[20:22, 16:18, 12:14] = 1
        nib.save(nib.Nifti1Image(lesion, scan.affine), masks / f"p{seed}.nii.gz")
    given = [
        "--prediction",
        cohort / "source",
        "--labels",
        cohort / "labels",
        "--qa-limits",
        "ct_contrast",
        "--lesions",
        masks,
    ]
    run = evaluation(cohort, tmp_path / "out", *given)
    assert run.returncode == 0, run.stderr
    section = json.loads((tmp_path / "out" / "source" / "summary.json").read_text())["structure"]
    assert section["counts"]["pass"] == 0 and section["lesions"]["volumes"] == 3  # nothing was converted
    assert "off the truth" in (tmp_path / "out" / "report.html").read_text()
    run = evaluation(cohort, tmp_path / "out", "--prediction", cohort / "close")
    assert run.returncode == 2 and "results of another run (" in run.stderr and "prediction was" in run.stderr
    run = evaluation(cohort, tmp_path / "new", "--prediction", cohort / "close", "--qa-limits", "ct_contrst")
    assert run.returncode == 2 and "ct_contrast, general" in run.stderr


@pytest.mark.usefixtures("unprinted")
def test_a_case_that_fails_is_named_and_the_report_is_made(cohort, tmp_path):
    one = tmp_path / "one"
    one.mkdir()
    (one / "p0.nii.gz").write_bytes((cohort / "close" / "p0.nii.gz").read_bytes())
    run = evaluation(cohort, tmp_path / "out", "--prediction", one)
    assert run.returncode == 2 and "has no prediction" in run.stderr
    assert (tmp_path / "out" / "report.html").exists()
    run = evaluation(cohort, tmp_path / "out", "--prediction", f"a/b={one}")
    assert run.returncode == 2 and "a name that can be a folder name" in run.stderr and "Traceback" not in run.stderr


def augmented(*words):
    return pipeline("augment_segmentation.py", *words)


def test_generators_are_trained_on_the_draws_cases_alone_and_arms_compared(tmp_path):
    dataset, out = write_folders(tmp_path / "set", 8), tmp_path / "out"
    small = ["data.validation=0.3", "sampling.patch=[8,8,8]", "method.generator.filters=2"]
    small += ["method.generator.levels=1", "method.generator.hidden=2", "method.adversary.filters=2"]
    small += ["method.adversary.layers=1", "method.adversary.scales=1", "train.steps=2", "data.tissues=0"]
    words = [
        dataset,
        out,
        "--test",
        2,
        "--cases",
        5,
        "--draws",
        2,
        "--steps",
        2,
        "--lesion",
        "lesion",
        "--host",
        "liver",
    ]
    words += ["--generator", "cutpaste", "spade=configs/hippocampus_spade.yaml", "--segment", "lesion", *small]
    run = augmented(*words)
    assert "Traceback" not in run.stderr, run.stderr
    found = json.loads((out / "summary.json").read_text())
    arms = {(row["arm"], row["generator"]) for row in found["arms"]}
    generators = ("cutpaste", "spade")
    assert arms == {("real", ""), ("classical", "")} | {(a, g) for a in ("synthetic", "both") for g in generators}
    assert {row["label"] for row in found["arms"]} == {"lesion", "mean"}
    with open(out / "scores.csv") as file:
        tested = {row["case"].split("/")[1] for row in csv.DictReader(file)}
    assert len(tested) == 2
    drawn = [{path.name[:5] for path in (out / f"draw{d}" / "cohort" / "labels").iterdir()} for d in (0, 1)]
    assert all(len(names) == 5 and not names & tested for names in drawn) and drawn[0] != drawn[1]
    for names, draw in zip(drawn, (0, 1), strict=True):
        split = json.loads((out / f"draw{draw}" / "spade" / "run" / "split.json").read_text())
        assert {case for part in split.values() for case in part} <= names
    page = (out / "report.html").read_text()
    assert "real and synthetic" in page and page.count("data:image/jpeg") == 2
    again = augmented(*words)
    assert again.returncode == run.returncode and ": training on" not in again.stdout


def test_augment_segmentation_refuses_in_a_sentence(tmp_path):
    dataset = write_folders(tmp_path / "set", 4)
    for words, text in (
        (["--generator", "cutpaste", "--lesion", "lesion"], "no labelled test cases"),
        (["--generator", "cutpaste", "--lesion", "tumour", "--test", 1], "tumour is not a label"),
        (["--generator", "cutpaste", "cutpaste", "--test", 1], "two generators have the same name"),
        (["--generator", "cutpaste", "--lesion", "lesion", "--test", 3], "too few"),
    ):
        run = augmented(dataset, tmp_path / text, *words)
        assert run.returncode == 2 and text in run.stderr and "Traceback" not in run.stderr


def test_the_demo_ends_with_the_line_that_opens_the_report(tmp_path, monkeypatch, capsys):
    main = runpy.run_path(str(ROOT / "pipelines/ct_contrast_to_noncontrast.py"))["main"]
    monkeypatch.setitem(main.__globals__, "run", lambda *_: [])
    monkeypatch.setitem(main.__globals__, "make_cohort", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["demo", "--demo", str(tmp_path / "demo")])
    assert main() == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f"{sys.executable} -m webbrowser {(tmp_path / 'demo/report.html').as_uri()}")
