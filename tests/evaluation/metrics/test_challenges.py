from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, HausdorffDistanceMetric
from refusal import refused
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.signal import fftconvolve
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from medgen.evaluation.metrics import ssim
from medgen.evaluation.metrics import voxelwise as fidelity
from medgen.evaluation.metrics.challenges import PROFILES, organ_scores
from medgen.evaluation.metrics.image_pair import measure
from medgen.evaluation.metrics.segmentation import segmentation_scores

CT = Path(__file__).parents[4] / "shared/data/ct/abdomen_noncontrast"
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def _ct(shape=(40, 31, 22), seed=0):
    """Tissue, air, and metal beyond both challenges' ranges; the truth, a conversion and a body mask."""
    rng = np.random.default_rng(seed)
    truth = gaussian_filter(rng.normal(0, 1, shape), 3) * 4000 - 200
    truth[5:9, 5:9, 5:9] = 3400
    truth[20:24, 20:24, 10:14] = -1100
    prediction = gaussian_filter(truth, 1.5) + rng.normal(10, 200, shape)
    mask = np.zeros(shape, bool)
    mask[2:-6, 1:-4, 2:] = True  # touches a face, as a body does
    return truth.astype(np.float32), prediction.astype(np.float32), mask


def _window(low, high, *images):
    return [np.clip(image.astype(np.float64), low, high) for image in images]


def _synthrad2023(truth, prediction, mask):
    x, y = _window(-1024, 3000, truth, prediction)
    scores = {
        "mae": np.abs(truth.astype(float) - prediction)[mask].mean(),
        "psnr": peak_signal_noise_ratio(x[mask], y[mask], data_range=4024),
    }
    x, y = (np.where(mask, v, -1024) + 1024 for v in (x, y))
    _, full = structural_similarity(x, y, data_range=4024, full=True)
    inner = (slice(3, -3),) * 3
    return scores | {"ssim": full[inner][mask[inner]].mean()}


def _synthrad2025(truth, prediction, mask):
    """SSIM as the challenge defines it: separate luminance, contrast and structure, in double precision.

    The challenge's arrays run to the patient's left, back and head (LPS); these here to the right, front and head.
    """
    truth, prediction, mask = (image[::-1, ::-1] for image in (truth, prediction, mask))
    x, y = _window(-1024, 3071, truth, prediction)
    scores = {
        "mae": np.abs(truth.astype(float) - prediction)[mask].mean(),
        "psnr": peak_signal_noise_ratio(x[mask], y[mask], data_range=4095),
    }
    x, y = (np.where(mask, v, -1024) + 1024 for v in (x, y))
    missing = [max(97 - n, 0) for n in x.shape]
    x, y, mask = (np.pad(v, [(m // 2, m - m // 2) for m in missing], "edge") for v in (x, y, mask))
    c1, c2 = (0.01 * 4095) ** 2, (0.03 * 4095) ** 2
    product = 1.0
    for weight in WEIGHTS:
        mx, my = uniform_filter(x, 7), uniform_filter(y, 7)
        vx, vy, cov = (
            (uniform_filter(v, 7) - m) * 343 / 342 for v, m in ((x * x, mx * mx), (y * y, my * my), (x * y, mx * my))
        )
        sx, sy = np.sqrt(np.maximum(vx, 0)), np.sqrt(np.maximum(vy, 0))
        luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
        contrast = (2 * sx * sy + c2) / (vx + vy + c2)
        structure = np.maximum((cov + c2 / 2) / (sx * sy + c2 / 2), 0)
        value = luminance**weight * contrast**weight * structure**weight
        inner = (slice(3, -3),) * 3
        product *= value[inner][mask[inner]].mean()
        x, y = (fftconvolve(v, np.ones((2, 2, 2)) / 8, mode="same")[::2, ::2, ::2] for v in (x, y))
        mask = mask[::2, ::2, ::2]
    return scores | {"ms_ssim": product}


@pytest.mark.parametrize("profile, published", [("synthrad2023", _synthrad2023), ("synthrad2025", _synthrad2025)])
@pytest.mark.parametrize("shape", [(40, 31, 22), (33, 100, 21)])
def test_challenge_profiles_are_the_published_definitions(profile, published, shape):
    images = _ct(shape)
    scores, expected = measure(*images, profile=profile), published(*images)
    assert list(scores) == [f"{profile}_{name}" for name in expected]
    for name, value in expected.items():
        assert scores[f"{profile}_{name}"] == pytest.approx(value, rel=1e-6, abs=1e-5), name
    assert expected.get("ssim", expected.get("ms_ssim")) < 0.98


@pytest.mark.skipif(not CT.is_dir(), reason="../shared/data/ct is absent")
def test_challenge_profiles_on_a_real_scan():
    truth = np.asarray(nib.load(next(CT.glob("ct.nii*"))).dataobj, np.float32)[20:90, 15:80, 40:75]
    prediction = gaussian_filter(truth, 1) + np.float32(5)
    mask = truth > -300
    for profile, published in (("synthrad2023", _synthrad2023), ("synthrad2025", _synthrad2025)):
        scores = measure(truth, prediction, mask, profile=profile)
        for name, value in published(truth, prediction, mask).items():
            assert scores[f"{profile}_{name}"] == pytest.approx(value, rel=1e-6, abs=1e-5), name


def test_generic_is_the_plain_metrics_in_the_mask():
    x, y, mask = _ct()
    scores = measure(x, y, mask, profile="generic", data_range=4095, spacing=(1, 1, 3))
    assert scores == {
        "mae": fidelity.mae(x, y, mask),
        "rmse": fidelity.rmse(x, y, mask),
        "psnr": fidelity.psnr(x, y, data_range=4095, mask=mask),
        "ssim": ssim.ssim(x, y, data_range=4095, mask=mask),
        "ncc": fidelity.ncc(x, y, mask),
        "ms_ssim": ssim.ms_ssim(x, y, data_range=4095, mask=mask),
        "gradient_error": fidelity.gradient_error(x, y, spacing=(1, 1, 3), mask=mask),
    }
    assert set(measure(x, y, mask, profile="generic", data_range=4095)) == set(scores) - {"gradient_error"}
    assert "ms_ssim" not in measure(x[..., :9], y[..., :9], profile="generic", data_range=4095)


def test_no_mask_is_a_mask_of_everything():
    x, y, _ = _ct()
    for profile in ("synthrad2023", "synthrad2025"):
        whole = measure(x, y, np.ones(x.shape), profile=profile)
        assert measure(x, y, profile=profile) == pytest.approx(whole, abs=1e-7)


def test_stored_integers_give_the_same_numbers():
    x, y, mask = (np.rint(v) for v in _ct())
    for profile in ("synthrad2023", "synthrad2025"):
        floats = measure(x, y, mask, profile=profile)
        assert measure(x.astype(np.int16), y.astype(np.int16), mask, profile=profile) == pytest.approx(floats)


def test_identical_images_get_the_best_score():
    x, _, mask = _ct()
    best = {"mae": 0, "psnr": np.inf, "ssim": 1, "ms_ssim": 1}
    for profile in ("synthrad2023", "synthrad2025"):
        for name, value in measure(x, x, mask, profile=profile).items():
            assert value == pytest.approx(best[name.removeprefix(f"{profile}_")], abs=1e-5)


def test_wrong_settings_are_refused_with_the_remedy():
    x, y, mask = _ct()
    with refused("metric-profile-unknown", names=("generic", "synthrad2023", "synthrad2025")):
        measure(x, y, mask, profile="synthrad2024")
    with refused("metric-data-range-missing"):
        measure(x, y, mask, profile="generic")
    with refused("metric-data-range-unexpected"):
        measure(x, y, mask, profile="synthrad2023", data_range=4095)
    rim = np.zeros(x.shape, bool)
    rim[:, :, 0] = True
    with refused("metric-mask-at-faces"):
        measure(x, y, rim, profile="synthrad2023")
    with refused("mask-empty"):
        measure(x, y, np.zeros(x.shape), profile="synthrad2025")


@pytest.mark.parametrize("profile", PROFILES)
def test_voxels_that_are_not_finite_are_refused(profile):
    x, y, mask = _ct()
    y[0, 0, 0] = np.nan
    with refused("volume-not-finite", names="prediction"):
        measure(x, y, mask, profile=profile, data_range=4095 if profile == "generic" else None)


def _organs(seed=0):
    """Four organs in the truth; the prediction lacks one, moves the others and adds one."""
    truth = np.zeros((24, 20, 16), np.uint8)
    for value, corner in enumerate(((2, 2, 2), (12, 2, 3), (3, 11, 8), (14, 12, 9)), start=1):
        truth[tuple(slice(c, c + 5) for c in corner)] = value
    prediction = np.roll(truth, 1, axis=2)
    prediction[prediction == 2] = 0
    prediction[20:23, 1:4, 1:4] = 9
    return truth, prediction


@pytest.mark.filterwarnings("ignore:the prediction of class")
def test_organ_scores_are_those_of_the_challenge():
    truth, prediction = _organs()
    spacing = (1.5, 1.0, 3.0)
    dice = DiceMetric(include_background=True, reduction="mean")
    hd95 = HausdorffDistanceMetric(include_background=True, reduction="mean", percentile=95)
    for value in np.unique(truth)[1:]:
        found, true = (torch.from_numpy(v == value)[None, None] for v in (prediction, truth))
        dice(found, true)
        hd95(found, true, spacing=spacing)
    scores = organ_scores(segmentation_scores(truth, prediction, spacing).values(), profile="synthrad2025")
    expected = {"synthrad2025_dice": dice.aggregate().item(), "synthrad2025_hd95": hd95.aggregate().item()}
    assert scores == pytest.approx(expected, rel=1e-5)
    assert 0 < scores["synthrad2025_dice"] < 0.75 and scores["synthrad2025_hd95"] == 3


def test_organ_scores_need_organs_and_a_profile_that_has_them():
    truth, prediction = _organs()
    rows = segmentation_scores(truth, prediction, (1, 1, 1)).values()
    assert organ_scores(rows, profile="synthrad2023") == organ_scores([], profile="synthrad2025") == {}
    lost = segmentation_scores(truth, np.zeros_like(truth), (1, 1, 1)).values()
    assert organ_scores(lost, profile="synthrad2025") == {"synthrad2025_dice": 0}
    invented = segmentation_scores(np.zeros_like(truth), prediction, (1, 1, 1)).values()
    assert organ_scores(invented, profile="synthrad2025") == {}
