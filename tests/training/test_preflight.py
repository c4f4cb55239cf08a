"""The check before a run, one step on the meta device: what it refuses and what it accepts."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from refusal import refused
from small import SMALL_METHOD, merged, small_settings

from medgen.training import preflight
from medgen.training.preflight import check_method

UNPAIRED = {"data": {"paired": False}}
CUT = {
    "name": "cut",
    "generator": {"name": "unet", "filters": 4, "levels": 2, "norm": "none", "antialias": False},
    "adversary": {"filters": 4, "layers": 1, "antialias": False},
}
SEGMENTED = {**CUT, "preserve": {"weight_segmentation": 1.0}}


@pytest.mark.parametrize(
    "keys",
    [
        {"adversary": {"augment": ["flip", "translate", "cutout", "intensity"]}},
        {"adversary": {"consistency": 10.0}},
        {"adversary": {"pool": 1}},
        {"adversary": {"r1": 1.0, "r1_every": 1}},
        {"adversary": {"objective": "wasserstein", "gradient_penalty": 10.0}},
        {"adversary": {"spectral_norm": True, "norm": "none"}},
        {"adversary": {"scales": 2}},
        {"preserve": {"weight_gradient": 1.0, "weight_mind": 1.0}},
        {"flip_equivariance": True, "nce_identity": False},
    ],
    ids=str,
)
def test_preflight_accepts_every_stabiliser(keys):
    check_method(small_settings(**UNPAIRED, method=merged(CUT, keys)))


def test_preflight_accepts_segmentation_with_labels():
    data = {"paired": False, "labels": True, "classes": 3}
    check_method(small_settings(data=data, method=SEGMENTED))


@pytest.mark.parametrize(
    "data, method, code, names",
    [
        ({"paired": False}, SMALL_METHOD, "config-paired-required", "data.paired"),
        ({"paired": False}, SEGMENTED, "config-method-invalid", "data.labels"),
        ({"paired": False}, {**SEGMENTED, "classes": 3}, "config-unknown-key", ("method.classes", "data.classes")),
        ({"paired": False}, {**CUT, "nce_layers": []}, "config-method-invalid", "layers"),
        (
            {"paired": False},
            merged(CUT, {"generator": {"name": "resnet", "kernel": 4}}),
            "config-method-invalid",
            "kernel",
        ),
        ({}, {**SMALL_METHOD, "weight_diversity": 1.0, "noise": 1}, "config-invalid-value", "weight_diversity"),
        ({}, merged(SMALL_METHOD, {"generator": {"levels": 5}}), "config-patch-multiple", "multiple of 32"),
    ],
)
def test_settings_that_cannot_train_are_refused_with_their_key(data, method, code, names):
    with refused(code, names=names):
        check_method(small_settings(data=data, method=method))


def test_a_window_that_does_not_fit_the_generator_is_refused():
    with refused("config-patch-multiple", names=("inference.patch", "multiple of 4")):
        check_method(small_settings(inference={"patch": [16, 18, 16]}))
    check_method(small_settings(inference={"patch": [16, 20, 16]}))


@pytest.mark.parametrize(
    "data, names",
    [
        ({"domains": ["none"], "paired": False}, ("domains", "at least two")),
        ({"domains": ["none", "none"], "paired": False}, ("domains", "at least two")),
        ({"domains": ["none", "late"]}, ("domains", "paired to false")),
        ({"domains": ["none", "late"], "paired": False, "sources": ["a", "b"]}, ("domains", "one contrast", "sources")),
        ({"classes": 3}, ("data.classes", "data.labels to true")),
    ],
)
def test_contradictory_data_settings_are_refused(data, names):
    with refused("config-invalid-value", names=names):
        small_settings(data=data)


@pytest.mark.parametrize(
    ("key", "new", "code"),
    [("label_maps", "y", "training-labels-changed"), ("validation", ["c1", "c2"], "training-split-changed")],
)
def test_a_run_is_resumed_only_with_the_same_label_maps_and_cases(monkeypatch, key, new, code):
    old = {"sha256": "a", "images": {}, "label_maps": "x", "training": ["c0"], "validation": ["c1"]}
    monkeypatch.setattr(preflight.checkpoint, "read_info", lambda _: (SimpleNamespace(training_data=old), None))
    monkeypatch.setattr(preflight, "recover", lambda path: path)
    preflight.check_data(SimpleNamespace(training_data=dict(old)), Path("run/last"))
    with refused(code):
        preflight.check_data(SimpleNamespace(training_data={**old, key: new}), Path("run/last"))


@pytest.mark.parametrize("images", [{"h0": "c0"}, {"h0": "c0", "h2": "c1"}])
def test_a_run_is_resumed_only_with_the_same_images_of_training_and_validation(monkeypatch, images):
    last = SimpleNamespace(training_data={"sha256": "a", "images": {"h0": "c0", "h1": "c1"}})  # c1 validates
    monkeypatch.setattr(preflight.checkpoint, "read_info", lambda _: (last, None))
    monkeypatch.setattr(preflight, "recover", lambda path: path)
    preflight.check_data(SimpleNamespace(training_data=dict(last.training_data)), Path("run/last"))
    with refused("training-images-changed"):
        preflight.check_data(SimpleNamespace(training_data={"sha256": "a", "images": images}), Path("run/last"))
