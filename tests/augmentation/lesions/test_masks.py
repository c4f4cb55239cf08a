from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesion_cases import library
from scipy import ndimage

from medgen.augmentation.lesions.library import diameter
from medgen.augmentation.lesions.masks import (
    cut,
    draw_diameter,
    draw_ellipsoid,
    draw_real,
    ellipsoid_shape,
    library_shape,
    one_part,
)

SPACING = st.tuples(*[st.floats(0.7, 4.0)] * 3)


@settings(deadline=None, max_examples=20)
@given(diameter=st.floats(3, 30), spacing=SPACING, seed=st.integers(0, 10**6))
def test_ellipsoids_are_one_part_of_the_volume_asked_for(diameter, spacing, seed):
    mask = ellipsoid_shape(diameter, spacing, np.random.default_rng(seed)).mask
    assert ndimage.label(mask)[1] == 1
    expected = max(1, np.pi / 6 * diameter**3 / np.prod(spacing))
    assert expected - 1 <= mask.sum() <= 1.05 * expected + 2
    assert not any(m.any() for axis in range(3) for m in (mask.take(0, axis), mask.take(-1, axis)))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), spacing=SPACING)
def test_changed_real_masks_are_one_part_with_room_around(seed, spacing):
    lesion = LIBRARY.lesions[seed % len(LIBRARY.lesions)]
    shape = library_shape(lesion, spacing, np.random.default_rng(seed))
    assert ndimage.label(shape.mask)[1] == 1 and shape.lesion is lesion
    assert shape.places.shape == (3, *shape.mask.shape)
    (box,) = ndimage.find_objects(shape.mask.astype(int))
    assert all(b.start * s >= 6 for b, s in zip(box, spacing, strict=True))


LIBRARY = library()


def test_a_mask_without_change_is_the_real_one():
    lesion = LIBRARY.lesions[0]

    class Still(np.random.Generator):
        def choice(self, *_, **__):
            return np.ones(3)

    still = Still(np.random.PCG64(0))
    shape = library_shape(lesion, lesion.spacing, still, rotate=0, scale=0, bend=0)
    assert shape.mask.sum() == pytest.approx(lesion.mask.sum(), rel=0.1)
    inside = ndimage.map_coordinates(lesion.mask.astype(float), shape.places, order=1) > 0.5
    assert np.array_equal(inside, shape.mask)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), radius=st.floats(3, 9))
def test_shapes_stay_in_the_plane_of_a_scan_of_one_slice(seed, radius):
    x, y = np.indices((31, 31)) - 15
    disc = (x**2 + y**2 <= radius**2)[..., None]
    millilitres = disc.sum() * 4.0 / 1000
    flat = replace(LIBRARY.lesions[0], mask=disc, image=disc[None].astype(np.float32), spacing=(2.0, 2.0, 1.0),
                   volume_ml=millilitres, diameter_mm=diameter(millilitres))  # fmt: skip
    for draw in (draw_real, draw_ellipsoid):
        mask = draw([flat], (2.0, 2.0, 1.0), np.random.default_rng(seed)).mask
        assert mask.shape[2] == 1 and ndimage.label(mask)[1] == 1
        assert 0.6 * disc.sum() <= mask.sum() <= 1.7 * disc.sum()


def test_sizes_follow_the_library():
    rng = np.random.default_rng(0)
    known = [lesion.diameter_mm for lesion in LIBRARY.lesions]
    drawn = [draw_diameter(LIBRARY.lesions, rng) for _ in range(400)]
    assert min(known) <= min(drawn) and max(drawn) <= max(known)
    assert np.median(drawn) == pytest.approx(np.median(known), rel=0.1)
    volume = np.prod((2.0, 2.0, 2.0)) / 1000
    real = [draw_real(LIBRARY.lesions, (2.0, 2.0, 2.0), rng).mask.sum() * volume for _ in range(40)]
    made = [draw_ellipsoid(LIBRARY.lesions, (2.0, 2.0, 2.0), rng).mask.sum() * volume for _ in range(40)]
    truth = np.median([lesion.volume_ml for lesion in LIBRARY.lesions])
    assert np.median(real) == pytest.approx(truth, rel=0.4) and np.median(made) == pytest.approx(truth, rel=0.4)


def test_the_same_seed_gives_the_same_shape_and_another_another():
    for draw in (draw_real, draw_ellipsoid):
        a, b, c = (draw(LIBRARY.lesions, (2, 2, 2), np.random.default_rng(s)).mask for s in (1, 1, 2))
        assert np.array_equal(a, b)
        assert a.shape != c.shape or (a != c).any()


def test_one_part_keeps_the_largest_and_fills_it():
    mask = np.zeros((9, 9, 9), bool)
    mask[1:6, 1:6, 1:6], mask[3, 3, 3], mask[8, 8, 8] = True, False, True
    kept = one_part(mask)
    assert kept[3, 3, 3] and not kept[8, 8, 8] and kept.sum() == 125
    assert not one_part(np.zeros((3, 3, 3), bool)).any()


def test_cut_repeats_the_ends():
    values = np.arange(4.0).reshape(1, 4, 1, 1)
    assert cut(values, [-2, 0, 0], [7, 1, 1]).ravel().tolist() == [0, 0, 0, 1, 2, 3, 3]
