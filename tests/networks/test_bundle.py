"""The network of a MONAI bundle as generator: what it may be, and that models with it can be saved and loaded."""

import json

import pytest
import torch
from refusal import refused
from small import make_model, small_settings, write_cohort

from medgen.checkpoint import build_method, load_model, save_model
from medgen.config import config_file, load_settings
from medgen.errors import InputError
from medgen.training.loop import train

UNET = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": "@channels",
    "out_channels": 1,
    "channels": [4, 8, 8],
    "strides": [2, 2],
    "norm": ["batch", {}],
}


def bundle(folder, **changes):
    (folder / "configs").mkdir(parents=True)
    config = {"channels": 1, "network_def": {**UNET, **changes}, "run": "$print('never run')"}
    (folder / "configs/inference.json").write_text(json.dumps(config))
    return folder


def settings_for(network, **generator):
    method = {"name": "regression", "generator": {"name": "bundle", "network": network, **generator}}
    return small_settings(method=method)


def test_a_model_with_the_network_of_a_bundle_needs_no_bundle_once_trained(tmp_path):
    settings = settings_for(str(bundle(tmp_path / "bundle")))
    model = make_model(settings)
    network = model.generator
    assert network.divisor == 4 and type(network.network).__module__.startswith("monai.networks.nets")
    assert settings.method.generator.network["in_channels"] == 1  # the reference was resolved
    (tmp_path / "bundle/configs/inference.json").unlink()
    (tmp_path / "best").mkdir()
    save_model(tmp_path / "best", network, model.info)
    loaded = load_model(tmp_path / "best")
    x = torch.rand(1, 1, 8, 12, 16)
    with torch.no_grad():
        assert torch.equal(loaded.method.translate(x), model.method.translate(x))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_target_": "os.system"}, "not a network"),
        ({"_target_": "subprocess.UNet"}, "not a network"),
        ({"act": {"_target_": "os.system", "command": "true"}}, "not plain"),
        ({"in_channels": 2}, "channels"),
        ({"nonsense": 1}, "cannot be built"),
        ({"spatial_dims": 2}, "in 3D"),
    ],
)
def test_networks_that_do_not_fit_are_refused_with_the_reason(tmp_path, changes, said):
    with refused("config-method-invalid", names=said):
        build_method(settings_for(str(bundle(tmp_path, **changes))))


def test_expressions_and_folders_without_a_bundle_are_refused(tmp_path):
    with pytest.raises(InputError, match="not executed"):
        settings_for(str(bundle(tmp_path / "a", channels="$__import__('os').listdir('.')")))
    with pytest.raises(InputError, match="not a MONAI bundle"):
        settings_for(str(tmp_path))
    with pytest.raises(InputError, match="belong together"):
        settings_for(None)
    with pytest.raises(InputError, match="residual_unet"):
        settings_for(UNET, replace=[0, 0.1])


def test_a_bundle_trains_by_a_shipped_config(tmp_path):
    """The command of the how-to."""
    given = ["method.generator.name=bundle", f"method.generator.network={bundle(tmp_path / 'bundle')}"]
    given += [f"data.root={write_cohort(tmp_path / 'cohort')}", "train.steps=1", "train.validation_cases=1"]
    given += [
        "sampling.patch=[16,16,16]",
        "data.spacing=null",
        "method.adversary.layers=1",
        "method.adversary.filters=4",
    ]
    settings = load_settings(config_file("ct_contrast_pix2pix"), given)
    best = train(settings, tmp_path / "run", say=lambda _: None)
    assert type(load_model(best).generator.network.network).__name__ == "UNet"  # within Residual
