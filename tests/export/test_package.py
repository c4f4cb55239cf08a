"""A model travels as one file; a file that was changed is not unpacked."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from refusal import refused
from small import make_model
from typer.testing import CliRunner

from medgen.checkpoint import load_model, save_model
from medgen.cli import app
from medgen.export.package import LIST, pack, unpack


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    root = tmp_path_factory.mktemp("packed")
    (root / "best").mkdir()
    model = make_model()
    save_model(root / "best", model.generator, model.info)
    result = CliRunner().invoke(app, ["pack", str(root / "best"), str(root / "model.medgen")])
    assert result.exit_code == 0 and "sha256" in result.output
    return root / "model.medgen"


def test_an_unpacked_model_is_the_model_with_a_card(packed, tmp_path):
    assert CliRunner().invoke(app, ["unpack", str(packed), str(tmp_path / "model")]).exit_code == 0
    one, other = load_model(packed.parent / "best"), load_model(tmp_path / "model")
    assert one.info == other.info
    for a, b in zip(one.generator.parameters(), other.generator.parameters(), strict=True):
        assert torch.equal(a, b)
    card = (tmp_path / "model/card.md").read_text()
    for part in ("# source to target, by pix2pix", "## Data", "## Intended use", "## Numbers", "## Limits"):
        assert part in card
    names = sorted(path.name for path in (tmp_path / "model").glob("[!.]*"))
    assert names == [
        "card.md",
        "model.json",
        "weights.safetensors",
    ]


def test_other_folders_and_files_are_not_replaced(packed, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    assert CliRunner().invoke(app, ["unpack", str(packed), str(tmp_path / "mine")]).exception.code == "folder-not-empty"
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/card.md").write_text("theirs")
    again = ["unpack", str(packed), str(tmp_path / "theirs"), "--overwrite"]
    assert CliRunner().invoke(app, again).exception.code == "output-file-foreign"
    assert [path.name for path in (tmp_path / "theirs").glob("[!.]*")] == ["card.md"]
    again = ["pack", str(packed.parent / "best"), str(packed)]
    assert CliRunner().invoke(app, again).exception.code == "output-exists"


def rewritten(packed, path, change):
    """A copy of the package whose entries {name: (info, bytes)} are changed."""
    with zipfile.ZipFile(packed) as found:
        entries = {info.filename: (zipfile.ZipInfo(info.filename), found.read(info)) for info in found.infolist()}
    change(entries)
    with zipfile.ZipFile(path, "w") as made:
        for info, content in entries.values():
            made.writestr(info, content)
    return path


def changed_weights(entries):
    info, content = entries["weights.safetensors"]
    entries["weights.safetensors"] = info, content[:-1] + bytes([content[-1] ^ 1])


def changed_window(entries):
    info, content = entries["model.json"]
    content = content.replace(b'"high": 1000.0', b'"high": 2000.0')
    listed = json.loads(entries[LIST][1])
    listed["files"]["model.json"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    entries["model.json"], entries[LIST] = (info, content), (entries[LIST][0], json.dumps(listed).encode())


def longer(entries):
    info, content = entries["card.md"]
    entries["card.md"] = info, content + b"more"


def too_large(entries):
    entries["card.md"] = entries["card.md"][0], b" " * (2**20 + 1)


def escaping(entries):
    entries["up"] = zipfile.ZipInfo("../up"), b"x"


def renamed(entries):
    info, content = entries["card.md"]
    info.filename = "/tmp/card.md"


def link(entries):
    info, _ = entries["card.md"]
    info.external_attr = 0o120777 << 16
    entries["card.md"] = info, b"/etc/passwd"


def without_list(entries):
    del entries[LIST]


def wrong_list(entries):
    entries[LIST] = entries[LIST][0], b'{"format": 1, "files": []}'


def nonsense(entries):
    entries[LIST] = entries[LIST][0], b"[[["


CHANGES = {
    changed_weights: "package-changed",
    changed_window: "model-changed",
    longer: "package-changed",
    too_large: "package-too-large",
    escaping: "package-files",
    renamed: "package-files",
    link: "package-files",
    without_list: "package-files",
    wrong_list: "package-format",
    nonsense: "package-damaged",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_package_is_refused_and_nothing_is_written(packed, tmp_path, change):
    path = rewritten(packed, tmp_path / "model.medgen", change)
    (tmp_path / "out").mkdir()
    with refused(CHANGES[change]):
        unpack(path, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir()) and {p.name for p in tmp_path.iterdir()} == {"out", "model.medgen"}


@pytest.mark.parametrize("damage", ["cut", "text"])
def test_a_damaged_file_is_refused(packed, tmp_path, damage):
    shutil.copy(packed, tmp_path / "model.medgen")
    content = packed.read_bytes()
    (tmp_path / "model.medgen").write_bytes(content[: len(content) // 2] if damage == "cut" else b"hello")
    (tmp_path / "out").mkdir()
    with refused("package-damaged"):
        unpack(tmp_path / "model.medgen", tmp_path / "out")


def test_the_same_model_gives_the_same_package(tmp_path):
    first, second = tmp_path / "a.medgen", tmp_path / "b.medgen"
    assert pack(Path("ct-noncontrast"), first) == pack(Path("ct-noncontrast"), second)
    with zipfile.ZipFile(first) as found:
        assert {entry.date_time for entry in found.infolist()} == {(1980, 1, 1, 0, 0, 0)}
