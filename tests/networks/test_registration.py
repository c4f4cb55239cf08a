"""The registration network starts without displacement; the warp is exact for shifts."""

import pytest
import torch

from medgen.networks.registration import Registration, roughness, warp


@pytest.mark.parametrize("dims", [2, 3])
def test_starts_without_displacement(dims):
    network = Registration(spatial_dims=dims, channels=1, filters=4)
    field = network(*torch.rand(2, 2, 1, *[16] * dims))
    assert field.shape == (2, dims, *[16] * dims) and (field == 0).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_constant_field_is_a_shift(axis):
    image = torch.rand(1, 2, 8, 9, 10)
    field = torch.zeros(1, 3, 8, 9, 10)
    field[:, axis] = 2
    moved = warp(image, field)
    inside = [slice(None)] * 5
    inside[2 + axis] = slice(0, -2)
    assert torch.allclose(moved[tuple(inside)], image.roll(-2, 2 + axis)[tuple(inside)], atol=1e-5)
    last = image.select(2 + axis, -1)
    assert torch.allclose(moved.select(2 + axis, -1), last, atol=1e-5)  # the border is repeated


def test_a_zero_field_changes_nothing():
    image = torch.rand(1, 1, 7, 6)
    assert torch.allclose(warp(image, torch.zeros(1, 2, 7, 6)), image, atol=1e-6)


def test_roughness_of_a_linear_field_is_the_sum_of_its_squared_slopes():
    x, y = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    field = torch.stack([2 * x + 3 * y, torch.zeros_like(x)])[None]
    assert roughness(field).item() == pytest.approx((4 + 9) / 2)  # averaged over both components
