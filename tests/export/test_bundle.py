"""An exported bundle is valid by MONAI's rules and gives the voxels of medgen translate."""

import json

import numpy as np
import pytest
from jsonschema import validate
from monai.bundle import ConfigWorkflow
from small import make_model, small_settings
from typer.testing import CliRunner

from medgen.checkpoint import save_model
from medgen.cli import app
from medgen.inference.predict import translate_case
from medgen.io.read import read_volume
from medgen.io.volume import Volume
from medgen.io.write import write_volume

# What MONAI's meta_schema_20240725.json requires; the file itself cannot be fetched in a test.
TEXTS = ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors")
TENSOR = {
    "type": "object",
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
    "properties": {
        **{key: {"type": "string"} for key in ("type", "format", "dtype")},
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object"},
    },
}
NAMED = {"type": "object", "additionalProperties": TENSOR}
FORMAT = {"type": "object", "required": ["inputs", "outputs"], "properties": {"inputs": NAMED, "outputs": NAMED}}
SCHEMA = {
    "type": "object",
    "required": [*TEXTS, "copyright", "required_packages_version", "network_data_format"],
    "properties": {
        **{key: {"type": "string"} for key in (*TEXTS, "copyright", "intended_use", "data_type")},
        **{key: {"type": "object"} for key in ("changelog", "required_packages_version", "eval_metrics")},
        "network_data_format": FORMAT,
    },
}
PLAIN = {"name": "regression", "generator": {"name": "unet", "filters": 2, "levels": 2, "norm": "instance"}}
REPLACE = {
    "name": "regression",
    "generator": {"name": "residual_unet", "filters": 4, "levels": 2, "replace": [-0.02, 0.1]},
}
SLICES = {"sampling": {"patch": [8, 8, 3]}, "method": {**PLAIN, "spatial_dims": 2}}
CASES = {
    "windows": small_settings(method=PLAIN, sampling={"patch": [8, 8, 8]}),
    "maps": small_settings(method=REPLACE, inference={"transfer": "difference"}),
    "slabs": small_settings(**SLICES),
    "two": small_settings(
        method=PLAIN, data={"sources": ["t1", "flair"], "targets": ["a", "b"]}, inference={"window": "whole"}
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_bundle_is_valid_and_runs_as_the_model_does(kind, tmp_path):
    model = make_model(CASES[kind])
    (tmp_path / "best").mkdir()
    save_model(tmp_path / "best", model.generator, model.info)
    names = model.settings.data.sources
    rng = np.random.default_rng(1)
    affine = np.array([[0, 1.5, 0, -8], [-1.2, 0, 0, 7], [0, 0, 2.5, 3], [0, 0, 0, 1.0]])
    volumes = [Volume(np.rint(rng.normal(40, 300, (12, 15, 9))), affine, np.dtype(np.int16)) for _ in names]
    for name, volume in zip(names, volumes, strict=True):
        write_volume(tmp_path / "scans" / ("" if len(names) == 1 else name) / "p1.nii.gz", volume)
    root = tmp_path / "bundle"
    result = CliRunner().invoke(app, ["export", "bundle", str(tmp_path / "best"), str(root)])
    assert result.exit_code == 0, result.output
    metadata = json.loads((root / "configs/metadata.json").read_text())
    validate(metadata, SCHEMA)
    given = {"bundle_root": str(root), "dataset_dir": str(tmp_path / "scans"), "output_dir": str(tmp_path / "out")}
    workflow = ConfigWorkflow(
        config_file=str(root / "configs/inference.json"),
        meta_file=str(root / "configs/metadata.json"),
        logging_file=False,
        workflow_type="infer",
        **given,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    targets = model.settings.data.targets
    for name, wanted in zip(targets, translate_case(model, volumes), strict=True):
        found = read_volume(tmp_path / "out" / ("" if len(targets) == 1 else name) / "p1.nii.gz")
        np.testing.assert_allclose(found.affine, affine, atol=1e-5)
        assert np.abs(wanted.data - volumes[0].data).max() > 1  # the model changes the scan
        np.testing.assert_allclose(found.data, wanted.data, atol=2e-3)


def test_a_bundle_does_not_replace_another_folder(tmp_path):
    model = make_model(CASES["windows"])
    for name in ("best", "out"):
        (tmp_path / name).mkdir()
    save_model(tmp_path / "best", model.generator, model.info)
    (tmp_path / "out" / "mine").write_text("mine")
    call = ["export", "bundle", str(tmp_path / "best"), str(tmp_path / "out")]
    assert CliRunner().invoke(app, call).exception.code == "folder-not-empty"
    assert CliRunner().invoke(app, [*call, "--overwrite"]).exit_code == 0
    assert (tmp_path / "out" / "mine").read_text() == "mine"
    assert "not for diagnosis" in (tmp_path / "out/docs/README.md").read_text()
