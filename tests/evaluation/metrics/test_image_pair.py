import numpy as np
import pytest
from refusal import refused
from scipy.ndimage import gaussian_filter

from medgen.evaluation.metrics import ssim
from medgen.evaluation.metrics import voxelwise as fidelity
from medgen.evaluation.metrics.image_pair import metrics_by_label, metrics_in_mask
from medgen.evaluation.metrics.metric import Pair

SHAPE, SPACING = (37, 30, 33), (1.0, 1.5, 3.0)


def _images(seed=0):
    rng = np.random.default_rng(seed)
    truth = gaussian_filter(rng.normal(0, 300, SHAPE), 1).astype(np.float32)
    labels = np.zeros(SHAPE, np.uint16)
    labels[3:17, 4:20, 2:30] = 3
    labels[20:31, 2:27, 5:20] = 700
    return truth, truth + rng.normal(5, 20, SHAPE).astype(np.float32), labels


def test_every_metric_is_the_function_of_its_name_in_the_mask():
    truth, image, labels = _images()
    pair = Pair(truth, image, data_range=2000, spacing=SPACING)
    for mask in (None, labels == 3):
        assert metrics_in_mask(pair, mask) == {
            "mae": fidelity.mae(truth, image, mask),
            "rmse": fidelity.rmse(truth, image, mask),
            "psnr": fidelity.psnr(truth, image, data_range=2000, mask=mask),
            "ssim": ssim.ssim(truth, image, data_range=2000, mask=mask),
            "ms_ssim": ssim.ms_ssim(truth, image, data_range=2000, mask=mask),
            "ncc": fidelity.ncc(truth, image, mask),
            "gradient_error": fidelity.gradient_error(truth, image, spacing=SPACING, mask=mask),
        }


def test_a_label_has_the_numbers_of_its_mask():
    truth, image, labels = _images()
    pair = Pair(truth, image, data_range=2000, spacing=SPACING)
    found = metrics_by_label(pair, labels)
    assert list(found) == [3, 700]
    for value, row in found.items():
        expected = metrics_in_mask(pair, labels == value)
        assert row.keys() == expected.keys()
        assert row == pytest.approx(expected, rel=1e-5)


def test_a_label_in_the_outermost_plane_alone_has_no_ms_ssim():
    truth, image, labels = _images()
    labels[-1, -1, -1] = 9  # an odd axis loses its last plane when it is halved
    found = metrics_by_label(Pair(truth, image, data_range=2000), labels)
    assert "ms_ssim" not in found[9] and "gradient_error" not in found[9] and found[9]["mae"] >= 0
    assert "ms_ssim" in found[3]


def test_a_volume_too_flat_for_the_levels_has_no_ms_ssim():
    truth, image, labels = (v[..., :9] for v in _images())
    pair = Pair(truth, image, data_range=2000)
    assert "ms_ssim" not in metrics_in_mask(pair) and "ms_ssim" not in metrics_by_label(pair, labels)[3]


def test_a_label_that_is_perfect_has_an_infinite_psnr():
    truth, image, labels = _images()
    image[labels == 3] = truth[labels == 3]
    found = metrics_by_label(Pair(truth, image, data_range=2000), labels)
    assert found[3]["psnr"] == np.inf and found[3]["mae"] == 0 and np.isfinite(found[700]["psnr"])


def test_volumes_of_two_shapes_are_refused():
    truth, image, _ = _images()
    with refused("pair-shapes-differ"):
        metrics_in_mask(Pair(truth, image[1:], data_range=2000))
