"""Local shifts of a pair: aligned and moved pairs of the phantom, other grids and intensities, scans too small."""

import numpy as np
import pytest

from medgen.io.volume import Volume
from medgen.qa.measures.misalignment import misalignment

SHAPE = (80, 80, 80)


def scan(shift=(0.0, 0.0, 0.0), seed=0):
    """A ball of 37 voxels of 2 mm in air with random smooth structures, moved by ``shift`` voxels."""
    rng = np.random.default_rng(seed)
    x = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")) - np.reshape(shift, (3, 1, 1, 1))
    hu = np.full(SHAPE, 30.0)
    for centre, radius, value in zip(
        rng.uniform(0, 80, (240, 3)), rng.uniform(3, 7, 240), rng.uniform(-150, 250, 240), strict=True
    ):
        d = np.sqrt(((x - centre[:, None, None, None]) ** 2).sum(0))
        hu += value / (1 + np.exp(2 * (d - radius)))
    hu = np.where(((x - 39.5) ** 2).sum(0) < 37**2, hu, -1000)
    return Volume(hu.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0]), np.dtype(np.int16))


@pytest.mark.parametrize(("shift", "mm"), [((0, 0, 0), 0.0), ((1, 0, 0), 2.0), ((0, 0.5, -1), 2.24)])
def test_a_shift_is_measured_in_mm(shift, mm):
    found = misalignment(scan(), scan(shift))
    assert found.median == pytest.approx(mm, abs=0.15)
    assert (found.median > found.limit) == (mm > 0)


def test_intensities_do_not_matter_and_other_images_have_a_wider_limit():
    source = scan()
    inverted = misalignment(source, source.replaced(1000 - 2 * source.data))
    assert inverted.median < 0.1 and inverted.limit > misalignment(source, source).limit


def test_the_target_may_lie_on_another_grid():
    source, target = scan(), scan((1, 0, 0))
    turned = Volume(target.data[::-1].copy(), target.affine @ np.array(
        [[-1.0, 0, 0, 79], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), target.dtype)  # fmt: skip
    assert misalignment(source, turned).median == pytest.approx(2.0, abs=0.15)


def test_a_scan_without_a_block_is_not_measured():
    small = Volume(np.zeros((20, 20, 20), np.float32), np.diag([2.0, 2.0, 2.0, 1.0]), np.dtype(np.int16))
    assert misalignment(small, small) is None


def test_what_the_target_does_not_show_is_not_compared():
    source = scan()
    part = Volume(source.data[:, :, :50].copy(), source.affine, source.dtype)
    found = misalignment(source, part)
    assert found.median < 0.1 and found.blocks < misalignment(source, source).blocks
