"""One grid with its axes stored in any order; other grids are recognised as different."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff
from scipy.spatial.transform import Rotation

from medgen.io.grids import canonical_geometry, on_axes_of, same_grid
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
