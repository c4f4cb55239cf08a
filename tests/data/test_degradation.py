import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusal import refused
from scipy import integrate, stats

from medgen.config import parse_settings
from medgen.data.cache import Cached
from medgen.data.degradation import (
    FWHM,
    Draw,
    degraded,
    low_dose,
    margin,
    slice_weights,
    thick_slice_matrix,
    thick_slices,
)
from medgen.data.grid import resample_like
from medgen.data.intensity import Range
from medgen.data.patches import Patches
from medgen.io.volume import Volume
from medgen.settings import Degradation


def volume(data, spacing=(1.0, 1.0, 1.0)):
    return Volume(np.asarray(data, np.float32), np.diag([*spacing, 1.0]))


def test_a_slice_weighs_voxels_by_the_integral_of_its_profile():
    weights = slice_weights(np.array([10.3]), 21, 4.0, "gaussian")[0]
    density = stats.norm(10.3, 4 / FWHM).pdf
    expected = [integrate.quad(density, i - 0.5, i + 0.5)[0] for i in range(21)]
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    assert density(10.3 + 2) == pytest.approx(density(10.3) / 2)  # the width at half maximum is the distance
    box = slice_weights(np.array([5.25]), 11, 3.0, "box")[0]
    np.testing.assert_allclose(box, [0, 0, 0, 0, 0.75 / 3, 1 / 3, 1 / 3, 0.25 / 3, 0, 0, 0], atol=1e-12)


@given(st.floats(1.0, 5.0), st.sampled_from(["gaussian", "box"]), st.floats(0, 1), st.integers(4, 20), st.floats(-3, 3))
def test_constant_and_linear_images_stay(distance, profile, phase, n, slope):
    m = margin(distance, profile)
    line = 7 + slope * (np.arange(n + 2 * m) - m)
    matrix = thick_slice_matrix(n, distance, profile, phase * distance)
    # voxels count at their centres: the ends of a box that lie within a voxel move the mean by 1 / (8 distance) at most
    np.testing.assert_allclose(matrix @ line, line[m : m + n], atol=abs(slope) / (8 * distance) + 1e-9)
    np.testing.assert_allclose(matrix.sum(1), 1)


def test_the_matrix_is_the_scan_of_slices_interpolated_to_the_grid():
    data = np.random.default_rng(0).normal(size=(2, 3, 48))
    image = volume(data)
    scan = thick_slices(image, 2, 4.0, "box")
    assert scan.data.shape == (2, 3, 12) and scan.spacing == (1, 1, 4)
    np.testing.assert_allclose(scan.data, data.reshape(2, 3, 12, 4).mean(3), atol=1e-6)
    back = resample_like(scan, image)
    m = margin(4.0, "box")
    matrix = thick_slice_matrix(48 - 2 * m, 4.0, "box", (1.5 - m) % 4)
    np.testing.assert_allclose(data @ matrix.T, back[:, :, m:-m], atol=1e-5)


@given(st.integers(20, 60), st.floats(1.5, 5), st.sampled_from([0, 1, 2]))
def test_thick_slices_keep_the_field_of_view(n, distance, axis):
    shape = [3, 3, 3]
    shape[axis] = n
    image = volume(np.zeros(shape), (0.5, 1, 1.5))
    scan = thick_slices(image, axis, distance)
    ends = [v.affine @ [*(np.array(v.data.shape) / 2 - 0.5), 1] for v in (image, scan)]
    np.testing.assert_allclose(*ends, atol=1e-9)
    extent = scan.data.shape[axis] * scan.spacing[axis]
    assert (
        scan.spacing[axis] == pytest.approx(distance) and abs(extent - n * image.spacing[axis]) <= distance / 2 + 1e-9
    )


def test_a_patch_is_degraded_as_its_volume_would_be():
    data = np.random.default_rng(0).normal(size=(40, 20, 60)).astype(np.float32)
    settings = Degradation(thickness=(4, 4), axes=("z",), profiles=("gaussian",))
    worse = Draw(settings, (1.0, 1.0, 1.0), np.random.default_rng(1))
    reach = int(worse.margin[2])
    assert reach and not worse.margin[:2].any()
    start = 25
    patch = worse(data[:, :, start - reach : start + 8 + reach])
    scan = thick_slice_matrix(60 - 2 * reach, 4.0, "gaussian", (worse.phase + start - reach) % 4)
    np.testing.assert_allclose(patch, (data @ scan.T)[:, :, start - reach : start - reach + 8], atol=1e-5)


def test_the_source_patch_is_the_targets_made_worse(tmp_path):
    x, y, z = np.meshgrid(*(np.arange(n) for n in (40, 40, 40)), indexing="ij")
    np.save(tmp_path / "a.npy", np.where((x + y + z) % 2, 100.0, 0.0).astype(np.float32))
    body = np.argwhere(np.ones((40, 40, 40)))[::50].astype(np.int32)
    case = {"a": (Cached(tmp_path / "a.npy", body, Range(0, 100), (1.0, 1.0, 1.0), {}),)}
    settings = Degradation(thickness=(4, 4), axes=("x", "y", "z"))
    patches = Patches(case, case, paired=True, patch=(8, 8, 8), seed=0, degradation=settings, flip=("x",), rotate=5)
    for n in range(6):
        sample = patches[n]
        assert sample["target"].shape == sample["source"].shape == (1, 8, 8, 8)
        assert sample["source"].std() < 0.5 * sample["target"].std()


def test_added_noise_has_its_deviation_and_no_mean():
    hu = np.full((64, 64, 24), 50.0, np.float32)
    added = low_dose(hu, (1.0, 1.0, 2.0), 25.0, np.random.default_rng(0)) - 50
    assert added.std() == pytest.approx(25, rel=0.02) and abs(added.mean()) < 0.5
    assert (low_dose(hu - 1074, (1.0, 1.0, 2.0), 25.0, np.random.default_rng(0)) >= -1024).all()


def test_validation_gets_the_strongest_degradation_on_the_images_grid():
    data = np.random.default_rng(0).normal(size=(12, 12, 48))
    image = volume(data)
    settings = Degradation(thickness=(2, 4), axes=("x", "z"), profiles=("box", "gaussian"))
    worst = degraded(image, settings)
    assert np.array_equal(worst.affine, image.affine)
    np.testing.assert_array_equal(worst.data, resample_like(thick_slices(image, 2, 4, "box"), image))


def test_contradicting_settings_are_refused():
    base = {"method": {"name": "srgan"}, "data": {"degradation": {"thickness": [2, 4]}}}
    with refused("config-invalid-value", names="set sources to the same as targets"):
        parse_settings(base, "test")
    data = {"sources": ["images"], "targets": ["images"], "degradation": {"thickness": [4, 2]}}
    with refused("config-invalid-value", names="exchange them"):
        parse_settings(base | {"data": data}, "test")
    with refused("config-invalid-value", names="changes nothing"):
        parse_settings(base | {"data": data | {"degradation": {}}}, "test")
    settings = parse_settings(base | {"data": data | {"degradation": {"noise": [5, 40]}}}, "test")
    assert settings.data.source_channels == settings.data.target_channels == (0,)


@pytest.mark.parametrize("noise", [None, (5.0, 5.0)])
def test_masked_voxels_are_not_mixed_with_tissue(noise):
    """Otherwise the tails of the blur count as tissue, and the range of a skull-stripped scan begins near 0."""
    data = np.zeros((20, 20, 30), np.float32)
    data[4:16, 4:16, 5:24] = np.random.default_rng(0).uniform(200, 300, (12, 12, 19))
    volume = Volume(data, np.eye(4), np.dtype(np.float32))
    settings = Degradation(thickness=(5.0, 5.0), axes=["z"], noise=noise)
    whole = degraded(volume, settings, 0.0).data
    draw = Draw(settings, (1.0, 1.0, 1.0), np.random.default_rng(1))
    reach = int(draw.margin[2])
    patch = draw(np.pad(data, ((0, 0), (0, 0), (reach, reach))), 0.0)
    for made in (whole, patch):
        assert made.shape == data.shape and (made[:4] == 0).all() and (made[4:16, 4:16, 10:18] != 0).all()
        inside = made[made != 0]
        assert inside.min() > (190 if noise is None else 150) and inside.max() < 330
        assert abs(np.count_nonzero(made) / np.count_nonzero(data) - 1) < 0.3
    assert (degraded(volume, settings).data[4:16, 4:16] > 0).mean() > (whole[4:16, 4:16] > 0).mean()
