"""Models that come with medgen are found by name; a path always comes first."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from refusal import refused
from small import make_model

from medgen import models
from medgen.checkpoint import load_model, save_model
from medgen.evaluation.identity import training_overlap_warnings
from medgen.model_info import TableInfo
from medgen.settings import Codecs, Data
from medgen.training.start_from import record_ancestors, start_from


@pytest.fixture
def named(tmp_path, monkeypatch):
    """A small model under the name tiny-model."""
    model = make_model()
    folder = tmp_path / "shipped" / "tiny-model"
    folder.mkdir(parents=True)
    save_model(folder, model.generator, model.info, half=True)
    (folder / "card.md").write_text("# A tiny model\n\nMore.\n")
    monkeypatch.setattr(models, "FOLDER", folder.parent)
    return model


def test_a_name_loads_the_model_and_a_misspelt_name_suggests_it(named):
    assert models.shipped() == {"tiny-model": "A tiny model"}
    loaded = load_model("tiny-model")
    for own, other in zip(named.generator.parameters(), loaded.generator.parameters(), strict=True):
        assert other.dtype == torch.float32
        assert torch.allclose(own, other, rtol=1e-3, atol=1e-6)  # 16 bits
    with refused("model-name-unknown", names="tiny-model"):
        load_model("tiny-modle")
    with refused("model-json-missing"):
        load_model("something-else")


def test_an_existing_folder_comes_before_a_name(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-model").mkdir()
    assert models.model_folder("tiny-model") == Path("tiny-model")


def test_every_shipped_model_loads_and_is_at_most_8_mb():
    for name in models.shipped():
        model = load_model(name)
        assert (model.folder / "weights.safetensors").stat().st_size <= 8 * 2**20
        assert (model.folder / "card.md").read_text().startswith("# ")


def test_start_from_contrasts_in_another_order_is_refused(named, monkeypatch):
    def with_sources(*names):
        return named.settings.model_copy(update={"data": Data(sources=names)})

    monkeypatch.setattr(
        "medgen.training.start_from.read_info",
        lambda _: (SimpleNamespace(source_range=[]), with_sources("t1", "flair")),
    )
    with refused("train-start-from-order", names=("t1, flair", "flair, t1")):
        start_from(named.generator, "tiny-model", with_sources("flair", "t1"), lambda _: None)
    start_from(named.generator, "tiny-model", with_sources("t1", "flair"), lambda _: None)


def test_start_from_loads_what_fits_and_says_what_does_not(named):
    other = make_model(seed=5)
    said = []
    start_from(other.generator, "tiny-model", named.settings, said.append)
    for own, loaded in zip(named.generator.parameters(), other.generator.parameters(), strict=True):
        assert torch.allclose(own, loaded, rtol=1e-3, atol=1e-6)
    assert "initial values" not in said[0] and len(said) == 1
    window = {"source": {"kind": "window", "low": -200, "high": 300}}
    changed = named.settings.model_copy(update={"intensity": Codecs.model_validate(window)})
    start_from(other.generator, "tiny-model", changed, said.append)
    assert "window -200 300" in said[-1] and said[-1].startswith("warning: ")
    for domains in (("none", "late"), ()):
        data = named.settings.data.model_copy(update={"domains": domains})
        start_from(other.generator, "tiny-model", named.settings.model_copy(update={"data": data}), said.append)
        assert ("data.domains none, not none, late" in said[-1]) == bool(domains)
    key = next(iter(other.generator.state_dict()))
    smaller = torch.nn.Module()
    smaller.register_buffer("nothing", torch.zeros(3))
    with refused("train-start-from-nothing-fits"):
        start_from(smaller, "tiny-model", named.settings, said.append)
    mixed = torch.nn.Module()
    mixed.register_buffer(key.replace(".", "_"), torch.zeros(3))
    with refused("train-start-from-nothing-fits"):
        start_from(mixed, "tiny-model", named.settings, said.append)


@pytest.mark.parametrize(
    ("labels", "told"), [({"a": 1, "b": 2}, False), ({"a": 3, "b": 7}, False), ({"b": 1, "a": 2}, True)]
)
def test_start_from_a_model_of_other_label_channels_is_told(named, monkeypatch, labels, told):
    info = SimpleNamespace(source_range=[TableInfo(labels={"a": 1, "b": 2}, tissues=0, smoothing=1)])
    monkeypatch.setattr("medgen.training.start_from.read_info", lambda _: (info, named.settings))
    said = []
    start_from(named.generator, "tiny-model", named.settings, said.append, labels)
    assert any("in the order of their values" in text for text in said) == told


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({"kind": "zscore", "width": 4}, {"kind": "zscore", "width": 2}, "zscore width 4, not zscore width 2"),
        ({"kind": "percentile", "background": 0}, {"kind": "percentile"}, "background 0"),
        ({"kind": "zscore", "width": 4}, {"kind": "zscore"}, ""),
    ],
)
def test_start_from_a_model_of_another_encoding_is_told(named, monkeypatch, old, new, told):
    def coded(codec):
        return named.settings.model_copy(update={"intensity": Codecs.model_validate({"source": codec})})

    monkeypatch.setattr(
        "medgen.training.start_from.read_info", lambda _: (SimpleNamespace(source_range=[]), coded(old))
    )
    said = []
    start_from(named.generator, "tiny-model", coded(new), said.append)
    assert told in said[-1] and len(said) == 1 + bool(told)


def test_a_training_records_the_images_of_the_model_that_it_starts_from(monkeypatch):
    theirs = SimpleNamespace(training_data={"ancestors": {"h0": "z"}, "images": {"h1": "a", "h2": "b"}})
    monkeypatch.setattr("medgen.training.start_from.read_info", lambda _: (theirs, None))
    monkeypatch.setattr("medgen.training.start_from.model_folder", lambda path: path)
    own = {"images": {"h1": "p", "h5": "q"}, "training": ["q"], "validation": ["p"]}
    said = []
    record_ancestors(own, {}, Path("A"), None, said.append)
    assert own["ancestors"] == {"h0": "z", "h1": "a", "h2": "b"} and "1 of the 1 validation cases (p)" in said[0]
    theirs.training_data["validation"] = ["a"]  # the model did not see this image either, under its name there
    record_ancestors({"images": {"h1": "p"}, "training": [], "validation": ["p"]}, {}, Path("A"), None, said.append)
    assert len(said) == 1
    theirs.training_data["ancestors"]["h1"] = "a"  # but one that it was started from did
    record_ancestors({"images": {"h1": "p"}, "training": [], "validation": ["p"]}, {}, Path("A"), None, said.append)
    assert len(said) == 2
    record_ancestors({"images": {}}, {"h2": "t", "h9": "u"}, Path("A"), None, said.append)
    assert "1 of the 2 test cases (t)" in said.pop()
    again = {"images": {}, "training": [], "validation": []}
    record_ancestors(again, {}, Path("gone"), own, said.append)
    assert again["ancestors"] == own["ancestors"] and len(said) == 2
    overlap = training_overlap_warnings({"model": {"training_data": own}}, {"new name": ["h0"], "other": ["h9"]})
    assert "1 of 2 cases (new name) were used to train or select the model" in overlap[0]
