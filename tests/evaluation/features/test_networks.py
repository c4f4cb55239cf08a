"""RadImageNet, MedicalNet and networks in files: names of weights, shapes, and files that are refused."""

import importlib.util

import numpy as np
import pytest
import torch
from refusal import refused
from scipy.ndimage import map_coordinates
from torch import nn
from torch.nn import functional

from medgen.evaluation.features import medicalnet, radimagenet
from medgen.evaluation.features.file import FileNetwork
from medgen.evaluation.features.medicalnet import MedicalNet
from medgen.evaluation.features.named import named_extractor
from medgen.evaluation.features.radimagenet import RadImageNet

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
    with refused("weights-shape-differs", names="conv1.weight"):
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
    assert MedicalNet(tmp_path / "resnet_10.pth").name == "medicalnet 10"  # the file's depth
    with refused("weights-key-missing"):
        MedicalNet(tmp_path / "resnet_10.pth", depth=18)
    with refused("extractor-depth-unknown", names="11"):
        MedicalNet(tmp_path / "resnet_10.pth", depth=11)


def test_medicalnet_is_fetched_once_where_the_command_line_says_hub(tmp_path, monkeypatch):
    published = tmp_path / "published" / "resnet_10.pth"
    published.parent.mkdir()
    torch.save({"state_dict": medicalnet.resnet(10).state_dict()}, published)
    monkeypatch.setattr(medicalnet, "URL", published.as_uri())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    first = named_extractor("medicalnet:hub")
    published.unlink()
    assert named_extractor("medicalnet:hub").weights == first.weights
    (tmp_path / "cache/hub/checkpoints/resnet_10.pth").unlink()
    with refused("weights-not-fetched"):
        named_extractor("medicalnet:hub")


@pytest.mark.parametrize("depth", medicalnet.DEPTHS)
def test_the_depth_of_a_weights_file_is_read_from_its_blocks(depth):
    assert medicalnet.depth_of(medicalnet.resnet(depth).state_dict(), "file") == depth
    with refused("weights-not-medicalnet"):
        medicalnet.depth_of(radimagenet.resnet50().state_dict() | {"layer1.3.conv1.weight": 0}, "file")


class Recorder(nn.Module):
    """Replace a network: record the input."""

    def forward(self, x):
        self.given = x.clone()
        return torch.zeros(len(x), 1)


def test_medicalnet_sees_a_scored_isotropic_volume_with_axes_turned(tmp_path):
    torch.save(medicalnet.resnet(10).state_dict(), tmp_path / "resnet_10.pth")
    extractor = MedicalNet(tmp_path / "resnet_10.pth", size=32)
    extractor.network = Recorder()
    volume, spacing = np.random.default_rng(0).normal(40, 20, (16, 12, 10)).astype(np.float32), (1.0, 1.0, 2.0)
    mask = np.zeros(volume.shape, bool)
    mask[2:14, 1:11, 1:9] = True
    extractor(volume, spacing, mask=mask)
    inside = volume[mask].astype(np.float64)
    scored = np.where(mask, (volume - inside.mean()) / inside.std(), 0)
    # 16 × 12 × 20 mm: the longest side, z, becomes 32 voxels of 0.625 mm, the others 26 and 19
    expected = zoom_linear(scored, (26, 19, 32)).transpose(2, 1, 0)
    np.testing.assert_allclose(extractor.network.given[0, 0].numpy(), expected, atol=1e-5)


def zoom_linear(volume, shape):
    """Trilinear at voxels' centres, values beyond the outermost centres repeated, by scipy."""
    axes = [np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1) for n, m in zip(volume.shape, shape, strict=True)]
    return map_coordinates(volume, np.meshgrid(*axes, indexing="ij"), order=1)


@pytest.mark.parametrize("depth, channels", [(10, 512), (50, 2048)])
def test_medicalnets_stages_halve_as_its_authors_first_ones(depth, channels):
    """Stem and pool halve twice; then MONAI's strides (see docs: the authors' later stages dilate instead)."""
    network, sizes = medicalnet.resnet(depth).eval(), {}
    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        getattr(network, name).register_forward_hook(
            lambda m, i, o, name=name: sizes.update({name: tuple(o.shape[2:])})
        )
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 64, 32, 64)).shape == (1, channels)
    assert sizes == {
        "conv1": (32, 16, 32),
        "layer1": (16, 8, 16),
        "layer2": (8, 4, 8),
        "layer3": (4, 2, 4),
        "layer4": (2, 1, 2),
    }


def test_radimagenet_sees_displayed_slices_from_minus_one_to_one(tmp_path):
    torch.save(radimagenet.resnet50().state_dict(), tmp_path / "resnet.pt")
    extractor = RadImageNet(tmp_path / "resnet.pt", window=(-100, 300), per_plane=1)
    extractor.network = Recorder()
    volume = np.random.default_rng(0).uniform(-300, 500, (14, 14, 14))
    extractor(volume, (1, 1, 1))  # planes in turn: what is kept is axial
    shown = np.clip((volume[:, :, 0].T[::-1, ::-1] + 100) / 400, 0, 1) * 2 - 1
    expected = zoom_linear(shown[None], (1, 224, 224))[0]
    assert extractor.network.given.shape == (1, 3, 224, 224)
    for channel in extractor.network.given[0].numpy():
        np.testing.assert_allclose(channel, expected, atol=1e-5)


def plain_resnet50(state, x):
    """torchvision's resnet50 (v1.5: the stride lies in the 3 × 3 convolution) on functions and names of weights
    alone."""

    def c(x, name, bn, stride=1, padding=0):
        x = functional.conv2d(x, state[f"{name}.weight"], stride=stride, padding=padding)
        parts = (state[f"{bn}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *parts, eps=1e-5)

    x = functional.max_pool2d(functional.relu(c(x, "conv1", "bn1", 2, 3)), 3, 2, 1)
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            p, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = functional.relu(c(x, f"{p}.conv1", f"{p}.bn1"))
            y = functional.relu(c(y, f"{p}.conv2", f"{p}.bn2", stride, 1))
            y = c(y, f"{p}.conv3", f"{p}.bn3")
            x = c(x, f"{p}.downsample.0", f"{p}.downsample.1", stride) if block == 0 else x
            x = functional.relu(x + y)
    return x.mean((2, 3))


def test_the_resnet_is_wired_as_torchvisions():
    torch.manual_seed(0)
    network = radimagenet.resnet50().eval()
    state = network.state_dict()
    for key, value in state.items():
        if key.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    x = torch.rand(1, 3, 96, 96) * 2 - 1
    with torch.inference_mode():
        made, expected = network(x), plain_resnet50(state, x)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


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
    with refused("torchscript-unreadable"):
        FileNetwork(tmp_path / "text.pt")
    with refused("weights-unreadable"):
        FileNetwork(tmp_path / "absent.pt")
    flat = script(tmp_path / "flat.pt", nn.Flatten(0))
    with refused("extractor-output-shape"):
        FileNetwork(flat, size=8)(VOLUME, (1, 1, 1))
    torch.jit.trace(nn.Conv2d(1, 4, 1), torch.zeros(1, 1, 4, 4)).save(str(tmp_path / "one.pt"))
    with refused("extractor-input-shape", names="one.pt"):
        FileNetwork(tmp_path / "one.pt", size=8)(VOLUME, (1, 1, 1))
    (tmp_path / "net.onnx").write_text("nothing")
    missing = importlib.util.find_spec("onnxruntime") is None
    with refused("dependency-missing" if missing else "onnx-unreadable"):
        FileNetwork(tmp_path / "net.onnx")


def test_volumes_without_features_are_refused(tmp_path):
    extractor = FileNetwork(script(tmp_path / "net.pt", nn.AvgPool2d(2)), size=8)
    for volume, mask, code in (
        (VOLUME[0], None, "features-array-shape"),
        (VOLUME, np.zeros(VOLUME.shape), "mask-empty"),
        (np.full(VOLUME.shape, np.nan), None, "volume-not-finite"),
    ):
        with refused(code):
            extractor(volume, (1, 1, 1), mask=mask)
    with refused("volume-spacing-invalid", names="spacing"):
        extractor(VOLUME, (1, 0, 1))
