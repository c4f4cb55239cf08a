"""Exported programs give the image that the model itself gives."""

import json

import numpy as np
import pytest
import torch
from refusal import refused
from small import make_model, small_settings
from typer.testing import CliRunner

from medgen.checkpoint import load_model, save_model
from medgen.cli import app
from medgen.export.programs import export_onnx, export_torch, exported
from medgen.inference.predict import translate_volume
from medgen.io.read import read_volume
from medgen.io.volume import Volume
from medgen.io.write import write_volume

MODEL = make_model(
    small_settings(
        method={"name": "regression", "generator": {"name": "unet", "filters": 2, "levels": 2, "norm": "none"}},
        sampling={"patch": [8, 8, 8]},
        inference={"window": "patch", "transfer": "difference"},
    )
)
TOLERANCE = 1e-3 * 2000  # HU: 1e-3 of the coded range of -1000 to 1000 HU


def scan(spacing=2.0):
    rng = np.random.default_rng(3)
    data = np.clip(rng.normal(0, 500, (13, 11, 9)), -1024, 3000).astype(np.float32)
    return Volume(data, np.diag([-spacing, spacing, 3, 1]), np.dtype(np.int16))


@pytest.fixture(scope="module")
def onnx(tmp_path_factory, folder):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(load_model(folder), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "best"
    path.mkdir()
    save_model(path, MODEL.generator, MODEL.info)
    return path


def test_an_onnx_file_and_a_folder_with_it_translate_as_the_model_does(onnx):
    for volume in (scan(), scan(1.3)):
        wanted = translate_volume(MODEL, volume)
        assert np.abs(wanted.data - volume.data).max() > 10 * TOLERANCE  # the model changes the scan
        for place in (onnx, onnx.parent):
            found = translate_volume(load_model(place), volume)
            assert np.abs(found.data - wanted.data).max() < 0.01 * TOLERANCE
            assert np.array_equal(found.affine, wanted.affine)


def test_sides_of_one_stride_give_the_same_too(onnx):
    """A scan that is thinner than two strides, for which the graph was not traced."""
    for shape in ((3, 3, 3), (4, 9, 2)):
        volume = Volume(scan().data[: shape[0], : shape[1], : shape[2]], np.diag([2.0, 2.0, 2.0, 1.0]))
        found, wanted = translate_volume(load_model(onnx), volume), translate_volume(MODEL, volume)
        assert np.abs(found.data - wanted.data).max() < 0.01 * TOLERANCE


def test_the_command_translates_with_an_onnx_file(onnx, folder, tmp_path):
    write_volume(tmp_path / "scan.nii.gz", scan())
    for name, model in (("onnx", onnx), ("torch", folder)):
        arguments = ["translate", model, tmp_path / "scan.nii.gz", tmp_path / f"{name}.nii.gz", "--qa-limits", "none"]
        assert CliRunner().invoke(app, [str(text) for text in arguments]).exit_code == 0
    found, wanted = (read_volume(tmp_path / f"{name}.nii.gz").data for name in ("onnx", "torch"))
    assert np.abs(found - wanted).max() <= 1  # both are rounded to integers


def test_a_program_in_plain_numpy_finds_units_window_and_padding_in_the_metadata(onnx):
    """What the how-to shows: no medgen, for a scan of the model's spacing in RAS order."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx))
    about = json.loads(session.get_modelmeta().custom_metadata_map["medgen_pipeline"])
    source, target, stride = about["sources"][0], about["targets"][0], about["stride"]
    assert about["model_sha256"] and about["output"]["kind"] == "image" and about["window"]["size"] == [8, 8, 8]
    rng = np.random.default_rng(0)
    hu = rng.uniform(-900, 900, (8, 8, 8)).astype(np.float32)
    x = (np.clip(hu, source["low"], source["high"]) - source["low"]) / (source["high"] - source["low"]) * 2 - 1
    assert all(n % stride == 0 for n in x.shape)
    (y,) = session.run(None, {"x": x[None, None]})
    found = np.clip((y[0, 0] + 1) / 2 * (target["high"] - target["low"]) + target["low"], target["low"], target["high"])
    wanted = translate_volume(MODEL, Volume(hu, np.diag([2.0, 2.0, 2.0, 1.0]))).data
    assert np.abs(found - wanted).max() < TOLERANCE


def test_a_torch_program_runs_without_medgen_and_tells_the_pipeline(folder, tmp_path):
    model = load_model(folder)
    export_torch(model, tmp_path / "model.pt2")
    extra = {"medgen_pipeline.json": "", "medgen_model.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    about = json.loads(extra["medgen_pipeline.json"])
    assert about["spacing"]["mm"] == [2.0, 2.0, 2.0] and about["stride"] == 4
    assert json.loads(extra["medgen_model.json"])["sha256"] == model.info.sha256
    for shape in ((1, 1, 8, 12, 16), (3, 1, 8, 8, 8)):
        x = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
        with torch.inference_mode():
            assert (program(x) - MODEL.method.translate(x)).abs().max() < 1e-5


def test_a_foreign_or_damaged_onnx_file_is_refused(onnx, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with refused("onnx-unreadable", names="bad.onnx"):
        load_model(tmp_path / "bad.onnx")
    import onnx as package

    other = package.load(onnx)
    del other.metadata_props[:]
    package.save(other, tmp_path / "other.onnx")
    with refused("onnx-without-pipeline", names="other.onnx"):
        load_model(tmp_path / "other.onnx")


def test_a_changed_window_in_the_metadata_is_refused(onnx, tmp_path):
    import onnx as package

    other = package.load(onnx)
    entry = next(prop for prop in other.metadata_props if prop.key == "medgen_model")
    entry.value = entry.value.replace('"high": 1000.0', '"high": 900.0')
    package.save(other, tmp_path / "other.onnx")
    with refused("model-changed", names="other.onnx"):
        load_model(tmp_path / "other.onnx")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("onnx", "{model}", "{out}/model.pt2"), "export-name"),
        (("tflite", "{model}", "{out}/model.tflite"), "export-format-unknown"),
        (("torch", "{model}", "{out}/old.pt2"), "output-exists"),
        (("torch", "{out}/nothing", "{out}/new.pt2"), "model-json-missing"),
    ],
)
def test_refusals(folder, tmp_path, arguments, code):
    (tmp_path / "old.pt2").write_text("mine")
    given = ["export", *(text.format(model=folder, out=tmp_path) for text in arguments)]
    error = CliRunner().invoke(app, given).exception
    assert error.code == code and (tmp_path / "old.pt2").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["old.pt2"]


def test_models_without_one_pass_over_scans_are_refused(tmp_path):
    generator = {"filters": 4, "levels": 2, "latent": 4}
    vae = small_settings(method={"name": "vae", "generator": generator}, data={"sources": []}, intensity={})
    diffusion = small_settings(method={"name": "diffusion"})
    for settings, code in ((vae, "model-generates"), (diffusion, "export-many-steps")):
        with refused(code):
            export_torch(make_model(settings), tmp_path / "out.pt2")


@pytest.mark.parametrize("method", ["pix2pix", "cyclegan", "cut", "reggan", "multi_domain"])
def test_every_translator_is_exported_for_any_batch_and_size(method):
    small = {"name": "unet", "filters": 2, "levels": 2, "norm": "none"}
    domains = {"data": {"domains": ["a", "b"], "paired": False}} if method == "multi_domain" else {}
    settings = {"name": method, "generator": small} | ({"adversary": {"filters": 4, "layers": 1}} if domains else {})
    model = make_model(small_settings(method=settings, **domains))
    x = torch.rand(3, 1, 16, 24, 8) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(exported(model).module()(x), model.method.translate(x), atol=1e-5)


def test_two_exports_do_not_chain(onnx, tmp_path):
    with refused("export-of-export"):
        export_torch(load_model(onnx), tmp_path / "out.pt2")
