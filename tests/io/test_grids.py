"""One grid with its axes stored in any order; other grids are recognised as different."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff
from scipy.spatial.transform import Rotation

from medgen.io.grids import canonical_geometry, on_axes_of, on_whole_grid, same_grid, translation
from medgen.io.volume import Volume, to_canonical

SHAPE = (4, 5, 6)
orientations = st.tuples(st.permutations(range(3)), st.tuples(*[st.sampled_from([1, -1])] * 3)).map(
    lambda drawn: np.array(list(zip(*drawn, strict=True)))
)
angles = st.tuples(*[st.floats(-40, 40)] * 3)


def volume(turned):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", turned, degrees=True).as_matrix() @ np.diag([1.0, 1.5, 3.0])
    affine[:3, 3] = (-20, 7, 300)
    return Volume(np.arange(120, dtype=np.float32).reshape(SHAPE), affine)


def stored(v, orientation):
    return Volume(apply_orientation(v.data, orientation), v.affine @ inv_ornt_aff(orientation, v.data.shape))


@settings(max_examples=80, deadline=None)
@given(angles, orientations, orientations)
def test_axes_in_any_order_and_direction_are_the_same_grid(turned, one, other):
    a, b = stored(volume(turned), one), stored(volume(turned), other)
    assert same_grid(a.geometry, b.geometry) and same_grid(b.geometry, a.geometry)
    found = on_axes_of(b, a)
    np.testing.assert_array_equal(found.data, a.data)
    np.testing.assert_array_equal(found.affine, a.affine)
    canonical = canonical_geometry(b.geometry)
    assert canonical.shape == to_canonical(b).data.shape
    np.testing.assert_allclose(canonical.affine, to_canonical(b).affine)


@pytest.mark.parametrize("shift", [(0.5, 0, 0), (0, 0, -0.2)])
def test_another_position_or_shape_is_another_grid(shift):
    a = volume((0, 0, 0))
    moved = a.affine.copy()
    moved[:3, 3] += shift
    assert not same_grid(a.geometry, Volume(a.data[::-1], moved).geometry)
    assert not same_grid(a.geometry, Volume(a.data[:, :, 1:], a.affine).geometry)


@given(angles, orientations, orientations, st.tuples(*[st.integers(0, 2)] * 3), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_a_segmentation_of_3d_slicer_in_its_smallest_box_is_put_onto_the_whole_grid(angle, one, other, start, seed):
    whole = np.random.default_rng(seed).integers(0, 3, (5, 6, 7)).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angle, degrees=True).as_matrix() * [0.7, 1.1, 2.5]
    affine[:3, 3] = [-30, 12, 7]
    box = tuple(slice(a, a + 3) for a in start)
    only = np.zeros_like(whole)
    only[box] = whole[box]
    image = stored(Volume(whole, affine), one)
    part = replace(stored(Volume(whole[box], affine @ translation(np.array(start))), other), path=Path("case.seg.nrrd"))
    found = on_whole_grid(part, image)
    assert same_grid(found.geometry, image.geometry)
    np.testing.assert_array_equal(on_axes_of(found, image).data, stored(Volume(only, affine), one).data)
    half = replace(part, affine=translation(np.array([0.5, 0, 0])) @ part.affine)  # between voxels
    outside = replace(part, affine=affine @ translation(np.array([4, 0, 0])) @ np.linalg.inv(affine) @ part.affine)
    plain = replace(part, path=Path("case.nii.gz"))
    for given_part in (half, outside, plain):
        assert on_whole_grid(given_part, image) is given_part
