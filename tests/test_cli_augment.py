"""``medgen augment`` on the command line."""

import json
import sys

import pytest
from labelled import save, voxels, write_decathlon, write_nnunet
from small import make_model, small_settings

from medgen import cli
from medgen.checkpoint import save_model
from medgen.io.atomic import atomic_folder
from medgen.phantom.cohort import write_cohort


@pytest.fixture
def run(capsys, monkeypatch):
    """Run ``medgen augment ARGUMENTS``; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["medgen", "augment", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        shown = capsys.readouterr()
        return caught.value.code or 0, shown.out, shown.err

    return call


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "best"
    model = make_model(small_settings())
    with atomic_folder(folder) as saved:
        save_model(saved, model.generator, model.info)
    return folder


def test_the_other_contrast_of_every_case(run, translator, tmp_path):
    given, out = write_nnunet(tmp_path / "given", tests=1), tmp_path / "Dataset001_More"
    code, shown, err = run(translator, given, out)
    assert code == 0 and not err
    assert "[2/7] case0__syn000 (synthetic): written" in shown and "4 real and 3 synthetic cases written to" in shown
    assert "splits_final.json" in shown and "preprocessed" in shown
    record = json.loads((out / "provenance.json").read_text())["synthetic"]["case0__syn000"]
    assert record["model"]["name"] == str(translator) and record["operations"][0]["to"] == ["target"]
    code, shown, _ = run(translator, given, out)
    assert code == 0 and shown.count("skipped") == 7


def test_lesions_without_a_model(run, tmp_path):
    given, out = tmp_path / "cohort", tmp_path / "out"
    write_cohort(given, patients=2, seed=50, size=(96, 80, 48), spacing=4)
    kinds = ("cyst", "lesion_hypovascular", "lesion_hypervascular")
    code, shown, err = run("cutpaste", given, out, "--host", "liver", "--lesion", ",".join(kinds))
    assert code == 0 and not err and "2 real and 2 synthetic cases" in shown
    for record in json.loads((out / "provenance.json").read_text())["synthetic"].values():
        assert record["operations"] and {step["kind"] for step in record["operations"]} <= set(kinds)
    code, _, err = run("cutpaste", given, tmp_path / "none")
    assert code == 2 and "are lesions; name them with --lesion" in err and not (tmp_path / "none").exists()


def test_a_decathlon_dataset_of_patients(run, translator, tmp_path):
    given, out = write_decathlon(tmp_path / "given", channels=("CT",)), tmp_path / "out"
    code, shown, _ = run(translator, given, out, "--format", "decathlon", "--patient-pattern", r"\d")
    assert code == 0 and "datalist_fold0.json to datalist_fold2.json" in shown and "nnU-Net" not in shown
    assert json.loads((out / "dataset.json").read_text())["training"][1]["patient"] == "0"


def test_a_bad_case_is_reported_at_the_end(run, translator, tmp_path):
    given = write_nnunet(tmp_path / "given")
    save(given / "labelsTr/case1.nii.gz", voxels(0)[1] * 9)
    code, shown, err = run(translator, given, tmp_path / "out")
    assert code == 2 and "2 real and 2 synthetic cases" in shown
    assert "case1.nii.gz contains the value 9" in err and "1 of 5 cases failed" in err and "Traceback" not in err


@pytest.mark.parametrize(
    "more, word",
    [
        (("--per-case", "2"), "up to 1 cases per training case"),
        (("--target", "late"), "has no target 'late'"),
        (("--format", "zip"), "choose one of nnunet, decathlon"),
        (("--patient-pattern", "("), "not a valid regular expression"),
    ],
)
def test_invalid_options_are_refused_in_one_sentence(run, translator, tmp_path, more, word):
    code, _, err = run(translator, write_nnunet(tmp_path / "given"), tmp_path / "out", *more)
    assert code == 2 and word in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_model_of_other_channels_or_none(run, translator, tmp_path):
    given = write_nnunet(tmp_path / "given", channels=("CT", "PET"))
    code, _, err = run(translator, given, tmp_path / "out")
    assert code == 2 and "needs 1 channels" in err and "2 (CT, PET)" in err
    code, _, err = run(tmp_path / "absent", given, tmp_path / "out")
    assert code == 2 and "is not a model folder" in err
