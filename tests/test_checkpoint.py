import hashlib
import json
import os
import pickle

import pytest
import torch
from programs import run_program
from refusal import refused
from small import make_model, small_settings

from medgen.checkpoint import FORMAT, build_method, load_model, load_training, read_info, save_model, save_training
from medgen.io.atomic import atomic_folder, recover
from medgen.methods.pix2pix import Pix2Pix
from medgen.model_info import ModelInfo
from medgen.types import DataShape


@pytest.fixture
def folder(tmp_path, model):
    path = tmp_path / "best"
    with atomic_folder(path) as temporary:
        save_model(temporary, model.generator, model.info)
    return path


def test_a_folder_alone_gives_the_same_translation(folder, model):
    loaded = load_model(folder)
    x = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded.method.translate(x), model.method.translate(x))
    assert loaded.settings == model.settings
    assert loaded.info.versions["torch"] == torch.__version__.split("+")[0] or loaded.info.versions["torch"]


def test_channels_follow_from_the_data_section():
    data = {"sources": ["t1", "flair"], "targets": ["t2"]}
    G = build_method(small_settings(data=data)).networks["G"]
    assert G(torch.zeros(1, 2, 8, 8, 8)).shape == (1, 1, 8, 8, 8)
    with refused("config-method-invalid", names="residual"):
        build_method(small_settings(data={"targets": ["t1", "t2"]}))


def test_methods_get_the_classes_and_domains_of_the_data(monkeypatch):
    class Told(Pix2Pix):
        def __init__(self, settings, data):
            self.data = data
            super().__init__(settings, data)

    monkeypatch.setattr("medgen.checkpoint.method_class", lambda name: Told)
    patch = (16, 16, 16)
    assert build_method(small_settings(data={"labels": True, "classes": 5})).data == DataShape(classes=5, patch=patch)
    assert build_method(small_settings()).data == DataShape(1, 1, None, 0, patch)


def hashed(info):
    content = {k: v for k, v in info.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def edit(folder, **changes):
    info = json.loads((folder / "model.json").read_text())
    info.update(changes)
    if not set(info) - set(ModelInfo.model_fields):  # as by an attacker who knows how the hash is computed
        info["sha256"] = hashed(info)
    (folder / "model.json").write_text(json.dumps(info))


def refused_loading(code, folder, *names):
    with refused(code, names=names) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_other_format_is_named(folder):
    edit(folder, format=99)
    refused_loading("model-format", folder, str(folder), "format 99", f"format {FORMAT}")
    edit(folder, format=FORMAT - 1)  # of a flat method section
    refused_loading("model-format", folder, f"format {FORMAT - 1}")


def test_swapped_weights_are_refused(folder):
    other = make_model(seed=5)
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in other.generator.state_dict().items()}, folder / "weights.safetensors")
    refused_loading("model-weights-changed", folder, "weights.safetensors")


def test_a_pickle_is_never_opened(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    (folder / "weights.safetensors").write_bytes(pickle.dumps(Evil()))
    edit(folder, weights_sha256=hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest())
    refused_loading("model-weights-mismatch", folder, "weights.safetensors")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["../../evil", "os", "pix2pix.x", ""])
def test_method_names_are_looked_up_not_imported(folder, name):
    settings = json.loads((folder / "model.json").read_text())["settings"]
    settings["method"]["name"] = name
    edit(folder, settings=settings)
    refused_loading("method-unknown", folder, f"'{name}'")


def test_settings_that_do_not_fit_the_weights(folder):
    settings = json.loads((folder / "model.json").read_text())["settings"]
    settings["method"]["generator"]["filters"] = 8
    edit(folder, settings=settings)
    refused_loading("model-weights-mismatch", folder, "weights.safetensors")


def test_huge_network_takes_no_memory_before_it_is_refused(folder):
    settings = json.loads((folder / "model.json").read_text())["settings"]
    settings["method"]["generator"]["filters"] = 100_000
    edit(folder, settings=settings)
    refused_loading("model-weights-too-large", folder, "weights.safetensors")


@pytest.mark.parametrize("key", ["spacing", "source_range", "training_scans", "weights_sha256"])
def test_missing_parts_are_named(folder, key):
    info = json.loads((folder / "model.json").read_text())
    del info[key]
    (folder / "model.json").write_text(json.dumps(info))
    refused_loading("model-damaged", folder, key)


def test_a_changed_range_is_noticed(folder):
    info = json.loads((folder / "model.json").read_text())
    info["target_range"][0]["low"] = -500
    (folder / "model.json").write_text(json.dumps(info))
    refused_loading("model-changed", folder, "model.json")


@pytest.mark.parametrize(
    "key, value, code",
    [
        ("source_range", [{"low": 5, "high": -5}], "model-damaged"),
        ("source_range", [{"low": 0, "high": 5, "outside": "foo"}], "model-damaged"),
        (
            "source_range",
            [{"low": 0.0, "high": 5.0, "outside": "clip", "background": None}] * 2,
            "model-range-count-damaged",
        ),
        ("target_range", [], "model-damaged"),
        ("training_scans", [], "model-range-count-damaged"),
        ("training_scans", [[]], "model-damaged"),
        ("spacing", [0, 1, 1], "model-damaged"),
    ],
)
def test_impossible_values_are_named(folder, key, value, code):
    edit(folder, **{key: value})
    refused_loading(code, folder, key)


def test_unknown_parts_and_broken_json(folder):
    edit(folder, surprise=1)
    refused_loading("model-damaged", folder, "surprise")
    (folder / "model.json").write_text(f'{{"format": {FORMAT},')
    refused_loading("model-json-unreadable", folder, "model.json")
    (folder / "model.json").write_text("[]")
    refused_loading("model-json-unreadable", folder, "model.json")


def test_no_model_folder(tmp_path):
    refused_loading("model-json-missing", tmp_path, "model.json", "RUN/best")
    refused_loading("model-json-missing", tmp_path / "none", "model.json")


def test_training_state_round_trip(tmp_path):
    state = {
        "step": 3, "best": None, "curve": [{"mae": 1.5}], "pair": (0.9, 0.999), 
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 3)}}, "param_groups": []},
        "pool": torch.empty(0),
    }  # fmt: skip
    save_training(tmp_path, state)
    again = load_training(tmp_path)
    assert again["step"] == 3 and again["best"] is None and again["pair"] == (0.9, 0.999)
    assert list(again["optimizer"]["state"]) == [0]
    assert torch.equal(again["optimizer"]["state"][0]["exp_avg"], state["optimizer"]["state"][0]["exp_avg"])
    assert again["pool"].numel() == 0


def test_missing_training_state(tmp_path):
    with refused("training-state-incomplete"):
        load_training(tmp_path)


def test_an_interruption_between_the_renames_is_recovered(tmp_path):
    (tmp_path / ".last.old").mkdir()
    (tmp_path / ".last.old" / "a").write_text("1")
    assert (recover(tmp_path / "last") / "a").read_text() == "1"
    assert not (tmp_path / ".last.old").exists()


def test_a_failed_write_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "last"
    with atomic_folder(folder) as temporary:
        (temporary / "a").write_text("1")
    with pytest.raises(RuntimeError):
        with atomic_folder(folder) as temporary:
            (temporary / "a").write_text("2")
            raise RuntimeError
    assert (folder / "a").read_text() == "1"
    with atomic_folder(folder) as temporary:
        (temporary / "b").write_text("3")
    assert [p.name for p in folder.iterdir()] == ["b"]


def test_a_model_of_several_targets_asks_for_one(tmp_path):
    method = {
        "name": "multi_domain", "generator": {"name": "unet", "filters": 4, "levels": 2}, "adversary": {"filters": 4},
        "classifier_filters": 4,
    }  # fmt: skip
    settings = small_settings(data={"domains": ["none", "arterial"], "paired": False}, method=method)
    model = make_model(settings)
    save_model(tmp_path, model.generator, model.info)
    x = torch.randn(1, 1, 16, 16, 16)
    found = {name: load_model(tmp_path, target=name) for name in ("none", "arterial")}
    assert [m.method.target for m in found.values()] == [0, 1]
    assert not torch.equal(*(m.method.translate(x) for m in found.values()))
    for target, code in ((None, "model-target-ambiguous"), ("late", "model-target-unknown")):
        with refused(code, names="none, arterial"):
            load_model(tmp_path, target=target)


def test_domains_and_method_must_go_together():
    with refused("config-domains-mismatch", names="cyclegan"):
        build_method(small_settings(data={"domains": ["a", "b"], "paired": False}, method={"name": "cyclegan"}))
    with refused("config-domains-mismatch", names=("multi_domain", "data.domains=")):
        build_method(small_settings(method={"name": "multi_domain"}))
    l1 = {"name": "multi_domain", "weight_l1": 1.0, "generator": {"filters": 4, "blocks": 1}}
    with refused("config-paired-domains-required", names="data.paired_domains"):
        build_method(small_settings(data={"domains": ["a", "b"], "paired": False}, method=l1))


def saved_model(folder):
    model = make_model()
    folder.mkdir()
    save_model(folder, model.generator, model.info)
    return folder


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_weights_have_the_permissions_of_any_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        folder = saved_model(tmp_path / "m")
        save_training(folder, {"x": torch.zeros(2)})
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {mode}


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "endless", "gone"])
def test_files_of_a_model_are_regular_and_no_larger_than_they_need(tmp_path, name, kind):
    folder = saved_model(tmp_path / "m")
    path = folder / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "endless":
        with open(path, "wb") as file:
            file.truncate(2**42)  # sparse
    if kind == "endless":
        code = "model-file-too-large"
    elif name == "model.json":
        code = "model-json-missing"
    else:
        code = "model-weights-mismatch" if kind == "gone" else "model-file-not-regular"
    with refused(code, names=name):
        load_model(folder)


def test_too_large_weights_are_refused_before_reading(tmp_path, monkeypatch):
    folder = saved_model(tmp_path / "m")
    monkeypatch.setattr("medgen.checkpoint.MOST_WEIGHTS", 1000)
    with refused("model-weights-too-large"):
        load_model(folder)


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from medgen.checkpoint import save_training
from medgen.io.atomic import atomic_folder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails with an error, as on a full disk
def save(text):
    with atomic_folder(Path(sys.argv[1])) as temporary:
        save_training(temporary, {"x": torch.zeros(10**6), "n": text})
save("old")
resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    save("new")
except OSError as error:
    print("OSError", error.strerror)
"""


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path):
    done = run_program(FULL, tmp_path / "last")
    assert done.stdout == "OSError File too large\n", done.stderr
    assert load_training(tmp_path / "last")["n"] == "old" and os.listdir(tmp_path) == ["last"]


def test_numbers_of_a_list_are_on_one_line_and_texts_unchanged(tmp_path):
    made = make_model()
    odd = ["a [ b   c ] d", "[\n1,\n2]", 'say "[  x  ]"']
    info = made.info.model_copy(update={"health": odd})
    save_model(tmp_path, made.generator, info)
    text = (tmp_path / "model.json").read_text()
    assert '"spacing": [ ' in text and read_info(tmp_path)[0].health == odd
