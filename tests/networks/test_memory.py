"""A model's memory is computed from its sizes, before any is allocated."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused
from small import SMALL_METHOD, make_model, merged, small_settings
from torch import nn

from medgen.checkpoint import build_method
from medgen.errors import InputError
from medgen.inference.cohort.run import convert
from medgen.inference.passes import check_windows
from medgen.inference.predict import translate_volume
from medgen.io.volume import Volume
from medgen.networks.memory import peak_bytes, weight_bytes, windows_per_pass
from medgen.segmentation.model import segment


def net(*layers):
    return nn.Sequential(*layers)


def test_peak_memory_is_the_sum_of_simultaneous_activations():
    network = net(nn.Conv3d(1, 8, 1), nn.Conv3d(8, 8, 1), nn.Conv3d(8, 1, 1))
    voxel = 4 * 10**3
    assert peak_bytes(network, (1, 1, 10, 10, 10)) == (1 + 8 + 8) * voxel
    deep = net(*(nn.Conv3d(8, 8, 1) for _ in range(20)))
    assert peak_bytes(deep, (1, 8, 10, 10, 10)) == 3 * 8 * voxel  # the input, and two of each pair
    assert weight_bytes(nn.Conv3d(8, 8, 1, bias=False)) == 256


@settings(max_examples=15, deadline=None)
@given(st.integers(4, 24), st.integers(1, 6), st.floats(0.0005, 0.05))
def test_windows_per_pass_are_the_most_that_fit(side, most, memory_gb):
    network = net(nn.Conv3d(1, 16, 3, padding=1), nn.Conv3d(16, 1, 3, padding=1))
    left, one = memory_gb * 2**30 - weight_bytes(network), peak_bytes(network, (1, 1, side, side, side))
    try:
        with patch("medgen.networks.memory.SMALL_GB", 0):
            together = windows_per_pass(network, (1, side, side, side), most, memory_gb)
    except InputError:
        assert one > left
        return
    assert together * one <= left and (together == most or (together + 1) * one > left)


SLICES = {"method": {**SMALL_METHOD, "spatial_dims": 2}, "inference": {"window": "patch"}}


@pytest.mark.parametrize(
    "sections",
    [
        {"sampling": {"patch": [700, 700, 700]}, "inference": {"window": "patch"}},
        {"sampling": {"patch": [2**40, 8, 8]}, "inference": {"window": "patch"}},
        {**SLICES, "sampling": {"patch": [9000, 9000, 1]}},
        {"sampling": {"patch": [700, 700, 700]}, "method": merged(SMALL_METHOD, {"generator": {"norm": "instance"}})},
    ],
)
def test_windows_beyond_the_memory_limit_are_refused_before_a_scan_is_read(tmp_path, sections):
    model = make_model(small_settings(**sections), train=False)
    with refused("model-memory-exceeded", names=("sampling.patch", "--memory-gb 0.5")):
        convert(model, tmp_path, tmp_path / "out", memory_gb=0.5)
    assert not (tmp_path / "out").exists()


def test_ordinary_models_fit_the_memory_limit():
    for filters, side, memory_gb in ((64, 64, 2), (32, 96, 4), (64, 128, 8)):
        method = merged(SMALL_METHOD, {"generator": {"filters": filters, "levels": 4, "norm": "instance"}})
        with torch.device("meta"):
            settings = small_settings(method=method, sampling={"patch": [side] * 3})
            method = build_method(settings)
            generator = method.networks[method.generator]
        assert windows_per_pass(generator, (1, side, side, side), 2, memory_gb) >= 1


def test_fewer_windows_per_pass_give_the_same_output():
    model = make_model(small_settings(inference={"window": "patch", "batch": 4}))
    volume = Volume(np.random.default_rng(0).normal(0, 50, (20, 24, 18)), np.diag([2, 2, 2, 1]))
    check_windows(model)
    few = translate_volume(model, volume, memory_gb=0.002).data
    np.testing.assert_allclose(few, translate_volume(model, volume, memory_gb=8).data, atol=1e-2)


@pytest.mark.parametrize("section, key, value", [
    ("generator", "levels", 17), ("generator", "kernel", 101), ("adversary", "layers", 40)
])  # fmt: skip
def test_absurd_sizes_of_networks_are_refused(section, key, value):
    with refused("config-invalid-value", names=f"method.{section}.{key} = {value}"):
        small_settings(method=merged(SMALL_METHOD, {section: {key: value}}))


def test_the_grid_size_of_a_segmenter_is_limited():
    volume = Volume(np.zeros((40, 40, 20)), np.diag([2.5, 2.5, 2.5, 1]))
    with refused("segmenter-memory-exceeded"):
        segment(nn.Identity(), volume, spacing=(0.05, 0.05, 0.05), values=[0, 1])
    assert segment(nn.Identity(), volume, spacing=(5, 5, 5)).shape == volume.data.shape
