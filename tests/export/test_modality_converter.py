"""The class for ModalityConverter gives medgen's image, run as the extension runs it: by stand-ins of its two modules.

The extension's steps: import the module that metadata.json names, which registers the class under the key; find the
file in Resources/Models that begins with the key; ``_loadModelFromPath``; ``runInference`` with nodes of volumes.
"""

import ast
import importlib.util
import json
import sys
import types

import numpy as np
import pytest
from refusal import refused
from small import make_model, merged, small_settings
from typer.testing import CliRunner

from medgen.checkpoint import save_model
from medgen.cli import app
from medgen.export.modality_converter import export_modality_converter
from medgen.export.pipeline import pipeline
from medgen.export.programs import export_onnx
from medgen.export.standalone import axes_affine, to_ras
from medgen.inference.predict import translate_volume
from medgen.io.volume import Volume

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
NETWORK = {"name": "regression", "generator": {"name": "unet", "filters": 2, "levels": 2, "norm": "none"}}
PLAIN = {"method": NETWORK, "sampling": {"patch": [8, 8, 8]}, "inference": {"window": "whole"}}


class Node:
    """A volume node; ``affine`` None: as in versions that run models in a process of their own."""

    def __init__(self, array=None, affine=None):
        self.array, self.oriented_as = array, None
        if affine is not None:
            self.GetIJKToRASMatrix = lambda matrix: matrix.__dict__.update(values=affine)

    def CopyOrientation(self, other):
        self.oriented_as = other


class Matrix:
    def GetElement(self, row, column):
        return self.values[row][column]


class BaseModel:
    def __init__(self, key, device="cpu"):
        self.modelKey, self.device = key, device


@pytest.fixture
def extension(monkeypatch):
    """{key: class} that modules register, with the modules that they import."""
    registry = {}
    base = types.ModuleType("ModalityConverterLib.ModelBase")
    base.BaseModel, base.register_model = BaseModel, lambda key: lambda made: registry.setdefault(key, made)
    slicer, vtk = types.ModuleType("slicer"), types.ModuleType("vtk")
    slicer.util = types.SimpleNamespace(
        arrayFromVolume=lambda node: node.array,
        updateVolumeFromArray=lambda node, array: setattr(node, "array", array),
        setSliceViewerLayers=lambda **_: None,
        resetSliceViews=lambda: None,
    )
    vtk.vtkMatrix4x4 = Matrix
    for name, module in {
        "slicer": slicer,
        "vtk": vtk,
        "ModalityConverterLib": types.ModuleType("ModalityConverterLib"),
        "ModalityConverterLib.ModelBase": base,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    return registry


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The network that the models here have in common, exported once."""
    path = tmp_path_factory.mktemp("network") / "network.onnx"
    export_onnx(make_model(small_settings(**PLAIN)), path)
    return path


@pytest.fixture
def quick_export(network, monkeypatch):
    """The export of a model with that network, in a fraction of the time: its metadata in a copy."""
    import onnx

    def export(model, path):
        program = onnx.load(network)
        del program.metadata_props[:]
        onnx.helper.set_model_props(program, {"medgen_pipeline": json.dumps(pipeline(model))})
        onnx.save(program, path)

    monkeypatch.setattr("medgen.export.modality_converter.export_onnx", export)


def loaded(folder, registry):
    """The model of an exported folder, after the extension's steps."""
    ((key, entry),) = json.loads((folder / "metadata_entry.json").read_text()).items()
    assert set(entry) == {"url", "display_name", "description", "module_name"}
    path = folder / "ModalityConverterLib/ModelsImpl" / f"{entry['module_name']}.py"
    ast.parse(path.read_text(), feature_version=(3, 9))  # the Python of 3D Slicer 5.8
    spec = importlib.util.spec_from_file_location(entry["module_name"], path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    (file,) = [path for path in (folder / "Resources/Models").iterdir() if path.name.startswith(key)]
    model = registry[key](key, "cpu")
    model.model = model._loadModelFromPath(str(file))
    return model


def scan(shape=(13, 11, 9), affine=None):
    rng = np.random.default_rng(3)
    data = np.clip(rng.normal(0, 700, shape), -1024, 3000).astype(np.float32)
    return Volume(data, np.diag([-2.0, -2.0, 2.0, 1]) if affine is None else affine, np.dtype(np.float32))


TURNED = np.array([[0, 0, -2.0, 5], [2.0, 0, 0, 7], [0, -2.0, 0, 9], [0, 0, 0, 1]])  # sagittal slices
PERCENTILE = {"kind": "percentile", "high": 99.0}
CASES = {
    "preserve": PLAIN,
    "preserve_unchanged": {"intensity": {"source": {"low": -500, "high": 700, "outside": "preserve_unchanged"}}},
    "windows": {
        "inference": {"window": "patch", "mirror": ["x", "z"]},
        "sampling": {"patch": [8, 8, 8], "flip": ["x", "z"]},
    },
    "percentile": {"intensity": {"source": PERCENTILE, "target": {"kind": "percentile", "follow": True}}},
    "zscore": {"intensity": {"source": {"kind": "zscore", "width": 3}}},
    "background": {"intensity": {"source": PERCENTILE | {"background": 0}, "target": PERCENTILE | {"background": 0}}},
}


@pytest.mark.parametrize("case", CASES)
def test_the_class_gives_the_voxels_of_medgen(case, extension, quick_export, tmp_path):
    settings = small_settings(**merged(PLAIN, CASES[case]))
    model = make_model(settings)
    source = settings.intensity.source
    ends = {"low": source.low or -400, "high": source.high if source.kind == "window" else 900}
    code = model.info.source_range[0].model_copy(update={**ends, "background": source.background})
    code = code.model_copy(update={"outside": source.outside})
    target = model.info.target_range[0].model_copy(update={"background": settings.intensity.target.background})
    model.info = model.info.model_copy(update={"source_range": [code], "target_range": [target]})
    export_modality_converter(model, tmp_path)
    volume = scan(affine=TURNED if case == "windows" else None)
    if case == "background":
        volume.data[:5] = 0
    found = Node()
    given = Node(volume.data.transpose(2, 1, 0), volume.affine)
    loaded(tmp_path, extension).runInference(given, found)
    wanted = translate_volume(model, volume).data
    assert np.abs(wanted - volume.data).max() > 20 and found.oriented_as is given
    assert found.array.shape == given.array.shape and found.array.dtype == np.float32
    assert np.abs(found.array.transpose(2, 1, 0) - wanted).max() < 1e-3 * 2000  # 1e-3 of the coded range


def test_volumes_that_the_model_does_not_fit_are_refused_in_slicer(extension, quick_export, tmp_path):
    export_modality_converter(make_model(small_settings(**PLAIN)), tmp_path)
    model, volume = loaded(tmp_path, extension), scan()
    array = volume.data.transpose(2, 1, 0)
    with pytest.raises(ValueError, match="4 x 2 x 2 mm.* needs 2 x 2 x 2"):
        model.runInference(Node(array, np.diag([-4.0, -2.0, 2.0, 1])), Node())
    with pytest.raises(ValueError, match="masks"):
        model.runInference(Node(array, volume.affine), Node(), Node(array))
    with pytest.raises(ValueError, match="no spacing and orientation"):
        model.runInference(Node(array), Node())
    with pytest.raises(ValueError, match="not finite"):
        model.runInference(Node(np.full_like(array, np.nan), volume.affine), Node())


def test_axes_may_be_assumed_where_the_extension_gives_none(extension, quick_export, tmp_path):
    made = make_model(small_settings(**PLAIN))
    export_modality_converter(made, tmp_path, "LPS")
    volume, found = scan(), Node()
    loaded(tmp_path, extension).runInference(Node(volume.data.transpose(2, 1, 0)), found)
    assert np.abs(found.array.transpose(2, 1, 0) - translate_volume(made, volume).data).max() < 2
    for letters in ("LP", "LRS", "XYZ"):
        with refused("export-axes-invalid"):
            export_modality_converter(made, tmp_path, letters)


def test_axes_of_any_order_come_back():
    array = np.arange(24.0).reshape(2, 3, 4)
    for affine in (TURNED, axes_affine("PIR", (2, 2, 2)), axes_affine("SAL", (2, 2, 2))):
        ras, back = to_ras(array, affine, (2, 2, 2), 0.05)
        assert np.array_equal(back(ras), array)
        i, j, k = 3, 2, 1
        x, y, z = (affine[:3, :3] / 2 @ [i, j, k]).astype(int)  # a negative index counts from the end, one voxel off
        assert ras[tuple(n if n >= 0 else n - 1 for n in (x, y, z))] == array[k, j, i]


def test_a_file_of_another_model_is_refused(extension, quick_export, tmp_path):
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        made = make_model(small_settings(**PLAIN))
        made.info = made.info.model_copy(update={"sha256": f"{seed}" * 64})
        export_modality_converter(made, tmp_path / str(seed))
    (mine,) = (tmp_path / "0/Resources/Models").iterdir()
    (other,) = (tmp_path / "1/Resources/Models").iterdir()
    mine.write_bytes(other.read_bytes())
    with pytest.raises(RuntimeError, match="another model"):
        loaded(tmp_path / "0", extension)


REPLACES = {
    "name": "regression",
    "generator": {"name": "residual_unet", "filters": 4, "levels": 2, "replace": [-100, 80]},
}


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"data": {"sources": ["t1", "t2"]}}, "t1, t2"),
        ({"data": {"targets": ["a", "b"]}}, "2 images"),
        ({"method": REPLACES, "inference": {"transfer": "difference"}}, "mask and a level"),
        ({"method": {**NETWORK, "spatial_dims": 2}, "sampling": {"patch": [16, 16, 1]}}, "slices"),
        ({"inference": {"window": "patch", "layout": "even"}}, "layout=even"),
    ],
    ids=["sources", "targets", "maps", "slices", "layout"],
)
def test_what_the_class_cannot_express_is_refused_with_the_reason(sections, reason, tmp_path):
    with refused("export-not-expressible", names=reason):
        export_modality_converter(make_model(small_settings(**{**PLAIN, **sections})), tmp_path)


def test_the_command_writes_the_layout(quick_export, tmp_path):
    (tmp_path / "best").mkdir()
    made = make_model(small_settings(**PLAIN))
    save_model(tmp_path / "best", made.generator, made.info)
    call = lambda *more: CliRunner().invoke(app, ["export", *more])  # noqa: E731
    given = ("modality-converter", str(tmp_path / "best"), str(tmp_path / "out"))
    assert call(*given, "--assume-axes", "LPS").exit_code == 0
    files = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("[!.]*")]
    assert sorted(name.split("/")[-1].split(".")[-1] for name in files if "." in name) == ["json", "onnx", "py"]
    other = call("onnx", given[1], str(tmp_path / "a.onnx"), "--assume-axes", "LPS")
    assert other.exception.code == "export-axes-unused"
