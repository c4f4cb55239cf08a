import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from medgen.evaluation import fidelity
from medgen.evaluation.fidelity import label_means, mae, mean_ssim, psnr, rmse, ssim, ssim_map
from medgen.types import InputError

SHAPES = [(16, 17, 19), (11, 30, 12), (40, 13, 22)]


def _pair(shape=(16, 17, 19), seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 300, shape) - 1000 * (rng.random(shape) < 0.3)
    return truth.astype(dtype), (truth + rng.normal(20, 60, shape)).astype(dtype)


def _skimage_ssim(x, y, data_range, full=False):
    x, y = x.astype(np.float64), y.astype(np.float64)
    return structural_similarity(
        x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=data_range, full=full
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("data_range", [10.0, 100.0, 4095.0])
def test_ssim_equals_scikit_image(shape, data_range, monkeypatch):
    monkeypatch.setattr(fidelity, "SLAB_VOXELS", 0)  # several slabs and blocks: no seams
    monkeypatch.setattr(fidelity, "SLAB_SLICES", 3)
    monkeypatch.setattr(fidelity, "BLOCK", 4)
    x, y = _pair(shape)
    value, full = _skimage_ssim(x, y, data_range, full=True)
    assert ssim(x, y, data_range=data_range) == pytest.approx(value, abs=1e-6)
    np.testing.assert_allclose(ssim_map(x, y, data_range=data_range), full, atol=1e-6)


def test_ssim_of_mask_is_the_mean_of_the_map_inside_it():
    x, y = _pair()
    mask = np.random.default_rng(1).random(x.shape) < 0.2
    _, full = _skimage_ssim(x, y, 4095, full=True)
    assert ssim(x, y, data_range=4095, mask=mask) == pytest.approx(full[mask].mean(), abs=1e-6)


def test_ssim_counts_the_whole_of_an_axis_shorter_than_the_window():
    x, y = _pair((20, 20, 4))
    similarity = ssim_map(x, y, data_range=4095)
    assert ssim(x, y, data_range=4095) == pytest.approx(float(similarity[5:-5, 5:-5].mean()), abs=1e-6)


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


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), scale=st.floats(0.1, 50))
def test_ssim_is_symmetric_and_scales_with_the_data_range(seed, scale):
    x, y = _pair((12, 12, 12), seed, np.float64)
    value = ssim(x, y, data_range=1000)
    assert -1 <= value <= 1
    assert ssim(y, x, data_range=1000) == pytest.approx(value, abs=1e-6)
    assert ssim(x * scale, y * scale, data_range=1000 * scale) == pytest.approx(value, abs=1e-6)


def test_identical_and_constant_images():
    x, _ = _pair()
    flat = np.full((12, 12, 12), 40.0, np.float32)
    for image in (x, flat):
        assert mae(image, image) == rmse(image, image) == 0
        assert psnr(image, image, data_range=4095) == float("inf")
        assert ssim(image, image, data_range=4095) == pytest.approx(1, abs=1e-7)
    # two constants a, b: structure term 1, luminance (2ab + C1) / (a² + b² + C1)
    c1 = (0.01 * 100) ** 2
    expected = (2 * 40 * 60 + c1) / (40**2 + 60**2 + c1)
    assert ssim(flat, flat + 20, data_range=100) == pytest.approx(expected, abs=1e-5)
    assert ssim(flat, flat + 20, data_range=19) == pytest.approx((4800 + 0.19**2) / (5200 + 0.19**2), abs=1e-6)


def test_unsigned_integers_do_not_wrap():
    x, y = np.full((3, 3, 3), 250, np.uint8), np.full((3, 3, 3), 5, np.uint8)
    assert mae(y, x) == mae(x, y) == 245


def test_inputs_stay_as_they_were():
    x, y = _pair()
    before = x.copy(), y.copy()
    mae(x, y), rmse(x, y), psnr(x, y, data_range=1.0), ssim(x, y, data_range=1.0)
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


def _ssim(x, y, mask=None):
    return ssim(x, y, data_range=1, mask=mask)


@pytest.mark.parametrize("measure", [mae, rmse, _psnr, _ssim])
def test_what_cannot_be_measured_is_refused(measure):
    x = np.zeros((12, 12, 12), np.float32)
    with pytest.raises(InputError, match=r"\(12, 12, 12\) and \(12, 12, 11\)"):
        measure(x, x[..., :-1])
    with pytest.raises(InputError, match="no voxels"):
        measure(x[:0], x[:0])
    with pytest.raises(InputError, match="empty"):
        measure(x, x, np.zeros(x.shape, bool))
    with pytest.raises(InputError, match="mask of shape"):
        measure(x, x, np.ones((3, 3, 3), bool))
    for bad in (np.nan, np.inf):
        broken = x.copy()
        broken[3, 4, 5] = bad
        with pytest.raises(InputError, match="prediction holds"):
            measure(x, broken)
        with pytest.raises(InputError, match="reference holds"):
            measure(broken, x)


@pytest.mark.parametrize("data_range", [0, -1, float("nan"), float("inf")])
def test_data_range_must_be_positive(data_range):
    x = np.zeros((12, 12, 12))
    for measure in (psnr, ssim, ssim_map):
        with pytest.raises(InputError, match="data_range"):
            measure(x, x, data_range=data_range)


@pytest.mark.parametrize("value", [-1, 0.5, np.nan, 70000])
def test_labels_must_be_whole_numbers(value):
    labels = np.zeros((4, 4, 4))
    labels[0, 0, 0] = value
    with pytest.raises(InputError, match="whole numbers"):
        label_means(labels, {})


def test_ssim_refuses_other_than_volumes_and_a_mask_of_another_shape():
    with pytest.raises(InputError, match="3D"):
        ssim(np.ones((12, 12)), np.ones((12, 12)), data_range=1)
    with pytest.raises(InputError, match="mask of shape"):
        mean_ssim(np.ones((12, 12, 12)), np.ones((12, 12, 11)))
