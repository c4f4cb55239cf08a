"""Spectral norm equals torch's; on the meta device it has the same buffers."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from medgen.networks.blocks.spectral import add_spectral_norm


@pytest.mark.parametrize(
    "make", [lambda: nn.Conv3d(3, 5, 2), lambda: nn.ConvTranspose2d(3, 5, 2), lambda: nn.Linear(3, 5)]
)
def test_spectral_norm_equals_torchs_also_while_training(make):
    layers = []
    for add in (add_spectral_norm, parametrizations.spectral_norm):
        torch.manual_seed(0)
        layer = make()
        add(layer)
        for _ in range(2):
            layer.weight.sum().backward()  # each use in training is a step of the power iteration
        layers.append(layer)
    own, torchs = layers
    assert torch.equal(own.weight, torchs.weight) and own.state_dict().keys() == torchs.state_dict().keys()
    assert all(torch.equal(own.state_dict()[key], value) for key, value in torchs.state_dict().items())
    with torch.device("meta"):
        unallocated = make()
        add_spectral_norm(unallocated)
    shapes = {key: value.shape for key, value in torchs.state_dict().items()}
    assert {key: value.shape for key, value in unallocated.state_dict().items()} == shapes
    assert unallocated.weight.is_meta
