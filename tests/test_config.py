from pathlib import Path

import numpy as np
import pytest
import yaml
from refusal import refused

from medgen.config import config_file, configs, load_settings, parse_settings, plain, read_yaml
from medgen.errors import InputError

MINIMAL = {"method": {"name": "pix2pix", "generator": {"filters": 4}}}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return path


def test_overrides_reach_sections_and_method(file):
    settings = load_settings(
        file, ["data.root=/x", "train.minutes=1.5", "method.generator.filters=8", "sampling.patch=[8, 16, 8]"]
    )
    assert settings.data.root == Path("/x")
    assert settings.train.minutes == 1.5
    assert settings.method.name == "pix2pix" and settings.method.generator.filters == 8
    assert settings.sampling.patch == (8, 16, 8)


def test_settings_survive_json(file):
    settings = load_settings(file, ["train.seed=3", "data.spacing=[1, 1, 2]"])
    assert parse_settings(plain(settings), "again") == settings


@pytest.mark.parametrize(
    "override, code, words",
    [
        ("train.stepz=5", "config-unknown-key", ["train.stepz", "train.steps"]),
        ("trian.steps=5", "config-unknown-key", ["trian", "train"]),
        (
            "method.fliters=5",
            "config-unknown-key",
            ["method.fliters", "mean method.generator.filters or method.adversary.filters?"],
        ),
        (
            "method.filters=5",
            "config-unknown-key",
            ["key method.filters;", "mean method.generator.filters or method.adversary.filters?"],
        ),
        ("method.discriminator_filters=5", "config-unknown-key", ["mean method.adversary.filters?"]),
        ("method.lr_discriminator=1e-3", "config-unknown-key", ["mean method.adversary.lr?"]),
        ("method.generator.weight_l1=1", "config-unknown-key", ["mean method.weight_l1?"]),
        ("method.classes=3", "config-unknown-key", ["mean data.classes?"]),
        ("method={name: cut, weight_mind: 1}", "config-unknown-key", ["mean method.preserve.weight_mind?"]),
        (
            "method={name: spade, generator_spectral_norm: true}",
            "config-unknown-key",
            ["mean method.generator.spectral_norm?"],
        ),
        (
            "method.in_channels=3",
            "config-unknown-key",
            ["unknown key method.in_channels; known keys: method.name, method.spatial_dims"],
        ),
        (
            "method.generator=unet",
            "config-invalid-value",
            ["method.generator = 'unet'", "its keys, e.g. method.generator.name"],
        ),
        (
            "method.adversary.objective=wasserstein",
            "config-invalid-value",
            ["method.adversary: ", "constrained critic"],
        ),
        ("method.weight_diversity=1", "config-invalid-value", ["method: weight_diversity", "set noise"]),
        ("intensity.source.hihg=5", "config-unknown-key", ["intensity.source.hihg", "intensity.source.high"]),
        ("train.steps=many", "config-invalid-value", ["train.steps", "'many'", "integer"]),
        ("train.steps=-5", "config-invalid-value", ["train.steps", "greater than 0"]),
        ("method.name=pix2pixx", "method-unknown", ["pix2pixx", "pix2pix"]),
        ("method.generator.filters=four", "config-invalid-value", ["method.generator.filters", "integer"]),
        ("method.generator.norm=btach", "config-invalid-value", ["method.generator.norm", "'batch'"]),
        ("intensity.source.outside=keep", "config-invalid-value", ["intensity.source.outside", "'preserve'"]),
        ("train.steps", "config-override-form", ["section.key=value"]),
        ("method.name.x=1", "config-override-not-section", ["name is a value"]),
        ("train.minutes=.nan", "config-invalid-value", ["train.minutes", "finite"]),
        ("intensity.source={low: 500, high: -500}", "config-invalid-value", ["intensity.source", "below"]),
        ("intensity.source={kind: percentile, high: 150}", "config-invalid-value", ["intensity.source", "0 and 100"]),
        ("intensity.source={kind: percentile, low: 0.01, high: 0.99}", "config-invalid-value", ["from 0 to 100"]),
        ("data.source_channel=1", "config-unknown-key", ["data.source_channel", "data.source_channels"]),
        ("data.sources=[]", "config-invalid-value", ["data.sources"]),
        ("data.sources=[../t1]", "config-invalid-value", ["data.sources"]),
        ("data={targets: [t1, t1]}", "config-invalid-value", ["targets has an entry twice"]),
        (
            "data={sources: [a, b, c], source_channels: [0, 1]}",
            "config-invalid-value",
            ["3 contrasts but source_channels has 2"],
        ),
    ],
)
def test_config_errors_are_one_line_and_name_the_key(file, override, code, words):
    with refused(code, names=tuple(words)) as caught:
        load_settings(file, [override])
    assert "\n" not in str(caught.value)


def test_channel_numbers_without_names_get_default_names(file):
    data = load_settings(file, ["data={source_channels: [0, 2]}"]).data
    assert data.sources == ("channel_0", "channel_2") and data.targets == ("target",)


def test_unreadable_files(tmp_path):
    with refused("config-unreadable"):
        load_settings(tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1,")
    with refused("config-not-yaml"):
        load_settings(bad)
    bad.write_text("- 1")
    with refused("config-not-sections"):
        load_settings(bad)
    bad.write_bytes(b"\xfa\xfb\x00\x01")
    with refused("file-not-text"):
        load_settings(bad)


def test_yaml_cannot_build_objects(tmp_path):
    bad = tmp_path / "evil.yaml"
    bad.write_text("method: !!python/object/apply:os.system ['touch /tmp/pwned']")
    with refused("config-not-yaml"):
        load_settings(bad)


def test_few_cases_are_augmented_more():
    sampling = load_settings(config_file("mr_t1_to_flair_regression")).sampling
    assert sampling.few_cases is not None
    few, enough = sampling.augmentation(sampling.few_cases.below - 1), sampling.augmentation(sampling.few_cases.below)
    assert few["scale"] == sampling.few_cases.scale > enough["scale"] == sampling.scale
    assert {k: v for k, v in few.items() if k not in ("rotate", "scale", "gamma")}.items() <= enough.items()
    assert sampling.model_copy(update={"few_cases": None}).augmentation(1) == enough


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", "010"), ("1:30", "1:30"), ("1:30.5", "1:30.5"), ("10", 10), ("-3", -3), ("0", 0), ("0x10", 16)]
    + [("1.5", 1.5), (".5", 0.5), ("1.0e-3", 0.001), ("1_000", 1000), ("-.inf", -np.inf), ("yes", True)],
)
def test_numbers_are_read_as_they_look(text, value):
    assert read_yaml(f"a: {text}") == {"a": value}


def test_mirrored_inference_needs_mirrored_training(tmp_path):
    path = Path(__file__).parent.parent / "configs" / "mr_t1_to_t2_pix2pix.yaml"
    assert load_settings(path, ["data.root=x"]).inference.mirror == ("x",)
    with refused("config-invalid-value", names=("inference.mirror", "sampling.flip")):
        load_settings(path, ["data.root=x", "sampling.flip=[]"])


def test_configs_are_found_by_name_and_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = configs()
    assert {"mr_t1_to_t2_pix2pix", "paper/cut"} <= known.keys() and not any("checks" in name for name in known)
    assert all(0 < len(about) <= 100 and "\n" not in about for about in known.values())
    for name in known:
        for given in (name, f"{name}.yaml", f"configs/{name}.yaml"):
            assert load_settings(config_file(given)).method.name
    (tmp_path / "paper").mkdir()  # a folder of that name is no config
    own = tmp_path / "ct_contrast_cut.yaml"
    own.write_text("method: {name: cut}")
    assert config_file("ct_contrast_cut.yaml") == own.relative_to(tmp_path)
    for given, near in (("mr_t1_to_t2_pix2pics", "mr_t1_to_t2_pix2pix"), ("zzzz", "run medgen configs")):
        with refused("config-missing", names=(given, near)):
            config_file(given)


@pytest.mark.parametrize(
    "text, key",
    [
        ("a: 1\nb: 2\na: 3\n", "a"),
        ("include:\n  - {modality: CT, modality: MR}\n", "modality"),
        ("x: [{y: {z: 1, z: 1}}]\n", "z"),
        ("a: 1\n'a': 2\n", "a"),
    ],
)
def test_a_duplicate_yaml_key_is_refused(text, key):
    """YAML would silently drop the first of the two values."""
    with pytest.raises(ValueError, match=f"the key {key} occurs twice in one section .line [0-9]"):
        read_yaml(text)


def test_yaml_merge_keys_may_be_overridden():
    text = "base: &b {x: 1, y: 2}\nmore: &m {<<: *b, y: 3}\nlast: {<<: [*m, *b], x: 4}\nother: {x: 5}\n"
    assert read_yaml(text)["last"] == {"x": 4, "y": 3}


@pytest.mark.parametrize(
    "override",
    ["data.paired=false", "data.targets=[a,b]", "intensity.target.high=400", "intensity.source.low=-500"],
)
def test_a_dose_needs_pairs_of_one_window(override):
    with pytest.raises(InputError, match="sampling.dose"):
        load_settings(config_file("ct_contrast_regression"), ["data.root=x", "sampling.dose=0.4", override])
