"""Diffusion within structures: noise falls, edges and means stay, and another grid of the same scan gives the same."""

import numpy as np
import pytest
import torch

from medgen.networks.blocks.diffusion import FINEST, scan_within_structures, smoothed, steps_for, width

SLOPE, ONE = 0.012, (1.0, 1.0, 1.0)


def within(x, finer=ONE):
    data = x.numpy()[0, 0]
    return torch.from_numpy(scan_within_structures(data, SLOPE, finer, [slice(0, n) for n in data.shape]))[None, None]


def test_smoothing_equals_a_convolution_and_keeps_constants():
    x = torch.randn(1, 1, 6, 5, 7)
    taps = torch.tensor([0.25, 0.5, 0.25])
    kernel = taps[:, None, None] * taps[:, None] * taps
    padded = torch.nn.functional.pad(x, (1,) * 6, mode="replicate")
    assert torch.allclose(smoothed(x), torch.nn.functional.conv3d(padded, kernel[None, None]), atol=1e-6)
    assert torch.allclose(smoothed(torch.full((1, 1, 4, 4, 4), 0.3)), torch.tensor(0.3))


def test_without_edges_it_is_a_gaussian_of_two_voxels_squared():
    x = torch.zeros(1, 1, 21, 21, 21)
    x[..., 10, 10, 10] = 1e-6  # far below the slope of an edge
    kernel = within(x)[0, 0].double()
    kernel /= kernel.sum()
    place = torch.arange(21) - 10.0
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        assert (kernel.sum(others) * place**2).sum().item() == pytest.approx(2.0, rel=0.01)


def test_noise_falls_and_edges_stay():
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(1, 1, 32, 32, 32)
    truth[..., 16:] = 0.3  # an aorta of 300 HU
    x = truth + 0.02 * torch.randn(truth.shape, generator=generator)
    v = within(x)
    assert (v - truth)[..., 4:12].std() < 0.4 * 0.02
    assert v[..., 15].mean() < 0.03 and v[..., 16].mean() > 0.27  # a Gaussian of this width: 0.11 and 0.19
    assert v.mean().item() == pytest.approx(x.mean().item(), abs=1e-5)  # nothing is lost


@pytest.mark.parametrize("finer", [(2.0, 2.0, 2.0), (2.0, 2.0, 0.5)])
def test_another_grid_gives_the_same(finer):
    """A smooth image on grids of other spacing: the result at the same places agrees."""

    def image(step):
        axes = [np.arange(0, 48, s) - 24 for s in step]
        x, y, z = np.meshgrid(*axes, indexing="ij")
        return torch.from_numpy((0.1 * np.sin(x / 4) * np.cos(y / 5) + 0.05 * np.sin(z / 6)).astype(np.float32))

    reference = within(image((1, 1, 1))[None, None])[0, 0].numpy()
    other = within(image([1 / r for r in finer])[None, None], finer)[0, 0].numpy()
    part = tuple(slice(None, None, int(r)) if r > 1 else slice(None) for r in finer)
    same = tuple(slice(None, None, int(1 / r)) if r < 1 else slice(None) for r in finer)
    inner = (slice(6, -6), slice(6, -6), slice(3, -3))
    assert np.abs(other[part] - reference[same])[inner].max() < 0.01


def test_steps_stay_stable():
    for finer in (ONE, (3.0, 3.0, 0.3), (0.2, 0.2, 0.2)):
        steps, rates = steps_for(finer)
        assert sum(rates) <= 0.5 and steps * rates[0] == pytest.approx(finer[0] ** 2)


def test_a_very_fine_grid_is_smoothed_no_wider():
    assert width((1.0, 3.0, 10.0)) == [1.0, FINEST, FINEST]
    x = 1e-4 * torch.randn(1, 1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    assert within(x, (9.0, 9.0, 9.0)).std() < 0.2 * x.std()


def test_a_box_of_a_scan_equals_that_part_of_the_whole():
    x = np.random.default_rng(0).normal(0, 0.01, (40, 36, 44)).astype(np.float32)
    box = [slice(10, 20), slice(0, 9), slice(30, 44)]
    part, whole = (scan_within_structures(x, SLOPE, ONE, b) for b in (box, [slice(0, n) for n in x.shape]))
    np.testing.assert_allclose(part[tuple(box)], whole[tuple(box)], atol=1e-5)
    part[tuple(box)] = 0
    assert not part.any()
