import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.data.labels.deformation import centred, deform, elastic_displacement, recombine, warp

SPACING = (1.0, 1.0, 2.0)


def ball(centre=(16, 16, 10), radius=8.0, shape=(32, 32, 20), value=2):
    apart = np.sqrt(sum(((i - c) * s) ** 2 for i, c, s in zip(np.indices(shape), centre, SPACING, strict=True)))
    labels = np.zeros(shape, np.uint8)
    labels[apart < radius] = value
    labels[apart < radius / 2] = 7
    return labels


@given(st.integers(0, 2**40))
@settings(max_examples=8, deadline=None)
def test_no_value_is_invented_and_a_seed_is_one_deformation(seed):
    labels = ball()
    kept = labels.copy()
    out = deform(labels, SPACING, seed)
    assert set(np.unique(out)) <= {0, 2, 7} and out.dtype == labels.dtype and out.shape == labels.shape
    assert np.array_equal(out, deform(labels, SPACING, seed)) and np.array_equal(labels, kept)
    assert (out != deform(labels, SPACING, seed + 1)).any() and (out != labels).any()


def test_zero_deformation_changes_nothing():
    labels = np.random.default_rng(0).integers(0, 4, (9, 8, 7))
    assert np.array_equal(deform(labels, SPACING, 0, rotate=0, scale=0, elastic=0), labels)


def test_space_does_not_fold_where_plain_displacement_would():
    shape, rng = (32, 32, 20), np.random.default_rng(0)
    flow = elastic_displacement(shape, SPACING, rng, strength=0.08, waves=4)
    jacobian = np.stack([np.stack(np.gradient(f), -1) for f in flow], -2) + np.eye(3)
    inside = np.linalg.det(jacobian)[1:-1, 1:-1, 1:-1]
    assert inside.min() > 0 and inside.max() > 1.2
    # the requested mean displacement: 0.08 of the mean side (32 + 32 + 40 mm) / 3, less what curved paths lose
    size = np.sqrt(((flow * np.array(SPACING)[:, None, None, None]) ** 2).sum(0).mean())
    assert 0.5 < size / (0.08 * 104 / 3) < 1.2


def test_rotation_is_in_millimetres():
    """A ball in mm stays a ball under rotation, although its voxels are twice as long in z."""
    labels = np.zeros((41, 41, 21), np.uint8)
    apart = np.sqrt(sum(((i - c) * s) ** 2 for i, c, s in zip(np.indices(labels.shape), (20, 20, 10), SPACING,
                                                             strict=True)))  # fmt: skip
    labels[apart < 14] = 1
    turned = deform(labels, SPACING, 3, rotate=45, scale=0, elastic=0)
    assert (turned != labels).mean() < 0.01


def test_shift_by_hand():
    labels = ball()
    shift = np.zeros((3, *labels.shape), np.float32)
    shift[0] = 2
    assert np.array_equal(warp(labels, shift)[:-2], labels[2:])
    assert np.array_equal(warp(labels, shift)[-1], labels[-1])  # the edge is replicated


def test_interpolating_two_balls_gives_the_ball_between_them():
    a, b = ball(radius=6), ball(radius=10)
    assert np.array_equal(recombine(a, b, 0, SPACING), a) and np.array_equal(recombine(a, b, 1, SPACING), b)
    middle = recombine(a, b, 0.5, SPACING)
    expected = ball(radius=8)
    assert set(np.unique(middle)) == {0, 2, 7}
    dice = 2 * ((middle > 0) & (expected > 0)).sum() / ((middle > 0).sum() + (expected > 0).sum())
    assert dice > 0.93
    assert ((middle > 0) >= (a > 0)).all() and ((middle > 0) <= (b > 0)).all()


def test_recombining_at_0_and_1_returns_the_two_cases():
    a, b = ball(), np.where(ball() == 7, 2, ball()).astype(np.uint8)
    assert np.array_equal(recombine(a, b, 0, SPACING), a) and np.array_equal(recombine(a, b, 1, SPACING), b)
    with pytest.raises(ValueError, match="one grid"):
        recombine(a, a[1:], 0.5, SPACING)


def test_centred_aligns_the_centres():
    a, b = ball(centre=(12, 18, 9)), ball(centre=(20, 16, 12), shape=(40, 30, 24))
    moved = centred(b, b > 0, a > 0)
    assert moved.shape == a.shape and np.array_equal(moved, a)
