import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.reports.images.slices import PLANES, choose_slices, field_of_view, interest

SHAPE = (20, 18, 16)
WHOLE = tuple(slice(0, n) for n in SHAPE)


@pytest.mark.parametrize("plane", PLANES, ids=lambda plane: plane.name)
def test_orientation_marks_match_the_image(plane):
    """RAS indices increase to the right, front and head; the bright half must be at its mark."""
    for axis, sides in enumerate(("LR", "PA", "IS")):
        if axis == plane.axis:
            continue
        for side, part in zip(sides, (slice(0, 3), slice(SHAPE[axis] - 3, None)), strict=True):
            data = np.zeros(SHAPE, np.float32)
            index = [slice(None)] * 3
            index[axis] = part
            data[tuple(index)] = 1
            image = plane.cut(data, (10, 9, 8), WHOLE)
            edges = {"left": image[:, 0], "right": image[:, -1], "top": image[0], "bottom": image[-1]}
            lit = [name for name, edge in edges.items() if edge.all()]
            assert lit == [("left", "right", "top", "bottom")[plane.marks.index(side)]]


def test_planes_have_their_size_in_mm():
    axial, coronal, sagittal = (plane.size(WHOLE, (1.0, 2.0, 5.0)) for plane in PLANES)
    assert (axial, coronal, sagittal) == ((20, 36), (20, 80), (36, 80))
    assert PLANES[2].cut(np.zeros(SHAPE), (0, 0, 0), WHOLE).shape == (16, 18)  # rows z, columns y


@settings(deadline=None, max_examples=30)
@given(at=st.tuples(*(st.integers(3, n - 4) for n in SHAPE)), seed=st.integers(0, 99))
def test_slices_go_through_what_changed_and_not_through_noise(at, seed):
    rng = np.random.default_rng(seed)
    truth = rng.normal(40, 10, SHAPE).astype(np.float32)
    other = truth + rng.normal(0, 10, SHAPE).astype(np.float32)
    index = tuple(slice(i - 2, i + 3) for i in at)
    other[index] += 200
    chosen = choose_slices(interest(truth, other, None))
    assert all(abs(c - i) <= 2 for c, i in zip(chosen, at, strict=True))


def test_a_change_outside_the_labels_is_left_out():
    truth = np.zeros(SHAPE, np.float32)
    other, labels = truth.copy(), np.zeros(SHAPE, np.uint8)
    other[2:6, 2:6, 2:6] = 500
    other[12:15, 12:15, 10:13] = labels[12:15, 12:15, 10:13] = 80
    chosen = choose_slices(interest(truth, other, labels))
    assert all(low <= c < low + 3 for c, low in zip(chosen, (12, 12, 10), strict=True))


def test_without_a_change_labels_then_the_body_then_the_middle_decide():
    labels = np.zeros(SHAPE, np.uint8)
    labels[3, 4, 5] = 1
    air = np.full(SHAPE, -1000, np.float32)
    assert choose_slices(interest(air, air, labels)) == (3, 4, 5)
    body = air.copy()
    body[7, 8, 9] = 40
    assert choose_slices(interest(body, body, None)) == (7, 8, 9)
    assert choose_slices(interest(air, air, np.zeros(SHAPE))) == (10, 9, 8)


def test_field_of_view_is_the_body_with_a_margin():
    data = np.full((100, 90, 80), -1000, np.float32)
    data[40:60, 30:50, 20:70] = 40
    view = field_of_view(data, (4.0, 8.0, 1.0))
    assert view == (slice(38, 62), slice(29, 51), slice(12, 78))
    assert field_of_view(np.full(SHAPE, -1000, np.float32), (1, 1, 1)) == WHOLE
