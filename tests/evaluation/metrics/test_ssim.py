import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import MultiScaleSSIMMetric
from monai.metrics.regression import compute_ssim_and_cs
from refusal import refused
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from medgen.evaluation.metrics import ssim as module
from medgen.evaluation.metrics import voxelwise as fidelity
from medgen.evaluation.metrics.ssim import (
    LEVEL_WEIGHTS,
    halved,
    mean_ssim,
    ms_ssim,
    ms_ssim_maps,
    ssim,
    ssim_and_structure_maps,
    ssim_map,
)

SHAPES = [(16, 17, 19), (11, 30, 12), (40, 13, 22)]


def _pair(shape=(16, 17, 19), seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 300, shape) - 1000 * (rng.random(shape) < 0.3)
    return truth.astype(dtype), (truth + rng.normal(20, 60, shape)).astype(dtype)


def _skimage_ssim(x, y, data_range, **options):
    x, y = x.astype(np.float64), y.astype(np.float64)
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return structural_similarity(x, y, data_range=data_range, **{**gaussian, **options})


def _several_slabs(monkeypatch):
    monkeypatch.setattr(fidelity, "SLAB_VOXELS", 0)
    monkeypatch.setattr(fidelity, "SLAB_SLICES", 3)
    monkeypatch.setattr(module, "BLOCK", 4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("data_range", [10.0, 100.0, 4095.0])
def test_ssim_equals_scikit_image_without_seams(shape, data_range, monkeypatch):
    _several_slabs(monkeypatch)
    x, y = _pair(shape)
    value, full = _skimage_ssim(x, y, data_range, full=True)
    assert ssim(x, y, data_range=data_range) == pytest.approx(value, abs=1e-6)
    np.testing.assert_allclose(ssim_map(x, y, data_range=data_range), full, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_uniform_window_equals_the_default_of_scikit_image(shape, monkeypatch):
    _several_slabs(monkeypatch)
    x, y = _pair(shape)
    value, full = structural_similarity(x.astype(float), y.astype(float), data_range=4095, full=True)
    similarity = ssim_map(x, y, data_range=4095, window="uniform")
    np.testing.assert_allclose(similarity, full, atol=1e-6)
    assert mean_ssim(similarity, window="uniform") == pytest.approx(value, abs=1e-6)


def test_ssim_equals_monai_whose_windows_lie_inside():
    x, y = _pair((24, 13, 17))
    peer, contrast = compute_ssim_and_cs(
        torch.from_numpy(y)[None, None], torch.from_numpy(x)[None, None], 3, (11,) * 3, (1.5,) * 3, 4095.0
    )
    inside = (slice(5, -5),) * 3
    np.testing.assert_allclose(ssim_map(x, y, data_range=4095)[inside], peer[0, 0], atol=1e-5)
    bare = ssim_map(x, y, data_range=4095, luminance=False)
    np.testing.assert_allclose(bare[inside], contrast[0, 0], atol=1e-5)
    assert ssim(x, y, data_range=4095) == pytest.approx(float(peer.mean()), abs=1e-5)


def test_ms_ssim_equals_monai():
    weights = (0.3, 0.4, 0.3)
    x, y = _pair((45, 44, 46))
    # about 0, because single precision and E[v²] - E[v]² lose the peer the sixth digit far from it
    x, y = gaussian_filter(x - x.mean(), 2), gaussian_filter(y - x.mean(), 1)
    peer = MultiScaleSSIMMetric(3, data_range=500.0, weights=weights)
    expected = float(peer(torch.from_numpy(y)[None, None], torch.from_numpy(x)[None, None]))
    value = ms_ssim(x, y, data_range=500, weights=weights)
    assert value < 0.9
    assert value == pytest.approx(expected, abs=1e-5)


def _plain_ms_ssim(x, y, data_range, mask=None):
    """Wang 2003 eq. 7 written out in double precision, the mask pooled with the images."""
    share, product = None if mask is None else mask.astype(float), 1.0
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2

    def blur(v):
        return gaussian_filter(v, 1.5, truncate=3.5, mode="reflect")

    def pool(v):
        return sum(v[i : n0 - 1 + i : 2, j : n1 - 1 + j : 2, k : n2 - 1 + k : 2] for i, j, k in np.ndindex(2, 2, 2)) / 8

    for level, weight in enumerate(LEVEL_WEIGHTS):
        mx, my = blur(x), blur(y)
        value = (2 * (blur(x * y) - mx * my) + c2) / (blur(x * x) - mx**2 + blur(y * y) - my**2 + c2)
        if level == 4:
            value = value * (2 * mx * my + c1) / (mx**2 + my**2 + c1)
        if share is None:
            value = value[tuple(slice(5, -5) if n > 10 else slice(None) for n in x.shape)]
        product *= np.average(value, weights=share) ** weight
        n0, n1, n2 = (n // 2 * 2 for n in x.shape)
        x, y, share = pool(x), pool(y), None if share is None else pool(share)
    return product


@pytest.mark.parametrize("masked", [False, True])
def test_ms_ssim_of_five_levels_is_the_published_formula_on_odd_anisotropic_shapes(masked):
    x, y = (gaussian_filter(v, s) for v, s in zip(_pair((50, 33, 16), dtype=np.float64), (2, 1), strict=True))
    mask = None
    if masked:
        mask = np.zeros(x.shape, bool)
        mask[10:30, 5:21, 4:11] = True
    value = ms_ssim(x, y, data_range=50, mask=mask)
    assert 0.1 < value < 0.99
    assert value == pytest.approx(_plain_ms_ssim(x, y, 50, mask), abs=1e-5)


def test_ms_ssim_has_defined_ends():
    x, y = _pair((20, 18, 16))
    assert ms_ssim(x, x, data_range=4095) == pytest.approx(1, abs=1e-6)
    assert ms_ssim(x - x.mean(), x.mean() - x, data_range=1) == 0  # a mean below 0 counts as 0
    with refused("metric-volume-too-small"):
        ms_ssim(x[..., :15], y[..., :15], data_range=4095)
    rim = np.zeros((19, 18, 16), bool)
    rim[-1] = True
    with refused("metric-mask-at-faces"):
        ms_ssim(x[:19], y[:19], data_range=4095, mask=rim)


def test_halved_volume_holds_means_of_eight():
    x = np.arange(5 * 4 * 6.0).reshape(5, 4, 6)
    small = halved(x)
    assert small.shape == (2, 2, 3)
    assert small[1, 0, 2] == x[2:4, 0:2, 4:6].mean()


def test_ssim_of_mask_is_the_mean_of_the_map_inside_it():
    x, y = _pair()
    mask = np.random.default_rng(1).random(x.shape) < 0.2
    _, full = _skimage_ssim(x, y, 4095, full=True)
    assert ssim(x, y, data_range=4095, mask=mask) == pytest.approx(full[mask].mean(), abs=1e-6)


def test_ssim_counts_the_whole_of_an_axis_shorter_than_the_window():
    x, y = _pair((20, 20, 4))
    similarity = ssim_map(x, y, data_range=4095)
    assert ssim(x, y, data_range=4095) == pytest.approx(float(similarity[5:-5, 5:-5].mean()), abs=1e-6)


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
        assert ssim(image, image, data_range=4095) == pytest.approx(1, abs=1e-7)
    # two constants a, b: structure term 1, luminance (2ab + C1) / (a² + b² + C1)
    c1 = (0.01 * 100) ** 2
    expected = (2 * 40 * 60 + c1) / (40**2 + 60**2 + c1)
    assert ssim(flat, flat + 20, data_range=100) == pytest.approx(expected, abs=1e-5)
    assert ssim(flat, flat + 20, data_range=19) == pytest.approx((4800 + 0.19**2) / (5200 + 0.19**2), abs=1e-6)


@pytest.mark.parametrize("measure", [ssim, ms_ssim])
def test_what_cannot_be_measured_is_refused(measure):
    x = np.zeros((16, 16, 16), np.float32)
    for reference, prediction, mask, data_range, code, names in (
        (x, x[..., :-1], None, 1, "pair-shapes-differ", ("(16, 16, 16)", "(16, 16, 15)")),
        (x[:0], x[:0], None, 1, "volume-zero-dimension", ()),
        (x, x, np.zeros(x.shape, bool), 1, "mask-empty", ()),
        (x, x, np.ones((3, 3, 3), bool), 1, "mask-shape-differs", "(3, 3, 3)"),
        (x, x + np.nan, None, 1, "volume-not-finite", "prediction"),
        (x - np.inf, x, None, 1, "volume-not-finite", "reference"),
        *((x, x, None, bad, "metric-data-range-invalid", "data_range") for bad in (0, -1, float("nan"), float("inf"))),
    ):
        with refused(code, names=names):
            measure(reference, prediction, mask=mask, data_range=data_range)


def test_inputs_stay_as_they_were():
    x, y = _pair((20, 18, 16))
    before = x.copy(), y.copy()
    ssim(x, y, data_range=1.0), ms_ssim(x, y, data_range=1.0)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


def test_ssim_refuses_other_than_volumes_and_a_mask_of_another_shape():
    with refused("metric-not-three-dimensional"):
        ssim(np.ones((12, 12)), np.ones((12, 12)), data_range=1)
    with refused("mask-shape-differs"):
        mean_ssim(np.ones((12, 12, 12)), np.ones((12, 12, 11)))


def test_both_maps_of_one_pass_equal_those_of_separate_calls():
    rng = np.random.default_rng(3)
    x = rng.normal(0, 300, (20, 33, 17)).astype(np.float32)
    y = x + rng.normal(0, 40, x.shape).astype(np.float32)
    both = ssim_and_structure_maps(x, y, data_range=4095)
    for found, luminance in zip(both, (True, False), strict=True):
        np.testing.assert_array_equal(found, ssim_map(x, y, data_range=4095, luminance=luminance))
    known, plain = (ms_ssim_maps(x, y, data_range=4095, finest=finest) for finest in (both[1], None))
    for a, b in zip(known, plain, strict=True):
        np.testing.assert_array_equal(a, b)
