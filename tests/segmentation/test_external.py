"""External segmenters: nnU-Net's command (a stand-in on the path), a TorchScript file, a MONAI bundle."""

import json
import sys

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from refusal import refused
from torch import nn

from medgen.io.volume import Volume
from medgen.segmentation.external import bundle, nnunet, torchscript
from medgen.segmentation.model import segment

STAND_IN = """#!{python}
import sys
from pathlib import Path
arguments = sys.argv[1:]
if "7" in arguments:
    print("starting")
    sys.exit("RuntimeError: there is no such dataset")
import nibabel as nib
import numpy as np
images, labels = (Path(arguments[arguments.index(k) + 1]) for k in ("-i", "-o"))
(image,) = images.iterdir()
assert image.name == "case_0000.nii.gz" and arguments[4:] == ["-d", "4", "-c", "2d", "-f", "0", "1", "-device", "cpu"]
found = nib.load(image)
nib.save(nib.Nifti1Image((found.get_fdata() > 0).astype(np.uint8), found.affine), labels / "case.nii.gz")
"""


@pytest.fixture
def volume():
    data = np.random.default_rng(0).normal(0, 1, (12, 9, 8)).astype(np.float32)
    return Volume(data, np.diag([-1.0, 1.0, 2.0, 1.0]))


def test_nnunet_is_run_through_its_command_line(tmp_path, monkeypatch, volume):
    command = tmp_path / "nnUNetv2_predict"
    command.write_text(STAND_IN.format(python=sys.executable))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = nnunet(4, "2d", folds=(0, 1), arguments=["-device", "cpu"])(volume)
    np.testing.assert_array_equal(found, volume.data > 0)
    assert found.dtype == np.int32
    with refused("segmenter-no-output", names="there is no such dataset"):
        nnunet(7)(volume)


def test_a_missing_nnunet_is_refused_with_its_install_command(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused("dependency-missing", names="nnunetv2"):
        nnunet(4)


def test_a_torchscript_file_is_a_segmenter(tmp_path, volume):
    conv = nn.Conv3d(1, 3, 1)
    torch.jit.save(torch.jit.script(conv), tmp_path / "model.pt")
    found = torchscript(tmp_path / "model.pt", values=(0, 4, 6))(volume)
    np.testing.assert_array_equal(found, segment(conv, volume, values=(0, 4, 6)))
    with torch.no_grad():
        expected = conv(torch.from_numpy(volume.data)[None, None])[0].argmax(0).numpy()
    np.testing.assert_array_equal(found, np.array([0, 4, 6])[expected])
    (tmp_path / "other.pt").write_text("nothing")
    with refused("torchscript-unreadable"):
        torchscript(tmp_path / "other.pt")
    with refused("file-missing"):
        torchscript(tmp_path / "absent.pt")


def test_a_monai_bundle_is_a_segmenter(tmp_path, volume):
    arguments = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [2, 4], "strides": [2]}
    network = UNet(**arguments).eval()
    (tmp_path / "configs").mkdir()
    (tmp_path / "models").mkdir()
    config = {"width": 2, "network_def": {"_target_": "UNet", **arguments, "out_channels": "@width"}}
    (tmp_path / "configs/inference.json").write_text(json.dumps(config))
    torch.save(network.state_dict(), tmp_path / "models/model.pt")
    grid = {"patch": (8, 8, 8), "intensity": {"kind": "zscore"}}
    np.testing.assert_array_equal(bundle(tmp_path, **grid)(volume), segment(network, volume, **grid))
    torch.save({"other": torch.zeros(1)}, tmp_path / "models/model.pt")
    with refused("segmenter-bundle-unbuildable"):
        bundle(tmp_path)
    with refused("segmenter-not-bundle"):
        bundle(tmp_path / "configs")
