import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio

from medgen.evaluation.metrics import voxelwise as fidelity
from medgen.evaluation.metrics.voxelwise import gradient_error, label_means, mae, ncc, psnr, rmse

SHAPES = [(16, 17, 19), (11, 30, 12), (40, 13, 22)]


def test_each_label_has_the_scores_of_its_mask():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 5], (12, 11, 10)).astype(np.uint8)
    truth = (rng.normal(40, 30, labels.shape) + 200 * labels).astype(np.float32)
    made = (truth + rng.normal(5, 20, labels.shape)).astype(np.float32)
    made[labels == 2] = 0.1  # constant: no relation
    found = fidelity.label_scores(labels, truth, made)
    assert list(found) == [1, 2, 5] and found[2]["ncc"] == 0
    for value, row in found.items():
        x, y = (image[labels == value].astype(np.float64) for image in (truth, made))
        assert row["rmse"] == pytest.approx(np.sqrt(((x - y) ** 2).mean()), rel=1e-9)
        if value != 2:
            assert row["ncc"] == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-9)
    assert fidelity.label_scores(np.zeros_like(labels), truth, made) == {}


def _pair(shape=(16, 17, 19), seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 300, shape) - 1000 * (rng.random(shape) < 0.3)
    return truth.astype(dtype), (truth + rng.normal(20, 60, shape)).astype(dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_psnr_and_rmse_equal_scikit_image(shape):
    x, y = _pair(shape, dtype=np.float64)
    assert rmse(x, y) ** 2 == pytest.approx(mean_squared_error(x, y))
    assert psnr(x, y, data_range=4095) == pytest.approx(peak_signal_noise_ratio(x, y, data_range=4095))


@settings(deadline=None, max_examples=40)
@given(offset=st.floats(-2000, 2000).filter(lambda v: abs(v) > 1e-2), seed=st.integers(0, 99))
def test_a_constant_offset_is_its_own_error(offset, seed):
    x, _ = _pair((5, 6, 7), seed, np.float64)
    mask = np.random.default_rng(seed).random(x.shape) < 0.5
    y = np.where(mask, x + offset, x + 7777)
    assert mae(x, y, mask) == pytest.approx(abs(offset))
    assert rmse(x, y, mask) == pytest.approx(abs(offset))
    assert psnr(x, y, data_range=4095, mask=mask) == pytest.approx(20 * np.log10(4095 / abs(offset)))


def test_identical_and_constant_images():
    x, _ = _pair()
    flat = np.full((12, 12, 12), 40.0, np.float32)
    for image in (x, flat):
        assert mae(image, image) == rmse(image, image) == 0
        assert psnr(image, image, data_range=4095) == float("inf")
        assert gradient_error(image, image, spacing=(1, 1, 1)) == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_ncc_is_the_correlation_coefficient(shape, monkeypatch):
    monkeypatch.setattr(fidelity, "SLAB_VOXELS", 700)
    x, y = _pair(shape)
    mask = np.random.default_rng(1).random(shape) < 0.4
    assert ncc(x, y) == pytest.approx(np.corrcoef(x.ravel(), y.ravel())[0, 1], abs=1e-9)
    assert ncc(x, y, mask) == pytest.approx(np.corrcoef(x[mask], y[mask])[0, 1], abs=1e-9)
    assert ncc(x, 3 * x + 100) == pytest.approx(1, abs=1e-6)
    assert ncc(x, -x) == pytest.approx(-1)


def test_ncc_of_a_constant_image_is_0():
    x, flat = _pair()[0], np.full((16, 17, 19), 0.1, np.float32)
    assert ncc(x, flat) == ncc(flat, x) == ncc(flat, flat) == 0


def _sitk_gradient(image, spacing):
    volume = sitk.GetImageFromArray(image.T)
    volume.SetSpacing(spacing)
    return sitk.GetArrayFromImage(sitk.GradientMagnitude(volume)).T


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_error_equals_simple_itk_inside_the_volume(shape, monkeypatch):
    monkeypatch.setattr(fidelity, "SLAB_VOXELS", 0)
    spacing = (0.7, 1.3, 5.0)
    x, y = _pair(shape)
    mask = np.zeros(shape, bool)
    mask[1:-1, 1:-1, 1:-1] = True  # at the faces that filter repeats the last voxel
    expected = np.abs(_sitk_gradient(y, spacing) - _sitk_gradient(x, spacing))[mask].mean()
    assert gradient_error(x, y, spacing=spacing, mask=mask) == pytest.approx(expected, rel=1e-5)


@settings(deadline=None, max_examples=25)
@given(slope=st.tuples(*[st.floats(-50, 50)] * 3), spacing=st.tuples(*[st.floats(0.3, 6)] * 3))
def test_gradient_error_of_a_ramp_is_its_slope_in_hu_per_mm(slope, spacing):
    grid = np.indices((5, 4, 6)) * np.array(spacing)[:, None, None, None]
    ramp = np.tensordot(slope, grid, 1) + 700
    value = gradient_error(np.full_like(ramp, -1000), ramp, spacing=spacing)
    assert value == pytest.approx(np.linalg.norm(slope), abs=1e-6)


def test_gradient_error_of_one_slice_leaves_out_the_axis_across_it():
    x, y = _pair((9, 8, 1))
    flat = gradient_error(x[..., 0], y[..., 0], spacing=(2, 3))
    assert gradient_error(x, y, spacing=(2, 3, 5)) == pytest.approx(flat)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 0, 1), (1, -1, 1), (1, np.nan, 1)])
def test_gradient_error_needs_a_spacing_for_every_axis(spacing):
    with refused("volume-spacing-invalid"):
        gradient_error(*_pair(), spacing=spacing)


def test_unsigned_integers_do_not_wrap():
    x, y = np.full((3, 3, 3), 250, np.uint8), np.full((3, 3, 3), 5, np.uint8)
    assert mae(y, x) == mae(x, y) == 245


def test_inputs_stay_as_they_were():
    x, y = _pair()
    before = x.copy(), y.copy()
    mae(x, y), rmse(x, y), psnr(x, y, data_range=1.0), ncc(x, y), gradient_error(x, y, spacing=(1, 1, 1))
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


def test_label_means_equal_a_direct_loop(monkeypatch):
    monkeypatch.setattr(fidelity, "SLAB_VOXELS", 500)
    x, y = _pair()
    labels = np.random.default_rng(2).choice([0, 1, 2, 40], x.shape).astype(np.float32)
    means = label_means(labels, {"x": x, "y": y})
    assert list(means) == [1, 2, 40]
    for value, row in means.items():
        assert row["voxels"] == (labels == value).sum()
        assert row["x"] == pytest.approx(x[labels == value].mean(dtype=np.float64))
        assert row["y"] == pytest.approx(y[labels == value].mean(dtype=np.float64))
    assert label_means(np.zeros((3, 3, 3)), {"x": np.ones((3, 3, 3))}) == {}


def _psnr(x, y, mask=None):
    return psnr(x, y, data_range=1, mask=mask)


def _gradients(x, y, mask=None):
    return gradient_error(x, y, spacing=(1, 1, 1), mask=mask)


@pytest.mark.parametrize("measure", [mae, rmse, ncc, _psnr, _gradients])
def test_what_cannot_be_measured_is_refused(measure):
    x = np.zeros((12, 12, 12), np.float32)
    with refused("pair-shapes-differ"):
        measure(x, x[..., :-1])
    with refused("volume-zero-dimension"):
        measure(x[:0], x[:0])
    with refused("mask-empty"):
        measure(x, x, np.zeros(x.shape, bool))
    with refused("mask-shape-differs"):
        measure(x, x, np.ones((3, 3, 3), bool))
    for bad in (np.nan, np.inf):
        broken = x.copy()
        broken[3, 4, 5] = bad
        with refused("volume-not-finite", names="prediction"):
            measure(x, broken)
        with refused("volume-not-finite", names="reference"):
            measure(broken, x)


@pytest.mark.parametrize("data_range", [0, -1, float("nan"), float("inf")])
def test_data_range_must_be_positive(data_range):
    x = np.zeros((12, 12, 12))
    with refused("metric-data-range-invalid", names="data_range"):
        psnr(x, x, data_range=data_range)


@pytest.mark.parametrize("value", [-1, 0.5, np.nan, 70000])
def test_labels_must_be_whole_numbers(value):
    labels = np.zeros((4, 4, 4))
    labels[0, 0, 0] = value
    with refused("labels-values-invalid"):
        label_means(labels, {})
