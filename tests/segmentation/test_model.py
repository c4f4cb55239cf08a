"""Sizes by nnU-Net's rules, labels on the input volume's grid, and saving and loading of a segmenter."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused
from torch import nn

from medgen.io.volume import Volume
from medgen.segmentation.model import (
    Plan,
    Segmenter,
    build_network,
    choose_sizes,
    load_segmenter,
    save_segmenter,
    segment,
)


class Threshold(nn.Module):
    """Class 1 where the input is above 0.5; independent of neighbours."""

    def forward(self, x):
        return torch.cat([torch.zeros_like(x), 40 * (x - 0.5)], 1)


def blob(shape=(14, 18, 10)):
    grid = np.indices(shape) - np.reshape([n * 0.4 for n in shape], (3, 1, 1, 1))
    return (np.sqrt((grid**2).sum(0)) < 4).astype(np.float32)


def make_plan(**changes):
    values = {
        "values": (0, 3, 7), "spacing": (1, 1, 1), "patch": (8, 8, 8), "strides": ((2, 2, 2), (2, 2, 2)),
        "kernels": ((3, 3, 3),) * 3, "filters": 2, "intensity": {"kind": "zscore"}, "mirror": False,
    }  # fmt: skip
    return Plan(**(values | changes))


def test_sizes_of_the_hippocampus_and_of_the_prostate_are_those_of_nnunet():
    patch, strides, kernels = choose_sizes((36, 50, 35), (1, 1, 1), 64**3)
    assert patch == (32, 48, 32) and strides == ((2, 2, 2),) * 3 and kernels == ((3, 3, 3),) * 4
    # nnU-Net halves the plane twice, then all sides twice, for the Decathlon's prostates: 20 thick slices.
    patch, strides, kernels = choose_sizes((20, 320, 256), (3.6, 0.625, 0.625), 10**9)
    assert patch == (20, 320, 256)
    assert strides == ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    assert kernels == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))


@settings(deadline=None, max_examples=60)
@given(st.tuples(*[st.integers(1, 600)] * 3), st.tuples(*[st.floats(0.3, 6)] * 3), st.sampled_from([24**3, 64**3]))
def test_a_patch_can_be_halved_and_keeps_its_bound(shape, spacing, voxels):
    patch, strides, kernels = choose_sizes(shape, spacing, voxels)
    multiple = np.prod(strides, axis=0)
    assert len(kernels) == len(strides) + 1 and not np.any(patch % multiple)
    # Rounding adds half a multiple at most, and a multiple is at most a quarter of its side (or the smallest there is).
    assert np.all(np.asarray(patch) <= np.maximum(1.2 * np.minimum(shape, 600), multiple))
    if min(shape) >= 32:
        assert np.prod(patch) <= 2 * voxels


@pytest.mark.parametrize(
    "shape, spacing", [((36, 50, 35), (1, 1, 1)), ((9, 40, 33), (4, 1, 1)), ((3, 2, 5), (1, 1, 1))]
)
def test_the_network_takes_its_patch(shape, spacing):
    patch, strides, kernels = choose_sizes(shape, spacing, 64**3)
    plan = make_plan(patch=patch, strides=strides, kernels=kernels)
    with torch.no_grad():
        assert build_network(plan)(torch.zeros(1, 1, *patch)).shape == (1, 3, *patch)


@pytest.mark.parametrize("patch", [None, (8, 8, 8)])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_labels_are_on_the_grid_of_the_input_volume(patch, axes):
    data = blob().transpose(axes)[::-1]
    affine = np.zeros((4, 4))
    affine[axes, range(3)] = 1.5  # array axis i runs along world axis axes[i]
    affine[axes[0], 0], affine[3, 3] = -1.5, 1
    before = data.copy()
    found = segment(Threshold(), Volume(data, affine), values=(0, 9), spacing=(1.5, 1.5, 1.5), patch=patch)
    np.testing.assert_array_equal(found, 9 * (data > 0.5))
    np.testing.assert_array_equal(data, before)


def test_labels_are_resampled_to_the_input_spacing():
    data = blob((28, 36, 20))
    found = segment(Threshold(), Volume(data, np.diag([1, 1, 1, 1.0])), spacing=(1.3, 1.2, 0.8))
    assert found.shape == data.shape
    assert 2 * (found * data).sum() / (found.sum() + data.sum()) > 0.9


def test_a_single_logit_gives_the_label_where_it_is_positive():
    class One(nn.Module):
        def forward(self, x):
            return x - 0.5

    np.testing.assert_array_equal(segment(One(), Volume(blob(), np.eye(4))), blob() > 0.5)


def test_a_saved_segmenter_loads_unchanged(tmp_path):
    torch.manual_seed(0)
    plan = make_plan()
    made = Segmenter(plan, build_network(plan).eval(), {"steps": 3})
    save_segmenter(tmp_path / "made", made)
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == ["segmenter.json", "weights.safetensors"]
    back = load_segmenter(tmp_path / "made")
    volume = Volume(np.random.default_rng(0).normal(0, 1, (11, 9, 8)).astype(np.float32), np.eye(4))
    np.testing.assert_array_equal(back(volume), made(volume))
    assert set(np.unique(made(volume))) <= {0, 3, 7}
    assert back.plan == plan and back.record == {"steps": 3}


def test_a_damaged_folder_is_refused(tmp_path):
    with refused("segmenter-json-missing"):
        load_segmenter(tmp_path)
    plan = make_plan()
    save_segmenter(tmp_path / "made", Segmenter(plan, build_network(plan), {}))
    file, weights = tmp_path / "made/segmenter.json", tmp_path / "made/weights.safetensors"
    info = json.loads(file.read_text())
    file.write_text(json.dumps(info | {"format": 99}))
    with refused("segmenter-format", names="format version 99"):
        load_segmenter(tmp_path / "made")
    file.write_text(json.dumps(info | {"plan": info["plan"] | {"filters": 0}}))
    with refused("segmenter-damaged"):
        load_segmenter(tmp_path / "made")
    file.write_text("{")
    with refused("segmenter-damaged"):
        load_segmenter(tmp_path / "made")
    file.write_text(json.dumps(info))
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    with refused("model-weights-changed"):
        load_segmenter(tmp_path / "made")
