from pathlib import Path

import pytest
import yaml

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
    "override, words",
    [
        ("train.stepz=5", ["train.stepz", "train.steps"]),
        ("trian.steps=5", ["trian", "train"]),
        ("method.fliters=5", ["method.fliters", "mean method.generator.filters or method.adversary.filters?"]),
        ("method.filters=5", ["key method.filters;", "mean method.generator.filters or method.adversary.filters?"]),
        ("method.discriminator_filters=5", ["mean method.adversary.filters?"]),
        ("method.lr_discriminator=1e-3", ["mean method.adversary.lr?"]),
        ("method.generator.weight_l1=1", ["mean method.weight_l1?"]),
        ("method.classes=3", ["mean data.classes?"]),
        ("method={name: cut, weight_mind: 1}", ["mean method.preserve.weight_mind?"]),
        ("method={name: spade, generator_spectral_norm: true}", ["mean method.generator.spectral_norm?"]),
        ("method.in_channels=3", ["unknown key method.in_channels; known here: method.name, method.spatial_dims"]),
        ("method.generator=unet", ["method.generator = 'unet'", "its keys, e.g. method.generator.name"]),
        ("method.adversary.objective=wasserstein", ["method.adversary: ", "bounded critic"]),
        ("method.weight_diversity=1", ["method: weight_diversity", "set noise"]),
        ("intensity.source.hihg=5", ["intensity.source.hihg", "intensity.source.high"]),
        ("train.steps=many", ["train.steps", "'many'", "integer"]),
        ("train.steps=-5", ["train.steps", "greater than 0"]),
        ("method.name=pix2pixx", ["pix2pixx", "pix2pix"]),
        ("method.generator.filters=four", ["method.generator.filters", "integer"]),
        ("method.generator.norm=btach", ["method.generator.norm", "'batch'"]),
        ("intensity.source.outside=keep", ["intensity.source.outside", "'preserve'"]),
        ("train.steps", ["section.key=value"]),
        ("method.name.x=1", ["name is a value"]),
        ("train.minutes=.nan", ["train.minutes", "finite"]),
        ("intensity.source={low: 500, high: -500}", ["intensity.source", "below"]),
        ("intensity.source={kind: percentile, high: 150}", ["intensity.source", "0 and 100"]),
        ("data.source_channel=1", ["data.source_channel", "data.source_channels"]),
        ("data.sources=[]", ["data.sources"]),
        ("data.sources=[../t1]", ["data.sources"]),
        ("data={targets: [t1, t1]}", ["targets names a contrast twice"]),
        ("data={sources: [a, b, c], source_channels: [0, 1]}", ["3 contrasts but source_channels lists 2"]),
    ],
)
def test_faults_are_one_sentence_that_names_the_key(file, override, words):
    with pytest.raises(InputError) as caught:
        load_settings(file, [override])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_channel_numbers_without_names_get_some(file):
    data = load_settings(file, ["data={source_channels: [0, 2]}"]).data
    assert data.sources == ("channel_0", "channel_2") and data.targets == ("target",)


def test_unreadable_files(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load_settings(tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1,")
    with pytest.raises(InputError, match="not valid YAML"):
        load_settings(bad)
    bad.write_text("- 1")
    with pytest.raises(InputError, match="sections"):
        load_settings(bad)
    bad.write_bytes(b"\xfa\xfb\x00\x01")
    with pytest.raises(InputError, match="is not text"):
        load_settings(bad)


def test_yaml_cannot_build_objects(tmp_path):
    bad = tmp_path / "evil.yaml"
    bad.write_text("method: !!python/object/apply:os.system ['touch /tmp/pwned']")
    with pytest.raises(InputError, match="not valid YAML"):
        load_settings(bad)


def test_mirrored_inference_needs_mirrored_training(tmp_path):
    path = Path(__file__).parent.parent / "configs" / "mr_t1_to_t2_pix2pix.yaml"
    assert load_settings(path, ["data.root=x"]).inference.mirror == ("x",)
    with pytest.raises(InputError, match="inference.mirror has x, which sampling.flip has not"):
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
    for given, near in (("mr_t1_to_t2_pix2pics", "did you mean mr_t1_to_t2_pix2pix"), ("zzzz", "medgen configs lists")):
        with pytest.raises(InputError, match=f"{given} is no config.*{near}"):
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
def test_a_key_that_stands_twice_is_refused(text, key):
    """The first of the two would be lost in silence."""
    with pytest.raises(ValueError, match=f"the key {key} stands twice in one section .line [0-9]"):
        read_yaml(text)


def test_keys_that_merging_brings_in_again_are_no_faults():
    text = "base: &b {x: 1, y: 2}\nmore: &m {<<: *b, y: 3}\nlast: {<<: [*m, *b], x: 4}\nother: {x: 5}\n"
    assert read_yaml(text)["last"] == {"x": 4, "y": 3}
