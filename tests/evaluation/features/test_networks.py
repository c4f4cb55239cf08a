"""RadImageNet, MedicalNet and networks in files: names of weights, shapes, and files that are refused."""

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

from medgen.evaluation.features import medicalnet, radimagenet
from medgen.evaluation.features.file import FileNetwork
from medgen.evaluation.features.medicalnet import MedicalNet
from medgen.evaluation.features.radimagenet import RadImageNet
from medgen.types import InputError

VOLUME = np.random.default_rng(0).normal(size=(10, 12, 14))


def test_the_resnet_is_torchvisions_by_its_counts():
    # torchvision documents 25,557,032 parameters for resnet50, 2,049,000 of them in its classifier.
    state = radimagenet.resnet50().state_dict()
    assert sum(p.numel() for p in radimagenet.resnet50().parameters()) == 25_557_032 - 2_049_000
    assert len(state) == 318  # 53 convolutions of 6 tensors each
    assert tuple(state["layer2.0.downsample.0.weight"].shape) == (512, 256, 1, 1)
    sizes = []
    network = radimagenet.resnet50().eval()
    network.layer4.register_forward_hook(lambda m, i, o: sizes.append(tuple(o.shape)))
    with torch.inference_mode():
        network(torch.zeros(1, 3, 224, 224))
    assert sizes == [(1, 2048, 7, 7)]


def test_the_authors_names_and_torchvisions_load_alike(tmp_path):
    torch.manual_seed(0)
    state = radimagenet.resnet50().state_dict()
    numbers = {name: number for number, name in radimagenet.CHILDREN.items()}
    theirs = {}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        theirs[f"backbone.{numbers[head]}.{rest}"] = value
    torch.save(theirs, tmp_path / "authors.pt")
    torch.save({**state, "fc.weight": torch.zeros(165, 2048)}, tmp_path / "torchvision.pt")
    a = RadImageNet(tmp_path / "authors.pt", per_plane=1)
    b = RadImageNet(tmp_path / "torchvision.pt", per_plane=1)
    rows = a(VOLUME, (1, 1, 1))
    assert rows.shape == (3, 2048) and not a.standard and a.weights != b.weights
    for name, value in b.network.state_dict().items():
        assert torch.equal(value, a.network.state_dict()[name])
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="conv1.weight is \\(3,\\)"):
        RadImageNet(tmp_path / "other.pt")


def test_medicalnet_loads_a_file_saved_from_dataparallel(tmp_path):
    torch.manual_seed(0)
    state = medicalnet.resnet(10).state_dict()
    assert tuple(state["layer2.0.downsample.0.weight"].shape) == (128, 64, 1, 1, 1)
    assert "layer2.0.downsample.0.bias" not in state
    extra = {"module.conv_seg.0.weight": torch.zeros(2)}
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()} | extra}, tmp_path / "resnet_10.pth")
    extractor = MedicalNet(tmp_path / "resnet_10.pth", depth=10, size=32)
    rows = extractor(VOLUME, (1, 1, 2))
    assert rows.shape == (1, 512) and np.isfinite(rows).all()
    np.testing.assert_allclose(extractor(VOLUME * 50 + 1000, (1, 1, 2)), rows, rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="ResNet-18|no weight|in place of"):
        MedicalNet(tmp_path / "resnet_10.pth", depth=18)
    with pytest.raises(InputError, match="depth 11"):
        MedicalNet(tmp_path / "resnet_10.pth", depth=11)


def script(path, network):
    torch.jit.trace(network, torch.zeros(2, 3, 8, 8)).save(str(path))
    return path


def test_a_torchscript_network_gives_its_pooled_maps(tmp_path):
    path = script(tmp_path / "half.pt", nn.AvgPool2d(2))
    extractor = FileNetwork(path, size=8, per_plane=2, window=(0, 1), scale=(-1, 1))
    rows = extractor(np.full((8, 8, 8), 0.25), (1, 1, 1))
    np.testing.assert_allclose(rows, np.full((6, 3), -0.5))
    assert "half.pt" in extractor.name and len(extractor.weights) == 64


def test_a_torchscript_network_of_volumes(tmp_path):
    path = tmp_path / "volume.pt"
    torch.jit.trace(nn.Conv3d(1, 4, 1), torch.zeros(1, 1, 4, 4, 4)).save(str(path))
    assert FileNetwork(path, dimensions=3, size=7, channels=1)(VOLUME, (1, 1, 1)).shape == (1, 4)


def test_files_and_features_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "text.pt").write_text("nothing")
    with pytest.raises(InputError, match="not a TorchScript file"):
        FileNetwork(tmp_path / "text.pt")
    with pytest.raises(InputError, match="cannot be read"):
        FileNetwork(tmp_path / "absent.pt")
    flat = script(tmp_path / "flat.pt", nn.Flatten(0))
    with pytest.raises(InputError, match="not a row of each"):
        FileNetwork(flat, size=8)(VOLUME, (1, 1, 1))
    (tmp_path / "net.onnx").write_text("nothing")
    missing = importlib.util.find_spec("onnxruntime") is None
    with pytest.raises(InputError, match="medgen\\[onnx\\]" if missing else "not an ONNX"):
        FileNetwork(tmp_path / "net.onnx")


def test_volumes_without_features_are_refused(tmp_path):
    extractor = FileNetwork(script(tmp_path / "net.pt", nn.AvgPool2d(2)), size=8)
    for volume, mask, message in (
        (VOLUME[0], None, "\\(X, Y, Z\\)"),
        (VOLUME, np.zeros(VOLUME.shape), "mask is empty"),
        (np.full(VOLUME.shape, np.nan), None, "NaN"),
    ):
        with pytest.raises(InputError, match=message):
            extractor(volume, (1, 1, 1), mask=mask)
    with pytest.raises(InputError, match="spacing"):
        extractor(VOLUME, (1, 0, 1))
