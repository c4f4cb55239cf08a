import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusal import refused

from medgen.data.intensity import GAP, Range, TargetRange, fit_range, typical_range


@given(st.floats(-2000, 0), st.floats(1, 4000), st.integers(0, 2**31))
def test_round_trip_inside_the_range(low, width, seed):
    code = Range(low, low + width)
    x = np.random.default_rng(seed).uniform(low, low + width, 100).astype(np.float32)
    kept = x.copy()
    y = code.encode(x)
    assert np.abs(y).max() <= 1 + 1e-6
    np.testing.assert_allclose(code.decode(y), x, atol=2e-6 * (abs(low) + width))
    assert np.array_equal(x, kept)


@given(st.floats(-2000, 2000), st.floats(0.5, 5000), st.sampled_from([None, 0.0, -5000.0]), st.integers(0, 2**31))
def test_decoding_in_place_equals_decoding(low, width, background, seed):
    """The masked background is recognised by its encoded value, which decoding in place overwrites."""
    code = Range(low, low + width, background=background)
    y = np.random.default_rng(seed).uniform(-1.2, 1.2, (3, 4, 5)).astype(np.float32)
    y[0] = -1
    wanted = code.decode(y)
    assert background is None or (wanted[0] == np.float32(background)).all()
    np.testing.assert_array_equal(code.decode(y.copy(), overwrite=True), wanted)


def test_range_limits_map_to_plus_and_minus_one():
    np.testing.assert_array_equal(
        Range(-1000, 1000).encode(np.array([-1000.0, 0, 1000, 5000, -3000])), [-1, 0, 1, 1, -1]
    )


@given(st.integers(0, 2**31), st.sampled_from(["preserve", "preserve_unchanged", "clip"]))
def test_values_at_and_beyond_the_range_limits_are_restored_exactly_and_others_unchanged(seed, outside):
    code, rng = Range(-1000, 1000, outside), np.random.default_rng(seed)
    x = rng.choice([-32768, -1024.7, -1000, -999.9, 40, 999.9, 1000, 1800.3, 3e38], 50).astype(np.float32)
    y = rng.uniform(760, 1000, 50).astype(np.float32)
    expected = y if outside == "clip" else np.where(np.abs(x) >= 1000, x, y)
    assert np.array_equal(code.carried(x, y.copy()), expected)


def test_carry_unmoved_keeps_bone_above_the_range_and_removes_contrast():
    code = Range(-200, 400, "preserve_unchanged")
    x = np.array([900, 900, 900, 900, -1000, -1000], np.float32)  # bone, brighter, contrast, between, lung, padding
    y = np.array([380, 420, 50, 400 - 600 * 3 / 16, -190, 100], np.float32)
    np.testing.assert_allclose(code.carried(x, y), [900, 900, 50, (900 + 287.5) / 2, -1000, -1000], atol=1e-3)


def test_codes_between_the_background_and_the_darkest_tissue_are_one_of_the_two():
    """A regression draws such values where it is unsure whether a voxel is masked; they are no intensities."""
    code = Range(8.0, 3000.0, background=0.0)
    y = np.linspace(-1.2, -0.7, 101, dtype=np.float32)
    x = code.decode(y)
    assert set(x[y < -1 + GAP / 2]) == {0.0} and set(x[(y > -1 + GAP / 2) & (y < -1 + GAP)]) == {8.0}
    assert (x[y > -1 + GAP + 1e-6] > 8).all()


def test_clip_equals_encode_then_decode():
    code = Range(3, 300, background=0)
    x = np.array([0, 1, 3, 50, 900], np.float32)
    assert code.clip(x).tolist() == [0, 3, 3, 50, 300]
    np.testing.assert_allclose(code.decode(code.encode(x)), code.clip(x), atol=1e-4)


def test_masked_background_is_coded_differently_from_dark_tissue():
    data = np.zeros((10, 10, 10), np.float32)
    data[2:8, 2:8, 2:8] = np.linspace(3, 300, 216).reshape(6, 6, 6)
    code = fit_range(data, kind="percentile", high=100, background=0)
    assert code.low == pytest.approx(3, abs=1) and code.high == 300
    y = code.encode(data)
    assert (y[data == 0] == -1).all() and y[data > 0].min() >= -0.75 and y.max() == 1
    back = code.decode(y)
    assert (back[data == 0] == 0).all()
    np.testing.assert_allclose(back[data >= code.low], data[data >= code.low], rtol=1e-5)


def test_percentile_covers_background_and_bright_tissue():
    rng = np.random.default_rng(0)
    data = np.zeros((20, 20, 20), np.float32)
    data[5:15, 5:15, 5:15] = rng.normal(300, 30, (10, 10, 10))
    code = fit_range(data, kind="percentile")
    assert code.low == 0
    assert code.high == pytest.approx(np.percentile(data[data > data.mean()], 99.5))


def test_a_low_percentile_keeps_the_dark_half_of_a_crop_without_background():
    rng = np.random.default_rng(0)
    data = np.where(rng.random((20, 20, 20)) < 0.5, 100.0, 200.0) + rng.normal(0, 5, (20, 20, 20))
    code = fit_range(data, kind="percentile", low=0.5)
    assert code.low == pytest.approx(np.percentile(data, 0.5))
    grey = code.encode(data)[data < 150]
    assert (grey == -1).mean() < 0.02


@given(st.floats(0.01, 1e6))
def test_percentile_and_zscore_are_independent_of_the_intensity_scale(gain):
    data = np.random.default_rng(0).gamma(2, 50, (8, 8, 8)).astype(np.float32)
    for kind in ("percentile", "zscore"):
        a, b = fit_range(data, kind=kind), fit_range(data * np.float32(gain), kind=kind)
        np.testing.assert_allclose(a.encode(data), b.encode(data * np.float32(gain)), atol=2e-3)


def test_zscore_range_is_mean_and_width():
    data = np.random.default_rng(0).normal(100, 10, (10, 10, 10)).astype(np.float32)
    inside = data[data > data.mean()]
    code = fit_range(data, kind="zscore", width=3)
    assert (code.low + code.high) / 2 == pytest.approx(inside.mean(), rel=1e-5)
    assert (code.high - code.low) / 6 == pytest.approx(inside.std(), rel=1e-5)


@pytest.mark.parametrize("kind", ["percentile", "zscore"])
def test_constant_image_is_refused(kind):
    with refused("volume-constant"):
        fit_range(np.full((4, 4, 4), 7, np.float32), kind=kind)


def test_target_range_follows_the_sources_gain():
    typical = typical_range([Range(0, 10), Range(0, 30), Range(0, 20)])
    assert (typical.low, typical.high) == (0, 20)
    assert TargetRange(typical, Range(0, 100)).of(Range(0, 200)) == typical
    assert TargetRange(typical, Range(0, 100), follow=True).of(Range(0, 200)) == Range(0, 40)


def test_a_lower_percentile_of_0_is_the_minimum():
    data = np.random.default_rng(0).gamma(2, 100, (12, 12, 12)).astype(np.float32)
    data[0, 0, :3] = -150
    assert fit_range(data, kind="percentile", low=0, high=99).low == -150
    assert fit_range(data, kind="percentile", high=99).low == pytest.approx(np.percentile(data, 0.1))
    assert fit_range(data, kind="window", low=0, high=7).low == 0


def test_a_background_value_that_few_voxels_have_is_not_a_mask():
    """A head in noisy air has some zeros; they are not a masked background, and the air is not foreground."""
    rng = np.random.default_rng(0)
    head = np.abs(rng.normal(0, 5, (40, 40, 40))).round()
    head[10:30, 10:30, 10:30] = rng.uniform(100, 200, (20, 20, 20))
    assert 0 < (head == 0).mean() < 0.1
    head[(head == 0) & (rng.random(head.shape) < 0.6)] = 1
    code = fit_range(head, kind="percentile", background=0)
    assert code == fit_range(head, kind="percentile")
    masked = np.where(head < 50, 0, head)
    assert fit_range(masked, kind="percentile", background=0).background == 0


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from(["<i2", ">i2", "u1", "f4", "f8"]),
    st.permutations(range(3)),
    st.sampled_from([None, 0.0]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_encoding_in_blocks_equals_the_formula_whatever_the_layout(shape, dtype, axes, background, flipped, seed):
    rng = np.random.default_rng(seed)
    x = (rng.normal(0, 100, shape).clip(-120, 120) + 125 * (dtype == "u1")).astype(dtype).transpose(axes)
    x = x[::-1, :, ::-1] if flipped else x
    low, width = rng.uniform(-100, 0), rng.uniform(1, 200)
    code = Range(low, low + width, background=background)
    start = np.float32(-1 if background is None else -0.75)
    unit = np.float32(width / (1 - start))
    plain = (x.astype(np.float32).clip(low, np.float32(low + width)) - np.float32(low)) / unit + start
    plain = plain if background is None else np.where(x == background, np.float32(-1), plain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medgen.data.intensity.BLOCK", int(rng.integers(1, 100)))
        y = code.encode(x)
    assert y.dtype == np.float32 and y.flags.writeable
    np.testing.assert_allclose(y, plain, atol=3e-7)
