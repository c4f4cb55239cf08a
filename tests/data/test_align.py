"""Alignment: known translations, rotations and deformations of smooth analytic volumes are recovered."""

import numpy as np
import pytest
from refusal import refused
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from medgen.data.align import align, to_common_grid
from medgen.io.volume import Volume, to_canonical

SPACING = 4.0
SHAPE = (30, 27, 24)
AFFINE = np.diag([SPACING, SPACING, SPACING, 1.0])
AFFINE[:3, 3] = (-60, -50, 100)


def blobs(world: np.ndarray) -> np.ndarray:
    """A smooth body with organs, HU, at RAS points (3, ...) in mm."""
    centre = (AFFINE @ (*(np.array(SHAPE) - 1) / 2, 1))[:3]
    rng = np.random.default_rng(3)
    away = np.linalg.norm((world.T - centre).T / np.reshape((50, 34, 44), (3, 1)), axis=0)
    value = -1000 + 500 * (1 - np.tanh((away - 1) * 8))
    for _ in range(40):
        at, radius = centre + rng.uniform(-1, 1, 3) * (40, 26, 36), rng.uniform(6, 11)
        away = np.linalg.norm((world.T - at).T, axis=0) - radius
        value += rng.uniform(-150, 150) * (1 - np.tanh(away / 2))
    return value


def rendered(affine=AFFINE, shape=SHAPE, warp=lambda world: world) -> Volume:
    index = np.indices(shape).reshape(3, -1)
    world = affine[:3, :3] @ index + affine[:3, 3:]
    return Volume(blobs(warp(world)).reshape(shape), affine, np.dtype(np.int16))


def moved(degrees, shift) -> np.ndarray:
    """World -> world: a rotation about the centre of the volume, then a translation in mm."""
    middle = (AFFINE @ (*(np.array(SHAPE) - 1) / 2, 1))[:3]
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    motion[:3, 3] = middle + shift - motion[:3, :3] @ middle
    return motion


def error(a: Volume, b: Volume, margin=5) -> float:
    inner = (slice(margin, -margin),) * 3
    return float(np.abs(a.data - b.data)[inner].mean())


def test_resample_puts_every_point_where_its_coordinates_say():
    """Against scipy's linear interpolation, from a rotated, anisotropic grid."""
    affine = moved((10, -20, 30), (0, 0, 0)) @ AFFINE @ np.diag([0.7, 0.9, 1.3, 1])
    moving, fixed = rendered(affine, (60, 50, 30)), rendered()
    result, residual = align(moving, fixed, "resample")
    index = np.indices(SHAPE).reshape(3, -1)
    to_moving = np.linalg.inv(affine) @ AFFINE
    at = to_moving[:3, :3] @ index + to_moving[:3, 3:]
    expected = map_coordinates(moving.data, at, order=1, cval=np.nan).reshape(SHAPE)
    inside = ~np.isnan(expected)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(result.data[inside], expected[inside], atol=0.01)
    far = ((at < -1) | (at > np.reshape((60, 50, 30), (3, 1)))).any(axis=0).reshape(SHAPE)
    assert far.any() and (result.data[far] == moving.data.min()).all()
    np.testing.assert_array_equal(result.affine, fixed.affine)
    assert result.data.shape == SHAPE and result.dtype == np.int16
    assert residual["overlap"] == pytest.approx(inside.mean(), abs=0.1)
    assert residual["mean_displacement_mm"] == 0 and residual["message"] == "resampled without registration"


def test_resample_onto_its_own_grid_changes_nothing():
    volume = rendered()
    result, _ = align(volume, volume)
    np.testing.assert_array_equal(result.data, volume.data)
    assert result.data is not volume.data


@pytest.mark.parametrize("inverted", [False, True])
def test_a_rigid_motion_is_found_within_a_voxel(inverted):
    fixed, motion = rendered(), moved((4, -5, 6), (7, -9, 5))
    data = 300 - 0.4 * fixed.data if inverted else fixed.data
    moving = Volume(data, motion @ AFFINE, np.dtype(np.int16))
    before = moving.data.copy(), fixed.data.copy()
    result, residual = align(moving, fixed, "rigid")
    # every fixed point p must have moved to motion(p): compare the displacements ...
    ends = np.array(np.meshgrid(*[np.linspace(0, n - 1, 9) for n in SHAPE], indexing="ij")).reshape(3, -1)
    world = AFFINE[:3, :3] @ ends + AFFINE[:3, 3:]
    ways = np.linalg.norm(motion[:3, :3] @ world + motion[:3, 3:] - world, axis=0)
    assert residual["mean_displacement_mm"] == pytest.approx(ways.mean(), abs=SPACING / 2)
    # ... and the image itself: less different than from a copy half a voxel away
    half = align(Volume(data, moved((0, 0, 0), (SPACING / 2, 0, 0)) @ AFFINE), fixed)[0]
    assert error(result, Volume(data, AFFINE)) < error(half, Volume(data, AFFINE))
    assert residual["information_after"] > residual["information_before"]
    np.testing.assert_array_equal(result.affine, fixed.affine)
    assert result.data.shape == SHAPE
    again, residual_again = align(moving, fixed, "rigid")
    np.testing.assert_array_equal(again.data, result.data)
    assert residual_again == residual
    np.testing.assert_array_equal(moving.data, before[0])
    np.testing.assert_array_equal(fixed.data, before[1])


def test_deformable_registration_follows_a_deformation_that_rigid_cannot():
    def warp(world):
        bent = world.copy()
        bent[0] += 6 * np.sin((world[1] - 5) / 30)
        bent[2] += 5 * np.cos(world[0] / 35)
        return bent

    coarse, shape = AFFINE @ np.diag([1.25, 1.25, 1.25, 1]), (24, 22, 20)  # it is slow
    fixed, moving = rendered(coarse, shape), rendered(coarse, shape, warp)
    rigid, _ = align(moving, fixed, "rigid")
    bent, residual = align(moving, fixed, "bspline")
    assert error(bent, fixed) < 0.6 * error(rigid, fixed) < 0.6 * error(moving, fixed)
    assert residual["information_after"] > residual["information_before"]


def test_volumes_without_overlap_and_unknown_methods_are_refused():
    fixed = rendered()
    moving = Volume(fixed.data, moved((0, 0, 0), (5000, 0, 0)) @ AFFINE)
    for method in ("resample", "rigid"):
        with refused("pair-no-overlap"):
            align(moving, fixed, method)
    with refused("config-align-unknown"):
        align(fixed, fixed, "affine")


@pytest.mark.parametrize("method", ["refuse", "resample"])
def test_the_same_grid_with_permuted_axes_is_not_resampled(method):
    data = np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32)
    fixed = Volume(data, np.diag([2.0, 2, 3, 1]))
    mirrored = np.diag([-2.0, 2, 3, 1])
    mirrored[0, 3] = 2 * 7
    moving = Volume(data[::-1] + 1, mirrored)
    same = to_common_grid([fixed, moving], method)[1]
    np.testing.assert_array_equal(to_canonical(same).data, data + 1)
    if method == "resample":
        found, residual = align(moving, fixed, "resample")
        np.testing.assert_array_equal(found.data, data + 1)
        assert residual["overlap"] == pytest.approx(1)


@pytest.mark.parametrize("method", ["resample", "rigid"])
def test_slabs_of_two_slices_are_resampled_and_not_registered(method):
    rng = np.random.default_rng(0)
    fixed, moving = (Volume(rng.normal(0, 1, (20, 20, n)).astype(np.float32), np.eye(4)) for n in (2, 3))
    if method == "resample":
        assert align(moving, fixed, method)[0].data.shape == (20, 20, 2)
    else:
        with refused("pair-too-thin", names="2 voxels"):
            align(moving, fixed, method)


def test_a_masked_volume_keeps_its_mask_and_a_constant_tissue_on_another_grid():
    """Also beyond its field of view."""
    grids = np.meshgrid(*[np.linspace(-1, 1, n) for n in (30, 28, 26)], indexing="ij")
    data = np.where(sum(g**2 for g in grids) < 0.6, 500.0, 0.0).astype(np.float32)
    moving = Volume(data, np.diag([1.5, 1.5, 1.5, 1.0]), np.dtype(np.float32))
    affine = np.diag([1.1, 2.0, 0.9, 1.0])
    affine[:3, 3] = -4.3
    noise = np.random.default_rng(0).normal(size=(44, 30, 50)).astype(np.float32)
    fixed = Volume(noise, affine, np.dtype(np.float32))
    found = align(moving, fixed, background=0.0)[0].data
    tissue = found[found != 0]
    np.testing.assert_allclose(tissue, 500.0, rtol=1e-5)
    assert tissue.size * 1.1 * 2.0 * 0.9 == pytest.approx((data != 0).sum() * 1.5**3, rel=0.02)
    mixed = align(moving, fixed)[0].data
    assert ((mixed > 1) & (mixed < 499)).any()
