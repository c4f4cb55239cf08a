import json

import numpy as np
import pytest
import torch
from refusal import refused
from torch import nn

from medgen.io.volume import Volume
from medgen.segmentation.load import named_segmenter
from medgen.segmentation.model import Plan, Segmenter, build_network, save_segmenter

SIZES = {"patch": (8, 8, 8), "strides": ((2, 2, 2), (1, 1, 1)), "kernels": ((3, 3, 3),) * 3, "filters": 2}


@pytest.fixture
def volume():
    return Volume(np.random.default_rng(0).normal(0, 1, (9, 8, 8)).astype(np.float32), np.eye(4))


def test_a_trained_folder_with_its_names(tmp_path, volume):
    plan = Plan(values=(0, 7), spacing=(1, 1, 1), intensity={"kind": "zscore"}, mirror=False, **SIZES)
    segmenter = Segmenter(plan, build_network(plan).eval(), {})
    save_segmenter(tmp_path / "liver", segmenter)
    (tmp_path / "labels.json").write_text('{"liver": 7}')
    found = named_segmenter(str(tmp_path / "liver"))
    assert found.names == {7: "liver"}
    np.testing.assert_array_equal(found.segment(volume), segmenter(volume))


def test_a_torchscript_file_with_its_grid(tmp_path, volume):
    torch.jit.save(torch.jit.script(nn.Conv3d(1, 2, 1)), tmp_path / "net.ts")
    (tmp_path / "grid.json").write_text(json.dumps({"values": [0, 5], "patch": [8, 8, 8]}))
    assert set(np.unique(named_segmenter(str(tmp_path / "net.ts")).segment(volume))) <= {0, 5}
    (tmp_path / "grid.json").write_text('{"spacings": [1, 1, 1]}')
    with refused("config-unknown-key", names="spacing"):
        named_segmenter(str(tmp_path / "net.ts"))


def test_unknown_segmenters_are_refused_with_the_known_ones(tmp_path, monkeypatch):
    with refused("segmenter-unknown"):
        named_segmenter(str(tmp_path))
    with refused("file-missing"):
        named_segmenter(str(tmp_path / "absent"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused("dependency-missing", names="nnunetv2"):
        named_segmenter("nnunet:4:2d")
