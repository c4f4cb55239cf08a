"""Every writing command, with folders of others as output: no file of others is lost, and the folder is locked."""

import inspect
import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
import typer
from dicom_series import stored, write_ct
from labelled import write_nnunet
from small import make_model, small_settings, write_cohort
from torch import nn
from typer.testing import CliRunner

from medgen.checkpoint import save_model
from medgen.cli import app
from medgen.errors import InputError
from medgen.io.lock import locked

CLI = typer.main.get_command(app)
READS = {"doctor", "configs", "models", "serve"}  # what writes nothing
SHAPE = (12, 12, 12)


class Bright(nn.Module):
    def forward(self, x):
        return torch.cat([1000 - x, x - 1000], 1)


def spade():
    generator = {"filters": 4, "hidden": 4, "levels": 2, "latent": 0}
    method = {"name": "spade", "generator": generator, "adversary": {"filters": 4, "layers": 1}}
    intensity = {"source": {"kind": "labels"}, "target": {"kind": "window", "low": -1000, "high": 1000}}
    data = {"sources": ["labels"], "targets": ["target"], "classes": 2}
    return make_model(small_settings(method=method, data=data, intensity=intensity))


def vae(seed):
    method = {"name": "vae", "generator": {"filters": 4, "levels": 2, "latent": 4}}
    settings = small_settings(method=method, data={"sources": []}, intensity={})
    return make_model(settings, seed=seed)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """One input of each kind for the commands, and others of the same kind under ``other``."""
    root = tmp_path_factory.mktemp("given")
    for place, name in ((root, "case"), (root / "other", "else")):
        write_cohort(place / "cohort", 4, labels=True)
        for side in ("source", "target", "labels"):
            (place / side).mkdir()
            for i in range(2):
                shutil.copy(place / f"cohort/{side}/case{i}.nii.gz", place / f"{side}/{name}{i}.nii.gz")
        write_ct(place / "dicom" / name, stored(16, 16, 16))
        for path in (place / "maps",):
            path.mkdir()
            nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.diag([2, 2, 2, 1])), path / f"{name}.nii.gz")
        write_nnunet(place / "dataset", labels={"background": 0, "liver": 1, "lesion": 2})
    for name, model in (("model", make_model()), ("spade", spade()), ("vae", vae(0)), ("other/vae", vae(1))):
        (root / name).mkdir()
        save_model(root / name, model.generator, model.info)
    (root / "net").mkdir()
    torch.jit.save(torch.jit.script(Bright()), root / "net/bright.ts")
    (root / "net/grid.json").write_text('{"values": [0, 5]}')
    plain = small_settings(train={"steps": 1, "validation_cases": 1}).model_dump(mode="json")
    (root / "tiny.json").write_text(json.dumps(plain))
    return root


def arguments(given, out, other=False):
    """The arguments of each command; ``other``: with other inputs."""
    at = given / "other" if other else given
    return {
        "phantom": [out, "--patients", 1, "--seed", int(other), "--size", 9, 9, 9, "--spacing", 30],
        "simulate-contrast": [at / "source", at / "labels", out, "--label-table", at / "cohort/labels.json"],
        "train": [given / "tiny.json", f"data.root={at}/cohort", "--out", out],
        "translate": [given / "model", at / "source", out, "--qa-limits", "none", "--no-report"],
        "augment": [given / "model", at / "dataset", out],
        "synthesize": [given / "spade", at / "maps", out],
        "sample": [at / "vae", out, "--count", 2],
        "segment": [given / "net/bright.ts", at / "source", out],
        "evaluate": ["--prediction", at / "source", "--reference", at / "target", "--out", out],
    }


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Reports without pictures and PDF, which take a second each."""
    monkeypatch.setattr("medgen.reports.evaluation._print", lambda *_: None)
    monkeypatch.setattr("medgen.reports.evaluation.MOST_FIGURES", 0)
    monkeypatch.setattr("medgen.reports.evaluation._chosen", lambda *_: [])


DEIDENTIFIED = "translate --deidentify"


def call(given, out, command, *more, other=False):
    name = command.split()[0]
    texts = arguments(given, out, other)[name]
    if command == DEIDENTIFIED:
        at = given / "other" if other else given
        texts = [given / "model", at / "dicom", out, "--qa-limits", "none", "--no-report", "--deidentify"]
        texts += ["--identity-dir", f"{out}-private{int(other)}"]
    result = CliRunner().invoke(app, [str(text) for text in (name, *texts, *more)])
    if isinstance(result.exception, InputError):
        return 2, str(result.exception)
    return result.exit_code, result.output


def files(folder):
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("[!.]*") if p.is_file()}
    return {name: content for name, content in found.items() if "tensorboard" not in name and "-private" not in name}


COMMANDS = [
    "phantom",
    "simulate-contrast",
    "train",
    "translate",
    DEIDENTIFIED,
    "augment",
    "synthesize",
    "sample",
    "segment",
    "evaluate",
]


def test_the_list_of_commands_is_complete():
    files = {"report", "plan", "export", "pack", "unpack", "labels"}  # what writes one file, or a few of a list
    assert {name.split()[0] for name in COMMANDS} | READS | files == set(CLI.commands)
    for name in {*CLI.commands} - READS:
        assert "overwrite" in {parameter.name for parameter in CLI.commands[name].params}, name
        assert "overwrite" in inspect.signature(CLI.commands[name].callback).parameters


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_of_others_and_of_another_run(given, tmp_path, command):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    code, said = call(given, out, command)
    assert code == 2 and "thesis.txt" in said and "--overwrite" in said and os.listdir(out) == ["thesis.txt"]
    code, said = call(given, out, command, "--overwrite")
    assert code == 0, said
    first = files(out)
    assert first.pop("thesis.txt") == b"mine" and first
    with locked(out):
        code, said = call(given, out, command, *(["--resume"] if command == "train" else []))
        assert code == 2 and "is being written by another run of medgen" in said and f"process {os.getpid()}" in said
    code, said = call(given, out, command, *(["--resume"] if command == "train" else []))
    assert code == 0 and files(out).keys() == {*first, "thesis.txt"}, said
    code, said = call(given, out, command, other=True)
    assert code == 2 and "--overwrite" in said and "\n" not in said.strip()
    assert files(out).keys() == {*first, "thesis.txt"}
    code, said = call(given, out, command, "--overwrite", other=True)
    assert code == 0, said
    second = files(out)
    assert second.pop("thesis.txt") == b"mine" and second
    if command in ("translate", "synthesize", "segment"):
        assert not any("case" in name for name in second) and any("else" in name for name in second)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_or_the_input_as_output_folder_is_refused(given, tmp_path, command):
    """Also with --overwrite, which would take the input for an older result."""
    (tmp_path / "out").write_text("mine")
    code, said = call(given, tmp_path / "out", command)
    assert code == 2 and "out" in said and (tmp_path / "out").read_text() == "mine"
    if command == "phantom":
        return
    place = tmp_path / "given"
    shutil.copytree(given, place)
    before = files(place)
    own = {"train": "cohort", "augment": "dataset", "synthesize": "maps", "sample": "vae"}
    own = (own | {DEIDENTIFIED: "dicom"}).get(command, "source")
    for out in (own, ""):
        code, said = call(place, place / out, command, "--overwrite")
        assert code == 2 and ("input" in said or "is inside" in said), said
    assert files(place) == before


def test_a_report_replaces_only_its_own_files(given, tmp_path):
    assert call(given, tmp_path / "out", "evaluate")[0] == 0
    (tmp_path / "thesis.html").write_text("mine")
    for path, more, code in (
        ("out/report.html", [], 0),
        ("thesis.html", [], 2),
        ("new.html", [], 0),
        ("new.html", [], 2),
        ("new.html", ["--overwrite"], 0),
    ):
        result = CliRunner().invoke(app, ["report", str(tmp_path / "out"), "--out", str(tmp_path / path), *more])
        refused = isinstance(result.exception, InputError) and result.exception.code == "output-exists"
        assert refused == (code == 2), (path, result.output)
    assert (tmp_path / "thesis.html").read_text() == "mine"


def test_one_volume_replaces_another_only_when_asked(given, tmp_path):
    shutil.copy(given / "source/case0.nii.gz", tmp_path / "out.nii.gz")
    before = (tmp_path / "out.nii.gz").read_bytes()
    command = ["translate", str(given / "model"), str(given / "source/case1.nii.gz"), str(tmp_path / "out.nii.gz")]
    refused = CliRunner().invoke(app, [*command, "--qa-limits", "none"])
    assert refused.exception.code == "output-exists" and (tmp_path / "out.nii.gz").read_bytes() == before
    assert CliRunner().invoke(app, [*command, "--qa-limits", "none", "--overwrite"]).exit_code == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_prints_what_is_kept_and_how_to_resume(given, tmp_path, monkeypatch, command):
    def stop(*_, **__):
        raise KeyboardInterrupt

    where = {
        "phantom": "medgen.phantom.cohort.write_cohort",
        "simulate-contrast": "medgen.contrast.cohort.read_pair",
        "train": "medgen.training.loop._loop",
        "translate": "medgen.inference.cohort.run.Cases.converted",
        DEIDENTIFIED: "medgen.inference.cohort.run.Cases.converted",
        "augment": "medgen.augmentation.augment.DatasetWriter.copy",
        "synthesize": "medgen.inference.synthesize.make",
        "sample": "medgen.augmentation.sample.sample_volumes",
        "segment": "medgen.inference.segment._segmented",
        "evaluate": "medgen.evaluation.evaluate.match_folders",
    }[command]
    monkeypatch.setattr(where, stop)
    code, said = call(given, tmp_path / "out", command)
    assert code == 130 and "interrupted: " in said
    assert "start the same command again" in said and "Traceback" not in said
